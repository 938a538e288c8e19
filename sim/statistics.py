"""Statistics of a run: where the warm-up ends, and how sure a mean is (DESIGN §6)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Batch means use ten batches: enough for a variance, long enough to be nearly independent
# (Law, Simulation Modeling and Analysis, section 9.5.3). 2.262 is Student's t, 97.5 %, 9 degrees.
BATCHES = 10
T_975 = 2.262

# MSER-5 looks at means of five values (White, 1997); below ten such means it has nothing to judge.
_MSER_BATCH = 5
_MSER_LEAST = 10


def warm_up(series: Floats) -> int:
    """Return how many leading values MSER-5 cuts: the cut that minimises the standard error.

    Nothing is cut from series shorter than 50 values, and never more than half.
    """
    means = series[: len(series) // _MSER_BATCH * _MSER_BATCH].reshape(-1, _MSER_BATCH).mean(axis=1)
    if len(means) < _MSER_LEAST:
        return 0
    errors = [means[cut:].var() / (len(means) - cut) for cut in range(len(means) // 2)]
    return int(np.argmin(errors)) * _MSER_BATCH


def half_width(series: Floats) -> float:
    """Return the 95 % half-width of the mean of `series` by batch means; inf if too short."""
    size = len(series) // BATCHES
    if size < 1:
        return float("inf")
    means = series[len(series) - size * BATCHES :].reshape(BATCHES, size).mean(axis=1)
    return float(T_975 * means.std(ddof=1) / np.sqrt(BATCHES))


def weighted_percentile(values: Floats, weights: Floats, percent: float) -> float:
    """Return the smallest value at or below which `percent` of the weight lies."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    index = int(np.searchsorted(reached, percent / 100 * reached[-1]))
    return float(values[order][min(index, len(values) - 1)])
