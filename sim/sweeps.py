"""Sweeps: many scenarios from one file, each a point with a row in the table.

A sweep names base scenarios and axes. Every axis is a mapping of dotted paths to values; the paths
of one axis move together (zipped), different axes are crossed, and constraints leave out what
should be no point.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field

from sim import cards, workers
from sim.axes import Axis, crossed
from sim.constraints import Constraint, UnknownPathError, holds
from sim.errors import InfeasibleError, ScenarioError
from sim.metrics import summary
from sim.pareto import pareto_front
from sim.run import simulate
from sim.scenario import Afd, Scenario, from_document
from sim.strict import Strict
from sim.yaml_loader import Document, Loc, read

if TYPE_CHECKING:
    import pandas

Row = dict[str, Any]
Outcome = dict[str, Any]
"""What simulating a point gave: `status` (ok, refused, failed), `reason` and, if ok, figures."""


class Family(Strict):
    """Points that start from one base scenario and are drawn in one colour."""

    family: str
    """Name in tables and legend; several entries may share one."""
    base: str
    """Scenario that the points start from."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Values by dotted path that hold for all points of this entry."""
    axes: list[Axis] = Field(default_factory=list)
    """Axes, crossed with one another."""
    constraints: list[Constraint] = Field(default_factory=list)
    """Comparisons that the points of this entry meet; other combinations are left out."""


class Published(Strict):
    """A published measurement, drawn as a labelled cross."""

    label: str
    """Text beside the cross."""
    tpot_ms: Annotated[float, Field(gt=0)]
    """Published TPOT, ms."""
    tgs: Annotated[float, Field(gt=0)]
    """Published throughput, output tokens/s/GPU."""
    source: str
    """Where it was published."""


class Sweep(Strict):
    """A sweep file."""

    kind: Literal["sweep"]
    name: str
    """Name of the sweep and of its directory of results."""
    description: str = ""
    """What the sweep compares."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Values by dotted path that hold for all points."""
    constraints: list[Constraint] = Field(default_factory=list)
    """Comparisons that all points meet, of arithmetic over dotted paths of the scenario and `gpus`,
    e.g. `deployment.attention.instances + deployment.ffn.instances <= 8`."""
    families: Annotated[list[Family], Field(min_length=1)]
    published: list[Published] = Field(default_factory=list)
    """Measurements to compare with; never used by the simulation."""


@dataclass(frozen=True)
class Point:
    """One scenario of a sweep."""

    index: int
    family: str
    base: str
    settings: dict[str, Any]
    scenario: Scenario


class Loaded(NamedTuple):
    """A sweep file, read."""

    sweep: Sweep
    points: list[Point]
    left_out: int
    """Combinations of the axes that a constraint leaves out."""


def load(name: str | Path, overrides: Iterable[str] = ()) -> Loaded:
    """Return a sweep and its points, all validated. Raises ScenarioError with every mistake."""
    document = read(cards.find(cards.SWEEPS, str(name), "sweep"))
    sweep = document.validate(Sweep)
    points: list[Point] = []
    problems: list[str] = []
    left_out = 0
    overrides = tuple(overrides)
    for number, family in enumerate(sweep.families):
        try:
            base = read(cards.find(cards.SCENARIOS, family.base, "scenario"))
        except ScenarioError as error:
            loc = ("families", number, "base")
            problems += [document.problem(loc, line) for line in error.problems]
            continue
        constraints = _located(("constraints",), sweep.constraints)
        constraints |= _located(("families", number, "constraints"), family.constraints)
        for settings in crossed(family.axes):
            values = {**sweep.set, **family.set, **settings}
            try:
                scenario = _scenario(base, values, overrides, constraints, document)
            except ScenarioError as error:
                problems += error.problems
                continue
            if scenario is None:
                left_out += 1
                continue
            points.append(Point(len(points), family.family, family.base, settings, scenario))
    if not (points or problems):
        problems.append(document.problem(("constraints",), "no point meets the constraints"))
    if problems:
        raise ScenarioError(dict.fromkeys(problems))
    return Loaded(sweep, points, left_out)


def _located(loc: Loc, constraints: list[str]) -> dict[Loc, str]:
    return {(*loc, number): text for number, text in enumerate(constraints)}


