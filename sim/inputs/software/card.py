"""A software profile: the figures of one serving engine on a card, by name (schema)."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from sim.inputs.naming import Name
from sim.inputs.software.figures import Software


class SoftwareProfile(Software):
    """What one serving engine adds to kernels."""

    kind: Literal["software"]
    name: Name
    description: str
    """Engine, release and what its figures come from."""

    @model_validator(mode="after")
    def _stands_alone(self) -> SoftwareProfile:
        if self.profile is not None:
            raise ValueError("profile: a profile names no other; write its figures here")
        return self
