"""Cells: what a study file makes of its dimensions, and the shapes of both sides in each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from sim.foundation.errors import ScenarioError, did_you_mean
from sim.inputs import cards
from sim.inputs.documents.document import Document, Loc, read
from sim.inputs.naming import titles
from sim.inputs.scenario import Scenario, from_document
from sim.study.schema import Built, OnSide, Settings, Study, Value, is_met
from sim.sweeps.axes import Axis, combinations
from sim.sweeps.constraints import UnknownPathError, holds

# Settings that name a card.
_NAMING = ("accelerator", "fabric", "software")


@dataclass(frozen=True)
class SideShapes:
    """The shapes of one side in one cell."""

    side: str
    first: Scenario
    """The scenario at the first position of every axis."""
    axes: tuple[Axis, ...]
    constraints: tuple[str, ...]
    built: Built | None = None
    """Shapes that people build, crossed with the axes."""


@dataclass(frozen=True)
class Cell:
    """A combination of one value of each dimension, and the shapes of both sides in it."""

    index: int
    place: dict[str, str]
    """Its value of each dimension."""
    sides: tuple[SideShapes, SideShapes]
    priced: bool
    """Whether all cards have a price: output for the money decides then, else output per GPU."""

    def name(self) -> str:
        """Return the place in words."""
        return ", ".join(self.place.values())


@dataclass(frozen=True)
class LoadedStudy:
    """A study file, read."""

    study: Study
    cells: list[Cell]


def load(name: str | Path, overrides: Iterable[str] = (), only: Iterable[str] = ()) -> LoadedStudy:
    """Return a study and its cells. Raises ScenarioError with every mistake.

    `overrides` are `path=value` assignments for all shapes, `only` are `DIMENSION=VALUE`: cells
    with other values of that dimension are left out.
    """
    document, overrides = read(cards.study(str(name))), tuple(overrides)
    study = document.validate(Study)
    title, description = titles.of_many(study.name, study.description, overrides)
    study = study.model_copy(update={"name": title, "description": description})
    _check_shapes(study, document)
    reader = _Reader(document, study, overrides)
    problems = list(reader.wrong_names())
    kept, wrong = _kept(study, only)
    if problems or wrong:
        raise ScenarioError([*problems, *wrong])
    places = [dict(zip(kept, names, strict=True)) for names in product(*kept.values())]
    studied = [place for place in places if _is_studied(study, place)]
    if not studied:
        raise ScenarioError("--only: no cell of the study has these values together")
    cells = []
    for index, place in enumerate(studied):
        found = [reader.shapes(place, side) for side in study.sides]
        if None not in found:
            first, second = (shapes for shapes in found if shapes is not None)
            cells.append(Cell(index, place, (first, second), _are_priced((first, second))))
    if reader.problems:
        raise ScenarioError(reader.problems)
    return LoadedStudy(study, cells)


def _check_shapes(study: Study, document: Document) -> None:
    """Refuse more shapes than a study may have, before any is made.

    Each value of a dimension adds axes of its own, so the shapes of all cells of a side are a
    product over the dimensions of sums over their values.
    """
    found = 0
    for side, base in study.sides.items():
        found += combinations(base.axes) * math.prod(
            sum(
                combinations(value.sides[side].axes) if side in value.sides else 1
                for value in values.values()
            )
            for values in study.dimensions.values()
        )
    if found > study.max_shapes:
        problem = (
            f"{found:,} shapes in all cells, of max_shapes {study.max_shapes:,} at most; "
            "take fewer values, or write a larger max_shapes in the study"
        )
        raise ScenarioError(document.problem(("dimensions",), problem))


def _is_studied(study: Study, place: dict[str, str]) -> bool:
    return not study.cells or any(is_met(some.where, place) for some in study.cells)


def meets(scenario: Scenario, constraints: Sequence[str]) -> bool:
    """Return whether a scenario meets all constraints."""
    if not constraints:
        return True
    data = scenario.model_dump() | {"gpus": scenario.gpu_count()}
    return all(holds(text, data) for text in constraints)


def named_cards(shapes: SideShapes) -> Iterator[Scenario]:
    """Yield scenarios that together name every card that the shapes do."""
    yield shapes.first
    for axis in shapes.axes:
        if any(path.rsplit(".", 1)[-1] in _NAMING for path in axis.values):
            yield from (shapes.first.with_settings(settings) for settings in axis.settings())
    if shapes.built is not None:
        for fabric in cards.names(cards.FABRICS):
            yield shapes.first.with_settings({"deployment.fabric": fabric})


def _are_priced(sides: Iterable[SideShapes]) -> bool:
    named = (each for shapes in sides for each in named_cards(shapes))
    return all(each.usd_per_hour() is not None for each in named)


def _kept(study: Study, only: Iterable[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Return the values of each dimension that are kept, and what is wrong with `only`."""
    chosen: dict[str, list[str]] = {}
    problems = []
    for text in only:
        dimension, equals, value = text.partition("=")
        if not equals or dimension not in study.dimensions:
            remedy = did_you_mean(dimension, study.dimensions)
            problems.append(f"--only {text}: write DIMENSION=VALUE; {remedy}")
        elif value not in study.dimensions[dimension]:
            remedy = did_you_mean(value, study.dimensions[dimension])
            problems.append(f"--only {text}: {dimension} has no {value}; {remedy}")
        else:
            chosen.setdefault(dimension, []).append(value)
    kept = {
        name: [value for value in values if value in chosen.get(name, values)]
        for name, values in study.dimensions.items()
    }
    return kept, problems


