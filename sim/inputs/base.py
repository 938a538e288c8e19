"""The base of everything read from YAML: frozen, strict about types, no unknown keys, no NaN.

The docstring under a field is its help.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from functools import cache
from itertools import pairwise
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

# Nanoseconds, bytes and FLOP/s are counted in 64 bits; nothing that is simulated comes near.
_LARGEST = 10**18
_LARGEST_TIME = 10**9
# Seeds of replications are drawn from 63 bits.
_LARGEST_OF = {"seed": 2**63 - 1}
_TIME = re.compile(r"_[mu]s(_per_\w+)?$")


class Strict(BaseModel):
    """A frozen description in which every key is known and every number finite."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
    )

    stated_elsewhere: ClassVar[tuple[str, ...]] = ()
    """Required fields that another key or a profile may state: editors should not ask for them."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Describe the fields: reading the source takes longer than a run that asks for none."""
        schema = handler(core)
        resolved = handler.resolve_ref_schema(schema)
        fields = resolved.get("properties", {})
        if cls.stated_elsewhere:
            asked = [name for name in resolved["required"] if name not in cls.stated_elsewhere]
            resolved["required"] = asked
        for kind in cls.__mro__:
            for name, text in _docstrings(kind.__module__).get(kind.__qualname__, {}).items():
                if name in fields:
                    fields[name].setdefault("description", text)
        return schema

    def replaced(self, **values: Any) -> Self:
        """Return this with other values of some fields, checked as at first.

        Fields that stay are not read anew, so this takes microseconds. Raises pydantic's
        ValidationError, a ValueError.
        """
        return type(self).model_validate(dict(self) | values)

    @model_validator(mode="after")
    def _in_reach(self) -> Self:
        for name, largest in _largest(type(self)):
            value = getattr(self, name)
            if isinstance(value, int | float) and abs(value) > largest:
                raise ValueError(f"{name} should be at most {largest:g} (got {_short(value)})")
        return self


@cache
def _largest(kind: type[Strict]) -> list[tuple[str, int]]:
    """Return the fields of a description with the largest number that each may hold."""
    return [
        (name, _LARGEST_TIME if _TIME.search(name) else _LARGEST_OF.get(name, _LARGEST))
        for name in kind.model_fields
    ]


@cache
def _docstrings(module: str) -> dict[str, dict[str, str]]:
    """Return the docstrings under the fields of the classes of a module, by class and field."""
    if not module.startswith("sim."):
        return {}
    found: dict[str, dict[str, str]] = {}
    for each in ast.parse(inspect.getsource(sys.modules[module])).body:
        if isinstance(each, ast.ClassDef):
            found[each.name] = {
                field.target.id: inspect.cleandoc(text.value.value)
                for field, text in pairwise(each.body)
                if isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            }
    return found


def _short(value: float) -> str:
    text = str(value)
    return text if len(text) <= 30 else f"{text[:12]}…, {len(text)} digits"
