"""Step table: one row per micro-batch and step, in the order in which the steps ended."""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

Columns = dict[str, NDArray[np.int64]]

# The first step fills the pipeline from empty and the second drains that disturbance.
FILL_STEPS = 2

_COLUMNS = (
    *("micro_batch", "step", "start_ns", "end_ns", "previous_end_ns", "tokens", "continuing"),
    *("kv_bytes_mean", "kv_bytes_max"),
)
# Columns that only runs with speculation have.
_SPECULATIVE = ("requests", "at_once")
# Further ones of runs in which GPUs rest, which have those of speculation too.
_RESTING = ("resting", "late", "late_ns")


class StepTable:
    """Steps that have ended."""

    def __init__(self, speculates: bool, rests: bool = False) -> None:
        further = _SPECULATIVE if speculates or rests else ()
        self._names = (*_COLUMNS, *further, *(_RESTING if rests else ()))
        self._values = array("q")

    def add(self, *row: int) -> None:
        """Add a step: all columns, whether the run has them or not."""
        self._values.extend(row[: len(self._names)])

    def columns(self) -> Columns:
        table = np.array(self._values).reshape(-1, len(self._names))
        return dict(zip(self._names, table.T, strict=True))


def requests_of(steps: Columns) -> NDArray[np.int64]:
    """Return the requests in each step."""
    return steps.get("requests", steps["tokens"])


def at_once(steps: Columns) -> NDArray[np.int64]:
    """Return the tokens of each step that came with another of their request, without a gap.

    Those of a request's first step are its first token and what comes with it: they do not count.
    """
    return steps.get("at_once", np.zeros_like(steps["tokens"]))


def rested(steps: Columns) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many requests in each step emit after they rested, and their summed gaps, ns."""
    nothing = np.zeros_like(steps["tokens"])
    return steps.get("late", nothing), steps.get("late_ns", nothing)


def step_gaps_ns(steps: Columns) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return step numbers and the mean time between tokens in each, over micro-batches, ns.

    Each gap weighs as many times as requests saw it; tokens that came at once have gaps of 0. Steps
    in which no request saw one (the first of a run, idle ones) are left out.
    """
    late, late_ns = rested(steps)
    gap = (steps["end_ns"] - steps["previous_end_ns"]) * steps["continuing"] + late_ns
    weight = np.bincount(steps["step"], steps["continuing"] + at_once(steps) + late)
    numbers = np.flatnonzero(weight)
    return numbers, np.bincount(steps["step"], gap)[numbers] / weight[numbers]
