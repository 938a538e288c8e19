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


class StepTable:
    """Steps that have ended."""

    def __init__(self, speculates: bool) -> None:
        self._names = _COLUMNS + _SPECULATIVE if speculates else _COLUMNS
        self._values = array("q")

    def add(self, *row: int) -> None:
        """Add a step: its columns, those of speculation always among them."""
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


def step_gaps_ns(steps: Columns) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return step numbers and the mean time between tokens in each, over micro-batches, ns.

    Each gap weighs as many times as requests saw it; tokens that came at once have gaps of 0. Steps
    in which no request saw one (the first of a run, idle ones) are left out.
    """
    gap = (steps["end_ns"] - steps["previous_end_ns"]) * steps["continuing"]
    weight = np.bincount(steps["step"], steps["continuing"] + at_once(steps))
    numbers = np.flatnonzero(weight)
    return numbers, np.bincount(steps["step"], gap)[numbers] / weight[numbers]
