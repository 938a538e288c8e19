"""Axes: which values a sweep tries, as lists, ranges or ranges in the logarithm."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from typing import Annotated, Any

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from sim.foundation.printable import excerpt
from sim.inputs.base import Strict

Number = int | float

# Nothing that is simulated comes near.
_LARGEST = 10**18
MOST_POINTS = 10_000
"""Points of a sweep, unless it says more: that many are read in 1 to 10 s and take 50 MB."""

# An axis is kept in memory whole.
_MOST_VALUES = 100_000


class Axis(Strict):
    """Paths that move together, each with a list of values or a range."""

    values: Annotated[dict[str, list[Any]], Field(min_length=1)]
    """Values by dotted path; a range is {from, to, step} or {from, to, logspace}."""
    ranges: list[str] = Field(default_factory=list)
    """Paths that were written as a range, so that values between its own make sense."""

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueError("an axis maps dotted paths to lists or {from, to, step}")
        values = {path: _expand_range(path, values) for path, values in data.items()}
        return {"values": values, "ranges": [p for p, v in data.items() if isinstance(v, dict)]}

    @model_validator(mode="after")
    def _check(self) -> Axis:
        lengths = {path: len(values) for path, values in self.values.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f"zipped paths need equally many values (got {excerpt(str(lengths), 200)})"
            )
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Return the schema of an axis as it is written: paths to lists or ranges."""
        number: dict[str, Any] = {"type": "number"}
        ends = {"from": number, "to": number}
        several: dict[str, Any] = {"type": "integer", "minimum": 2}
        ranges = [ends | {"step": number}, ends | {"logspace": several}]
        either: list[dict[str, Any]] = [{"type": "array", "minItems": 1}]
        either += [
            {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            }
            for properties in ranges
        ]
        return {
            "type": "object",
            "title": "Axis",
            "description": cls.__doc__,
            "minProperties": 1,
            "additionalProperties": {"anyOf": either},
        }

    def positions(self) -> int:
        """Return how many positions the axis has."""
        return len(next(iter(self.values.values())))

    def settings(self) -> list[dict[str, Any]]:
        """Return the assignments of each position of the axis."""
        columns = zip(*self.values.values(), strict=True)
        return [dict(zip(self.values, column, strict=True)) for column in columns]


def combinations(axes: Sequence[Axis]) -> int:
    """Return how many combinations of positions there are, without making them."""
    return math.prod(axis.positions() for axis in axes)


def crossed(axes: Sequence[Axis]) -> Iterator[dict[str, Any]]:
    """Yield the assignments of every combination of positions, the last axis moving fastest."""
    for combination in product(*(axis.settings() for axis in axes)):
        yield {path: value for settings in combination for path, value in settings.items()}


def _expand_range(path: str, values: Any) -> Any:
    if isinstance(values, list):
        if not values:
            raise ValueError(f"{path}: the list of values is empty")
        return values
    keys = set(values) if isinstance(values, dict) else set()
    if keys not in ({"from", "to", "step"}, {"from", "to", "logspace"}):
        raise ValueError(
            f"{path}: write a list, {{from: 1, to: 8, step: 1}} or "
            f"{{from: 1, to: 64, logspace: 7}} (got {excerpt(repr(values))})"
        )
    if not all(type(value) in (int, float) for value in values.values()):
        raise ValueError(f"{path}: a range needs numbers (got {excerpt(repr(values))})")
    if not all(abs(value) <= _LARGEST for value in values.values()):
        raise ValueError(
            f"{path}: a range needs finite numbers of at most {_LARGEST:g} "
            f"(got {excerpt(repr(values))})"
        )
    first, last = values["from"], values["to"]
    if "step" in values:
        return _linear(path, first, last, values["step"])
    return _logarithmic(path, first, last, values["logspace"])


def _linear(path: str, first: Number, last: Number, step: Number) -> list[Number]:
    if step <= 0 or first > last:
        raise ValueError(
            f"{path}: a range needs from <= to and step > 0 (got {first} to {last} by {step})"
        )
    steps = (last - first) / step
    _check_count(path, steps + 1)
    found = [first + index * step for index in range(int(steps + 1e-9) + 1)]
    if any(one >= next_one for one, next_one in pairwise(found)):
        raise ValueError(f"{path}: the step {step} is too small to change {first}")
    return found


def _check_count(path: str, count: Number) -> None:
    if count > _MOST_VALUES:
        shown = f"{count:,.0f}" if count < _LARGEST else f"more than {_LARGEST:g}"
        raise ValueError(
            f"{path}: {shown} values, so at least that many points; take a larger step or a list. "
            f"A sweep has at most {MOST_POINTS:,} points unless its max_points says more, and an "
            f"axis at most {_MOST_VALUES:,} values"
        )


def _logarithmic(path: str, first: Number, last: Number, count: Number) -> list[Number]:
    if not isinstance(count, int) or count < 2 or not 0 < first < last:
        raise ValueError(
            f"{path}: logspace needs 0 < from < to and at least 2 values, a whole number of them "
            f"(got {first} to {last}, {count} values)"
        )
    _check_count(path, count)
    ratio = last / first
    if not math.isfinite(ratio):
        raise ValueError(f"{path}: {first} and {last} are too far apart for a logspace")
    inner = [first * ratio ** (index / (count - 1)) for index in range(1, count - 1)]
    if isinstance(first, int) and isinstance(last, int):
        return list(dict.fromkeys([first, *map(round, inner), last]))
    return [first, *inner, last]
