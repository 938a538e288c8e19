"""Predictions: a figure with the interval that holds what is not known about it.

Doubt is not chance. Chance is what another seed would change, and its intervals shrink with more
steps; doubt is what no one has measured, and stays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sim.deployments import compile_deployment
from sim.doubt.draws import DRAWS
from sim.doubt.residual import LeftOver, Level, left_over, normal_width
from sim.doubt.sources import Floats
from sim.doubt.spread import SteadyLoad, StepSpread, spread, spreads
from sim.inputs.scenario import Scenario

COLUMNS = ("tpot_ms_p10", "tpot_ms_p90", "tgs_p10", "tgs_p90")


@dataclass(frozen=True)
class Doubt:
    """How sure the TPOT of a deployment under a load is, and with it its throughput."""

    spread: StepSpread
    residual: LeftOver

    def interval(self, level: Level) -> tuple[float, float]:
        """Return factors on TPOT between which it lies with a probability of `level` %."""
        below, above = spread_widths(self.spread.factors, level)
        factor, rest = self.residual.factor(level), normal_width(level) * self.residual.log_sd
        low, high = (factor * math.hypot(width, rest) for width in (below, above))
        return math.exp(-low), math.exp(high)

    def percentiles(self) -> tuple[float, float, float, float]:
        """Return factors on TPOT at its 5th, 10th, 90th and 95th percentile."""
        inner, outer = self.interval(80), self.interval(90)
        return min(outer[0], inner[0]), inner[0], inner[1], max(outer[1], inner[1])

    def columns(self, figures: Mapping[str, Any]) -> dict[str, float | None]:
        """Return the 80 % interval of TPOT and throughput beside `figures`; None without them."""
        return prediction(figures, *self.interval(80))


def prediction(figures: Mapping[str, Any], low: float, high: float) -> dict[str, float | None]:
    """Return `Doubt.columns` of figures whose TPOT lies between `low` and `high` of its own."""
    tpot_ms, tgs = figures.get("tpot_ms_mean"), figures.get("tgs")
    ends = (tpot_ms, low), (tpot_ms, high), (tgs, 1 / high), (tgs, 1 / low)
    return {
        name: None if figure is None else figure * factor
        for name, (figure, factor) in zip(COLUMNS, ends, strict=True)
    }


def spread_widths(factors: Floats, level: Level) -> tuple[float, float]:
    """Return how far the central interval of draws reaches below 1 and above, in logarithms."""
    share = 0.5 - level / 200
    low, high = np.quantile(np.log(factors), [share, 1 - share])
    return max(0.0, -float(low)), max(0.0, float(high))


def doubt_of(scenario: Scenario, requests: float | None = None, draws: int = DRAWS) -> Doubt:
    """Return how sure the figures of a scenario are, and what each source does alone.

    `requests` are those in flight; by default those of its closed loop. Raises InfeasibleError if
    the shape cannot run.
    """
    found = spread(_load(scenario, requests), scenario.simulation.seed, draws)
    return Doubt(found, left_over(scenario.software.profile))


def doubts_of(
    asked: Sequence[tuple[Scenario, float | None]], seed: int, draws: int = DRAWS
) -> list[Doubt]:
    """Return the same of many scenarios and requests, which share look-ups, and one seed."""
    found = spreads([_load(*each) for each in asked], seed, draws)
    rests = [left_over(scenario.software.profile) for scenario, _ in asked]
    return [Doubt(*each) for each in zip(found, rests, strict=True)]


def _load(scenario: Scenario, requests: float | None) -> SteadyLoad:
    site = compile_deployment(scenario)
    if requests is None:
        requests = site.expected.requests()
    return SteadyLoad(site, max(1, round(requests)))
