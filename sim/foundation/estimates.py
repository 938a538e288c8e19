"""Estimates from a run: where the warm-up ends, and how sure a mean is (DESIGN §6)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Batch means use ten batches: enough for a variance, long enough to be nearly independent
# (Law, Simulation Modeling and Analysis, section 9.5.3).
BATCHES = 10

# Student's t, 97.5 %, for 1 to 30 degrees of freedom; tests/statistics recompute it.
_T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)

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
    return independent_half_width(means)


def independent_half_width(values: Floats) -> float:
    """Return the 95 % half-width of the mean of independent values; inf for fewer than two."""
    if len(values) < 2:
        return float("inf")
    return float(t_975(len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))


def t_975(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's t, to three digits behind the point.

    Above 30 degrees of freedom by the first two terms of its expansion around the normal one.
    """
    if degrees <= len(_T_975):
        return _T_975[degrees - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def percentile_interval(series: Floats, percent: float) -> tuple[float, float] | None:
    """Return the 95 % interval of a percentile between two order statistics of `series`.

    How sure the share below the percentile is follows from batch means of the series, which need
    not be independent; the shares at both ends of that interval choose the order statistics
    (Woodruff, 1952). None where the upper one is beyond the largest value: too few are known.
    """
    share, count = percent / 100, len(series)
    if count < BATCHES:
        return None
    below = (series <= np.percentile(series, percent)).astype(np.float64)
    doubt = max(half_width(below), 1 / count)
    low, high = int(np.floor(count * (share - doubt))), int(np.ceil(count * (share + doubt)))
    if low < 1 or high > count:
        return None
    ordered = np.sort(series)
    return float(ordered[low - 1]), float(ordered[high - 1])


def weighted_percentile(values: Floats, weights: Floats, percent: float) -> float:
    """Return the smallest value at or below which `percent` of the weight lies."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    index = int(np.searchsorted(reached, percent / 100 * reached[-1]))
    return float(values[order][min(index, len(values) - 1)])
