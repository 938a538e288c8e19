"""Margins: how sure it is that one deployment yields more than another, and what would settle it.

Both sides see the same draw of everything that they share, so that shared doubt cancels. What no
source declares cancels as far as predictions of one engine, card and model share it, and wholly
between two deployments that are the same.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np

from sim.doubt.interval import Doubt, doubt_of, spread_widths
from sim.doubt.residual import Level, normal_width
from sim.doubt.sources import DoubtSource
from sim.doubt.spread import Alone
from sim.inputs.scenario import Scenario
from sim.steady.state import likeness

OPEN = "open"

# A smaller log standard deviation is none.
_TINY = 1e-12

# A source that makes up less of the doubt is not named.
NOTABLE = 0.01

_REST = "what no source declares"


@dataclass(frozen=True)
class DoubtPart:
    """What makes up some of the doubt in a margin."""

    name: str
    share: float
    """Of the variance of the margin, all else as stated."""
    turns_at: str | None
    """The value at which the margin would be zero, in words; None if no likely value does that."""
    source: str
    """Where the figure is from; empty for what no source declares."""
    side: Literal["", "first", "second"] = ""
    """The deployment that alone has it; empty if both do."""

    def told(self, sides: tuple[str, str]) -> str:
        """Return its name, with that of the deployment where one alone has it."""
        if not self.side:
            return self.name
        return f"{self.name} of {sides[0] if self.side == 'first' else sides[1]}"


@dataclass(frozen=True)
class Margin:
    """How much more the first of two deployments yields, as a share, and how sure that is."""

    value: float
    """As predicted."""
    factors: np.ndarray
    """Draws: (1 + margin of the draw) / (1 + value)."""
    factor: dict[Level, float]
    """On the width of intervals, the larger one of both sides."""
    log_sd: float
    """Of what no source declares and does not cancel."""
    parts: tuple[DoubtPart, ...]
    """What makes up the doubt, the largest first; shares below 1 % are left out."""

    def interval(self, level: Level) -> tuple[float, float]:
        """Return the margins between which it lies with a probability of `level` %."""
        below, above = spread_widths(self.factors, level)
        rest, factor = normal_width(level) * self.log_sd, self.factor[level]
        low, high = -factor * math.hypot(below, rest), factor * math.hypot(above, rest)
        return (1 + self.value) * math.exp(low) - 1, (1 + self.value) * math.exp(high) - 1

    def percentiles(self) -> tuple[float, float, float, float]:
        """Return the margins at its 5th, 10th, 90th and 95th percentile."""
        inner, outer = self.interval(80), self.interval(90)
        return min(outer[0], inner[0]), inner[0], inner[1], max(outer[1], inner[1])

    def probability(self, at_least: float) -> float:
        """Return the probability that the margin is at least `at_least`.

        It rises with the margin. Draws are widened by the factor of 80 % intervals, and each is
        the middle of a normal law of what no source declares.
        """
        factor = self.factor[80]
        above = math.log1p(self.value) + factor * np.log(self.factors) - math.log1p(at_least)
        sd = factor * self.log_sd
        if sd < _TINY:
            return float(np.mean(np.where(above == 0, 0.5, above > 0)))
        law = NormalDist(0, sd)
        return float(np.mean([law.cdf(float(each)) for each in above]))

    def leading(self, least: float) -> tuple[float, float]:
        """Return the probabilities that the first yields `least` more, and that the second does."""
        return self.probability(least), 1 - self.probability(1 / (1 + least) - 1)


class InDoubt(NamedTuple):
    """A margin, and how sure the figures of both sides are."""

    margin: Margin
    first: Doubt
    second: Doubt


def margin_of(
    value: float,
    first: Scenario,
    second: Scenario,
    requests: tuple[float | None, float | None] = (None, None),
) -> Margin:
    """Return the margin of the first scenario over the second; see `in_doubt`."""
    return in_doubt(value, first, second, requests).margin


def in_doubt(
    value: float,
    first: Scenario,
    second: Scenario,
    requests: tuple[float | None, float | None] = (None, None),
) -> InDoubt:
    """Return the margin of the first scenario over the second, `value` as predicted, with doubt.

    `requests` are those in flight, by default those of closed loops. Both draw with the seed of
    the first. Raises InfeasibleError if a shape cannot run.
    """
    simulation = second.simulation.replaced(seed=first.simulation.seed)
    second = second.replaced(simulation=simulation)
    one, other = (doubt_of(*each) for each in zip((first, second), requests, strict=True))
    same = _load(first, requests[0]) == _load(second, requests[1])
    found = margin(value, one, other, same=same, alike=are_alike(first, second))
    return InDoubt(found, one, other)


def are_alike(first: Scenario, second: Scenario) -> bool:
    """Return whether both are of one engine, card, model and kind of deployment."""
    return _engine_and_card(first) == _engine_and_card(second)


def _engine_and_card(scenario: Scenario) -> Hashable:
    cards = tuple(scenario.deployment.accelerators())
    return scenario.software.profile, scenario.model, scenario.deployment.kind, cards


def _load(scenario: Scenario, requests: float | None) -> Hashable:
    shape = scenario.deployment.model_dump_json()
    stated = tuple(each.model_dump_json() for each in scenario.doubt)
    arrivals = scenario.workload.arrivals if requests is None else round(requests)
    return likeness(scenario), shape, stated, arrivals


def margin(value: float, first: Doubt, second: Doubt, *, same: bool, alike: bool) -> Margin:
    """Return the margin of the first over the second, `value` as predicted, with its doubt.

    Both were predicted with one seed and as many draws. `same`: both are one deployment under one
    load; `alike`: both are of one engine, card, model and kind of deployment.
    """
    left = first.residual, second.residual
    log_sds = [each.log_sd * math.sqrt(1 - each.shared if alike else 1) for each in left]
    log_sd = 0.0 if same else math.hypot(*log_sds)
    factors = second.spread.factors / first.spread.factors
    wider: dict[Level, float] = {80: 0.0, 90: 0.0}
    for level in wider:
        wider[level] = max(each.factor(level) for each in left)
    parts = _parts(value, first.spread.alone, second.spread.alone, log_sd)
    return Margin(value, factors, wider, log_sd, parts)


def verdict(margin: Margin, names: tuple[str, str], indifference: float, certainty: float) -> str:
    """Return the side that yields more by `indifference` with a probability of `certainty`.

    `open` if neither does.
    """
    surely = [p >= certainty for p in margin.leading(indifference)]
    return names[surely.index(True)] if any(surely) else OPEN


def _parts(
    value: float, first: tuple[Alone, ...], second: tuple[Alone, ...], log_sd: float
) -> tuple[DoubtPart, ...]:
    sides = _by_key(first), _by_key(second)
    moves: list[tuple[float, DoubtSource]] = []
    for key in dict.fromkeys([*sides[0], *sides[1]]):
        both = sides[0].get(key), sides[1].get(key)
        source = next(each.source for each in both if each is not None)
        logs = _log_margins(both)[next(each.likely for each in both if each is not None)]
        width = (max(logs) - min(logs)) / 2
        moves.append((width**2, source))
    rest = (normal_width(80) * log_sd) ** 2
    total = sum(square for square, _ in moves) + rest
    if total == 0:
        return ()
    found = [
        DoubtPart(
            source.name,
            square / total,
            _turn(value, source, sides),
            source.source,
            _side(source.key, sides),
        )
        for square, source in moves
        if square / total >= NOTABLE
    ]
    if rest / total >= NOTABLE:
        found.append(DoubtPart(_REST, rest / total, None, ""))
    return tuple(sorted(found, key=lambda part: -part.share))


def _side(
    key: str, sides: tuple[Mapping[str, Alone], Mapping[str, Alone]]
) -> Literal["", "first", "second"]:
    if key in sides[0] and key in sides[1]:
        return ""
    return "first" if key in sides[0] else "second"


def _by_key(alone: tuple[Alone, ...]) -> Mapping[str, Alone]:
    return {each.source.key: each for each in alone}


def _log_margins(both: tuple[Alone | None, Alone | None]) -> list[float]:
    """Return what a source adds to the log of the margin at each position that was tried."""
    first, second = both
    positions = next(len(each.positions) for each in both if each is not None)
    lost = np.zeros(positions) if first is None else np.log(first.factors)
    won = np.zeros(positions) if second is None else np.log(second.factors)
    return [float(each) for each in won - lost]


def _turn(
    value: float, source: DoubtSource, sides: tuple[Mapping[str, Alone], Mapping[str, Alone]]
) -> str | None:
    """Return the value of a source at which the margin is zero, all else as stated."""
    both = sides[0].get(source.key), sides[1].get(source.key)
    positions = next(each.positions for each in both if each is not None)
    logs = [math.log1p(value) + moved for moved in _log_margins(both)]
    if source.possibilities:
        other = (
            told for told, log in zip(source.possibilities, logs, strict=True) if log * value < 0
        )
        return next(other, None)
    crossings = []
    for place in range(len(positions) - 1):
        left, right = logs[place], logs[place + 1]
        if (left > 0) != (right > 0) and left != right:
            share = left / (left - right)
            crossings.append(positions[place] + share * (positions[place + 1] - positions[place]))
    if not crossings:
        return None
    return source.told(float(min(crossings, key=abs)))
