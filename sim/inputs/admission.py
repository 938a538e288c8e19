"""Admission: which GPU takes a request, how much KV it claims, and when its KV is there."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sim.inputs.base import Strict
from sim.inputs.sourced import Pause, Share, Sourced

Balancing = Literal["kv_and_requests", "least_kv", "least_requests", "round_robin", "power_of_two"]


class Reserve(Strict):
    """A request claims KV for its whole output when it enters; none is ever preempted."""

    kind: Literal["reserve"]


class Recompute(Strict):
    """A preempted request loses its KV, which is computed anew elsewhere before it comes back."""

    kind: Literal["recompute"]
    tokens_per_s: Sourced
    """Context tokens of one request that are computed per second."""


class Swap(Strict):
    """A preempted request's KV goes to the host's memory and comes back."""

    kind: Literal["swap"]
    bytes_per_s: Sourced
    """Bandwidth between a GPU and its host in one direction, B/s."""


class Watermark(Strict):
    """A request claims KV as it grows, and the youngest give way when a GPU runs out of it."""

    kind: Literal["watermark"]
    share: Annotated[float, Field(gt=0, le=1)] = 0.99
    """Share of a GPU's KV capacity up to which requests are let in (vLLM keeps 1 % free)."""
    preemption: Annotated[Recompute | Swap, Field(discriminator="kind")]
    """How a request that gave way gets its KV back; its tokens are kept."""


class KvTransfer(Strict):
    """A request's KV comes from prefill over the network; it may enter when all of it is there."""

    nic_share: Share
    """Share of an attention GPU's NIC that one transfer gets."""
    latency_us: Pause
    """What a transfer takes beside its bytes, µs."""


def share_of(present: int, micro_batch: int, micro_batches: int, row: int) -> int:
    """Return how many of the requests present a micro-batch may hold, dealt out `row` at a time.

    While there are fewer than a row for each micro-batch, they are dealt out one by one.
    """
    row = row if present >= row * micro_batches else 1
    rows, rest = divmod(present, row)
    whole = -(-(rows - micro_batch) // micro_batches) * row
    return whole + (rest if micro_batch == rows % micro_batches else 0)


class Admission(Strict):
    """How requests are let in at step boundaries."""

    gpu: Balancing = "kv_and_requests"
    """Which GPU takes a request, of those with room for its KV. kv_and_requests (DeepSeek's): the
    least KV of the micro-batch among GPUs below their even share of its requests; least_kv,
    least_requests: the least of one alone; round_robin: the next one in turn; power_of_two: of two
    drawn ones that with less KV."""
    split: Literal["even", "rows"] = "even"
    """How the requests present are split over micro-batches. even: as many in each, to one; rows:
    as many rows of one on each GPU, as where every GPU splits its own. A micro-batch waits for its
    fullest GPU: of five requests a GPU, rows make three and two, even makes three and three on
    some. Even is better where the FFN, which sees all tokens, sets the pace."""
    kv: Annotated[Reserve | Watermark, Field(discriminator="kind")] = Reserve(kind="reserve")
    """How much KV a request claims."""
    kv_transfer: KvTransfer | None = None
    """What passes before a request's KV is there; by default it comes with the request."""

    def row(self, gpus: int) -> int:
        """Return the requests that are dealt out to a micro-batch at a time, on so many GPUs."""
        return gpus if self.split == "rows" else 1
