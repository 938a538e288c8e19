"""Comparison: two scenarios under common random numbers, replication by replication.

In each replication both draw the same requests, so that what they share falls out of their
difference, and a few replications tell apart what single runs cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from math import ceil
from typing import Any

import numpy as np

from sim.doubt.margin import DoubtPart, Margin, margin_of
from sim.experiments.replications import Figures, combined, replication, run_all
from sim.foundation.estimates import t_975
from sim.inputs.scenario import Scenario
from sim.metrics.cautions import cautions
from sim.parallel.processes import Workers

# The first stage: enough pairs to know how much their differences spread.
PILOT = 10

# So many sources of doubt are named in a sentence.
_SIDES = ("A", "B")
_NAMED = 3

# What is smaller than this, relatively, is rounding.
_ROUNDING = 1e-9

# What is compared, and what people call a smaller and a larger value of A.
COMPARED = {
    "tpot_ms_mean": ("TPOT", "A is faster by", "A is slower by"),
    "tgs": ("tokens/s/GPU", "A serves less per GPU by", "A serves more per GPU by"),
    "usd_per_1m_tokens": ("cost", "A is cheaper by", "A is dearer by"),
}


@dataclass(frozen=True)
class DoubtOfDifference:
    """Between which differences lies the one that would be measured, and whose sign it has."""

    p05: float
    p10: float
    p90: float
    p95: float
    better: float
    """Probability that A is the better one."""


@dataclass(frozen=True)
class Difference:
    """How a figure of A differs from that of B."""

    figure: str
    a: float
    """Mean over the replications."""
    b: float
    relative: float
    """Mean over the replications of (A − B)/B."""
    half_width: float
    """Of its 95 % interval: chance."""
    doubt: DoubtOfDifference
    """What is not known about it, which more replications do not tell."""

    def is_certain(self) -> bool:
        """Return whether the interval leaves out zero."""
        return abs(self.relative) > max(self.half_width, _ROUNDING)

    def sentence(self) -> str:
        """Return the difference in words."""
        name, smaller, larger = COMPARED[self.figure]
        digits = 1 if self.half_width >= 1e-3 else 2 if self.half_width >= 1e-4 else 3
        chance = f"± {100 * self.half_width:.{digits}f} %"
        if not self.is_certain():
            return f"{name}: no difference at this precision ({chance})"
        words = smaller if self.relative < 0 else larger
        return f"{words} {100 * abs(self.relative):.{digits}f} % {chance}"


@dataclass(frozen=True)
class Comparison:
    """Two scenarios, compared."""

    a: str
    b: str
    precision: float
    """Half-width asked for."""
    replications: int
    """Runs of each of them."""
    differences: tuple[Difference, ...]
    """Of the figures that both have."""
    settled_by: tuple[DoubtPart, ...]
    """What makes up the doubt in the difference of tokens/s/GPU, the largest share first."""
    warnings: tuple[str, ...]
    """Cautions about both."""

    def is_precise(self) -> bool:
        """Return whether all intervals are as narrow as was asked for."""
        return all(each.half_width <= self.precision for each in self.differences)

    def doubt_sentence(self) -> str:
        """Return what would have to be measured to settle which yields more, in words."""
        measured = [each for each in self.settled_by if each.source]
        if not self.settled_by:
            return "No doubt: both are the same"
        shares = [(each.told(_SIDES), each.share) for each in measured]
        named = [f"{name} ({100 * share:.0f} %)" for name, share in shares[:_NAMED]]
        told = [f"Settled by measuring, with shares of the doubt: {', '.join(named)}"]
        told = told if named else []
        rest = 100 * sum(each.share for each in self.settled_by if not each.source)
        told += [f"{rest:.0f} % of the doubt no source declares"] if rest else []
        turns = [f"{each.told(_SIDES)} is {each.turns_at}" for each in measured if each.turns_at]
        told += [f"the lead turns over if {' or '.join(turns[:_NAMED])}"] if turns else []
        return "; ".join(told)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain data, ready for JSON."""
        plain = asdict(self)
        for data, difference in zip(plain["differences"], self.differences, strict=True):
            data["certain"] = difference.is_certain()
            data["sentence"] = difference.sentence()
        return plain | {"precise": self.is_precise(), "doubt_sentence": self.doubt_sentence()}


