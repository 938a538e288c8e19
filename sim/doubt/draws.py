"""Draws: Latin hypercube samples of what is not known, one number for each unknown and draw.

A sample depends on the seed and on the unknown alone. Two deployments that share an unknown see the
same values of it in the same draw, so that what they share cancels in their difference.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.foundation.streams import stream

DRAWS = 64


def drawn_shares(seed: int, key: str, draws: int) -> NDArray[np.float64]:
    """Return cumulative shares of an unknown: the middles of `draws` equal parts, shuffled."""
    return (stream(seed, f"doubt/{key}").permutation(draws) + 0.5) / draws
