"""KV cache: what a request occupies on its attention GPU, in paged blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim.errors import InfeasibleError
from sim.hardware import Accelerator
from sim.model import LinearAttention, ModelCard
from sim.units import DTYPE_BYTES, gigabytes


@dataclass(frozen=True)
class KvLayout:
    """Bytes of one request's cache over all layers, as a function of its context."""

    bytes_per_token: dict[int | None, float]
    """Bytes a context token takes, by attention window (None: the whole context)."""
    state_bytes: float
    """Constant state of linear-attention layers, bytes a request."""
    block_tokens: int
    step_tokens: int = 1
    """Tokens of a request whose KV a step writes: drafts as well, which may be rejected."""

    def whole_bytes(self, prompt: ArrayLike, output: ArrayLike) -> NDArray[np.float64]:
        """Return bytes that requests occupy at most, in their last step."""
        return self.request_bytes(np.add(prompt, output) + (self.step_tokens - 1))

    def request_bytes(self, ctx: ArrayLike) -> NDArray[np.float64]:
        """Return bytes that requests of `ctx` context tokens occupy, in whole blocks."""
        tokens = np.asarray(ctx)
        total = np.full(tokens.shape, self.state_bytes)
        for window, per_token in self.bytes_per_token.items():
            seen = tokens if window is None else np.minimum(tokens, window)
            blocks = -(-seen // self.block_tokens)
            total = total + blocks * self.block_tokens * per_token
        return total


class Transfer(NamedTuple):
    """How KV comes from prefill to an attention GPU."""

    bytes_per_s: float
    latency_ns: int


def kv_dtype(model: ModelCard, layer_attention: str, kv: str) -> str:
    """Return the KV format of a layer: the scenario's, or the card's where it says `card`."""
    attention = model.attention[layer_attention]
    if isinstance(attention, LinearAttention):
        return attention.state_dtype
    return attention.kv_dtype if kv == "card" else kv


def kv_layout(model: ModelCard, kv: str, block_tokens: int, step_tokens: int = 1) -> KvLayout:
    """Return the layout of `model`'s cache with KV format `kv` ('card': as the card says).

    `step_tokens` are the tokens of a request that go through the model in a step.
    """
    per_token: dict[int | None, float] = {}
    state = 0.0
    for layer, count in model.layer_counts.items():
        attention = model.attention[layer.attention]
        state += count * attention.state_bytes()
        if isinstance(attention, LinearAttention):
            continue
        window = getattr(attention, "window", None)
        width = DTYPE_BYTES[kv_dtype(model, layer.attention, kv)]
        size = count * attention.kv_elements_per_token() * width
        per_token[window] = per_token.get(window, 0.0) + size
    return KvLayout(per_token, state, block_tokens, step_tokens)


@dataclass(frozen=True)
class GpuMemory:
    """How the memory of one GPU is spent, bytes."""

    accelerator: Accelerator
    role: str
    """What the GPU does, for messages: attention, FFN, EP."""
    weights_bytes: float
    reserve_bytes: float
    """Activations, workspaces and communication buffers."""
    utilisation: float
    """Share of the HBM that the server may use at all."""

    def kv_capacity_bytes(self) -> float:
        """Return the bytes left for KV. Raises InfeasibleError if the weights alone do not fit."""
        usable = self.accelerator.hbm_bytes * self.utilisation
        left = usable - self.weights_bytes - self.reserve_bytes
        if left < 0:
            raise InfeasibleError(
                f"weights need {gigabytes(self.weights_bytes)} and activations "
                f"{gigabytes(self.reserve_bytes)} per {self.role} GPU, {self.accelerator.name} has "
                f"{gigabytes(usable)} usable of {gigabytes(self.accelerator.hbm_bytes)}: "
                "spread the weights over more GPUs or use a narrower format"
            )
        return left

    def check_kv(self, needed_bytes: float, requests: float, adding: str) -> None:
        """Refuse a load whose mean KV does not fit.

        `needed_bytes` is what `requests` requests per GPU reserve; `adding` names the remedy.
        Raises InfeasibleError with the numbers and the batch that would fit.
        """
        capacity = self.kv_capacity_bytes()
        if needed_bytes > capacity:
            fitting = int(requests * capacity / needed_bytes)
            raise InfeasibleError(
                f"KV cache needs {gigabytes(needed_bytes)} per {self.role} GPU, "
                f"{self.accelerator.name} has {gigabytes(capacity)} left beside "
                f"{gigabytes(self.weights_bytes)} of weights: lower the batch to {fitting} "
                f"requests per {self.role} GPU or {adding}"
            )
