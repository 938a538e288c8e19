"""The base of everything read from YAML: frozen, strict about types, no unknown keys, no NaN.

The docstring under a field is its help.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A frozen description in which every key is known and every number finite."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )
