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
from sim.foundation import json_text
from sim.foundation.errors import InfeasibleError
from sim.foundation.estimates import independent_half_width
from sim.inputs.arrivals import ClosedLoop
from sim.inputs.scenario import Scenario
from sim.steady.between_loads import between_loads
from sim.steady.state import SteadyState
from sim.study.best_shapes import bound_worth, entry, screened, worth
from sim.study.cells import SideShapes
from sim.study.schema import Changed, Counterfactual, Settings, Study

BestShapes = dict[str, Any]
"""A side's best shapes as `sim.study.best_shapes.best_shapes` returns them."""


def at_its_batch(first: Scenario, found: BestShapes) -> Scenario:
    """Return the scenario of the best shape at its batch."""
    best = found["searched"][0]
    in_flight = round(best["figures"]["requests_in_flight"])
    return first.with_settings(best["settings"]).with_batch(in_flight)


def paired_runs(
    scenarios: Sequence[Scenario], entries: Sequence[dict[str, Any]], study: Study, priced: bool
) -> dict[str, Any]:
    """Return the margin of the first over the second, the half-width of its interval, TPOTs in ms.

    Both have the same seed in each pair, and other seeds than the search for them. Runs are at
    whole loads; yields are those between, as in the `entries` of both.
    """
    numbers = range(1, study.pairs + 1)
    fits = [fitting(each, numbers) for each in scenarios]
    figures = run_all([replication(each, number) for number in numbers for each in fits])
    runs = np.array([worth(each, priced) for each in figures]).reshape(study.pairs, 2)
    gains = np.array([_gain(*each, study.fine_screen) for each in zip(entries, fits, strict=True)])
    yields = runs * gains
    margins = yields[:, 0] / yields[:, 1] - 1
    tpot_ms = np.array([each["tpot_ms_mean"] for each in figures]).reshape(study.pairs, 2)
    return {
        "margin": float(margins.mean()),
        "half_width": independent_half_width(margins),
        "yields": [float(each) for each in yields.mean(axis=0)],
        "tpot_ms": [float(each) for each in tpot_ms.mean(axis=0)],
    }


def _gain(entry: dict[str, Any], scenario: Scenario, screen: Settings) -> float:
    """Return what a shape yields between loads over its runs, which may hold fewer requests."""
    site = compile_deployment(scenario.with_settings(screen))
    ran = _in_flight(scenario) // site.attention_gpus
    each = round(entry["figures"]["batch"] * site.micro_batches)
    return between_loads(site, each, entry["figures"]["tpot_ms_mean"], of=ran).gain


def _in_flight(scenario: Scenario) -> int:
    arrivals = scenario.workload.arrivals
    assert isinstance(arrivals, ClosedLoop)
    return arrivals.requests_in_flight(scenario.gpu_count())


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
            less = _in_flight(scenario) - site.attention_gpus
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
    shapes: SideShapes, best: BestShapes, change: Counterfactual, study: Study, priced: bool
) -> float:
    """Return what a side would yield with something changed, its shape and batch chosen anew.

    By simulation, the shapes that were searched are searched again; 0 if none meets the SLO. By
    bounds, the shapes of the second screen are screened again, and the yield changes as that of the
    best of them does.
    """
    searched, first = best["searched"], shapes.first
    here = change.sides.get(shapes.side)
    if here is None or not (here.set or here.free):
        return float(searched[0]["worth"])
    if change.by == "simulation":
        # After the shape, which may name another software profile.
        others = [{**each["settings"], **here.set} for each in searched]
        again = [entry(first, each, study.fine_screen, priced) for each in others]
        return max((float(each["worth"]) for each in again if each["slo_met"]), default=0.0)
    if here.free:
        return max(float(each["worth"]) * _freed(first, each, here, study) for each in searched)
    screen = {**study.fine_screen, **here.set}
    every = [each["settings"] for each in best["reconsidered"]]
    found, *_ = screened(first, every, screen, priced, between=True)
    before = _most(best, ((each["settings"], each["bound"]) for each in best["reconsidered"]))
    after = _most(best, ((each.settings, each.worth) for each in found))
    return float(searched[0]["worth"]) * after / before


def _most(best: BestShapes, bounds: Iterable[tuple[Settings, float]]) -> float:
    """Return what the best of some shapes is worth by their bounds.

    A shape keeps the share of its bound that it kept in its search; one that was not searched, the
    share that the best shape kept.
    """
    searched = best["searched"]
    kept = {json_text.dumps(each["settings"]): each["worth"] / each["bound"] for each in searched}
    usual = searched[0]["worth"] / searched[0]["bound"]
    worths = (worth * kept.get(json_text.dumps(settings), usual) for settings, worth in bounds)
    return float(max(worths, default=0.0))


def _freed(first: Scenario, each: dict[str, Any], change: Changed, study: Study) -> float:
    scenario = first.with_settings({**each["settings"], **study.fine_screen})
    whole = bound_worth(scenario, priced=False)
    return bound_worth(scenario, priced=False, free=change.free) / whole
