"""Largest load: how many requests a deployment serves within its memory and a TPOT."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Hashable, Iterator, Sequence
from fractions import Fraction

from sim.deployments.deployment import Deployment
from sim.foundation.units import NS_PER_MS
from sim.steady.load_times import LoadTimes, shares
from sim.steady.state import SteadyState, likeness, tpot_ns

# Where a search for a batch begins.
_TYPICAL_BATCH = 32

# A search alone looks up so many batches before and after one that it tries.
_AHEAD = 32

Search = Generator[int, float, int]
"""Yields loads, is sent their values, and returns the largest load found."""


def fullest(deployment: Deployment, tpot_ms: float, free: Collection[str] = ()) -> SteadyState:
    """Return the steady state of the largest load that meets a TPOT and whose KV fits.

    The load is the number of requests on each attention GPU; where no load meets the TPOT, it is 1.
    `free` is that of `under_load`.
    """
    return fullest_of_each([deployment], [tpot_ms], free)[0]


def fullest_of_each(
    deployments: Sequence[Deployment], tpots_ms: Sequence[float], free: Collection[str] = ()
) -> list[SteadyState]:
    """Return `fullest` of each deployment with its TPOT.

    Deployments of the same `likeness` are searched side by side, so that a look-up serves all.
    """
    alike: dict[Hashable, list[_Searched]] = {}
    found = [_Searched(*each) for each in zip(deployments, tpots_ms, strict=True)]
    for each in found:
        kind = likeness(each.deployment.scenario) if len(found) > 1 else None
        alike.setdefault(kind, []).append(each)
    for group in alike.values():
        loads, searching = LoadTimes(free), group
        while searching:
            ahead = _AHEAD // len(searching)
            loads.look_up_all(load for each in searching for load in each.asks(ahead))
            steps_ns = loads.steps_ns((each.deployment, each.requests) for each in searching)
            told = zip(searching, steps_ns, strict=True)
            searching = [each for each, step_ns in told if each.goes_on(step_ns)]
        for each in group:
            each.state = SteadyState.under(loads, each.deployment, each.requests, each.step_ns)
    return [each.state for each in found]


class _Searched:
    """A deployment whose largest load is searched."""

    state: SteadyState
    """Of the largest load, when the search is over."""

    def __init__(self, deployment: Deployment, tpot_ms: float) -> None:
        self.deployment = deployment
        self._most = max(most_fitting(deployment), 1)
        m, limit_ns = deployment.micro_batches, tpot_ms * NS_PER_MS
        self._search = searched_load(limit_ns, self._most, m, _TYPICAL_BATCH)
        self._tried = next(self._search)
        self._steps_ns: dict[int, Fraction] = {}

    @property
    def requests(self) -> int:
        """Requests in flight of the load tried; of the largest one when the search is over."""
        return self._tried * self.deployment.attention_gpus

    @property
    def step_ns(self) -> Fraction:
        """Time per step of a load that was tried, ns."""
        return self._steps_ns[self._tried]

    def asks(self, ahead: int) -> Iterator[tuple[Deployment, int]]:
        """Yield the micro-batches of the next load, and of some that may follow."""
        site, m = self.deployment, self.deployment.micro_batches
        tried = (
            [self._tried]
            if not ahead
            else {self._tried, *_around(self._tried, m, self._most, ahead)}
        )
        for each in tried:
            for share in set(shares(site, each * site.attention_gpus)):
                yield site, share

    def goes_on(self, step_ns: Fraction) -> bool:
        """Go on from the load tried, which takes `step_ns`; return whether there is another."""
        self._steps_ns[self._tried] = step_ns
        try:
            self._tried = self._search.send(tpot_ns(self.deployment, self.requests, step_ns))
        except StopIteration as over:
            self._tried = max(over.value, 1)
            return False
        return True


def _around(each: int, micro_batches: int, most: int, ahead: int) -> range:
    """Return loads that a search may try after `each`: of whole batches too, or of broken ones."""
    whole, broken = divmod(each, micro_batches)
    if broken:
        return range(each - broken + 1, min(each - broken + micro_batches, most + 1))
    low, high = max(whole // 2, whole - ahead), min(2 * whole, whole + ahead)
    return range(max(low, 1) * micro_batches, min(high * micro_batches, most) + 1, micro_batches)


def most_fitting(deployment: Deployment) -> int:
    """Return the largest load that memory and the engine allow, requests on each attention GPU."""
    whole = int(fitting(deployment))
    return min(whole, deployment.scenario.memory.max_running_requests or whole)


def fitting(deployment: Deployment) -> float:
    """Return how many requests of mean length fit in the memory of an attention GPU."""
    capacity = deployment.kv_memory().kv_capacity_bytes()
    return float(capacity / deployment.expected.claimed_bytes())


def largest_load(
    value: Callable[[int], float], limit: float, most: int, micro_batches: int, guess: int
) -> int:
    """Return the largest load from 1 to `most` whose value is at most `limit`; 0 if none."""
    return _answered(searched_load(limit, most, micro_batches, guess), value)


def largest(value: Callable[[int], float], limit: float, most: int, guess: int) -> int:
    """Return the largest number from 1 to `most` whose value is at most `limit`; 0 if none."""
    return _answered(searched(limit, most, guess), value)


def _answered(search: Search, value: Callable[[int], float]) -> int:
    try:
        asked = next(search)
        while True:
            asked = search.send(value(asked))
    except StopIteration as over:
        return int(over.value)


def searched_load(limit: float, most: int, micro_batches: int, guess: int) -> Search:
    """Search the largest load from 1 to `most` whose value is at most `limit`; 0 if none.

    Whole batches come first, beginning with a batch of `guess`. Then come the loads up to the next
    batch, in which some micro-batches have one request more on each GPU.
    """
    batches = searched(limit, most // micro_batches, guess)
    try:
        batch = next(batches)
        while True:
            batch = batches.send((yield batch * micro_batches))
    except StopIteration as over:
        low = int(over.value) * micro_batches
    high = min(low + micro_batches, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if (yield middle) <= limit else (low, middle)
    return low


def searched(limit: float, most: int, guess: int) -> Search:
    """Search the largest whole number from 1 to `most` whose value is at most `limit`; 0 if none.

    Values must be positive and rise. The search follows the line through the two latest values, and
    halves the range whenever the line has done no better.
    """
    low, high, trial = 0, most + 1, min(max(guess, 1), max(most, 1))
    known: list[tuple[int, float]] = []
    while high - low > 1:
        width = high - low
        found = yield trial
        low, high = (trial, high) if found <= limit else (low, trial)
        known = [*known[-1:], (trial, found)]
        if len(known) == 1:
            # The first guess takes half of the value not to depend on the number.
            trial = int(trial * (2 * limit / found - 1))
        elif known[0][1] != found:
            (first, before), slope = known[0], (found - known[0][1]) / (trial - known[0][0])
            trial = first + int((limit - before) / slope) if slope > 0 else low + (high - low) // 2
        else:
            trial = 2 * trial if found <= limit else trial // 2
        if low and high <= most and 2 * (high - low) > width and len(known) == 2:
            trial = trial if low < trial < high else low + (high - low) // 2
        trial = min(max(trial, low + 1), high - 1)
    return low
