"""Capacity: the highest rate of arrivals at which enough requests are within their targets.

Every rate is tried with the same replications, whose arrivals are the same draws, closer together
or further apart. Rates lie on a geometric grid, so that a search for another limit finds what was
tried before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import ceil, log, log2
from typing import Any

import numpy as np

from sim.deployments import compile_deployment
from sim.doubt.interval import doubt_of
from sim.experiments.replications import Figures, all_stable, replication, run_all
from sim.foundation.errors import InfeasibleError, ScenarioError
from sim.foundation.estimates import independent_half_width
from sim.foundation.units import NS_PER_MS, NS_PER_S
from sim.inputs.arrivals import at_rate, rate_field
from sim.inputs.scenario import Scenario
from sim.metrics.stability import offered_load
from sim.metrics.summary import usd_per_1m_tokens
from sim.parallel.processes import Workers
from sim.steady.largest_load import fullest
from sim.steady.state import SteadyState, under_load

# Rates up to so many times higher or lower than the scenario's are tried at least, to find one that
# is too high or low enough.
_FURTHEST = 1 << 12

# The first rate after that with which the search begins; each further one is twice as far away.
_NEAR = 1.1

_SHARE = 0.99
_HALF = 0.5


@dataclass(frozen=True)
class Trial:
    """What came of one rate."""

    rate: float
    attainment: float
    """Mean over the replications."""
    half_width: float
    """Of its 95 % interval."""
    stable: bool
    """Whether all replications keep up with their requests. Those that do not have none within
    their targets, however many the beginning of a run shows."""

    def met(self, share: float) -> bool:
        """Return whether the mean is enough."""
        return self.attainment >= share

    def surely_met(self, share: float) -> bool:
        """Return whether the whole interval is enough."""
        return self.attainment - self.half_width >= share

    def perhaps_met(self, share: float) -> bool:
        """Return whether a part of the interval is enough."""
        return self.attainment + self.half_width >= share


@dataclass(frozen=True)
class Attempt:
    """A rate that is about to be tried."""

    rate: float
    low: float | None
    """Highest rate known to be enough. None before there is one, and where the attempt is at an end
    of the interval instead of the limit."""
    high: float | None
    """Lowest rate above it known to be too high."""
    left: int | None
    """Rates still to try, about, this one included; None before both ends are known."""


@dataclass(frozen=True)
class Capacity:
    """The highest rate that meets the targets, and how sure it is."""

    scenario: str
    of: str
    """Field of workload.arrivals that the rates are values of."""
    share: float
    """Share of requests that must be within their targets."""
    replications: int
    rate: float
    """Highest rate tried at which they are, in the mean of the replications."""
    low: float
    """Highest rate tried at which they surely are (95 %): chance."""
    high: float
    """Lowest rate tried at which they surely are not."""
    rate_p10: float
    """Doubt: `rate`, if TPOT is as slow as the end of its 80 % prediction interval. 0 if then not
    even one request on each GPU meets the target."""
    rate_p90: float
    """The same if it is as fast as the other end."""
    trials: tuple[Trial, ...]
    """By rate."""
    usd_per_1m_tokens: float | None
    """Rent of all GPUs per million output tokens at `rate`; None if a card has no price."""

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain data, ready for JSON."""
        return asdict(self)


def default_share(scenario: Scenario) -> float:
    return scenario.slo.attainment or _SHARE


def capacity(
    scenario: Scenario,
    share: float | None = None,
    precision: float = 0.02,
    replications: int = 5,
    workers: Workers | None = None,
    ahead: Callable[[Attempt], None] = lambda attempt: None,
    tell: Callable[[Trial], None] = lambda trial: None,
) -> Capacity:
    """Return the highest rate at which `share` of the requests are within their targets.

    `share` is the scenario's `slo.attainment` by default, and 0.99 without one.
    Neighbouring rates differ by `precision`, and the scenario's own rate is one of them. The search
    starts where the steady state has the TPOT of the target. Each rate is told `ahead` of its runs,
    and its trial after them. A rate that brings more than can be emitted is too high without a run.
    Raises ScenarioError for arrivals without a rate, InfeasibleError if every rate will do or
    none, and what a run raises.
    """
    share = share or default_share(scenario)
    workload = scenario.workload
    field = rate_field(workload.arrivals)
    if field is None:
        raise ScenarioError(
            "workload.arrivals of kind closed has no rate to search: its requests are replaced as "
            "they finish; write kind poisson with requests_per_s"
        )
    _check_lone_request(scenario, share)
    seeds = [replication(scenario, number) for number in range(replications)]
    begun = float(getattr(workload.arrivals, field))
    tried: dict[int, Trial] = {}

    def trial(place: int) -> Trial:
        if place not in tried:
            rate = begun * (1 + precision) ** place
            ahead(_attempt(place, rate, tried, share))
            changed = workload.replaced(arrivals=at_rate(workload.arrivals, rate))
            scenarios = [each.replaced(workload=changed) for each in seeds]
            if offered_load(scenarios[0]) > 1:
                tried[place] = Trial(rate, 0.0, 0.0, stable=False)
            else:
                tried[place] = _judged(rate, run_all(scenarios, workers))
            tell(tried[place])
        return tried[place]

    _bracket(trial, share, round(log(_likely(scenario)) / log(1 + precision)), precision)
    rate, low, high = (
        _highest(trial, tried, partial(is_met, share=share))
        for is_met in (Trial.met, Trial.surely_met, Trial.perhaps_met)
    )
    slowest, fastest = _doubt(scenario)
    return Capacity(
        scenario=scenario.name,
        of=field,
        share=share,
        replications=replications,
        rate=tried[rate].rate,
        low=tried[low].rate,
        high=tried[high + 1].rate,
        rate_p10=tried[rate].rate * slowest,
        rate_p90=tried[rate].rate * fastest,
        trials=tuple(tried[place] for place in sorted(tried)),
        usd_per_1m_tokens=_usd(scenario, tried[rate].rate),
    )