def compare(
    a: Scenario,
    b: Scenario,
    precision: float = 0.005,
    most: int = 100,
    workers: Workers | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Comparison:
    """Return how A differs from B, by as many replications as the precision takes, at most `most`.

    B draws with A's seed. The number of replications follows in one go from the spread of the
    first ones, and the interval from that spread alone (Stein, 1945): looking again and again and
    stopping at a narrow interval would stop where the spread is small by chance, and the interval
    would hold the truth less often than it says. Raises what a run raises.
    """
    seed = a.simulation.seed
    b = b.replaced(simulation=b.simulation.replaced(seed=seed))
    pairs = list(_pairs(a, b, range(PILOT), workers))
    pilot = _relative(pairs)
    spread = {figure: float(values.std(ddof=1)) for figure, values in pilot.items()}
    wanted = max((t_975(PILOT - 1) * s / precision) ** 2 for s in spread.values())
    count = min(max(ceil(wanted), PILOT), most)
    if count > PILOT:
        enough = f"{PILOT} replications of each are done, the precision takes {ceil(wanted):,}"
        tell(enough if count >= wanted else f"{enough}; {count} are made, the most allowed")
        pairs += _pairs(a, b, range(PILOT, count), workers)
    relative = _relative(pairs)
    yields = margin_of(float(relative["tgs"].mean()), a, b, _in_flight(a, b, pairs))
    differences = tuple(
        Difference(
            figure,
            float(np.mean([of_a[figure] for of_a, _ in pairs])),
            float(np.mean([of_b[figure] for _, of_b in pairs])),
            float(values.mean()),
            t_975(PILOT - 1) * spread[figure] / count**0.5,
            _doubt(yields, figure, float(values.mean())),
        )
        for figure, values in relative.items()
    )
    warnings = _warnings(a, b, pairs)
    return Comparison(a.name, b.name, precision, count, differences, yields.parts, warnings)


def _in_flight(
    a: Scenario, b: Scenario, pairs: list[tuple[Figures, Figures]]
) -> tuple[float | None, float | None]:
    """Return the mean requests in flight of open loops; None of closed ones, which state them."""
    found = [
        None if scenario.workload.arrivals.kind == "closed"
        else float(np.mean([figures["requests_in_flight"] for figures in runs]))
        for scenario, runs in zip((a, b), zip(*pairs, strict=True), strict=True)
    ]  # fmt: skip
    return found[0], found[1]


def _doubt(yields: Margin, figure: str, relative: float) -> DoubtOfDifference:
    """Return the doubt in the difference of a figure, by that in what both yield."""
    if figure == "tgs":
        of_tgs = replace(yields, value=relative)
        return DoubtOfDifference(*of_tgs.percentiles(), of_tgs.probability(0))
    # TPOT and cost fall as throughput rises.
    inverse = replace(yields, value=1 / (1 + relative) - 1)
    p95, p90, p10, p05 = (1 / (1 + end) - 1 for end in inverse.percentiles())
    return DoubtOfDifference(p05, p10, p90, p95, inverse.probability(0))


def _warnings(a: Scenario, b: Scenario, pairs: list[tuple[Figures, Figures]]) -> tuple[str, ...]:
    """Return what to know before trusting either side's figures, each with its side."""
    return tuple(
        f"{side}: {text}"
        for side, scenario, runs in zip("AB", (a, b), zip(*pairs, strict=True), strict=True)
        for text in cautions(scenario, combined(scenario, runs))
    )


def _pairs(
    a: Scenario, b: Scenario, numbers: range, workers: Workers | None
) -> Iterator[tuple[Figures, Figures]]:
    each = [replication(scenario, number) for number in numbers for scenario in (a, b)]
    runs = iter(run_all(each, workers))
    return zip(runs, runs, strict=True)


def _relative(pairs: list[tuple[Figures, Figures]]) -> dict[str, np.ndarray[Any, Any]]:
    """Return the relative differences by figure and replication, of figures that all runs have."""
    return {
        figure: np.array([of_a[figure] / of_b[figure] - 1 for of_a, of_b in pairs])
        for figure in COMPARED
        if all(run[figure] is not None for pair in pairs for run in pair)
    }
