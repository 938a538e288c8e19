"""KV cache: what a request occupies on its attention GPU, in paged blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim.foundation.errors import InfeasibleError
from sim.foundation.identity import kept_by_identity
from sim.foundation.units import gigabytes
from sim.inputs.hardware import Accelerator
from sim.inputs.model import ModelCard


@dataclass(frozen=True)
class KvLayout:
    """Bytes of one request's cache over all layers, as a function of its context."""

    bytes_per_token: dict[int | None, float]
    """Bytes a context token takes, by attention window (None: the whole context)."""
    state_bytes: float
    """Constant state of layers that keep one, bytes a request."""
    block_tokens: int
    step_tokens: int = 1
    """Tokens of a request whose KV a step writes: drafts as well, which may be rejected."""
    full_context_only: bool = False
    """Whether only layers that see the whole context count against the KV capacity, as where an
    engine states it in tokens: windows and states then have room of their own."""
    draft_state_bytes: float = 0.0
    """Further states that a step keeps of the drafts it verifies, bytes a request."""

    def counted(self) -> tuple[dict[int | None, float], float]:
        """Return bytes a token by window and bytes of states that count against the capacity."""
        if not self.full_context_only:
            return self.bytes_per_token, self.state_bytes + self.draft_state_bytes
        return {w: size if w is None else 0.0 for w, size in self.bytes_per_token.items()}, 0.0

    def whole_bytes(self, prompt: ArrayLike, output: ArrayLike) -> NDArray[np.float64]:
        """Return bytes of the capacity that requests occupy at most, in their last step."""
        return self.request_bytes(np.add(prompt, output) + (self.step_tokens - 1))

    def request_bytes(self, ctx: ArrayLike) -> NDArray[np.float64]:
        """Return bytes of the capacity that requests of `ctx` context tokens occupy."""
        return self._in_blocks(ctx, *self.counted())

    def moved_bytes(self, ctx: ArrayLike) -> NDArray[np.float64]:
        """Return all bytes of requests of `ctx` context tokens, which a transfer moves."""
        return self._in_blocks(ctx, self.bytes_per_token, self.state_bytes)

    def _in_blocks(
        self, ctx: ArrayLike, bytes_per_token: dict[int | None, float], state_bytes: float
    ) -> NDArray[np.float64]:
        tokens = np.asarray(ctx)
        total = np.full(tokens.shape, state_bytes)
        for window, per_token in bytes_per_token.items():
            seen = tokens if window is None else np.minimum(tokens, window)
            blocks = -(-seen // self.block_tokens)
            total = total + blocks * self.block_tokens * per_token
        return total


class Transfer(NamedTuple):
    """How KV comes from prefill to an attention GPU."""

    bytes_per_s: float
    latency_ns: int


@kept_by_identity
def kv_layout(
    model: ModelCard,
    kv: str,
    block_tokens: int,
    step_tokens: int = 1,
    full_context_only: bool = False,
) -> KvLayout:
    """Return the layout of `model`'s cache with KV format `kv` ('card': as the card says).

    `step_tokens` are the tokens of a request that go through the model in a step.
    """
    per_token: dict[int | None, float] = {}
    state, draft_state = 0.0, 0.0
    for layer, count in model.layer_counts.items():
        attention = model.attention[layer.attention]
        state += count * attention.state_bytes()
        draft_state += count * attention.draft_state_bytes() * (step_tokens - 1)
        for window, size in attention.kept_bytes(kv).items():
            per_token[window] = per_token.get(window, 0.0) + count * size
    return KvLayout(per_token, state, block_tokens, step_tokens, full_context_only, draft_state)


@dataclass(frozen=True)
class GpuMemory:
    """How the memory of one GPU is spent, bytes."""

    accelerator: Accelerator
    role: str
    """What the GPU does, for messages: attention, FFN, EP."""
    weights_bytes: float
    reserve_bytes: float
    """Activations, workspaces, communication buffers and CUDA graphs."""
    utilisation: float
    """Share of the HBM that the server may use at all."""
    stated_kv_bytes: float | None = None
    """KV that the engine itself states."""

    def kv_capacity_bytes(self) -> float:
        """Return the bytes for KV: those stated, or those left beside the rest.

        Raises InfeasibleError if the weights alone do not fit, or the KV stated beside them.
        """
        if self.stated_kv_bytes is not None:
            return self._checked(self.stated_kv_bytes)
        usable = self.accelerator.hbm_bytes * self.utilisation
        left = usable - self.weights_bytes - self.reserve_bytes
        if left < 0:
            raise InfeasibleError(
                f"weights need {gigabytes(self.weights_bytes)} and activations and graphs "
                f"{gigabytes(self.reserve_bytes)} per {self.role} GPU, {self.accelerator.name} has "
                f"{gigabytes(usable)} usable of {gigabytes(self.accelerator.hbm_bytes)}: "
                "spread the weights over more GPUs or use a narrower format"
            )
        return left

    def _checked(self, stated_bytes: float) -> float:
        """Return the KV stated, which no engine can have where it exceeds what the card has."""
        if self.weights_bytes + stated_bytes > self.accelerator.hbm_bytes:
            raise InfeasibleError(
                f"the scenario states {gigabytes(stated_bytes)} of KV per {self.role} GPU, but "
                f"{self.accelerator.name} has {gigabytes(self.accelerator.hbm_bytes)} and "
                f"{gigabytes(self.weights_bytes)} of them are weights: no engine prints that for "
                "this model, shape and KV format; correct them, memory.kv_tokens or "
                "memory.kv_blocks"
            )
        return stated_bytes

    def check_kv(self, needed_bytes: float, requests: float, adding: str) -> None:
        """Refuse a load whose mean KV does not fit.

        `needed_bytes` is what `requests` requests per GPU reserve; `adding` names the remedy.
        Raises InfeasibleError with the numbers and the batch that would fit.
        """
        capacity = self.kv_capacity_bytes()
        if needed_bytes > capacity:
            fitting = int(requests * capacity / needed_bytes)
            has = (
                f"{self.accelerator.name} has {gigabytes(capacity)} left beside "
                f"{gigabytes(self.weights_bytes)} of weights"
            )
            if self.stated_kv_bytes is not None:
                has = f"the scenario states {gigabytes(capacity)}"
                adding = "raise memory.kv_tokens or memory.kv_blocks"
            lower = f"lower the batch to {fitting} requests per {self.role} GPU or "
            raise InfeasibleError(
                f"KV cache needs {gigabytes(needed_bytes)} per {self.role} GPU, {has}: "
                f"{lower if fitting else 'no request fits; '}{adding}"
            )
