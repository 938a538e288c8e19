"""Search: the largest batch of a deployment that meets its latency target.

The steady state tells near which batch to look; then simulations decide. The batch is the number of
requests on each attention GPU in each micro-batch, a broken one where some have one more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sim.deployments import compile_deployment
from sim.deployments.deployment import Deployment
from sim.experiments.replications import Figures, replicated
from sim.foundation.errors import InfeasibleError
from sim.inputs.scenario import Scenario, TpotOf
from sim.metrics.steady_summary import steady_summary
from sim.steady.largest_load import (
    fullest,
    fullest_of_each,
    largest_load,
    most_fitting,
)


def max_batch_under_slo(
    scenario: Scenario,
    tpot_of: TpotOf = "mean",
    known: Mapping[int, Figures] | None = None,
    watch: Callable[[Figures], None] | None = None,
) -> dict[str, Any]:
    """Return the figures at the largest load whose TPOT meets `slo.tpot_ms`, and its `batch`.

    `tpot_of` says which TPOT of the requests must meet it: their mean or a percentile. The scenario
    gets a closed loop of that load; its own arrivals only say that it is closed. Where even one
    request on each GPU is too slow, the figures are those of one. TPOT is taken to rise with the
    load. `known` are figures of runs already made, by requests in flight: no run is made twice, and
    the search starts where they tell it to. `watch` sees the figures of every run; what it raises
    ends the search. Raises InfeasibleError if one request does not fit.
    """
    if scenario.simulation.engine == "bound":
        (figures,) = max_batches_by_bound([scenario])
        if isinstance(figures, InfeasibleError):
            raise figures
        return figures
    site = compile_deployment(scenario.with_batch(1))
    limit_ms, m, gpus = scenario.slo.tpot_ms, site.micro_batches, site.attention_gpus
    found, of_requests = dict(known or {}), tpot_column(tpot_of)

    def tpot_ms(each: int) -> float:
        requests = each * gpus
        if requests not in found:
            found[requests] = replicated(scenario.with_batch(requests))
            if watch is not None:
                watch(found[requests])
        figures = found[requests]
        tpot = figures[of_requests]
        if tpot is None and figures["slo_attainment"] is not None:
            raise InfeasibleError(
                "outputs of one token have no TPOT, so no TPOT limits the batch: lengthen "
                "workload.lengths.output"
            )
        if tpot is None:
            raise InfeasibleError("the run is too short for a TPOT: raise simulation.min_steps")
        return float(tpot)

    guess = _guess(site, found, of_requests)
    each = max(largest_load(tpot_ms, limit_ms, max(most_fitting(site), 1), m, guess), 1)
    return found[each * gpus] | {"batch": _batch(each * gpus, site.lanes)}


def tpot_column(tpot_of: TpotOf) -> str:
    """Return the figure that is a TPOT of the requests; tpot_ms_p90 is the end of a prediction."""
    return "tpot_ms_requests_p90" if tpot_of == "p90" else f"tpot_ms_{tpot_of}"


def _guess(site: Deployment, found: Mapping[int, Figures], tpot: str) -> int:
    """Return a batch to begin with: that of the bound, if no run tells of another.

    Half of a TPOT is taken not to depend on the batch, as in `sim.steady.largest_load.searched`.
    """
    limit_ms = site.scenario.slo.tpot_ms
    known = [(figures[tpot], requests) for requests, figures in found.items() if figures[tpot]]
    if not known:
        return int(fullest(site, limit_ms).requests) // site.lanes
    tpot_ms, requests = min(known, key=lambda run: abs(run[0] - limit_ms))
    return int(requests * (2 * limit_ms / tpot_ms - 1)) // site.lanes


def max_batches_by_bound(
    scenarios: Sequence[Scenario],
) -> list[dict[str, Any] | InfeasibleError]:
    """Return the same of many scenarios by the bound engine, or why one does not fit."""
    found: dict[int, dict[str, Any] | InfeasibleError] = {}
    sites: dict[int, Deployment] = {}
    for place, scenario in enumerate(scenarios):
        try:
            sites[place] = compile_deployment(scenario.with_batch(1))
        except InfeasibleError as error:
            found[place] = error
    limits_ms = [scenarios[place].slo.tpot_ms for place in sites]
    states = fullest_of_each(list(sites.values()), limits_ms)
    for (place, site), state in zip(sites.items(), states, strict=True):
        batch = _batch(int(state.requests), site.lanes)
        found[place] = steady_summary(state) | {"batch": batch}
    return [found[place] for place in range(len(scenarios))]


def _batch(requests: int, lanes: int) -> int | float:
    return requests / lanes if requests % lanes else requests // lanes
