"""Resting: GPUs that sit a step out because they took requests in.

Engines with data-parallel attention may let a rank that takes requests in from prefill join the
next step with an idle batch (`Admission.idle_step_share`): all of its requests get their token a
step later. Contexts and ages follow from the steps that a micro-batch has ended, so requests that
rested count as if they had come in a step later.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.decoding.micro_batch_loops import (
    CTX_AT_START,
    GPU,
    LAST_STEP,
    REQUEST,
    Ints,
    drawn,
)
from sim.decoding.request_table import AGE, ENTERED, HOME


class IdleLaw(NamedTuple):
    """Which requests cost their GPU a step, drawn by request."""

    share: float
    key: np.uint64

    def costs(self, request: int) -> bool:
        chance = float(int(drawn(self.key, np.uint64(request))) >> 11) * 2.0**-53
        return chance < self.share


class Resting:
    """The GPUs of a micro-batch that rest."""

    def __init__(self, gpus: int, law: IdleLaw) -> None:
        self.gpus: NDArray[np.bool_] = np.zeros(gpus, dtype=np.bool_)
        """Whether a GPU sits out the step under way."""
        self.since_ns = np.full(gpus, -1, dtype=np.int64)
        """Boundary since which a GPU has emitted nothing; −1 where the last step did, or may."""
        self._law = law

    def begin(self, entered: Ints, now_ns: int, table: Ints) -> None:
        """Let GPUs rest that have taken in the requests `entered`.

        Requests that were decoded before the run came from no prefill, and cost nothing.
        """
        fresh = entered[table[AGE, entered] == 0]
        costly = [request for request in fresh.tolist() if self._law.costs(request)]
        self.gpus[table[HOME, costly]] = True
        self.since_ns[self.gpus & (self.since_ns < 0)] = now_ns

    def shift(self, batch: Ints, ctx: Ints, table: Ints) -> int:
        """Let requests of resting GPUs go through a step that ends; return how many they are.

        `batch` are the rows of the micro-batch's requests, `ctx` the context tokens on each GPU.
        """
        if not self.gpus.any():
            return 0
        mine = np.flatnonzero(self.gpus[batch[GPU]])
        batch[CTX_AT_START, mine] -= 1
        batch[LAST_STEP, mine] += 1
        table[ENTERED, batch[REQUEST, mine]] += 1
        ctx -= np.bincount(batch[GPU, mine], minlength=len(ctx))
        return len(mine)

    def beginning(self, fresh: Ints, table: Ints) -> Ints:
        """Return which requests that have emitted nothing since they came in emit now."""
        return np.compress(~self.gpus[table[HOME, fresh]], fresh)

    def late(self, held: Ints, beginning: Ints, now_ns: int, table: Ints) -> tuple[int, int]:
        """Return how many requests emit now that rested before, and the gaps of all together, ns.

        `held` are the requests on each GPU, of which those `beginning` see no gap.
        """
        back = ~self.gpus & (self.since_ns >= 0)
        if not back.any():
            return 0, 0
        new = np.bincount(table[HOME, beginning], minlength=len(held))
        waited = np.where(back, held - new, 0)
        return int(waited.sum()), int((waited * (now_ns - self.since_ns)).sum())

    def end(self) -> None:
        """End the step: GPUs that took it have emitted."""
        self.since_ns[~self.gpus] = -1
        self.gpus[:] = False
