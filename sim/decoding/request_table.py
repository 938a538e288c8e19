"""Request table: what is known of every request, one column a request, by number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.deployments.kvcache import KvLayout

Ints = NDArray[np.int64]

# −1 where nothing is known yet.
COLUMNS = (
    *("micro_batch", "gpu", "arrival_ns", "admitted_ns", "first_token_ns", "last_token_ns"),
    *("prompt", "output", "age", "kept", "entered", "finished", "whole_bytes", "turns"),
)
MICRO_BATCH, HOME, ARRIVAL, ADMITTED, FIRST_TOKEN, LAST_TOKEN = range(6)
PROMPT, OUTPUT, AGE, KEPT, ENTERED, FINISHED, WHOLE, TURNS = range(6, 14)
# Age: tokens decoded before the run. Kept: those decoded in this run before the request last gave
# way, and all accepted drafts. Entered: steps that its micro-batch had ended when it last came in,
# −1 while it is out. Whole: KV with all of its output. Turns: steps it had before it gave way.

# Requests that a table has room for at first.
_LEAST, _MOST = 1 << 10, 1 << 20

_UNKNOWN = [MICRO_BATCH, HOME, ARRIVAL, ADMITTED, FIRST_TOKEN, LAST_TOKEN, ENTERED, FINISHED]


class RequestTable:
    """A table that grows with the requests that are drawn."""

    def __init__(self, layout: KvLayout, expected: int) -> None:
        """Take how many requests will come, as far as that is known."""
        self._layout = layout
        self.values = np.zeros((len(COLUMNS), min(max(expected, _LEAST), _MOST)), dtype=np.int64)
        """Wider than the requests that are drawn; memory that nothing was written to is none."""
        self.count = 0
        """Requests drawn."""

    def write(self, prompt: Ints, output: Ints, age: Ints | None = None) -> None:
        """Note the sizes of the next requests; without `age`, they have decoded nothing yet."""
        first, last = self.count, self.count + len(prompt)
        width = self.values.shape[1]
        if last > width:
            table = np.zeros((len(COLUMNS), max(last, 2 * width)), dtype=np.int64)
            table[:, :first] = self.values[:, :first]
            self.values = table
        new = self.values[:, first:last]
        new[_UNKNOWN] = -1
        new[PROMPT], new[OUTPUT] = prompt, output
        if age is not None:
            new[AGE] = age
        new[WHOLE] = self._layout.whole_bytes(prompt, output)
        self.count = last

    def column(self, name: str) -> Ints:
        """Return one column by request."""
        return self.values[COLUMNS.index(name), : self.count]

    def columns(self, requests: Ints) -> dict[str, Ints]:
        """Return all that is known of some requests, in ascending order."""
        if len(requests) == self.count:
            return {name: self.column(name) for name in COLUMNS}
        return dict(zip(COLUMNS, self.values[:, requests], strict=True))
