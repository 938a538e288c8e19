"""Reoptimised: what a deployment yields if its batch is chosen once everything is known.

`doubt_of` holds the batch: it asks how a deployment that runs as planned may turn out. Here every
draw is a deployment of its own, all of whose unknowns have the values drawn, and it takes the
largest batch whose TPOT meets its target. A slower one thus yields less instead of missing it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np

from sim.deployments import compile_deployment
from sim.deployments.deployment import Deployment
from sim.doubt.draws import DRAWS, drawn_shares
from sim.doubt.residual import LeftOver, left_over
from sim.doubt.sources import Floats, sources_of
from sim.doubt.spread import choices
from sim.foundation.units import NS_PER_S
from sim.inputs.scenario import Scenario
from sim.steady.largest_load import fullest
from sim.steady.state import SteadyState, under_load


@dataclass(frozen=True)
class Reoptimised:
    """What a deployment yields at the largest batch under its `slo.tpot_ms`."""

    batch: float
    """Requests on each attention GPU in each micro-batch, as stated."""
    batch_p10: float
    batch_p90: float
    tgs: float
    """Output tokens/s/GPU, as stated."""
    tgs_p10: float
    tgs_p90: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def reoptimised(scenario: Scenario, draws: int = DRAWS) -> Reoptimised:
    """Return batch and throughput at `slo.tpot_ms`, each with its 80 % interval.

    Arrivals only say that the loop is closed. Every draw is timed anew, which takes some tenths of
    a second. Where no batch meets the target it is the smallest one. Raises InfeasibleError if that
    does not fit.
    """
    limit_ms, left = scenario.slo.tpot_ms, left_over(scenario.software.profile)
    stated = fullest(compile_deployment(scenario.with_batch(1)), limit_ms)
    lanes, in_flight = stated.deployment.lanes, int(stated.requests)
    loads, rates = [], []
    drawn = drawn_deployments(scenario.with_batch(in_flight), draws)
    for site, rest in zip(drawn, _undeclared(scenario, left, draws), strict=True):
        factor = under_load(site, in_flight).tpot_ns / stated.tpot_ns
        # As much wider as the interval at a batch that is held.
        further = factor ** (left.factor_80 - 1) * rest**left.factor_80
        state = fullest(site, limit_ms / further)
        loads.append(state.requests / lanes)
        rates.append(_tgs(state, further))
    (batch_p10, batch_p90), (tgs_p10, tgs_p90) = _tenths(loads), _tenths(rates)
    now = _tgs(stated, 1.0)
    return Reoptimised(stated.requests / lanes, batch_p10, batch_p90, now, tgs_p10, tgs_p90)


def drawn_deployments(scenario: Scenario, draws: int = DRAWS) -> list[Deployment]:
    """Return the deployment of each draw, all of whose unknowns have their values."""
    seed, found = scenario.simulation.seed, dict[int, Deployment]()
    for settings, there in choices(scenario.doubt, seed, draws):
        site = compile_deployment(scenario.settled(settings) if settings else scenario)
        sources = sources_of(site)
        positions = [source.positions(drawn_shares(seed, source.key, draws)) for source in sources]
        for draw in np.flatnonzero(there):
            drawn = site
            for source, at in zip(sources, positions, strict=True):
                drawn = source.changed(float(at[draw]))(drawn)
            found[int(draw)] = drawn
    return [found[draw] for draw in range(draws)]


def _undeclared(scenario: Scenario, left: LeftOver, draws: int) -> Floats:
    """Return factors on TPOT of what no source declares, one for each draw."""
    shares = drawn_shares(scenario.simulation.seed, f"left over {left.group}", draws)
    return np.exp([NormalDist().inv_cdf(share) * left.log_sd for share in shares])


def _tgs(state: SteadyState, slower: float) -> float:
    """Return output tokens/s/GPU if every step takes `slower` times as long."""
    per_s = state.requests / (state.tpot_ns * slower / NS_PER_S)
    return per_s / state.deployment.scenario.gpu_count()


def _tenths(values: list[float]) -> tuple[float, float]:
    low, high = np.quantile(values, [0.1, 0.9])
    return float(low), float(high)
