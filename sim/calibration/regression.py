"""The two fits behind a calibration curve: roofline constants and a smooth residual.

The constants are a robust least-squares fit in log time. The residual is a Gaussian process:
each measurement speaks for its neighbours, less so with distance; its kernel is chosen by
leave-out error among a few. Everything is deterministic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sim.kernels.ops import Floats

Constants = tuple[float, float, float, float]

_STARTS = (1.0, 3.0)  # smoothness p from which the constants' fit starts
_STEPS = 60
_LOWEST = np.log([0.01, 0.02, 0.02, 0.4])  # overhead µs, e_c, e_m, p
_HIGHEST = np.log([1e3, 1.0, 1.0, 12.0])
_TYPICAL_ERROR = 0.15  # log error beyond which a point's pull on the constants fades

_OUTLIER = 3.5  # leave-one-out errors above this many deviations are taken as noise
_AMPLITUDE = 0.2  # prior log spread of residuals
_SHARPNESS = 16  # a choice weighs (leave-out error / the best one's) to the power of −this
_LEAST_TRUST = 0.05  # choices that would weigh less than this are dropped
_SWEEPS = 3  # turns of the isotonic regression over its axes
_CHUNK = 2000  # points evaluated at a time, for memory


def roofline_us(constants: Floats, compute_us: Floats, memory_us: Floats) -> Floats:
    """Return overhead + smooth maximum of the times at peak, µs; `constants` in logs."""
    overhead, e_c, e_m, p = np.exp(constants)
    tiny = np.finfo(np.float64).tiny
    compute = p * np.log(np.maximum(compute_us / e_c, tiny))
    memory = p * np.log(np.maximum(memory_us / e_m, tiny))
    return np.asarray(overhead + np.exp(np.logaddexp(compute, memory) / p))


def fit_constants(compute_us: Floats, memory_us: Floats, measured_us: Floats) -> Constants:
    """Return overhead µs, e_c, e_m and p of the roofline nearest to the measurements.

    Levenberg-Marquardt on log time with weights that fade for points far off. Pure transfers
    have no compute to smooth with: their e_c and p are 1.
    """
    free = np.array([True, compute_us.max() > 0, True, compute_us.max() > 0])

    def error(constants: Floats) -> Floats:
        return np.log(roofline_us(constants, compute_us, memory_us) / measured_us)

    best: tuple[float, Floats] | None = None
    for start in _STARTS:
        at = np.log([max(0.7 * float(measured_us.min()), 0.5), 0.7, 0.7, start])
        at = np.where(free, at, 0.0)
        now, damping = error(at), 1e-2
        for _ in range(_STEPS):
            slope = np.stack([(error(at + 1e-4 * one) - now) / 1e-4 for one in np.eye(4)], axis=1)
            weight = 1 / (1 + (now / _TYPICAL_ERROR) ** 2)
            normal = slope.T @ (weight[:, np.newaxis] * slope)
            gain = slope.T @ (weight * now)
            ridge = damping * np.diag(np.diag(normal) + 1e-6)
            step = np.clip(np.linalg.solve(normal + ridge, -gain), -0.5, 0.5) * free
            there = np.clip(at + step, _LOWEST, _HIGHEST)
            then = error(there)
            if (weight * then**2).sum() < (weight * now**2).sum():
                at, now, damping = there, then, max(damping / 3, 1e-6)
            else:
                damping *= 4
            if damping > 1e6:
                break
        spread = float(np.abs(now).mean())
        if best is None or spread < best[0]:
            best = (spread, at)
    assert best is not None
    overhead, e_c, e_m, p = (float(value) for value in np.exp(best[1]))
    return overhead, e_c, e_m, p


@dataclass(frozen=True)
class Smoothness:
    """How measurements relate: the shape of the kernel and a factor on every reach."""

    shape: Literal["matern", "linear"]
    """Matérn 3/2 of the Euclidean distance, or exp(−Σ|distance|): piecewise linear."""
    reach: float
    detail: float = 0.0
    """Amplitude of a second, short-range part (reach 1/4), relative to the first."""
    robust: bool = True
    """Whether points that no neighbour supports are taken as noise."""

    def covariance(self, one: Floats, other: Floats) -> Floats:
        """Return prior covariances of residuals at two sets of features."""
        away = np.abs(one[:, np.newaxis, :] - other[np.newaxis, :, :])
        total = self._kernel(away / self.reach)
        if self.detail:
            total = total + self.detail**2 * self._kernel(away * 4 / self.reach)
        return _AMPLITUDE**2 * total

    def _kernel(self, away: Floats) -> Floats:
        if self.shape == "linear":
            return np.asarray(np.exp(-away.sum(axis=2)))
        distance = np.sqrt(3 * (away**2).sum(axis=2))
        return np.asarray((1 + distance) * np.exp(-distance))


MENU = tuple(
    replace(choice, robust=robust)
    for choice in (
        Smoothness("matern", 1.0),
        Smoothness("matern", 1.6, detail=0.7),
        Smoothness("linear", 1.0),
        Smoothness("linear", 2.0),
    )
    for robust in (True, False)
)


class Residual:
    """A smooth function through noisy log residuals: the mean of the choices that fit best."""

    def __init__(
        self, features: Floats, values: Floats, noise: float, blocks: NDArray[np.int64]
    ) -> None:
        self.features, self.values, self.blocks = features, values, blocks
        scored = [(*self._weights(choice, noise), choice) for choice in MENU]
        best = max(min(error for error, _, _ in scored), 1e-9)
        trust = np.array([(max(error, best) / best) ** -_SHARPNESS for error, _, _ in scored])
        trust = np.where(trust > _LEAST_TRUST, trust, 0.0)
        self._parts = [
            (share, choice, weight)
            for share, (_, weight, choice) in zip(trust / trust.sum(), scored, strict=True)
            if share > 0
        ]

    def __call__(self, features: Floats) -> Floats:
        """Return the log residual at `features` (points × features)."""
        chunks = np.array_split(features, max(1, len(features) // _CHUNK))
        return np.concatenate([self._at(chunk) for chunk in chunks])

    def _at(self, features: Floats) -> Floats:
        total = np.zeros(len(features))
        for share, choice, weight in self._parts:
            total += share * (choice.covariance(features, self.features) @ weight)
        return total

    def _weights(self, choice: Smoothness, noise: float) -> tuple[float, Floats]:
        """Return the leave-out error of a choice, a fraction, and its weights."""
        prior = choice.covariance(self.features, self.features)
        spread = np.full(len(self.values), noise**2)
        for _ in range(2 if choice.robust else 0):
            inverse = _inverse(prior + np.diag(spread))
            left_out = inverse @ self.values / np.diag(inverse)
            deviation = np.maximum(np.sqrt(1 / np.diag(inverse)), 0.03)
            odd = np.abs(left_out) > _OUTLIER * deviation
            spread = np.where(odd, np.maximum(spread, left_out**2), spread)
        inverse = _inverse(prior + np.diag(spread))
        weight = inverse @ self.values
        error = np.abs(np.expm1(-_left_out(inverse, weight, self.blocks)))
        return float(np.minimum(error, 1.0).mean()), weight


def _inverse(matrix: Floats) -> Floats:
    return np.asarray(np.linalg.inv(matrix), dtype=np.float64)


def _left_out(inverse: Floats, weight: Floats, blocks: NDArray[np.int64]) -> Floats:
    """Return the errors at each block of points when that block is left out of the fit."""
    if len(np.unique(blocks)) == len(blocks):
        return np.asarray(weight / np.diag(inverse))
    error = np.empty_like(weight)
    for block in np.unique(blocks):
        (own,) = np.nonzero(blocks == block)
        error[own] = np.linalg.solve(inverse[np.ix_(own, own)], weight[own])
    return error


def rising(log_time: Floats, least_rise: Mapping[int, Floats]) -> Floats:
    """Return the grid nearest to `log_time` that rises along each axis of `least_rise`.

    Isotonic regression line by line; `least_rise` gives, in the shape of the grid, how much the
    step to each node must rise at least (0 at the first).
    """
    grid = log_time.copy()
    due = {axis: np.cumsum(rise, axis=axis) for axis, rise in least_rise.items()}
    for _ in range(_SWEEPS):
        for axis, owed in due.items():
            lines = np.moveaxis(grid - owed, axis, -1)
            shape = lines.shape
            fitted = np.stack([_isotonic(line) for line in lines.reshape(-1, shape[-1])])
            grid = np.moveaxis(fitted.reshape(shape), -1, axis) + owed
    for axis, owed in due.items():
        grid = np.maximum.accumulate(grid - owed, axis=axis) + owed
    return grid


def _isotonic(line: Floats) -> Floats:
    """Return the non-decreasing sequence nearest to `line` (pool adjacent violators)."""
    means: list[float] = []
    counts: list[int] = []
    for value in line:
        mean, count = float(value), 1
        while means and means[-1] > mean:
            mean = (means[-1] * counts[-1] + mean * count) / (counts[-1] + count)
            count += counts.pop()
            means.pop()
        means.append(mean)
        counts.append(count)
    return np.repeat(means, counts)
