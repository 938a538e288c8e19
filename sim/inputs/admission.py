"""Admission: which GPU takes a request, how much KV it claims, and when its KV is there."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sim.inputs.base import Strict
from sim.inputs.sourced import Pause, Share, Sourced

Balancing = Literal["kv_and_requests", "least_kv", "least_requests", "round_robin", "power_of_two"]


class Reserve(Strict):
    """A request claims KV for its whole output when it enters; no request is ever preempted."""

    kind: Literal["reserve"]


class Recompute(Strict):
    """A preempted request loses its KV, which is computed again outside the decoder."""

    kind: Literal["recompute"]
    tokens_per_s: Sourced
    """Context tokens of one request that are computed per second."""


class Swap(Strict):
    """The KV of a preempted request moves to the host's memory and back."""

    kind: Literal["swap"]
    bytes_per_s: Sourced
    """Bandwidth between a GPU and its host in one direction, B/s."""


class Watermark(Strict):
    """KV is claimed as contexts grow; the youngest requests leave when a GPU has no more KV."""

    kind: Literal["watermark"]
    share: Annotated[float, Field(gt=0, le=1)] = 0.99
    """Share of a GPU's KV capacity up to which requests enter (vLLM keeps 1 % free)."""
    preemption: Annotated[Recompute | Swap, Field(discriminator="kind")]
    """How a preempted request gets its KV back; its tokens are kept."""


class KvTransfer(Strict):
    """KV comes from prefill over the network; a request enters when all its KV is there."""

    nic_share: Share
    """Share of an attention GPU's NIC that one transfer gets."""
    latency_us: Pause
    """Time of a transfer in addition to the time of its bytes, µs."""


def share_of(present: int, micro_batch: int, micro_batches: int, row: int) -> int:
    """Return how many of the requests present a micro-batch may hold, dealt out `row` at a time.

    While there are fewer than a row for each micro-batch, they are dealt out one by one.
    """
    row = row if present >= row * micro_batches else 1
    rows, rest = divmod(present, row)
    whole = -(-(rows - micro_batch) // micro_batches) * row
    return whole + (rest if micro_batch == rows % micro_batches else 0)


class Admission(Strict):
    """How requests enter at step boundaries."""

    gpu: Balancing = "kv_and_requests"
    """Which GPU with room for its KV takes a request. kv_and_requests (DeepSeek's): the GPU with
    the least KV of the micro-batch, among GPUs below their even share of the requests; least_kv:
    the GPU with the least KV; least_requests: the GPU with the fewest requests; round_robin: the
    next GPU in turn; power_of_two: of two GPUs drawn at random, the GPU with less KV."""
    split: Literal["even", "rows"] = "even"
    """How the requests present are split over micro-batches. even: numbers of requests differ by at
    most one. rows: numbers of rows differ by at most one, a row being one request on each GPU, as
    when every GPU splits its own requests. A micro-batch waits for its fullest GPU: five requests
    per GPU become three and two with rows, but three and three on some GPUs with even. Even is
    better where the FFN, which sees all tokens, sets the pace."""
    kv: Annotated[Reserve | Watermark, Field(discriminator="kind")] = Reserve(kind="reserve")
    """How much KV a request claims."""
    idle_step_share: Share | None = None
    """How likely a request that comes from prefill costs its GPU the next step of the micro-batch:
    the requests there, old and new, wait a step while other GPUs go on. 1: engines in which a rank
    that takes requests in joins the step with an idle batch (SGLang); less where some requests come
    together and only the first of them costs a step. Absent: requests enter without a pause."""
    kv_transfer: KvTransfer | None = None
    """Transfer of a request's KV from prefill; by default the KV arrives with the request."""

    def row(self, gpus: int) -> int:
        """Return the requests that are dealt out to a micro-batch at a time, on so many GPUs."""
        return gpus if self.split == "rows" else 1
