"""Between loads: what a deployment yields where a whole request more or less would decide.

A GPU holds whole requests, and where it holds few, one is tens of percent: memory for 2.9 requests
serves two, memory for 3.1 serves three. In service contexts move from hour to hour, so a figure for
one context should not turn on where it falls between two whole numbers. So the load is spread over
one request: with memory for r requests a GPU holds ⌊r + u⌋, u uniform between −½ and ½, which is r
less a half on average, as it is on average over many contexts. The mean output is then a line
between those of neighbouring loads. The same holds where the TPOT limits the load: loads that meet
it and loads one request larger are mixed until their mean TPOT reaches the limit.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import accumulate
from typing import NamedTuple

from sim.deployments.deployment import Deployment
from sim.foundation.units import NS_PER_MS
from sim.steady.largest_load import fitting
from sim.steady.load_times import LoadTimes, shares
from sim.steady.state import tpot_ns


class BetweenLoads(NamedTuple):
    """The mean over whole loads around the largest one."""

    load: float
    """Requests on each attention GPU."""
    gain: float
    """Output over that of the whole load."""


def between_loads(
    site: Deployment,
    each: int,
    tpot_ms: float | None = None,
    *,
    of: int | None = None,
    free: Collection[str] = (),
) -> BetweenLoads:
    """Return the mean load around `each`, the largest that meets `slo.tpot_ms` and fits.

    A run at `each` had `tpot_ms`, by default as the steady state has; other loads are taken to be
    slower than their steady states by the same factor. `gain` is over the output of the load `of`,
    by default `each`. Output never falls with the load: where one request more would slow all, an
    engine does not take it in. `free` is that of `sim.steady.state.under_load`.
    """
    of = each if of is None else of
    slow = _tpots_ms(site, {each - 1, each, each + 1, of}, free)
    stretch = 1.0 if tpot_ms is None else tpot_ms / slow[each]
    load = min(_in_time(slow, each, site.scenario.slo.tpot_ms / stretch), _in_memory(site))
    load = max(load, each - 1.0)
    around = (each - 1, each, each + 1)
    outputs = [*accumulate((at / slow[at] if at else 0.0 for at in around), max)]
    low = 0 if load < each else 1
    share = load - around[low]
    output = outputs[low] * (1 - share) + outputs[low + 1] * share
    return BetweenLoads(load, output / (of / slow[of]))


def _tpots_ms(site: Deployment, loads: Collection[int], free: Collection[str]) -> dict[int, float]:
    """Return the TPOT of steady states by requests on each attention GPU, ms."""
    in_flight = {load: load * site.attention_gpus for load in sorted(loads) if load}
    times = LoadTimes(free)
    times.look_up(site, {share for each in in_flight.values() for share in shares(site, each)})
    steps_ns = times.steps_ns((site, each) for each in in_flight.values())
    return {
        load: tpot_ns(site, in_flight[load], step_ns) / NS_PER_MS
        for load, step_ns in zip(in_flight, steps_ns, strict=True)
    }


def _in_time(tpots_ms: dict[int, float], each: int, limit_ms: float) -> float:
    """Return the load from `each` to one more whose mean TPOT is the limit."""
    spare, further = limit_ms - tpots_ms[each], tpots_ms[each + 1] - tpots_ms[each]
    return each + (min(max(spare, 0.0) / further, 1.0) if further > 0 else 1.0)


def _in_memory(site: Deployment) -> float:
    """Return the mean load that memory and the engine allow."""
    most = site.scenario.memory.max_running_requests
    mean = fitting(site) - 1 / 2
    return mean if most is None else min(mean, most)
