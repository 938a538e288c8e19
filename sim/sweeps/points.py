"""Points: the scenarios of a sweep, what simulating them gives, and their rows in its table."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sim.foundation import json_text
from sim.foundation.errors import InfeasibleError
from sim.foundation.pareto import pareto_front
from sim.inputs.scenario import Scenario, TpotOf
from sim.sweeps.inputs import Inputs, read_by

Row = dict[str, Any]
Outcome = dict[str, Any]
"""What a job gave: its `status` (ok, refused, failed), a `reason` unless ok, and its figures."""


# Points that share look-ups and go to a worker at once, at most.
_TOGETHER = 64

SETTING = "set."
"""Columns of a sweep's rows that hold the values of its axes begin so."""


@dataclass(frozen=True)
class Point:
    """One scenario of a sweep."""

    index: int
    family: str
    base: str
    settings: dict[str, Any]
    scenario: Scenario
    search: TpotOf | None = None
    """Look for the largest batch whose TPOT meets the target, instead of taking the scenario's."""
    entry: int = 0
    """Place of its entry in `Sweep.families`."""
    apart: dict[str, Any] = field(default_factory=dict)
    """Other values, by dotted path, that points of its family's other entries do not have."""

    def inputs(self) -> Inputs:
        """Return what the outcome depends on: the scenario, files that it names, and the code."""
        made_of = read_by(self.scenario)
        made_of["scenario"] |= {"max_batch_under_slo": self.search}
        return made_of

    def outcome(self) -> Outcome:
        """Simulate the point; a refusal is an outcome too."""
        try:
            return _ok(_figures(self))
        except InfeasibleError as error:
            return _refused(error)

    @property
    def is_screened(self) -> bool:
        """Whether the bound engine searches its batch: a matter of milliseconds."""
        return self.search is not None and self.scenario.simulation.engine == "bound"

    def likeness(self) -> Hashable:
        """Return what points have in common that share look-ups."""
        from sim.steady.state import likeness

        return likeness(self.scenario)


def outcomes(points: Sequence[Point]) -> list[Outcome]:
    """Return the outcomes of points, as `attempted` does; screened ones share look-ups."""
    if not all(point.is_screened for point in points):
        return [attempted(point.outcome) for point in points]
    from sim.experiments.largest_batch import max_batches_by_bound

    try:
        found = max_batches_by_bound([point.scenario for point in points])
        return [_refused(each) if isinstance(each, Exception) else _ok(each) for each in found]
    except Exception:  # one of them fails: it alone shall
        return [attempted(point.outcome) for point in points]


def together(groups: Iterable[Sequence[Any]]) -> Iterator[list[Any]]:
    """Yield what a worker gets at once: groups of points that share look-ups, joined or cut."""
    joined: list[Any] = []
    for group in groups:
        for first in range(0, len(group), _TOGETHER):
            part = group[first : first + _TOGETHER]
            if joined and len(joined) + len(part) > _TOGETHER:
                yield joined
                joined = []
            joined = [*joined, *part]
    if joined:
        yield joined


def _ok(figures: dict[str, Any]) -> Outcome:
    for pool, share in figures.pop("utilisation").items():
        figures[f"utilisation.{pool}"] = share
    return {"status": "ok", "reason": figures.pop("slo_missed"), **figures}


def _refused(error: InfeasibleError) -> Outcome:
    return {"status": "refused", "reason": "; ".join(str(error).splitlines())}


def _figures(point: Point) -> dict[str, Any]:
    # Imported here: who reads a sweep need not be able to run it.
    from sim.experiments.largest_batch import max_batch_under_slo
    from sim.experiments.replications import replicated
    from sim.metrics.steady_summary import steady_summary
    from sim.steady.state import steady_state

    if point.search is not None:
        return max_batch_under_slo(point.scenario, point.search)
    if point.scenario.simulation.engine == "bound":
        return steady_summary(steady_state(point.scenario))
    return replicated(point.scenario)


def attempted(job: Callable[[], Outcome]) -> Outcome:
    """Return what `job` returns; that it failed is an outcome too."""
    try:
        return job()
    except Exception as error:
        return failed(f"{type(error).__name__}: {error}")


def failed(reason: str) -> Outcome:
    """Return the outcome of a job that could not be done for `reason`."""
    return {"status": "failed", "reason": reason}


def row(point: Point, result: Outcome) -> Row:
    """Return the row of a point: where it stands in the sweep, then what came out."""
    return {
        "point": point.index,
        "family": point.family,
        "base": point.base,
        "shape": point.scenario.deployment.shape_name(),
        "status": result["status"],
        "reason": result["reason"],
        **{f"{SETTING}{path}": v for path, v in (point.apart | point.settings).items()},
        **result,
    }


def columns(rows: list[Row]) -> dict[str, list[Any]]:
    """Return the rows as columns, in the order in which the keys first appear."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _one_type([row.get(name) for row in rows]) for name in names}


def _one_type(values: list[Any]) -> list[Any]:
    """Return the values, as text where a column mixes types that a table cannot hold."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and float in kinds:
        return [None if value is None else float(value) for value in values]
    if len(kinds) > 1 or kinds & {list, dict}:
        return [None if value is None else json_text.dumps(value) for value in values]
    return values


def best(rows: Sequence[Row]) -> Row | None:
    """Return the row of the highest throughput under its SLO; if none meets it, of the least TPOT.

    None if no row has a TPOT. Of equal rows the first is returned.
    """
    timed = [row for row in rows if row["status"] == "ok" and row["tpot_ms_mean"] is not None]
    met = [row for row in timed if row["slo_met"]]
    if met:
        return max(met, key=lambda row: row["tgs"])
    return min(timed, key=lambda row: row["tpot_ms_mean"], default=None)


def best_rows(rows: Sequence[Row]) -> dict[str, Row]:
    """Return the best row of each family that has one."""
    families = dict.fromkeys(row["family"] for row in rows)
    found = {each: best([row for row in rows if row["family"] == each]) for each in families}
    return {family: row for family, row in found.items() if row is not None}


def front(rows: list[Row], family: str | None = None) -> list[Row]:
    """Return the Pareto front of the simulated points, of one family or of all."""
    chosen = [
        row
        for row in rows
        if row["status"] == "ok"
        and row["tokens_per_s_per_user"] is not None
        and (family is None or row["family"] == family)
    ]
    return [
        chosen[i] for i in pareto_front([(r["tokens_per_s_per_user"], r["tgs"]) for r in chosen])
    ]