def _scenario(
    base: Document,
    values: dict[str, Any],
    overrides: Iterable[str],
    constraints: dict[Loc, str],
    sweep: Document,
) -> Scenario | None:
    """Return the scenario of a point, None if a constraint leaves it out.

    A combination that is no scenario may be left out as well: that is what many constraints are
    for. Raises ScenarioError with its mistakes otherwise.
    """
    document = copy.deepcopy(base)
    for path, value in values.items():
        loc = tuple(int(part) if part.isdigit() else part for part in path.split("."))
        document.put(loc, copy.deepcopy(value), f"{sweep.name}: {path}={value}")
    for assignment in overrides:
        document.set(assignment)
    try:
        scenario = from_document(document)
    except ScenarioError:
        if any(_is_outside(text, document.data) for text in constraints.values()):
            return None
        raise
    if not constraints:
        return scenario
    data = scenario.model_dump() | {"gpus": scenario.gpu_count()}
    inside, problems = True, []
    for loc, text in constraints.items():
        try:
            inside = holds(text, data) and inside
        except (UnknownPathError, ValueError) as error:
            problems.append(sweep.problem(loc, f"{error} (base {scenario.name})"))
    if problems:
        raise ScenarioError(problems)
    return scenario if inside else None


def _is_outside(constraint: str, data: dict[str, Any]) -> bool:
    try:
        return not holds(constraint, data)
    except (UnknownPathError, ValueError):
        return False


def shape_name(scenario: Scenario) -> str:
    """Return the shape of a deployment as people write it: 2A2F, EP128."""
    deployment = scenario.deployment
    if isinstance(deployment, Afd):
        return f"{deployment.attention.instances}A{deployment.ffn.instances}F"
    return f"EP{deployment.gpus}"


def accelerators(scenario: Scenario) -> set[str]:
    """Return the names of the accelerators of a scenario."""
    deployment = scenario.deployment
    if isinstance(deployment, Afd):
        return {deployment.attention.accelerator, deployment.ffn.accelerator}
    return {deployment.accelerator}


def outcome(point: Point) -> Outcome:
    """Simulate a point; a refusal or a failure is an outcome too."""
    try:
        figures = summary(simulate(point.scenario))
    except InfeasibleError as error:
        return {"status": "refused", "reason": str(error)}
    except Exception as error:
        return failed(f"{type(error).__name__}: {error}")
    for pool, share in figures.pop("utilisation").items():
        figures[f"utilisation.{pool}"] = share
    reason = ""
    if not figures["slo_met"]:
        tpot, slo = figures["tpot_ms_mean"], figures["slo_tpot_ms"]
        reason = "no TPOT" if tpot is None else f"TPOT {tpot:.1f} ms exceeds {slo:g} ms"
    return {"status": "ok", "reason": reason, **figures}


def failed(reason: str) -> Outcome:
    """Return the outcome of a point that could not be simulated for `reason`."""
    return {"status": "failed", "reason": reason}


def row(point: Point, result: Outcome) -> Row:
    """Return the row of a point: where it stands in the sweep, then what came out."""
    return {
        "point": point.index,
        "family": point.family,
        "base": point.base,
        "shape": shape_name(point.scenario),
        "status": result["status"],
        "reason": result["reason"],
        **{f"set.{path}": value for path, value in point.settings.items()},
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
        return [None if value is None else json.dumps(value) for value in values]
    return values


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


def sweep(name: str | Path, overrides: Iterable[str] = (), workers: int = 1) -> pandas.DataFrame:
    """Return one row per point of the sweep `name`, in the order of its file; nothing is saved.

    `overrides` are `path=value` assignments for all points. With `workers` above 1 call it under
    `if __name__ == "__main__":`, since the workers import the calling module.
    """
    import pandas

    points = load(name, overrides).points
    if workers == 1:
        rows = [row(point, outcome(point)) for point in points]
    else:
        rows = sorted(_side_by_side(points, workers), key=lambda row: row["point"])
    return pandas.DataFrame(columns(rows))


def _side_by_side(points: list[Point], count: int) -> Iterator[Row]:
    with workers.local(count) as pool:
        for point, result in pool.run(outcome, points):
            if isinstance(result, workers.Failure):
                result = failed(result.reason)
            yield row(point, result)
