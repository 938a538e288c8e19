"""Random numbers from counter-based streams, keyed by purpose and place, never by draw order.

Two engines that ask for the same key see the same draws, and a new purpose changes no other's
numbers (DESIGN §4).
"""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, purpose: str, *place: int) -> np.random.Generator:
    """Return a generator that depends on nothing but (seed, purpose, place)."""
    text = "/".join([str(seed), purpose, *map(str, place)])
    key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))
