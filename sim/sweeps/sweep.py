"""Sweeps: many scenarios from one file, each a point with a row in the table.

A sweep names base scenarios and axes. Every axis is a mapping of dotted paths to values; the paths
of one axis move together (zipped), different axes are crossed, and constraints leave out what
should be no point.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from sim.foundation.errors import ScenarioError
from sim.foundation.reading import held
from sim.inputs import cards
from sim.inputs.base import Strict
from sim.inputs.documents.document import Document, read
from sim.inputs.documents.places import Loc, disturb, loc_of
from sim.inputs.naming import Label, Name, titles
from sim.inputs.scenario import Scenario, TpotOf
from sim.inputs.variants import Variants
from sim.parallel import processes as workers
from sim.sweeps import doubts
from sim.sweeps.axes import MOST_POINTS, Axis, combinations, crossed
from sim.sweeps.constraints import Constraint, UnknownPathError, holds
from sim.sweeps.points import Outcome, Point, attempted, columns, failed, outcomes, row

if TYPE_CHECKING:
    import pandas

# Each takes some 15 ms to tell, and most points of a sweep share their mistakes.
_MOST_WRONG = 100


class Family(Strict):
    """Points that start from one base scenario and are drawn in one colour."""

    family: Label
    """Name in tables and legend; several entries may share a name."""
    base: str
    """Scenario that the points start from."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Values by dotted path that hold for all points of this entry."""
    axes: list[Axis] = Field(default_factory=list)
    """Axes, crossed with one another."""
    constraints: list[Constraint] = Field(default_factory=list)
    """Comparisons that the points of this entry meet; other combinations are left out."""
    max_batch_under_slo: TpotOf | None = None
    """Let every point of this entry find the largest batch (requests on each attention GPU in each
    micro-batch) whose TPOT, the requests' mean or a percentile, meets its `slo.tpot_ms`."""


class Refine(Strict):
    """Adaptive choice of points."""

    pareto: Annotated[float, Field(gt=0, lt=1)]
    """Simulate only grid points that can reach the front of their family according to the bound
    engine. Then add points between neighbours on the front, along axes that are ranges, until no
    step of the front is larger than this share in both directions."""


class Published(Strict):
    """A published measurement, drawn as a labelled cross."""

    label: Label
    """Text beside the cross."""
    tpot_ms: Annotated[float, Field(gt=0)]
    """Published TPOT, ms."""
    tgs: Annotated[float, Field(gt=0)]
    """Published throughput, output tokens/s/GPU."""
    source: str
    """Where it was published."""
    family: Label | None = None
    """Family that predicts it. The picture draws the prediction at the measured batch, with its
    80 % interval, and the page says whether the measurement lies inside."""
    shape: str | None = None
    """Shape that was measured, as in the table; without it the best shape of the family counts."""


class Sweep(Strict):
    """A sweep file."""

    kind: Literal["sweep"]
    name: Name
    """Name of the sweep and of its directory of results."""
    description: str = ""
    """What the sweep compares."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Values by dotted path that hold for all points."""
    constraints: list[Constraint] = Field(default_factory=list)
    """Comparisons that all points meet, of arithmetic over dotted paths of the scenario and `gpus`,
    e.g. `deployment.attention.instances + deployment.ffn.instances <= 8`."""
    max_points: Annotated[int, Field(ge=1, le=10_000_000)] = MOST_POINTS
    """Most combinations of the axes, those left out by constraints included. Each takes 0.1 to 1
    ms and 5 kB when the sweep is read."""
    refine: Refine | None = None
    """Adaptive choice of points; without it every combination of the axes is simulated."""
    families: Annotated[list[Family], Field(min_length=1)]
    published: list[Published] = Field(default_factory=list)
    """Measurements to compare with; never used by the simulation."""

    @model_validator(mode="after")
    def _check_published(self) -> Self:
        known = {family.family for family in self.families}
        named = {point.family for point in self.published if point.family is not None}
        if unknown := sorted(named - known):
            raise ValueError(f"published names no family of this sweep: {', '.join(unknown)}")
        return self

    def apart(self, entry: int) -> list[str]:
        """Return paths that an entry does not sweep and that differ in its family."""
        of = [each for each in self.families if each.family == self.families[entry].family]
        swept = [path for each in of for axis in each.axes for path in axis.values]
        paths = dict.fromkeys([path for each in of for path in each.set] + swept)
        own = {path for axis in self.families[entry].axes for path in axis.values}
        return [
            path
            for path in paths
            if path not in own and (path in swept or any(_differ(each, of[0], path) for each in of))
        ]


