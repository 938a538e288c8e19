"""Workload: the requests that arrive, and how long their prompts and outputs are.

Requests arrive prefilled: a request brings `prompt` tokens of KV and decodes `output` tokens.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.arrivals import Arrivals, ClosedLoop
from sim.lengths import BLOCK, Lengths, Tokens
from sim.strict import Strict


class Workload(Strict):
    """Arrivals and lengths of the requests."""

    arrivals: Arrivals
    """When requests arrive."""
    lengths: Lengths
    """How long their prompts and outputs are."""


class Requests:
    """The line of requests of a workload, drawn block by block; endless in a closed loop."""

    def __init__(self, workload: Workload, seed: int) -> None:
        self._workload = workload
        self._seed = seed
        self._last_ns = 0

    def block(self, first: int) -> tuple[Tokens, Tokens, NDArray[np.int64] | None] | None:
        """Return prompt, output and arrival (ns) of request `first` and the rest of its block.

        The arrivals of a closed loop are its scheduler's: None. Returns None past the last request
        of an open workload, whose blocks must be asked for in order and whole.
        """
        number, offset = divmod(first, BLOCK)
        arrivals = self._workload.arrivals
        prompt, output = self._workload.lengths.draw(self._seed, "request", number)
        if isinstance(arrivals, ClosedLoop):
            return prompt[offset:], output[offset:], None
        count = min(arrivals.requests - first, BLOCK)
        if count <= 0:
            return None
        arrival_ns = self._last_ns + np.cumsum(arrivals.gaps_ns(self._seed, number))
        self._last_ns = int(arrival_ns[-1])
        return prompt[:count], output[:count], arrival_ns[:count]
