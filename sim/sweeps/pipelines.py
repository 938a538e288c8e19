"""Pipelines: what the servers of each family's best point do, kept with a sweep and drawn again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple, Self

from pydantic import Field, TypeAdapter, model_validator

from sim.inputs.base import Strict
from sim.sweeps import saved

Count = Annotated[int, Field(ge=0, le=10**18)]


class Bar(NamedTuple):
    row: Count
    """Its place in `Picture.rows`."""
    stage: str
    layer: Count
    micro_batch: Count
    step: Count
    start_ns: Count
    end_ns: Count
    is_marked: bool = False


class Picture(Strict):
    """What a picture of a pipeline shows, as plain data that is kept and drawn again."""

    rows: Annotated[list[str], Field(min_length=1, max_length=10_000)]
    """Names of the servers that have a row."""
    servers: Count
    """All servers, with a row or without."""
    layers: Annotated[list[Count], Field(min_length=1, max_length=10_000)]
    micro_batches: Annotated[int, Field(ge=1, le=10_000)]
    tasks: list[Bar]
    """By start time. Those of other layers are pale."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not any(task.layer in self.layers for task in self.tasks):
            raise ValueError("no task belongs to the layers that are shown")
        if any(task.row >= len(self.rows) or task.end_ns < task.start_ns for task in self.tasks):
            raise ValueError("a task has no row, or ends before it begins")
        return self


class DoubtShare(NamedTuple):
    name: str
    share: Annotated[float, Field(ge=0, le=1)]
    """Of the variance of log TPOT."""


class Kept(Strict):
    """The pipeline of a family's best point, or why there is none, as it is kept with a sweep."""

    picture: Picture | None
    reason: str = ""
    doubt: list[DoubtShare] = Field(default_factory=list)
    """What makes up the doubt in the point's TPOT, the largest first; nothing if unknown."""


PIPELINES = "pipelines.json"
_KEPT = TypeAdapter(dict[str, Kept])


def write_pipelines(folder: Path, kept: Mapping[str, Kept]) -> None:
    (folder / PIPELINES).write_bytes(_KEPT.dump_json(dict(kept)) + b"\n")


def read_pipelines(folder: Path) -> dict[str, Kept]:
    """Return the pipelines by family, none if `folder` keeps none.

    Raises ScenarioError that names the file if it is not what a sweep writes.
    """
    path = folder / PIPELINES
    return saved.read(path, _KEPT) if path.exists() else {}
