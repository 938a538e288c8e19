"""Software: what no kernel table holds and no one publishes, each figure sourced (schema)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sim.inputs.base import Strict
from sim.inputs.sourced import (
    BatchSize,
    Exponent,
    MemoryBytes,
    Multiprocessors,
    Pause,
    PauseMs,
    Share,
    Slowdown,
)

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


def or_profile(schema: dict[str, Any]) -> None:
    """Let a JSON schema of figures take the name of a profile in their place."""
    schema["anyOf"] = [{"$ref": schema.pop("$ref")}, {"type": "string"}]


AttentionKind = Literal["mla", "gqa", "mfa", "linear"]


class AttentionGlue(Strict):
    """The measured rest of an attention block around its projections and its core.

    Norms of queries and latents, rope, KV write.
    """

    accelerators: Annotated[list[str], Field(min_length=1)] | None = None
    """Accelerator cards that these figures are of; absent: any card."""
    attention: AttentionKind | Annotated[list[AttentionKind], Field(min_length=1)] | None = None
    """Kind of attention, or kinds with like kernels around their cores; absent: any kind."""
    floor_us: Pause
    """What a block takes however few the requests, µs."""
    us_per_request: Pause | None = None
    """What each request of a GPU adds, µs; a request with drafts adds it for each token."""
    us_per_request_and_head: Pause | None = None
    """What each request adds for each of its query heads, µs."""

    def is_of(self, accelerator: str, attention: str) -> bool:
        """Return whether these figures are of a kind of attention on a card."""
        kinds = [self.attention] if isinstance(self.attention, str) else self.attention
        on_card = self.accelerators is None or accelerator in self.accelerators
        return on_card and (kinds is None or attention in kinds)


class ExchangeKernels(Strict):
    """The kernels that send and receive around one way of an all-to-all."""

    floor_us: Pause
    """What both take however few the tokens, µs."""
    us_per_token: Pause
    """What each token that a GPU sends adds, µs."""


class SendAndReceive(Strict):
    """What an all-to-all takes of the GPU while it runs beside another micro-batch (EP).

    DeepEP's hook frees the GPU while tokens are on the wire, not while they are sent and received.
    """

    dispatch: ExchangeKernels
    combine: ExchangeKernels


class PartialSum(Strict):
    """The kernel by which an attention GPU sums what several FFN instances send back (AFD)."""

    launch_us: Pause
    """Time of a launch, µs."""
    hbm_share: Share
    """Share of the memory bandwidth that it reaches."""


class Graphs(Strict):
    """CUDA graphs that an engine captures ahead."""

    largest_batch: BatchSize
    """Largest batch of a GPU that is captured."""
    beyond: Slowdown
    """How many times longer a step with a larger batch takes, which runs without a graph."""
    bytes: MemoryBytes | None = None
    """Memory that the graphs hold on each GPU, bytes."""


class Software(Strict):
    """Times that no kernel table holds, each with a source.

    `glue_us_per_layer`, `host_gap_us_per_step` and `overlap_slowdown` are required unless a profile
    states them.
    """

    stated_elsewhere = ("glue_us_per_layer", "host_gap_us_per_step", "overlap_slowdown")

    profile: str | None = None
    """Software profile, a file in hardware/software/, whose figures hold where none are stated."""
    glue_us_per_layer: Pause
    """What remains of a layer on the attention side, µs: its norms, router, quantisation and launch
    gaps; also the rest of the attention block where `attention_glue` has none."""
    router_us_per_layer: Pause | None = None
    """What of it comes after attention, µs: router, quantisation of what the experts take. Where
    FFN GPUs route (`ffn.collectives` all_to_all), they take this. Absent: nothing of it."""
    host_gap_us_per_step: Pause
    """Time from the last kernel of a step to the first kernel of the next step (sampling,
    scheduling), µs."""
    overlap_slowdown: Slowdown
    """How many times longer a kernel takes while a communication runs beside it; at least 1."""
    overlap_pairs: list[Pair] = Field(default_factory=list)
    """Pairs of kernel and communication with their own slow-down instead of `overlap_slowdown`."""
    attention_glue: list[AttentionGlue] = Field(default_factory=list)
    """The measured rest of attention blocks; of several that fit a block, the first counts."""
    partial_sum: PartialSum | None = None
    """Absent: the sum is part of the kernel that brings the results."""
    exchange: SendAndReceive | None = None
    """Absent: a dispatch or combine that overlaps takes no time of the GPU."""
    tokens_per_exchange: BatchSize | None = None
    """Most tokens of a GPU that dispatch, masked experts and combine take at once (EP); more go in
    turns. Absent: all at once."""
    host_us_per_further_rank: Pause | None = None
    """What each data-parallel rank beyond the first adds to `host_gap_us_per_step`, µs: ranks that
    agree on the host before every step."""
    host_us_across_servers: Pause | None = None
    """What ranks on several servers add to it, however many they are, µs."""
    graphs: Graphs | None = None
    """CUDA graphs; absent: every batch runs in one, and graphs hold no memory."""
    utilisation: Share | None = None
    """`memory.utilisation` where a scenario leaves it out."""
    kernels: dict[str, dict[str, list[str]]] = Field(default_factory=dict)
    """Measured kernels that serve an op (moe, a2a, …), by number format, the best first."""
    eplb_pause_ms: PauseMs | None = None
    """How long decoding stands still when experts are placed anew, besides moving weights, ms."""
    communication_sms: Multiprocessors | None = None
    """SMs that communication takes from kernels beside it, whose compute peak falls with them. NICs
    take none, so under AFD this holds over the scale-up link alone."""
    routing_imbalance: Exponent | None = None
    """Power law of the popularities of experts in served traffic, before EPLB places any."""
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

    def glue_of(self, accelerator: str, attention: str) -> AttentionGlue | None:
        """Return the measured rest of a block of a kind of attention on a card."""
        fitting = (glue for glue in self.attention_glue if glue.is_of(accelerator, attention))
        return next(fitting, None)

    def strangers(self, deployment: str, beside: Mapping[Compute, Communication]) -> list[str]:
        """Return what is wrong with pairs that never meet under a kind of deployment."""
        return [
            f"software.overlap_pairs: {pair.compute} never runs beside {pair.communication} under "
            f"{deployment}; pairs are {', '.join(f'{a} and {b}' for a, b in beside.items())}"
            for pair in self.overlap_pairs
            if beside.get(pair.compute) != pair.communication
        ]
