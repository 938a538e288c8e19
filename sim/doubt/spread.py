"""Spread: how a step's time varies over all that is not known, as the bound engine sees it.

Every source of doubt is evaluated once at each of its ends: all stages and latencies are timed
anew. Between the ends a stage's time is taken as linear in the unknown figure, or in the factor on
kernels, which is exact for times and slow-downs, and sources add up. The step time of a draw is
then the exact eigenvalue of its stages, so that what is hidden behind another stage stays hidden.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.deployments import compile_deployment
from sim.deployments.deployment import Deployment
from sim.doubt.draws import DRAWS, drawn_shares
from sim.doubt.sources import Change, DoubtSource, Floats, sources_of
from sim.engines.bound import BoundEngine
from sim.foundation.errors import InfeasibleError
from sim.inputs.sourced import Unsettled
from sim.steady.load_times import LoadTimes, bound_engine, shares
from sim.steady.state import likeness, tpot_ns

# Where each source is tried alone: its ends, and the 10th and 90th percentile of its law.
_ALONE = (0.1, 0.9)
_TENTHS = slice(1, 4)

_PLACES = (-1.0, 1.0, 0.5)
"""Where sources are evaluated. Of kernels, half of the way tells how far off those of a load are at
the end."""

Ints = NDArray[np.int64]


class Alone(NamedTuple):
    """What one source does alone, all others as stated."""

    source: DoubtSource
    positions: Floats
    """Ascending: low end, 10th percentile, as stated, 90th percentile, high end; or possibilities,
    in the order of the scenario."""
    factors: Floats
    """On TPOT, at these positions."""
    likely: slice = _TENTHS
    """Positions within the 10th and the 90th percentile."""

    @property
    def moves(self) -> bool:
        """Return whether the source changes the step at all."""
        return bool((self.factors != 1).any())


@dataclass(frozen=True)
class StepSpread:
    """How TPOT varies: factors on it, 1 as stated."""

    factors: Floats
    """One for each draw."""
    alone: tuple[Alone, ...] = ()
    """Each source alone; empty if that was not asked."""


class SteadyLoad(NamedTuple):
    """A deployment and its requests in flight."""

    deployment: Deployment
    requests: int


def spread(
    load: SteadyLoad, seed: int, draws: int = DRAWS, free: Collection[str] = ()
) -> StepSpread:
    """Return the spread of one load, and what each source does alone.

    Stages and delays in `free` take no time.
    """
    return _of_alike([load], seed, draws, free, each_alone=True)[0]


def spreads(loads: Sequence[SteadyLoad], seed: int, draws: int = DRAWS) -> list[StepSpread]:
    """Return the spread of each load, without what sources do alone. Those alike share look-ups."""
    alike: dict[Hashable, list[int]] = {}
    for place, load in enumerate(loads):
        scenario = load.deployment.scenario
        stated = tuple(each.model_dump_json() for each in scenario.doubt)
        alike.setdefault((likeness(scenario), stated), []).append(place)
    found: dict[int, StepSpread] = {}
    for places in alike.values():
        group = [loads[place] for place in places]
        found |= zip(places, _of_alike(group, seed, draws, (), each_alone=False), strict=True)
    return [found[place] for place in range(len(loads))]


def _of_alike(
    group: Sequence[SteadyLoad], seed: int, draws: int, free: Collection[str], each_alone: bool
) -> list[StepSpread]:
    """Return the spreads of loads that are alike, over what their scenario says is not settled."""
    unsettled = group[0].deployment.scenario.doubt
    every, no_draw = np.ones(draws, dtype=np.bool_), np.zeros(draws, dtype=np.bool_)
    stated = _settled(group, seed, no_draw if unsettled else every, free, each_alone)
    if not unsettled:
        return [each.spread for each in stated]
    sources = [_of_possibilities(each) for each in unsettled]
    factors = np.empty((len(group), draws))
    for settings, there in choices(unsettled, seed, draws):
        for place, found in enumerate(_settled(_as(group, settings), seed, there, free, False)):
            factors[place, there] = found.tpot_ns / stated[place].tpot_ns * found.spread.factors
    alone: list[list[Alone]] = [list(each.spread.alone) for each in stated]
    for source, each in zip(sources, unsettled, strict=True) if each_alone else ():
        settled = [_settled(_as(group, one), seed, no_draw, free, False) for one in each.one_of]
        for place in range(len(group)):
            each_ns = np.array([found[place].tpot_ns for found in settled])
            positions = np.linspace(-1, 1, len(each_ns))
            factors_there = each_ns / stated[place].tpot_ns
            alone[place].append(Alone(source, positions, factors_there, slice(None)))
    return [StepSpread(f, tuple(a)) for f, a in zip(factors, alone, strict=True)]


def choices(
    unsettled: Sequence[Unsettled], seed: int, draws: int
) -> Iterator[tuple[dict[str, Any], NDArray[np.bool_]]]:
    """Yield what is drawn of everything unsettled, as settings, and which draws have it."""
    if not unsettled:
        yield {}, np.ones(draws, dtype=np.bool_)
        return
    sources = [_of_possibilities(each) for each in unsettled]
    shares_of = [drawn_shares(seed, source.key, draws) for source in sources]
    counts = [len(each.one_of) for each in unsettled]
    chosen = [(u * n).astype(int) for u, n in zip(shares_of, counts, strict=True)]
    for choice in sorted(set(zip(*chosen, strict=True))):
        settings = {
            path: value
            for each, number in zip(unsettled, choice, strict=True)
            for path, value in each.one_of[number].items()
        }
        yield settings, np.all([c == n for c, n in zip(chosen, choice, strict=True)], axis=0)


def _as(group: Sequence[SteadyLoad], settings: dict[str, Any]) -> list[SteadyLoad]:
    """Return the loads on deployments with a possibility of what is unsettled.

    Raises InfeasibleError if it cannot run.
    """
    scenarios = [load.deployment.scenario.settled(settings) for load in group]
    try:
        sites = [compile_deployment(scenario) for scenario in scenarios]
    except InfeasibleError as error:
        told = f"doubt: {_words(settings)} cannot run, so it is no possibility: {error}"
        raise InfeasibleError(told) from None
    return [SteadyLoad(site, load.requests) for site, load in zip(sites, group, strict=True)]


class _Settled(NamedTuple):
    tpot_ns: float
    """As stated, ns."""
    spread: StepSpread


def _settled(
    group: Sequence[SteadyLoad],
    seed: int,
    which: NDArray[np.bool_],
    free: Collection[str],
    each_alone: bool,
) -> list[_Settled]:
    """Return the spreads of loads of which nothing is unsettled, over the draws in `which`."""
    times = LoadTimes(free)
    times.look_up_all((site, share) for site, n in group for share in shares(site, n))
    first = group[0].deployment
    sources = sources_of(first) if each_alone or which.any() else []
    ends = [_ends(times, source, first) for source in sources]
    drawn = [
        source.positions(drawn_shares(seed, source.key, len(which))[which]) for source in sources
    ]
    many = int(which.sum())
    return [_of_load(times, load, many, sources, ends, drawn, each_alone) for load in group]


class _End:
    """All loads at one end of a source."""

    def __init__(self, times: LoadTimes, change: Change, first: Deployment) -> None:
        """Time the loads anew; `first` is one of their deployments."""
        self._times = times.changed(change)
        self._change = change
        self._delays = change(first).delays_ns != first.delays_ns
        """Whether latencies change too, which each deployment has for itself."""
        self._sites: dict[int, Deployment] = {}

    def stages(self, load: SteadyLoad) -> tuple[Ints, Ints]:
        if not self._delays:
            return _stages(self._times, load)
        site = load.deployment
        if id(site) not in self._sites:
            self._sites[id(site)] = self._change(site)
        return _stages(self._times, SteadyLoad(self._sites[id(site)], load.requests))

    def moves(self, times: LoadTimes) -> bool:
        """Return whether anything takes another time than in `times`."""
        return self._delays or self._times.differ(times)


def _ends(times: LoadTimes, source: DoubtSource, first: Deployment) -> tuple[_End | None, ...]:
    """Return a source at its `_PLACES`, None where nothing is as other than stated.

    One whose high end moves nothing is none that the deployment has.
    """
    low, stated, high = source.ends
    found: dict[float, _End] = {}
    for place in (1.0, -1.0) if source.is_range else (1.0, -1.0, 0.5):
        if source.is_range and stated == (high if place > 0 else low):
            continue
        made = _End(times, source.changed(place), first)
        if not made.moves(times):
            break
        found[place] = made
    return tuple(found.get(place) for place in _PLACES)


def _stages(times: LoadTimes, load: SteadyLoad) -> tuple[Ints, Ints]:
    """Return the times of all stages, micro-batches × …, and the latencies, ns."""
    in_turn, delays_ns = times.in_turn(*load)
    return np.array([each.values for each in in_turn]), np.array(delays_ns)


def _of_load(
    times: LoadTimes,
    load: SteadyLoad,
    draws: int,
    sources: Sequence[DoubtSource],
    ends: Sequence[Sequence[_End | None]],
    drawn: Sequence[Floats],
    each_alone: bool,
) -> _Settled:
    engine = bound_engine(times.in_turn(*load)[0][0].program)
    values, delays_ns = _stages(times, load)
    plain = np.concatenate([values.ravel(), delays_ns.ravel()]).astype(np.float64)
    moves = np.zeros((len(sources), 3, len(plain)))
    for number, tried in enumerate(ends):
        for place, end in enumerate(tried):
            if end is not None:
                moved = np.concatenate([part.ravel() for part in end.stages(load)])
                moves[number, place] = moved - plain
    logs = [_log_at_end(*of_source) for of_source in moves[:, 1:].sum(axis=-1)]
    moves = moves[:, :2]
    shapes = values.shape, delays_ns.shape
    weights = [s.weights(at, log) for s, at, log in zip(sources, drawn, logs, strict=True)]
    together = _combined(np.array(weights).reshape(len(sources), 2, draws), moves)
    grids = [_grid(source) for source in sources] if each_alone else []
    each = [
        _combined(np.array([sources[n].weights(grid, logs[n])]), moves[n : n + 1])
        for n, grid in enumerate(grids)
    ]
    rows = np.concatenate([np.zeros((1, len(plain))), together, *each]) + plain
    steps_ns = _steps_ns(engine, rows, shapes)
    factors = steps_ns / steps_ns[0]
    size = len(_ALONE) + 3
    own = factors[1 + draws :].reshape(-1, size)
    found = zip(sources, grids, own, strict=True) if each_alone else ()
    alone = tuple(Alone(*each) for each in found)
    stated_ns = tpot_ns(*load, Fraction(steps_ns[0]))
    return _Settled(stated_ns, StepSpread(factors[1 : 1 + draws], alone))


def _log_at_end(end: float, half: float) -> float:
    """Return log f, where kernels take f times as long at their end and √f times half way."""
    return 2 * math.log(end / half - 1) if end > half > 0 and end > 2 * half else 0.0


def _combined(weights: Floats, moves: Floats) -> Floats:
    """Return what draws add to stages, draws × stages.

    `weights` are sources × 2 × draws, `moves` what the ends add: sources × 2 × stages.
    """
    return np.asarray(weights[:, 0].T @ moves[:, 0] + weights[:, 1].T @ moves[:, 1])


def _of_possibilities(unsettled: Unsettled) -> DoubtSource:
    told = [_words(settings) for settings in unsettled.one_of]
    key = f"unsettled {unsettled.name} {told} {unsettled.source}"

    def changed(_position: float) -> Change:
        raise NotImplementedError("possibilities have no ends")

    ends = (0.0, 0.0, 0.0)
    return DoubtSource(key, unsettled.name, "", ends, True, unsettled.source, changed, tuple(told))


def _words(settings: dict[str, Any]) -> str:
    """Return a possibility in words: its names and other values, each once."""
    words = [
        value if isinstance(value, str) else f"{path.rpartition('.')[2]} {value}"
        for path, value in settings.items()
    ]
    return ", ".join(dict.fromkeys(words)) or "as stated"


def _grid(source: DoubtSource) -> Floats:
    """Return the positions at which a source is tried alone."""
    tenths = source.positions(np.array(_ALONE))
    far = (-1.0, 1.0) if source.is_range else (2 * tenths[0], 2 * tenths[1])
    return np.sort(np.array([far[0], tenths[0], 0.0, tenths[1], far[1]]))


def _steps_ns(
    engine: BoundEngine, rows: Floats, shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> Floats:
    whole = np.rint(np.maximum(rows, 0)).astype(np.int64)
    size = int(np.prod(shapes[0]))
    values = whole[:, :size].reshape(-1, *shapes[0])
    delays_ns = whole[:, size:].reshape(-1, *shapes[1])
    means_ns = engine.means_ns(values, delays_ns)
    return np.asarray(means_ns[:, 0] / means_ns[:, 1])
