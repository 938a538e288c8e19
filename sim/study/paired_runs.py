"""Paired runs: the best shapes of a cell under common random numbers, and why one side wins.

The difference has a 95 % interval from the pairs, whose seeds took no part in the choice of the
shapes. Mechanisms are switched off one at a time; by how much the margin then moves is what each
matters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from sim.deployments import compile_deployment
from sim.experiments.replications import replication, run_all
from sim.explain.bottleneck import critical_circuit
from sim.foundation.errors import InfeasibleError
from sim.foundation.estimates import independent_half_width
from sim.inputs.arrivals import ClosedLoop
from sim.inputs.scenario import Scenario
from sim.metrics.steady_summary import steady_summary
from sim.steady.state import SteadyState
from sim.study.best_shapes import bound, most_worth, screened, worth
from sim.study.cells import SideShapes
from sim.study.schema import Changed, Settings, Study

BestShapes = dict[str, Any]
"""A side's best shapes as `sim.study.best_shapes.best_shapes` returns them."""

TIE = "tie"
NEITHER = "neither"


def verdict(margin: float, half_width: float, indifference: float, sides: Sequence[str]) -> str:
    """Return the side that wins, or `tie`.

    `margin` is the first side's yield over the second's, less 1, with the half-width of its
    interval. An interval that holds zero is a tie, and so is a margin below `indifference`.
    """
    if abs(margin) <= half_width or abs(margin) < indifference:
        return TIE
    return sides[0] if margin > 0 else sides[1]


def at_its_batch(first: Scenario, found: BestShapes) -> Scenario:
    """Return the scenario of the best shape at its batch."""
    best = found["searched"][0]
    in_flight = round(best["figures"]["requests_in_flight"])
    return first.with_settings(best["settings"]).with_batch(in_flight)


def paired_runs(a: Scenario, b: Scenario, pairs: int, priced: bool) -> dict[str, Any]:
    """Return the margin of A over B, the half-width of its interval, and the mean TPOT of both, ms.

    Both have the same seed in each pair, and other seeds than the search for them.
    """
    numbers = range(1, pairs + 1)
    a, b = fitting(a, numbers), fitting(b, numbers)
    figures = run_all([replication(each, number) for number in numbers for each in (a, b)])
    yields = np.array([worth(each, priced) for each in figures]).reshape(pairs, 2)
    margins = yields[:, 0] / yields[:, 1] - 1
    tpot_ms = np.array([each["tpot_ms_mean"] for each in figures]).reshape(pairs, 2)
    return {
        "margin": float(margins.mean()),
        "half_width": independent_half_width(margins),
        "tpot_ms": [float(each) for each in tpot_ms.mean(axis=0)],
    }


def fitting(scenario: Scenario, numbers: Iterable[int]) -> Scenario:
    """Return a closed loop whose mean KV fits in all of its replications `numbers`.

    A load that just fits with one seed may be over with another, whose requests are longer: then
    there is one request less on each attention GPU. Raises InfeasibleError if not even one fits.
    """
    while True:
        try:
            for number in numbers:
                compile_deployment(replication(scenario, number))
            return scenario
        except InfeasibleError:
            site = compile_deployment(scenario.with_batch(1))
            arrivals = scenario.workload.arrivals
            assert isinstance(arrivals, ClosedLoop)
            less = arrivals.requests_in_flight(scenario.gpu_count()) - site.attention_gpus
            if less < site.attention_gpus:
                raise
            scenario = scenario.with_batch(less)


def limits(scenario: Scenario, screen: Settings) -> dict[str, Any]:
    """Return what limits a deployment in its steady state.

    `kind` of its critical circuit, the shares of the circuit's time by kind (`spent`), and the
    share of the step that the GPUs of each pool work (`busy`).
    """
    state = SteadyState.of(scenario.with_settings(screen))
    circuit = critical_circuit(state)
    return {
        "kind": circuit.kind,
        "spent": circuit.spent,
        "busy": {
            pool.name: state.busy(number)
            for number, pool in enumerate(state.program.pools)
            if pool.kind == "gpu"
        },
    }


def changed(
    shapes: SideShapes, best: BestShapes, change: Changed | None, study: Study, priced: bool
) -> float:
    """Return what a side would yield with something changed, its shape and batch chosen anew.

    Settings are simulated: the best shapes of the screen are screened, probed and searched again; 0
    if none meets the SLO. What is free
    is taken from bounds: of the shapes that were searched, each yields more by the ratio of its
    bounds with it and without.
    """
    searched, first = best["searched"], shapes.first
    if change is None or change.factor is not None:
        factor = 1.0 if change is None or change.factor is None else change.factor
        return float(searched[0]["worth"]) * factor
    if change.free:
        return max(float(each["worth"]) * _gain(first, each, change, study) for each in searched)
    other, short = first.with_settings(change.set), study.shortlist
    again, _fit, _least = screened(other, best["reconsidered"], study.screen, priced)
    return most_worth(other, again[: short.probe], short.search, priced)


def _gain(first: Scenario, each: dict[str, Any], change: Changed, study: Study) -> float:
    scenario = first.with_settings(each["settings"] | study.screen)
    before, after = (steady_summary(bound(scenario, free))["tgs"] for free in ((), change.free))
    return float(after / before)