class _Reader:
    """Makes the scenarios of a study and collects what is wrong with them."""

    def __init__(self, document: Document, study: Study, overrides: tuple[str, ...]) -> None:
        self._document = document
        self._study = study
        self._overrides = overrides
        self._bases: dict[str, Document | None] = {}
        self._checked: set[Loc] = set()
        self.problems: list[str] = []

    def wrong_names(self) -> Iterator[str]:
        """Yield a problem for every side, dimension or value that is named and not known."""
        known, dimensions = self._study.sides, self._study.dimensions
        confined = [
            ((part, number, "where"), each.where)
            for part in ("counterfactuals", "cells")
            for number, each in enumerate(getattr(self._study, part))
        ]
        for where, named_values in confined:
            for dimension, values in named_values.items():
                loc: Loc = (*where, dimension)
                if dimension not in dimensions:
                    remedy = did_you_mean(dimension, dimensions)
                    yield self._document.problem(loc, f"no dimension; {remedy}")
                    continue
                for place, value in enumerate(values):
                    if value not in dimensions[dimension]:
                        remedy = did_you_mean(value, dimensions[dimension])
                        yield self._document.problem((*loc, place), f"no value; {remedy}")
        named: list[tuple[Loc, Iterable[str]]] = [
            (("cells", number, "sides"), each.sides)
            for number, each in enumerate(self._study.cells)
        ]
        named += [
            (("dimensions", dimension, name, "sides"), value.sides)
            for dimension, of in dimensions.items()
            for name, value in of.items()
        ]
        named += [
            (("counterfactuals", number, "sides"), each.sides)
            for number, each in enumerate(self._study.counterfactuals)
        ]
        for place_of, sides in named:
            for side in sides:
                if side not in known:
                    remedy = did_you_mean(side, known)
                    yield self._document.problem((*place_of, side), f"no side; {remedy}")

    def shapes(self, place: dict[str, str], side: str) -> SideShapes | None:
        """Return the shapes of a side in a cell, None if there is something wrong with them."""
        base = self._base(side)
        if base is None:
            return None
        parts: list[tuple[Loc, OnSide]] = [(("sides", side), self._study.sides[side])]
        settings = {**self._study.set}
        for value_at, value in self._values(place):
            settings |= value.set
            if side in value.sides:
                parts.append(((*value_at, "sides", side), value.sides[side]))
        for _loc, part in parts:
            settings |= part.set
        axes = [(loc, n, axis) for loc, part in parts for n, axis in enumerate(part.axes)]
        start = {path: v for *_, axis in axes for path, v in axis.settings()[0].items()}
        before = len(self.problems)
        first = self._scenario(base, settings | start)
        for loc, number, axis in axes:
            if (where := (*loc, "axes", number)) not in self._checked:
                self._checked.add(where)
                for position in axis.settings()[1:]:
                    self._scenario(base, settings | start | position)
        constraints = {
            (*loc, "constraints", n): text
            for loc, part in parts
            for n, text in enumerate(part.constraints)
        }
        if first is None or len(self.problems) > before:
            return None
        if not self._are_about(first, constraints):
            return None
        self._check_changes(first, side, place)
        built = [part.shapes for _loc, part in parts if part.shapes is not None]
        return SideShapes(
            side,
            first,
            tuple(axis for *_, axis in axes),
            tuple(constraints.values()),
            built[-1] if built else None,
        )

    def _values(self, place: dict[str, str]) -> Iterator[tuple[Loc, Value]]:
        """Yield what holds at a place: values of its dimensions, then entries of `cells`."""
        for dimension, name in place.items():
            yield ("dimensions", dimension, name), self._study.dimensions[dimension][name]
        for number, some in enumerate(self._study.cells):
            if is_met(some.where, place):
                yield ("cells", number), some

    def _base(self, side: str) -> Document | None:
        if side not in self._bases:
            self._bases[side] = None
            name = self._study.sides[side].base
            try:
                self._bases[side] = read(cards.find(cards.SCENARIOS, name, "scenario"))
            except ScenarioError as error:
                self._add(
                    self._document.problem(("sides", side, "base"), p) for p in error.problems
                )
        return self._bases[side]

    def _scenario(self, base: Document, settings: Settings) -> Scenario | None:
        try:
            changed = base.changed(settings, self._document.name, self._overrides)
            scenario = from_document(changed)
        except ScenarioError as error:
            self._add(error.problems)
            return None
        if scenario.workload.arrivals.kind != "closed":
            self._add([f"{self._document.name}: a study needs workload.arrivals of kind closed"])
            return None
        return scenario

    def _are_about(self, first: Scenario, constraints: dict[Loc, str]) -> bool:
        data = first.model_dump() | {"gpus": first.gpu_count()}
        before = len(self.problems)
        for loc, text in constraints.items():
            try:
                holds(text, data)
            except (UnknownPathError, ValueError) as error:
                self._add([self._document.problem(loc, f"{error}")])
        return len(self.problems) == before

    def _check_changes(self, first: Scenario, side: str, place: dict[str, str]) -> None:
        """Collect what is wrong with the screens and the counterfactuals on a side."""
        changes: list[tuple[Loc, Settings]] = [
            (("screen",), self._study.screen),
            (("screen_again",), self._study.screen_again or {}),
        ]
        for number, each in enumerate(self._study.counterfactuals):
            if side in each.sides and each.concerns(place):
                loc: Loc = ("counterfactuals", number, "sides", side, "set")
                changes.append((loc, each.sides[side].set))
        for loc, settings in changes:
            if (*loc, side) in self._checked:
                continue
            self._checked.add((*loc, side))
            try:
                first.with_settings(settings)
            except ScenarioError as error:
                self._add(
                    self._document.problem(loc, f"is no scenario with it: {problem}")
                    for problem in error.problems
                )

    def _add(self, problems: Iterable[str]) -> None:
        self.problems += [problem for problem in problems if problem not in self.problems]