def _doubt(scenario: Scenario) -> tuple[float, float]:
    """Return by how much the rate changes if TPOT is at the ends of its 80 % prediction interval.

    It is that of the steady state at `slo.tpot_ms`: a slower deployment serves the largest load
    that still meets the target. How long requests wait for a place is taken not to change.
    """
    site, limit_ms = compile_deployment(scenario), scenario.slo.tpot_ms
    stated = fullest(site, limit_ms)
    low, high = doubt_of(scenario, stated.requests).interval(80)
    slowest, fastest = (fullest(site, limit_ms / factor) for factor in (high, low))
    if slowest.tpot_ns * high > limit_ms * NS_PER_MS:
        return 0.0, _served(fastest) / low / _served(stated)
    return _served(slowest) / high / _served(stated), _served(fastest) / low / _served(stated)


def _served(state: SteadyState) -> float:
    """Return tokens/ns of a steady state."""
    return state.requests / state.tpot_ns


def _usd(scenario: Scenario, rate: float) -> float | None:
    """Return the rent of a million output tokens of requests that arrive at a rate."""
    arrivals = at_rate(scenario.workload.arrivals, rate)
    assert arrivals.kind != "closed"
    output = compile_deployment(scenario).expected.output_tokens()
    return usd_per_1m_tokens(scenario.usd_per_hour(), arrivals.requests_per_s * output)


def _check_lone_request(scenario: Scenario, share: float) -> None:
    """Refuse a target that a request misses even if it is alone. Raises InfeasibleError."""
    lone_ms = under_load(compile_deployment(scenario), 1).tpot_ns / NS_PER_MS
    # Contexts differ: the shorter half may still be within a target that the mean one misses.
    if share > _HALF and lone_ms > scenario.slo.tpot_ms:
        raise InfeasibleError(
            f"one request alone takes {lone_ms:.4g} ms a token, slo.tpot_ms is "
            f"{scenario.slo.tpot_ms:.4g}: loosen it or choose another shape"
        )


def _likely(scenario: Scenario) -> float:
    """Return the rate at which the steady state has the target's TPOT, over that of arrivals."""
    site, arrivals = compile_deployment(scenario), scenario.workload.arrivals
    assert arrivals.kind != "closed"
    state = fullest(site, scenario.slo.tpot_ms)
    served_per_s = state.requests / (state.tpot_ns / NS_PER_S) / site.expected.output_tokens()
    return served_per_s / arrivals.requests_per_s


def _judged(rate: float, runs: Sequence[Figures]) -> Trial:
    """Return what the replications at a rate say of it."""
    shares = np.array([run["slo_attainment"] or 0.0 for run in runs])
    doubt = independent_half_width(shares)
    return Trial(rate, float(shares.mean()), doubt, all_stable(runs) is not False)


def _attempt(place: int, rate: float, tried: dict[int, Trial], share: float) -> Attempt:
    """Return the attempt at a rate, with what the trials before it have shown of the limit."""
    high = min((p for p, found in tried.items() if not found.met(share)), default=None)
    below = [p for p in tried if (high is None or p < high) and tried[p].met(share)]
    low = max(below, default=None)
    left = None
    if low is not None and high is not None and not low < place < high:
        return Attempt(rate, None, None, None)  # the limit is known: an end of its interval is not
    if low is not None and high is not None:
        left = max(ceil(log2(high - low)), 1)
    ends = [None if end is None else tried[end].rate for end in (low, high)]
    return Attempt(rate, ends[0], ends[1], left)


def _bracket(trial: Callable[[int], Trial], share: float, begin: int, precision: float) -> None:
    """Try rates further and further away until one surely meets the share and one surely not."""
    away = list(_away(abs(begin), precision))
    if all(trial(begin + places).perhaps_met(share) for places in away):
        last = trial(begin + away[-1])
        what = "give slo.queue_ms a value, or simulate more requests, so that there is a queue"
        if not last.met(share):
            what = "too few replications to be sure that this is not enough: raise --replications"
        raise InfeasibleError(
            f"at {last.rate:.4g}, at least {_FURTHEST:,} times the rate of the scenario, "
            f"{last.attainment:.1%} ± {last.half_width:.1%} of the requests are within their "
            f"targets: {what}"
        )
    if not any(trial(begin - places).surely_met(share) for places in away):
        last = trial(begin - away[-1])
        raise InfeasibleError(
            f"even at a rate of {last.rate:.4g} only {last.attainment:.1%} of the requests are "
            "within their targets: loosen slo.tpot_ms or choose another shape"
        )


def _away(begin: int, precision: float) -> Iterator[int]:
    """Yield how far the rates of a bracket are from the first, itself `begin` from the scenario's.

    In places.
    """
    furthest = begin + ceil(log(_FURTHEST) / log(1 + precision))
    places, stride = 0, max(1, round(log(_NEAR) / log(1 + precision)))
    while places < furthest:
        yield places
        places, stride = places + stride, 2 * stride
    yield furthest


def _highest(
    trial: Callable[[int], Trial], tried: dict[int, Trial], holds: Callable[[Trial], bool]
) -> int:
    """Return the highest place at which it `holds`, by bisection between places tried before."""
    high = min(place for place, found in tried.items() if not holds(found))
    low = max(place for place, found in tried.items() if holds(found) and place < high)
    while high - low > 1:
        middle = (low + high) // 2
        if holds(trial(middle)):
            low = middle
        else:
            high = middle
    return low
