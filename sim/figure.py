"""A physical figure that knows its source: a float read from `{value: …, source: …}`."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


class Figure(float):
    """A positive finite number with the publication it was read from in `.source`."""

    source: str
    positive: ClassVar[bool] = True

    def __new__(cls, value: float, source: str) -> Figure:
        """Return `value` as a float that carries `source`."""
        figure = super().__new__(cls, value)
        figure.source = source
        return figure

    def __reduce__(self) -> tuple[type[Figure], tuple[float, str]]:
        return type(self), (float(self), self.source)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, _source_type: object, _handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        number = (
            core_schema.float_schema(strict=True, gt=0, allow_inf_nan=False)
            if cls.positive
            else core_schema.float_schema(strict=True, ge=0, allow_inf_nan=False)
        )
        text = core_schema.str_schema(strict=True, min_length=3)
        pair = core_schema.typed_dict_schema(
            {
                "value": core_schema.typed_dict_field(number, required=True),
                "source": core_schema.typed_dict_field(text, required=True),
            },
            extra_behavior="forbid",
        )
        return core_schema.no_info_after_validator_function(
            lambda pair: cls(**pair),
            pair,
            serialization=core_schema.plain_serializer_function_ser_schema(cls.as_dict),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the `{value, source}` pair this figure was read from."""
        return {"value": float(self), "source": self.source}


class Parameter(Figure):
    """A sourced figure that may be zero: an effect that can be switched off."""

    positive: ClassVar[bool] = False
