"""Capacity: the highest rate of arrivals at which enough requests are within their targets.

Every rate is tried with the same replications, whose arrivals are the same draws, closer together
or further apart. Rates lie on a geometric grid, so that a search for another limit finds what was
tried before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from math import log
from typing import Any

import numpy as np

from sim.arrivals import at_rate, rate_field
from sim.errors import InfeasibleError, ScenarioError
from sim.replications import replication, run_all
from sim.scenario import Scenario
from sim.statistics import independent_half_width
from sim.workers import Workers

# So often the rate is doubled or halved to find one that is too high or low enough.
_MOST_DOUBLINGS = 12


@dataclass(frozen=True)
class Trial:
    """What came of one rate."""

    rate: float
    attainment: float
    """Mean over the replications."""
    half_width: float
    """Of its 95 % interval."""

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
    """Highest rate tried at which they surely are (95 %)."""
    high: float
    """Lowest rate tried at which they surely are not."""
    trials: tuple[Trial, ...]
    """By rate."""

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain data, ready for JSON."""
        return asdict(self)


def capacity(
    scenario: Scenario,
    share: float,
    precision: float,
    replications: int,
    workers: Workers | None = None,
    tell: Callable[[Trial], None] = lambda trial: None,
) -> Capacity:
    """Return the highest rate at which `share` of the requests are within their targets.

    Neighbouring rates differ by `precision`. The search starts from the scenario's own rate.
    Raises ScenarioError for arrivals without a rate, InfeasibleError if every rate will do or
    none, and what a run raises.
    """
    workload = scenario.workload
    field = rate_field(workload.arrivals)
    if field is None:
        raise ScenarioError(
            "workload.arrivals of kind closed has no rate to search: its requests are replaced as "
            "they finish; write kind poisson with requests_per_s"
        )
    seeds = [replication(scenario, number) for number in range(replications)]
    begun = float(getattr(workload.arrivals, field))
    tried: dict[int, Trial] = {}

    def trial(place: int) -> Trial:
        if place not in tried:
            rate = begun * (1 + precision) ** place
            arrivals = {"arrivals": at_rate(workload.arrivals, rate)}
            changed = {"workload": workload.model_copy(update=arrivals)}
            runs = run_all([each.model_copy(update=changed) for each in seeds], workers)
            shares = np.array([run["slo_attainment"] or 0.0 for run in runs])
            doubt = independent_half_width(shares)
            tried[place] = Trial(rate, float(shares.mean()), doubt)
            tell(tried[place])
        return tried[place]

    _bracket(trial, share, stride=max(1, round(log(2) / log(1 + precision))))
    rate, low, high = (
        _highest(trial, tried, partial(is_met, share=share))
        for is_met in (Trial.met, Trial.surely_met, Trial.perhaps_met)
    )
    return Capacity(
        scenario=scenario.name,
        of=field,
        share=share,
        replications=replications,
        rate=tried[rate].rate,
        low=tried[low].rate,
        high=tried[high + 1].rate,
        trials=tuple(tried[place] for place in sorted(tried)),
    )


def _bracket(trial: Callable[[int], Trial], share: float, stride: int) -> None:
    """Try rates further and further apart until one surely meets the share and one surely not."""
    place, doublings = 0, 0
    while trial(place).perhaps_met(share):
        place += stride
        doublings += 1
        if doublings > _MOST_DOUBLINGS:
            last = trial(place - stride)
            what = "give slo.queue_ms a value, or simulate more requests, so that there is a queue"
            if not last.met(share):
                what = (
                    "too few replications to be sure that this is not enough: raise --replications"
                )
            raise InfeasibleError(
                f"at {last.rate:.4g}, {2**_MOST_DOUBLINGS:,} times the rate of the scenario, "
                f"{last.attainment:.1%} ± {last.half_width:.1%} of the requests are within their "
                f"targets: {what}"
            )
    place, doublings = place - stride, 0
    while not trial(place).surely_met(share):
        place -= stride
        doublings += 1
        if doublings > _MOST_DOUBLINGS:
            raise InfeasibleError(
                f"even at a rate of {trial(place + stride).rate:.4g} only "
                f"{trial(place + stride).attainment:.1%} of the requests are within their targets: "
                "loosen slo.tpot_ms or choose another shape"
            )


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
