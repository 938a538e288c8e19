"""The base of everything read from YAML: frozen, strict about types, no unknown keys, no NaN.

The docstring under a field is its help.
"""

from __future__ import annotations

import re
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

# Nanoseconds, bytes and FLOP/s are counted in 64 bits; nothing that is simulated comes near.
_LARGEST = 10**18
_LARGEST_TIME = 10**9
_TIME = re.compile(r"_[mu]s(_per_\w+)?$")


class Strict(BaseModel):
    """A frozen description in which every key is known and every number finite."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    @model_validator(mode="after")
    def _in_reach(self) -> Self:
        for name in type(self).model_fields:
            value = getattr(self, name)
            largest = _LARGEST_TIME if _TIME.search(name) else _LARGEST
            if isinstance(value, int | float) and abs(value) > largest:
                raise ValueError(f"{name} should be at most {largest:g} (got {_short(value)})")
        return self


def _short(value: float) -> str:
    text = str(value)
    return text if len(text) <= 30 else f"{text[:12]}…, {len(text)} digits"
