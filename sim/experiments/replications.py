"""Replications: a scenario run several times with seeds of its own, and what the runs say together.

One run knows how sure it is of a mean, from batches of its steps. Of what all of its steps share
(the requests that it began with, the tail of a closed loop) only runs of their own tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sim.decoding.run import simulate
from sim.foundation.errors import SimError
from sim.foundation.estimates import independent_half_width
from sim.foundation.streams import stream
from sim.inputs.scenario import Scenario
from sim.metrics.slo import IN_TIME, verdict
from sim.metrics.summary import summary
from sim.parallel.processes import Failure, Workers

Figures = dict[str, Any]

# Figures that are an interval of another one; replications give the other's interval anew.
_INTERVALS = ("tpot_ms_p99_low", "tpot_ms_p99_high", "tpot_ci95_ms", "tgs_ci95")


def replication(scenario: Scenario, number: int) -> Scenario:
    """Return one replication as a scenario of its own; number 0 keeps the seed."""
    seed = scenario.simulation.seed
    if number:
        seed = int(stream(seed, "replication", number).integers(2**63))
    simulation = scenario.simulation.replaced(seed=seed, replications=1)
    return scenario.replaced(simulation=simulation)


def replicated(scenario: Scenario) -> Figures:
    """Return the figures of a scenario over the replications that it asks for."""
    count = scenario.simulation.replications
    return combined(scenario, run_all([replication(scenario, n) for n in range(count)]))


def run_all(scenarios: Sequence[Scenario], workers: Workers | None = None) -> list[Figures]:
    """Return the figures of scenarios in their order, run side by side if there are workers.

    Raises what a run raises (InfeasibleError, ScenarioError), SimError if a worker died.
    """
    if workers is None:
        return [summary(simulate(scenario)) for scenario in scenarios]
    found: dict[int, Figures] = {}
    for (index, _scenario), result in workers.run(_attempt, enumerate(scenarios)):
        if isinstance(result, Failure):
            raise SimError(result.reason)
        if isinstance(result, SimError):
            raise result
        found[index] = result
    return [found[index] for index in range(len(scenarios))]


def _attempt(item: tuple[int, Scenario]) -> Figures | SimError:
    """Run a scenario, on a worker; a refusal comes back as what it is."""
    try:
        return summary(simulate(item[1]))
    except SimError as error:
        return error


def combined(scenario: Scenario, runs: Sequence[Figures]) -> Figures:
    """Return the means of the figures of replications, with intervals from their spread.

    A figure that some of them lack is the mean of the others. They are stable if all of them are.
    Of one run, its own figures.
    """
    if len(runs) == 1:
        return dict(runs[0])
    figures = dict(runs[0]) | dict(_means(runs))
    figures["utilisation"] = {
        pool: float(np.mean([run["utilisation"][pool] for run in runs]))
        for pool in runs[0]["utilisation"]
    }
    figures["gpus"] = runs[0]["gpus"]
    figures["measured_steps"] = sum(run["measured_steps"] for run in runs)
    figures["replications"] = len(runs)
    for name in _INTERVALS:
        figures[name] = None
    figures["tpot_ci95_ms"] = _half_width(runs, "tpot_ms_mean")
    figures["tgs_ci95"] = _half_width(runs, "tgs")
    tail = _half_width(runs, "tpot_ms_p99")
    if tail is not None:
        figures["tpot_ms_p99_low"] = max(figures["tpot_ms_p99"] - tail, 0.0)
        figures["tpot_ms_p99_high"] = figures["tpot_ms_p99"] + tail
    figures["stable"] = stable = all_stable(runs)
    if stable is False:
        figures |= dict.fromkeys(IN_TIME)
    asked = figures["slo_tpot_found_ms"], figures["slo_queue_found_ms"]
    return figures | verdict(scenario.slo, *asked, figures["slo_attainment"], stable)


def all_stable(runs: Sequence[Figures]) -> bool | None:
    """Return whether all runs of an open loop are stable; None for a closed one."""
    known = [run["stable"] for run in runs if run["stable"] is not None]
    return all(known) if known else None


def _means(runs: Sequence[Figures]) -> Iterator[tuple[str, float]]:
    """Yield the means of all figures that are numbers."""
    for name in dict.fromkeys(name for run in runs for name in run):
        values = [run[name] for run in runs if run.get(name) is not None]
        if all(isinstance(value, int | float) for value in values) and values:
            yield name, float(np.mean(values))


def _half_width(runs: Sequence[Figures], name: str) -> float | None:
    values = np.array([run[name] for run in runs if run[name] is not None], dtype=np.float64)
    return independent_half_width(values) if len(values) > 1 else None