def _differ(one: Family, other: Family, path: str) -> bool:
    return (path in one.set) != (path in other.set) or one.set.get(path) != other.set.get(path)


class Base(NamedTuple):
    """What the points of an entry start from."""

    variants: Variants
    """Of the base scenario, with the values of all points where no axis comes near them."""
    values: dict[str, Any]
    """Values of all points that are still to be set."""
    overrides: tuple[str, ...]
    """Overrides that are still to be made."""
    told: list[str]
    """Paths whose values tell the entry's points from those of its family's other entries."""

    @classmethod
    def of(
        cls, document: Document, values: dict[str, Any], sweep: Sweep, entry: int,
        overrides: tuple[str, ...],
    ) -> Base:  # fmt: skip
        """Set once what holds for all points. Raises ScenarioError if a path leads nowhere."""
        axes, told = sweep.families[entry].axes, sweep.apart(entry)
        overridden = [text.partition("=")[0].strip() for text in overrides]
        fixed = map(loc_of, (*values, *overridden))
        moving = [loc_of(path) for axis in axes for path in axis.values]
        if any(disturb(one, other) for one in fixed for other in moving):
            return cls(Variants(document), values, overrides, told)
        return cls(Variants(document.changed(values, sweep.name, overrides)), {}, (), told)


@dataclass(frozen=True)
class LoadedSweep:
    """A sweep file, read."""

    sweep: Sweep
    points: list[Point]
    left_out: int
    """Combinations of the axes that a constraint leaves out."""
    document: Document
    bases: dict[int, Base]
    """By entry of `Sweep.families`."""
    overrides: tuple[str, ...]

    @property
    def seed(self) -> int:
        """With which the doubts of all points are drawn."""
        return self.points[0].scenario.simulation.seed

    def point(self, index: int, entry: int, settings: dict[str, Any]) -> Point | None:
        """Return a point of an entry at any settings of its axes.

        None if a constraint leaves it out. Raises ScenarioError with its mistakes.
        """
        return _point(self.sweep, self.document, self.bases[entry], index, entry, settings)


def load(name: str | Path, overrides: Iterable[str] = ()) -> LoadedSweep:
    """Return a sweep and its points, all validated. Raises ScenarioError with every mistake."""
    with held():
        return _loaded(read(cards.find(cards.SWEEPS, str(name), "sweep")), tuple(overrides))


def _loaded(document: Document, overrides: tuple[str, ...]) -> LoadedSweep:
    sweep = document.validate(Sweep)
    name, description = titles.of_many(sweep.name, sweep.description, overrides)
    sweep = sweep.model_copy(update={"name": name, "description": description})
    _check_points(sweep, document)
    points: list[Point] = []
    problems: list[str] = []
    bases: dict[int, Base] = {}
    left_out = 0
    wrong = 0
    for entry, family in enumerate(sweep.families):
        try:
            base = read(cards.find(cards.SCENARIOS, family.base, "scenario"))
        except ScenarioError as error:
            loc = ("families", entry, "base")
            problems += [document.problem(loc, line) for line in error.problems]
            continue
        try:
            bases[entry] = Base.of(base, sweep.set | family.set, sweep, entry, overrides)
        except ScenarioError as error:
            problems += error.problems
            continue
        made_from = sweep, document, bases[entry]
        for settings in crossed(family.axes):
            try:
                point = _point(*made_from, len(points), entry, settings)
            except ScenarioError as error:
                problems += error.problems
                wrong += 1
                if wrong == _MOST_WRONG:
                    problems.append(f"{document.name}: more points may be wrong; mend these first")
                    raise ScenarioError(dict.fromkeys(problems)) from None
                continue
            if point is None:
                left_out += 1
            else:
                points.append(point)
    if not (points or problems):
        problems.append(document.problem(("constraints",), "no point meets the constraints"))
    if problems:
        raise ScenarioError(dict.fromkeys(problems))
    return LoadedSweep(sweep, points, left_out, document, bases, overrides)


