"""Sweeps: many scenarios from one file, run side by side, kept point by point.

A sweep names base scenarios and axes. Every axis is a mapping of dotted paths to values; the paths
of one axis move together (zipped), different axes are crossed.
"""

from __future__ import annotations

import copy
import json
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from sim import cards
from sim.errors import InfeasibleError, ScenarioError
from sim.metrics import summary
from sim.pareto import pareto_front
from sim.run import simulate
from sim.scenario import Afd, Scenario, from_document
from sim.strict import Strict
from sim.yaml_loader import Document, read

if TYPE_CHECKING:
    import pandas

Status = Literal["ok", "refused", "failed"]
Row = dict[str, Any]
Number = int | float


class Axis(Strict):
    """Paths that move together, each with a list of values or a range."""

    values: Annotated[dict[str, list[Any]], Field(min_length=1)]
    """Values by dotted path; a range is written {from, to, step}, both ends included."""

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueError("an axis maps dotted paths to lists or {from, to, step}")
        return {"values": {path: _expand_range(path, values) for path, values in data.items()}}

    @model_validator(mode="after")
    def _check(self) -> Axis:
        lengths = {path: len(values) for path, values in self.values.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"zipped paths need as many values each (got {lengths})")
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Return the schema of an axis as it is written: paths to lists or ranges."""
        number = {"type": "number"}
        bounds = {"from": number, "to": number, "step": number}
        either = [
            {"type": "array", "minItems": 1},
            {
                "type": "object",
                "properties": bounds,
                "required": list(bounds),
                "additionalProperties": False,
            },
        ]
        return {
            "type": "object",
            "title": "Axis",
            "description": cls.__doc__,
            "minProperties": 1,
            "additionalProperties": {"anyOf": either},
        }

    def settings(self) -> list[dict[str, Any]]:
        """Return the assignments of each position of the axis."""
        columns = zip(*self.values.values(), strict=True)
        return [dict(zip(self.values, column, strict=True)) for column in columns]


def _expand_range(path: str, values: Any) -> Any:
    if isinstance(values, list):
        if not values:
            raise ValueError(f"{path}: the list of values is empty")
        return values
    if not isinstance(values, dict) or set(values) != {"from", "to", "step"}:
        raise ValueError(f"{path}: write a list or {{from: 1, to: 8, step: 1}} (got {values!r})")
    first, last, step = values["from"], values["to"], values["step"]
    numbers = [type(value) in (int, float) for value in (first, last, step)]
    if not all(numbers) or step <= 0 or first > last:
        raise ValueError(f"{path}: a range needs numbers, from <= to and step > 0 (got {values!r})")
    count = int((last - first) / step + 1e-9) + 1
    return [first + index * step for index in range(count)]


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


def load(name: str | Path, overrides: Iterable[str] = ()) -> tuple[Sweep, list[Point]]:
    """Return a sweep and its points, all validated. Raises ScenarioError with every mistake."""
    document = read(cards.find(cards.SWEEPS, str(name), "sweep"))
    sweep = document.validate(Sweep)
    points: list[Point] = []
    problems: list[str] = []
    overrides = tuple(overrides)
    for number, family in enumerate(sweep.families):
        try:
            base = read(cards.find(cards.SCENARIOS, family.base, "scenario"))
        except ScenarioError as error:
            loc = ("families", number, "base")
            problems += [document.problem(loc, line) for line in error.problems]
            continue
        for settings in _positions(family.axes):
            values = {**sweep.set, **family.set, **settings}
            try:
                scenario = _scenario(base, values, overrides, document.name)
            except ScenarioError as error:
                problems += error.problems
            else:
                points.append(Point(len(points), family.family, family.base, settings, scenario))
    if problems:
        raise ScenarioError(dict.fromkeys(problems))
    return sweep, points


def _positions(axes: list[Axis]) -> Iterator[dict[str, Any]]:
    for combination in product(*(axis.settings() for axis in axes)):
        yield {path: value for settings in combination for path, value in settings.items()}


def _scenario(
    base: Document, values: dict[str, Any], overrides: Iterable[str], origin: str
) -> Scenario:
    document = copy.deepcopy(base)
    for path, value in values.items():
        loc = tuple(int(part) if part.isdigit() else part for part in path.split("."))
        document.put(loc, copy.deepcopy(value), f"{origin}: {path}={value}")
    for assignment in overrides:
        document.set(assignment)
    return from_document(document)


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


def run_point(point: Point) -> Row:
    """Simulate one point and return its row; a refusal or a failure is a row too."""
    row: Row = {
        "point": point.index,
        "family": point.family,
        "base": point.base,
        "shape": shape_name(point.scenario),
        "status": "ok",
        "reason": "",
        **{f"set.{path}": value for path, value in point.settings.items()},
    }
    try:
        figures = summary(simulate(point.scenario))
    except InfeasibleError as error:
        return row | {"status": "refused", "reason": str(error)}
    except Exception as error:
        return row | {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
    for pool, share in figures.pop("utilisation").items():
        figures[f"utilisation.{pool}"] = share
    if not figures["slo_met"]:
        tpot, slo = figures["tpot_ms_mean"], figures["slo_tpot_ms"]
        row["reason"] = "no TPOT" if tpot is None else f"TPOT {tpot:.1f} ms exceeds {slo:g} ms"
    return row | figures


def run(
    points: list[Point],
    workers: int,
    journal: Path | None = None,
    progress: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Run the points in `workers` processes and return their rows in the order of the points.

    Every finished row goes to `journal` (JSON lines) at once. A worker that dies fails the points
    that it had not finished. On KeyboardInterrupt the rows so far are returned by the exception's
    `rows` attribute (see `Interrupted`).
    """
    rows: dict[int, Row] = {}

    def keep(row: Row) -> None:
        rows[row["point"]] = row
        if journal is not None:
            with journal.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
        progress(row)

    try:
        if workers == 1:
            for point in points:
                keep(run_point(point))
        else:
            _run_parallel(points, workers, keep)
    except KeyboardInterrupt:
        raise Interrupted([rows[index] for index in sorted(rows)]) from None
    return [rows[point.index] for point in points]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a sweep; `rows` are the points that were finished."""

    def __init__(self, rows: list[Row]) -> None:
        super().__init__()
        self.rows = rows


def _run_parallel(points: list[Point], workers: int, keep: Callable[[Row], None]) -> None:
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, mp_context=context)
    try:
        futures: dict[Future[Row], Point] = {executor.submit(run_point, p): p for p in points}
        pending = set(futures)
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                try:
                    keep(future.result())
                except BrokenProcessPool:
                    point = futures[future]
                    reason = "a worker process died (killed, or out of memory)"
                    keep({"point": point.index, "family": point.family, "base": point.base}
                         | {"shape": shape_name(point.scenario), "status": "failed"}
                         | {"reason": reason})  # fmt: skip
    except KeyboardInterrupt:
        executor.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    executor.shutdown()


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
    """Return one row per point of the sweep `name`, in the order of its file.

    `overrides` are `path=value` assignments for all points. With `workers` above 1 call it under
    `if __name__ == "__main__":`, since the workers import the calling module.
    """
    import pandas

    _sweep, points = load(name, overrides)
    return pandas.DataFrame(columns(run(points, workers)))
