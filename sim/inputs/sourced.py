"""A number that knows its source and its unit: a float of `{value: …, source: …}`.

`low` and `high` may state the range that sources leave. A kind of number declares the unit and the
range of anything that was ever built, or soon will be. A value outside is one in another unit, and
the message says how it is written in this one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from sim.inputs.base import Strict
from sim.inputs.naming import Label


class Sourced(float):
    """A positive finite number with the publication it was read from in `.source`."""

    source: str
    low: float | None
    """Lower end of what sources say; None where they say one value alone."""
    high: float | None
    positive: ClassVar[bool] = True
    unit: ClassVar[str] = ""
    least: ClassVar[float | None] = None
    most: ClassVar[float | None] = None
    mistaken: ClassVar[Mapping[str, float]] = MappingProxyType({})
    """Units that people write instead, and how many of `unit` each is."""

    def __new__(
        cls, value: float, source: str, low: float | None = None, high: float | None = None
    ) -> Sourced:
        """Return `value` as a float that carries `source` and a range.

        Raises ValueError if the value is outside of the range.
        """
        number = super().__new__(cls, value)
        number.source, number.low, number.high = source, low, high
        for end, excess in (("low", low), ("high", high)):
            if excess is not None and (excess > value if end == "low" else excess < value):
                raise ValueError(
                    f"value {plain(value)} is beyond {end} {plain(excess)}; "
                    "should be low ≤ value ≤ high"
                )
        return number

    def __reduce__(
        self,
    ) -> tuple[type[Sourced], tuple[float, str, float | None, float | None]]:
        return type(self), (float(self), self.source, self.low, self.high)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, _source_type: object, _handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        number: CoreSchema = (
            core_schema.float_schema(strict=True, gt=0, allow_inf_nan=False)
            if cls.positive
            else core_schema.float_schema(strict=True, ge=0, allow_inf_nan=False)
        )
        if cls.least is not None or cls.most is not None:
            number = core_schema.no_info_after_validator_function(cls._in_range, number)
        text = core_schema.str_schema(strict=True, min_length=3)
        pair = core_schema.typed_dict_schema(
            {
                "value": core_schema.typed_dict_field(number, required=True),
                "low": core_schema.typed_dict_field(number, required=False),
                "high": core_schema.typed_dict_field(number, required=False),
                "source": core_schema.typed_dict_field(text, required=True),
            },
            extra_behavior="forbid",
        )
        return core_schema.no_info_after_validator_function(
            lambda pair: cls(**pair),
            pair,
            serialization=core_schema.plain_serializer_function_ser_schema(cls.as_dict),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        described = handler(schema)
        for name in ("value", "low", "high"):
            value = described["properties"][name]
            for key, bound in (("minimum", cls.least), ("maximum", cls.most)):
                if bound is not None:
                    value[key] = bound
                    value.pop("exclusiveMinimum", None)
            if cls.unit:
                value["description"] = cls.unit
        return described

    @classmethod
    def _in_range(cls, value: float) -> float:
        least = 0.0 if cls.least is None else cls.least
        most = math.inf if cls.most is None else cls.most
        if least <= value <= most:
            return value
        unit = f" {cls.unit}" if cls.unit else ""
        span = f"at least {plain(least)}"
        if most < math.inf:
            span = f"from {plain(least)} to {plain(most)}"
        meant = {other: value * factor for other, factor in cls.mistaken.items()}
        meant = {other: number for other, number in meant.items() if least <= number <= most}
        remedy = ""
        if meant:
            # Of several, the one nearest to the middle of the range on a logarithmic scale.
            middle = math.sqrt(max(least, 1.0) * most) if math.isfinite(most) else 1.0
            other = min(meant, key=lambda other: abs(math.log(meant[other] / middle)))
            remedy = f"; if {other} is meant, write {plain(meant[other])}"
        raise ValueError(f"{plain(value)}{unit}? Should be {span}{unit}{remedy}")

    def as_dict(self) -> dict[str, Any]:
        """Return value, range where there is one, and source."""
        ends = {"low": self.low, "high": self.high}
        known = {name: end for name, end in ends.items() if end is not None}
        return {"value": float(self)} | known | {"source": self.source}


class Parameter(Sourced):
    """A sourced number that may be zero: an effect that can be switched off."""

    positive: ClassVar[bool] = False


def plain(value: float) -> str:
    """Return a number as people write it in YAML: 9.89e14."""
    digits, exponent, power = f"{value:.6g}".partition("e")
    return f"{digits}e{int(power)}" if exponent else digits


def multiples(unit: str) -> Mapping[str, float]:
    """Return the decimal multiples of a unit in which data sheets state it."""
    prefixes = {"M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
    return MappingProxyType({f"{prefix}{unit}": factor for prefix, factor in prefixes.items()})


class FlopsPerS(Sourced):
    """A peak of computing."""

    unit = "FLOP/s"
    least, most = 1e12, 1e17
    mistaken = multiples("FLOP/s")


class MemoryBytesPerS(Sourced):
    """A bandwidth of device memory."""

    unit = "B/s"
    least, most = 1e10, 1e15
    mistaken = multiples("B/s")


class LinkBytesPerS(Sourced):
    """A bandwidth of a link or a NIC, from 1 Gbit/s on."""

    unit = "B/s"
    least, most = 1e8, 1e14
    mistaken = multiples("B/s")


class MemoryBytes(Sourced):
    """A size of device memory."""

    unit = "B"
    least, most = 1e9, 1e13
    mistaken = MappingProxyType({"MiB": 2.0**20, **multiples("B")})


class UsdPerHour(Sourced):
    """A rent."""

    unit = "USD/h"
    least, most = 1e-3, 1e4


class TileRows(Sourced):
    """Rows of a tile of a matrix unit."""

    unit = "rows"
    least, most = 1, 1024


class Share(Sourced):
    """A part of a whole, above zero."""

    least, most = 1e-3, 1
    mistaken = MappingProxyType({"a percentage": 0.01})


class Latency(Sourced):
    """A time that passes on the way."""

    unit = "µs"
    least, most = 1e-2, 1e5
    mistaken = MappingProxyType({"a time in seconds": 1e6, "a time in nanoseconds": 1e-3})


class Pause(Parameter):
    """A time that something takes, up to a second; zero switches it off."""

    unit = "µs"
    least, most = 0, 1e6
    mistaken = MappingProxyType({"a time in nanoseconds": 1e-3})


class Slowdown(Parameter):
    """How many times longer something takes."""

    unit = "times"
    least, most = 1, 1000


class PauseMs(Parameter):
    """A time that the whole service stands still, up to minutes; zero switches it off."""

    unit = "ms"
    least, most = 0, 1e6
    mistaken = MappingProxyType({"a time in seconds": 1e3, "a time in µs": 1e-3})


class BatchSize(Sourced):
    """Requests that one GPU decodes at once."""

    unit = "requests"
    least, most = 1, 1e6


class Multiprocessors(Parameter):
    """A number of streaming multiprocessors (SMs) of a GPU."""

    unit = "SMs"
    least, most = 0, 1000


class Exponent(Parameter):
    """The exponent of a power law; zero is uniform."""

    least, most = 0, 4


# Parts of a scenario that decide no step at a given batch, as far as the bound engine sees it.
_BESIDE_STEPS = ("name", "description", "workload.arrivals", "slo", "prices", "simulation", "noise")


class Unsettled(Strict):
    """Something that is one of several, all equally likely as far as anyone knows."""

    name: Label
    """What is not known, in a word or two: card."""
    source: Annotated[str, Field(min_length=3)]
    """Why it is not known, and what leaves these possibilities."""
    one_of: Annotated[list[dict[str, Any]], Field(min_length=2, max_length=16)]
    """Possibilities, each as values by dotted path, e.g. `{deployment.accelerator: h100-sxm}`. They
    have as many GPUs, and change what decides a step at a given batch."""

    @model_validator(mode="after")
    def _check(self) -> Unsettled:
        for path in dict.fromkeys(path for settings in self.one_of for path in settings):
            held = next(
                (of for of in (*_BESIDE_STEPS, "doubt") if f"{path}.".startswith(f"{of}.")), ""
            )
            if held or path == "workload":
                raise ValueError(f"{held or path} decides no step of a batch; leave {path} out")
        return self
