"""Random numbers from counter-based streams, keyed by purpose and place, never by draw order.

Two engines that ask for the same key see the same draws, and a new purpose changes no other's
numbers (DESIGN §4).
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import DTypeLike, NDArray


def stream(seed: int, purpose: str, *place: int) -> np.random.Generator:
    """Return a generator that depends on nothing but (seed, purpose, place)."""
    text = "/".join([str(seed), purpose, *map(str, place)])
    return np.random.Generator(np.random.Philox(_Key(text)))


class _Key(np.random.SeedSequence):
    """The key of a Philox generator: a hash, as it is.

    `Philox(key=…)` has the same numbers, but also asks the operating system for entropy, which
    takes twice as long as all else.
    """

    def __init__(self, text: str) -> None:
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        self._words = np.frombuffer(digest, dtype="<u8").astype(np.uint64)

    def generate_state(self, n_words: int, dtype: DTypeLike = np.uint32) -> NDArray[np.uint64]:
        """Return the two words of the key, which is what Philox asks for."""
        return self._words
