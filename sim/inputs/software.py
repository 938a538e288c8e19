"""Software: what no kernel table holds and no one publishes, each figure sourced (schema)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from sim.inputs.base import Strict
from sim.inputs.sourced import Pause, Slowdown

Compute = Literal["attn0", "attn1", "shared", "attention", "o_proj", "experts"]
Communication = Literal["dispatch", "combine", "transfers"]


class Pair(Strict):
    """The slow-down of one kernel beside one communication."""

    compute: Compute
    """Stage that computes. EP: attn0, shared (beside dispatch), attn1 (beside combine); AFD:
    attention, o_proj, experts (beside transfers)."""
    communication: Communication
    """Communication that runs at the same time."""
    slowdown: Slowdown
    """How many times longer the stage takes; at least 1."""


class Software(Strict):
    """Times that no kernel table holds. Each has a source."""

    glue_us_per_layer: Pause
    """Norms, rope, quantisation, router and launch gaps of a layer on the attention side, µs."""
    host_gap_us_per_step: Pause
    """Time from the last kernel of a step to the first kernel of the next step (sampling,
    scheduling), µs."""
    overlap_slowdown: Slowdown
    """How many times longer a kernel takes while a communication runs beside it; at least 1."""
    overlap_pairs: list[Pair] = Field(default_factory=list)
    """Pairs of kernel and communication with their own slow-down instead of `overlap_slowdown`."""

    measured_on: str | None = None
    """Model card that these figures were measured on; a run of another model prints a warning.
    Absent: the model of the scenario."""

    @model_validator(mode="after")
    def _check(self) -> Software:
        named = [pair.compute for pair in self.overlap_pairs]
        twice = sorted({stage for stage in named if named.count(stage) > 1})
        if twice:
            raise ValueError(f"overlap_pairs names {', '.join(twice)} more than once")
        return self

    def slowdown(self, compute: Compute) -> float:
        """Return how many times longer a stage takes beside its communication."""
        own = [pair.slowdown for pair in self.overlap_pairs if pair.compute == compute]
        return float(own[0] if own else self.overlap_slowdown)

    def strangers(self, deployment: str, beside: Mapping[Compute, Communication]) -> list[str]:
        """Return what is wrong with pairs that never meet under a kind of deployment."""
        return [
            f"software.overlap_pairs: {pair.compute} never runs beside {pair.communication} under "
            f"{deployment}; pairs are {', '.join(f'{a} and {b}' for a, b in beside.items())}"
            for pair in self.overlap_pairs
            if beside.get(pair.compute) != pair.communication
        ]
