"""Arrivals: when requests come."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, model_validator

from sim.lengths import BLOCK
from sim.streams import stream
from sim.strict import Strict
from sim.units import NS_PER_S

Positive = Annotated[float, Field(gt=0)]


class ClosedLoop(Strict):
    """A fixed number of requests in flight; each finished one is replaced at once."""

    kind: Literal["closed"]
    concurrency: PositiveInt | None = None
    """Requests in flight in the whole deployment."""
    requests_per_gpu: Positive | None = None
    """Requests in flight divided by all GPUs of the deployment, instead of `concurrency`."""

    @model_validator(mode="after")
    def _check(self) -> ClosedLoop:
        if (self.concurrency is None) == (self.requests_per_gpu is None):
            raise ValueError("give exactly one of concurrency and requests_per_gpu")
        return self

    def requests_in_flight(self, gpus: int) -> int:
        """Return the number of requests in flight on a deployment of `gpus` GPUs."""
        if self.concurrency is not None:
            return self.concurrency
        assert self.requests_per_gpu is not None
        return max(1, round(self.requests_per_gpu * gpus))


class Poisson(Strict):
    """Requests arrive independently at a constant rate, from an empty system."""

    kind: Literal["poisson"]
    requests_per_s: Positive
    """Mean arrivals per second in the whole deployment."""
    requests: PositiveInt
    """Number of requests to simulate."""

    def gaps_ns(self, seed: int, block: int) -> NDArray[np.int64]:
        """Return the times between the arrivals of one block of requests, ns."""
        gaps = stream(seed, "arrival", block).exponential(NS_PER_S / self.requests_per_s, BLOCK)
        return np.rint(gaps).astype(np.int64)


Arrivals = Annotated[ClosedLoop | Poisson, Field(discriminator="kind")]
