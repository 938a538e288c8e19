"""Comparison: two scenarios under common random numbers, replication by replication.

In each replication both draw the same requests, so that what they share falls out of their
difference, and a few replications tell apart what single runs cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

import numpy as np

from sim.experiments.replications import Figures, combined, replication, run_all
from sim.foundation.estimates import t_975
from sim.inputs.scenario import Scenario
from sim.metrics.cautions import cautions
from sim.parallel.processes import Workers

# The first stage: enough pairs to know how much their differences spread.
PILOT = 10

# What is smaller than this, relatively, is rounding.
_ROUNDING = 1e-9

# What is compared, and what people call a smaller and a larger value of A.
COMPARED = {
    "tpot_ms_mean": ("TPOT", "A is faster by", "A is slower by"),
    "tgs": ("tokens/s/GPU", "A serves less per GPU by", "A serves more per GPU by"),
    "usd_per_1m_tokens": ("cost", "A is cheaper by", "A is dearer by"),
}


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
    """Of its 95 % interval."""

    def is_certain(self) -> bool:
        """Return whether the interval leaves out zero."""
        return abs(self.relative) > max(self.half_width, _ROUNDING)

    def sentence(self) -> str:
        """Return the difference in words."""
        name, smaller, larger = COMPARED[self.figure]
        digits = 1 if self.half_width >= 1e-3 else 2 if self.half_width >= 1e-4 else 3
        doubt = f"± {100 * self.half_width:.{digits}f} %"
        if not self.is_certain():
            return f"{name}: no difference at this precision ({doubt})"
        words = smaller if self.relative < 0 else larger
        return f"{words} {100 * abs(self.relative):.{digits}f} % {doubt}"


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
    warnings: tuple[str, ...]
    """Cautions about both."""

    def is_precise(self) -> bool:
        """Return whether all intervals are as narrow as was asked for."""
        return all(each.half_width <= self.precision for each in self.differences)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain data, ready for JSON."""
        plain = asdict(self)
        for data, difference in zip(plain["differences"], self.differences, strict=True):
            data["certain"] = difference.is_certain()
            data["sentence"] = difference.sentence()
        return plain | {"precise": self.is_precise()}


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
    differences = tuple(
        Difference(
            figure,
            float(np.mean([of_a[figure] for of_a, _ in pairs])),
            float(np.mean([of_b[figure] for _, of_b in pairs])),
            float(values.mean()),
            t_975(PILOT - 1) * spread[figure] / count**0.5,
        )
        for figure, values in _relative(pairs).items()
    )
    return Comparison(a.name, b.name, precision, count, differences, _warnings(a, b, pairs))


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
