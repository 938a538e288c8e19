"""Noise: how kernels, transfers and hosts depart from their calibrated times (schema and laws).

A calibrated time is the mean of a kernel that nothing disturbs. The sections here say what else
happens: `sim/variation/jitter.py` applies them to the times of a step.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from sim.foundation.printable import excerpt
from sim.inputs import csv_columns
from sim.inputs.base import Strict
from sim.inputs.sourced import Parameter, Sourced

Floats = NDArray[np.float64]

ServerKind = Literal["gpu", "nic", "nvlink", "network"]


class LognormalNoise(Strict):
    """Lognormal factors of mean 1: many small delays that multiply."""

    kind: Literal["lognormal"]
    cv: Parameter
    """Standard deviation over mean."""

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        variance = math.log1p(self.cv**2)
        # In this order, two laws that differ in cv see the same normal draws.
        return np.exp(rng.standard_normal(shape) * math.sqrt(variance) - variance / 2)


class GammaNoise(Strict):
    """Gamma factors of mean 1: a sum of exponential delays."""

    kind: Literal["gamma"]
    cv: Parameter
    """Standard deviation over mean; 1 is exponential."""

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        if not self.cv:
            return np.ones(shape)
        return rng.gamma(1 / self.cv**2, self.cv**2, shape)


class UniformNoise(Strict):
    """Factors between 1 − spread and 1 + spread, all equally likely."""

    kind: Literal["uniform"]
    spread: Parameter
    """Largest deviation from the mean, as a share of the mean; at most 1."""

    @model_validator(mode="after")
    def _check(self) -> UniformNoise:
        if self.spread > 1:
            raise ValueError(f"spread should be at most 1 (got {self.spread})")
        return self

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        return 1 + self.spread * (2 * rng.random(shape) - 1)


class EmpiricalNoise(Strict):
    """Measured factors: a straight line between the quantiles, from the least to the largest.

    Factors are relative to the calibrated time; their mean is kept.
    """

    kind: Literal["empirical"]
    factors: list[Annotated[float, Field(gt=0)]] | None = Field(default=None, min_length=2)
    """Quantiles at equal distances, or a sample: time over calibrated time, in any order."""
    path: str | None = None
    """CSV file with a column `factor`, from the working directory, instead of `factors`."""
    source: Annotated[str, Field(min_length=3)]
    """Where the factors were measured."""

    @model_validator(mode="after")
    def _check(self) -> EmpiricalNoise:
        if (self.factors is None) == (self.path is None):
            raise ValueError("give exactly one of factors and path")
        return self

    @cached_property
    def known(self) -> Floats:
        """The factors in rising order. Raises ScenarioError naming every bad line."""
        factors = read_factors(self.path) if self.path is not None else self.factors
        return np.sort(np.asarray(factors, dtype=np.float64))

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        places = np.linspace(0, 1, len(self.known))
        return np.interp(rng.random(shape), places, self.known)


def read_factors(path: str) -> list[float]:
    """Return the factors of a CSV file. Raises ScenarioError naming every bad line."""
    factors: list[float] = []
    problems: list[str] = []
    for place, row in csv_columns.rows(path, ("factor",), problems):
        factor = csv_columns.number(row["factor"])
        if factor > 0:
            factors.append(factor)
        else:
            got = excerpt(row["factor"], 20)
            problems.append(f"{place}: a factor should be a positive number (got '{got}')")
    if not problems and len(factors) < 2:
        problems.append(f"{path}: at least 2 factors are needed")
    csv_columns.raise_any(path, problems)
    return factors


Law = Annotated[
    LognormalNoise | GammaNoise | UniformNoise | EmpiricalNoise, Field(discriminator="kind")
]


class Disturbed(Strict):
    """Which servers something happens to. A kind that a deployment has none of is left alone."""

    server: ServerKind
    """gpu: compute; nic: each GPU's share of the NICs, also those that an all-to-all runs over;
    nvlink: the collectives of a node, an all-to-all inside it, and the transfers of an AFD
    deployment over a scale-up fabric; network: an EP all-to-all as a whole."""
    side: Literal["all", "attention", "ffn"] = "all"
    """Side of an AFD deployment that is disturbed."""


class TaskNoise(Disturbed):
    """Noise of every task, drawn anew for each step, layer, micro-batch and device."""

    law: Law
    """Law of the factor by which the task takes longer or shorter."""


class Stall(Disturbed):
    """Rare interruptions of work: polling, garbage collection, retransmission, PFC pauses."""

    rate_per_s: Parameter
    """How often one device is interrupted in a second of its work."""
    duration: Literal["fixed", "exponential"]
    """Whether all interruptions last equally long, or are drawn from an exponential law."""
    mean_us: Parameter
    """Mean length of an interruption, µs."""
    way: Literal["both", "in", "out"] = "both"
    """Direction of AFD's transfers that is interrupted. in: only while receiving (a PFC pause of
    the receiver's port); out: only while sending."""


class Slow(Disturbed):
    """Devices that are slow for the whole run: a hot GPU, a link with lost lanes."""

    share: Parameter
    """Probability that a device is slow; the slow devices are drawn once from the seed."""
    factor: Sourced
    """How many times longer a slow device takes; at least 1."""

    @model_validator(mode="after")
    def _check(self) -> Slow:
        if self.share > 1:
            raise ValueError(f"share should be at most 1 (got {self.share})")
        if self.factor < 1:
            raise ValueError(f"factor should be at least 1 (got {self.factor})")
        return self


class ExponentialTail(Strict):
    """Exponential further host time."""

    kind: Literal["exponential"]
    mean_us: Parameter
    """Mean, µs a step."""

    def draw_us(self, rng: np.random.Generator) -> float:
        return float(rng.standard_exponential() * self.mean_us)


class LognormalTail(Strict):
    """Lognormal further host time: a heavier tail."""

    kind: Literal["lognormal"]
    mean_us: Parameter
    """Mean, µs a step."""
    cv: Parameter
    """Standard deviation over mean."""

    def draw_us(self, rng: np.random.Generator) -> float:
        variance = math.log1p(self.cv**2)
        z = rng.standard_normal()
        return float(self.mean_us * math.exp(z * math.sqrt(variance) - variance / 2))


Tail = Annotated[ExponentialTail | LognormalTail, Field(discriminator="kind")]


class Noise(Strict):
    """Random disturbances of the calibrated times. Factors on the same device multiply."""

    tasks: list[TaskNoise] = Field(default_factory=list)
    """Noise of every task."""
    host: Tail | None = None
    """Host time of each step in addition to `software.host_gap_us_per_step`, on the slowest host.
    """
    stalls: list[Stall] = Field(default_factory=list)
    """Rare interruptions."""
    slow: list[Slow] = Field(default_factory=list)
    """Persistently slow devices."""

    def places(self) -> list[Disturbed]:
        return [*self.tasks, *self.stalls, *self.slow]
