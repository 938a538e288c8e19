"""Doubts: how sure the figures of finished points are, each a job of its own.

They follow the points, because alike points share look-ups, and points that are simulated one by
one could not. All see the draws of one seed, that of the first point of the sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sim.foundation.reading import asked_once, file_sha256
from sim.inputs import cards
from sim.inputs.scenario import Scenario
from sim.sweeps.inputs import Inputs, beside
from sim.sweeps.points import Outcome, Point, Row, attempted

_TABLES = ("kernel-errors.csv", "residuals.csv")


@dataclass(frozen=True)
class PointDoubt:
    """How sure the figures of a point are at its load."""

    point: Point
    key: str
    """Of the point's inputs."""
    requests: float
    """In flight, as its row says."""
    seed: int

    @property
    def family(self) -> str:
        return f"doubt of {self.point.family}"

    @property
    def settings(self) -> dict[str, Any]:
        return self.point.settings

    def inputs(self) -> Inputs:
        doubt = {"requests": self.requests, "seed": self.seed, "tables": error_tables()}
        return {"point": self.key, "doubt": doubt, **beside(self.point.scenario)}

    def outcome(self) -> Outcome:
        """Return factors on TPOT between which it lies in 80 % of cases."""
        from sim.doubt.interval import doubts_of

        (doubt,) = doubts_of([(self.scenario(), self.requests)], self.seed)
        return _ok(doubt.interval(80))

    def likeness(self) -> Hashable:
        return self.seed, self.point.likeness()

    def scenario(self) -> Scenario:
        """Return the scenario of the point, one that searched its batch with the load found."""
        scenario = self.point.scenario
        return scenario if self.point.search is None else scenario.with_batch(round(self.requests))


def asked_of(
    finished: Iterable[tuple[Point, Outcome]], key: Callable[[Point], str], seed: int
) -> list[PointDoubt]:
    """Return the doubts to be found: of the points that have figures."""
    return [
        PointDoubt(point, key(point), outcome["requests_in_flight"], seed)
        for point, outcome in finished
        if outcome["status"] == "ok"
    ]


def outcomes(doubts: Sequence[PointDoubt]) -> list[Outcome]:
    """Return the outcomes of doubts, which share look-ups, as `attempted` does."""
    from sim.doubt.interval import doubts_of

    try:
        asked = [(each.scenario(), each.requests) for each in doubts]
        return [_ok(found.interval(80)) for found in doubts_of(asked, doubts[0].seed)]
    except Exception:  # one of them fails: it alone shall
        return [attempted(each.outcome) for each in doubts]


def with_doubt(rows: Iterable[Row], found: Iterable[tuple[PointDoubt, Outcome]]) -> Iterator[Row]:
    """Yield rows with the intervals of TPOT and throughput, where they were found."""
    from sim.doubt.interval import prediction

    known = {doubt.point.index: outcome for doubt, outcome in found}
    for row in rows:
        outcome = known.get(row["point"], {"status": ""})
        sure = outcome["status"] == "ok"
        yield row | prediction(row, *outcome["tpot_factors"]) if sure else row


def cautions(found: Iterable[tuple[PointDoubt, Outcome]]) -> Iterator[list[str]]:
    """Yield of each doubt why it could not be found, if so."""
    for _doubt, outcome in found:
        yield [f"no prediction interval: {outcome['reason']}"] if outcome["reason"] else []


def _ok(interval: tuple[float, float]) -> Outcome:
    return {"status": "ok", "reason": "", "tpot_factors": list(interval)}


@asked_once
def error_tables() -> dict[str, str | None]:
    """Return the hashes of the files that say how far figures may be off."""
    paths = {name: cards.doubt(name) for name in _TABLES}
    return {name: file_sha256(path) if path else None for name, path in paths.items()}
