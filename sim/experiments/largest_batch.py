"""Search: the largest batch of a deployment that meets its latency target.

The steady state tells near which batch to look; then simulations decide. The batch is the number of
requests on each attention GPU in each micro-batch, a broken one where some have one more.
"""

from __future__ import annotations

from typing import Any

from sim.deployments import compile_deployment
from sim.experiments.replications import replicated
from sim.foundation.errors import InfeasibleError
from sim.inputs.scenario import Scenario, TpotOf
from sim.metrics.steady_summary import steady_summary
from sim.steady.largest_load import fullest, largest_load, most_fitting


def max_batch_under_slo(scenario: Scenario, tpot_of: TpotOf = "mean") -> dict[str, Any]:
    """Return the figures at the largest load whose TPOT meets `slo.tpot_ms`, and its `batch`.

    `tpot_of` says which TPOT of the requests must meet it: their mean or a percentile. The scenario
    gets a closed loop of that load; its own arrivals only say that it is closed. Where even one
    request on each GPU is too slow, the figures are those of one. TPOT is taken to rise with the
    load. Raises InfeasibleError if one does not fit.
    """
    site = compile_deployment(scenario.with_batch(1))
    limit_ms, m, gpus = scenario.slo.tpot_ms, site.micro_batches, site.attention_gpus
    state = fullest(site, limit_ms)
    if scenario.simulation.engine == "bound":
        return steady_summary(state) | {"batch": _batch(int(state.requests), site.lanes)}
    found: dict[int, dict[str, Any]] = {}

    def tpot_ms(each: int) -> float:
        found[each] = figures = replicated(scenario.with_batch(each * gpus))
        tpot = figures[f"tpot_ms_{tpot_of}"]
        if tpot is None and figures["slo_attainment"] is not None:
            raise InfeasibleError(
                "outputs of one token have no TPOT, so no TPOT limits the batch: lengthen "
                "workload.lengths.output"
            )
        if tpot is None:
            raise InfeasibleError("the run is too short for a TPOT: raise simulation.min_steps")
        return float(tpot)

    guess, most = int(state.requests) // site.lanes, max(most_fitting(site), 1)
    each = max(largest_load(tpot_ms, limit_ms, most, m, guess), 1)
    return found[each] | {"batch": _batch(each * gpus, site.lanes)}


def _batch(requests: int, lanes: int) -> int | float:
    return requests / lanes if requests % lanes else requests // lanes