def _check_points(sweep: Sweep, document: Document) -> None:
    """Refuse more points than a sweep may have, before any is made."""
    found = sum(combinations(family.axes) for family in sweep.families)
    if found > sweep.max_points:
        problem = (
            f"{found:,} combinations of the axes, of max_points {sweep.max_points:,} at most; "
            "take fewer values, or write a larger max_points in the sweep"
        )
        raise ScenarioError(document.problem(("families",), problem))


def _point(
    sweep: Sweep,
    document: Document,
    base: Base,
    index: int,
    entry: int,
    settings: dict[str, Any],
) -> Point | None:
    family = sweep.families[entry]
    constraints = _located(("constraints",), sweep.constraints)
    constraints |= _located(("families", entry, "constraints"), family.constraints)
    scenario = _scenario(base, settings, constraints, document)
    if scenario is None:
        return None
    tpot_of = family.max_batch_under_slo
    _check_engine(sweep, document, entry, scenario, tpot_of)
    name, told = family.family, {path: scenario.value_at(path) for path in base.told}
    return Point(index, name, family.base, settings, scenario, tpot_of, entry, told)


def _check_engine(
    sweep: Sweep, document: Document, entry: int, scenario: Scenario, tpot_of: TpotOf | None
) -> None:
    """Refuse what a search or the bound engine cannot do. Raises ScenarioError."""
    closed = scenario.workload.arrivals.kind == "closed"
    if tpot_of is not None:
        loc = ("families", entry, "max_batch_under_slo")
        if not closed:
            raise ScenarioError(document.problem(loc, "needs workload.arrivals of kind closed"))
        if tpot_of != "mean" and scenario.simulation.engine == "bound":
            problem = f"the bound engine knows the mean TPOT alone (got {tpot_of}); write mean"
            raise ScenarioError(document.problem(loc, problem))
    if sweep.refine is not None and not closed:
        problem = f"needs workload.arrivals of kind closed (base {scenario.name})"
        raise ScenarioError(document.problem(("refine",), problem))


def _located(loc: Loc, constraints: list[str]) -> dict[Loc, str]:
    return {(*loc, number): text for number, text in enumerate(constraints)}


def _scenario(
    base: Base,
    settings: dict[str, Any],
    constraints: dict[Loc, str],
    sweep: Document,
) -> Scenario | None:
    """Return the scenario of a point, None if a constraint leaves it out.

    A combination that is no scenario may be left out as well: that is what many constraints are
    for. Raises ScenarioError with its mistakes otherwise.
    """
    document = base.variants.document(base.values | settings, sweep.name, base.overrides)
    try:
        scenario = base.variants.scenario(document)
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


def sweep(name: str | Path, overrides: Iterable[str] = (), workers: int = 1) -> pandas.DataFrame:
    """Return one row per point of the sweep `name`, in the order of its file; nothing is saved.

    `overrides` are `path=value` assignments for all points. With `workers` above 1 call it under
    `if __name__ == "__main__":`, since the workers import the calling module.
    """
    import pandas

    loaded = load(name, overrides)
    if workers == 1:
        finished = list(zip(loaded.points, outcomes(loaded.points), strict=True))
    else:
        found = _side_by_side(loaded.points, workers)
        finished = sorted(found, key=lambda each: each[0].index)
    asked = doubts.asked_of(finished, lambda point: "", loaded.seed)
    sure = zip(asked, doubts.outcomes(asked), strict=True)
    rows = doubts.with_doubt([row(*each) for each in finished], sure)
    return pandas.DataFrame(columns(list(rows)))


def _outcome(point: Point) -> Outcome:
    return attempted(point.outcome)


def _side_by_side(points: list[Point], count: int) -> Iterator[tuple[Point, Outcome]]:
    with workers.local(count) as pool:
        for point, result in pool.run(_outcome, points):
            if isinstance(result, workers.Failure):
                result = failed(result.reason)
            yield point, result
