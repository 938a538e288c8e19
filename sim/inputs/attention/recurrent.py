"""Attention with a state: one of constant size takes the place of the context."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal, Self

from pydantic import Field

from sim.foundation.units import DTYPE_BYTES, DType
from sim.inputs.attention.kind import (
    AttentionCore,
    AttentionKind,
    Heads,
    Projection,
    Width,
    Window,
    share,
)


class LinearAttention(AttentionKind):
    """Linear (lightning) attention: a constant state per head, read and written each token."""

    kind: Literal["linear"]
    heads: Heads
    """Heads, each with a state."""
    head_dim: Width
    """Width of a head, elements."""
    state_dtype: DType
    """Format of the state."""
    flops_per_state_element: Annotated[int, Field(ge=1, le=1000)]
    """FLOPs of a token for each element of the state."""
    projections: Annotated[int, Field(ge=2, le=16)]
    """Number of hidden × (heads·head_dim) projections of a layer (Q, K, V, gate, output: 5)."""
    source: str
    """Where its figures were read."""

    @property
    def core_heads(self) -> int:
        return self.heads

    def before_core(self, hidden: int) -> tuple[Projection, ...]:
        """Return all projections but the output's, fused."""
        return (Projection((self.projections - 1) * self.heads * self.head_dim, hidden),)

    def after_core(self, hidden: int) -> tuple[Projection, ...]:
        return (Projection(hidden, self.heads * self.head_dim),)

    def core(self, positions: int) -> AttentionCore:
        sizes = self._state_elements(), self.core_flops(0), positions
        return AttentionCore("attention_linear", sizes)

    def core_flops(self, ctx: float) -> float:
        """Return FLOPs of the state update and read-out, whatever the context."""
        return float(self._state_elements() * self.flops_per_state_element)

    def cache_dtype(self, kv: str) -> str:
        return self.state_dtype

    def kept_elements(self) -> dict[Window, float]:
        return {}

    def state_bytes(self) -> float:
        return self._state_elements() * DTYPE_BYTES[self.state_dtype]

    def draft_state_bytes(self) -> float:
        return self.state_bytes()

    def cut(self, ways: int) -> Self:
        return self.replaced(heads=share(self.heads, ways, "heads"))

    def _state_elements(self) -> int:
        return self.heads * self.head_dim * self.head_dim


class _Recurrent(AttentionKind):
    """A state of each head, updated by every token, behind a short convolution."""

    conv: Annotated[int, Field(ge=1, le=64)]
    """Tokens that the convolution sees."""
    state_dtype: DType
    """Format in which the engine keeps states; convolutions keep BF16."""
    source: str
    """Where its figures were read."""

    @abstractmethod
    def state_elements(self) -> int:
        """Return elements of the state of a request."""

    @abstractmethod
    def conv_channels(self) -> int:
        """Return channels of the convolution."""

    @abstractmethod
    def core(self, positions: int) -> AttentionCore: ...

    def state_bytes(self) -> float:
        """Return bytes of state and of the tokens that the convolution still needs."""
        kept = (self.conv - 1) * self.conv_channels() * DTYPE_BYTES["bf16"]
        return self.state_elements() * DTYPE_BYTES[self.state_dtype] + kept

    def draft_state_bytes(self) -> float:
        """Return bytes of a further state: any of the tokens may be the last that is accepted.

        vLLM keeps 1 + drafts in all (`MambaSpec.num_speculative_blocks`), SGLang one before them as
        well (`intermediate_ssm_state_cache`).
        """
        return self.state_bytes()

    def cache_dtype(self, kv: str) -> str:
        return self.state_dtype

    def kept_elements(self) -> dict[Window, float]:
        return {}


class _Delta(_Recurrent):
    """The delta rule: a token's key reads the state, and what it differs by is written."""

    key_heads: Heads
    """Heads of keys and queries."""
    value_heads: Heads
    """Heads of values; each has a state."""
    key_dim: Width
    """Width of a key head, elements."""
    value_dim: Width
    """Width of a value head, elements."""

    @property
    def core_heads(self) -> int:
        return self.value_heads

    def state_elements(self) -> int:
        return self.value_heads * self.key_dim * self.value_dim

    def conv_channels(self) -> int:
        return 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim

    def after_core(self, hidden: int) -> tuple[Projection, ...]:
        return (Projection(hidden, self.value_heads * self.value_dim),)

    def core_flops(self, ctx: float) -> float:
        """Return decay (1), reading by key (2), update (2) and read-out (2) of every element."""
        return 7.0 * self.state_elements()

    def cut(self, ways: int) -> Self:
        return self.replaced(
            key_heads=share(self.key_heads, ways, "key heads"),
            value_heads=share(self.value_heads, ways, "value heads"),
        )

    def _sizes(self, positions: int) -> tuple[float, ...]:
        heads = self.key_heads, self.value_heads, self.key_dim, self.value_dim
        return *heads, self.conv, positions


class GatedDelta(_Delta):
    """Gated delta net (Qwen3-Next, Qwen3.5): one decay for each head and token."""

    kind: Literal["gdn"]

    def before_core(self, hidden: int) -> tuple[Projection, ...]:
        """Return Q, K, V and gate fused, then decay and step size of each head."""
        values = self.value_heads * self.value_dim
        fused = Projection(2 * self.key_heads * self.key_dim + 2 * values, hidden)
        return fused, Projection(2 * self.value_heads, hidden)

    def core(self, positions: int) -> AttentionCore:
        return AttentionCore("attention_gdn", self._sizes(positions))


class KimiDelta(_Delta):
    """Kimi delta attention (Kimi Linear, Kimi-K3): one decay for each channel and token."""

    kind: Literal["kda"]
    full_rank_gate: bool = False
    """Whether the output gate is one projection of the hidden state (Kimi-K3), not down and up."""

    def before_core(self, hidden: int) -> tuple[Projection, ...]:
        """Return Q, K and V fused, then decay and gate down with the step sizes, then both up.

        A gate of full rank is fused with the first.
        """
        keys, values = self.key_heads * self.key_dim, self.value_heads * self.value_dim
        first, decay = 2 * keys + values, self.value_heads * self.key_dim
        if self.full_rank_gate:
            down = Projection(self.value_dim + self.value_heads, hidden)
            return Projection(first + values, hidden), down, Projection(decay, self.value_dim)
        down = Projection(2 * self.value_dim + self.value_heads, hidden)
        return Projection(first, hidden), down, Projection(decay + values, self.value_dim)

    def core(self, positions: int) -> AttentionCore:
        return AttentionCore("attention_kda", self._sizes(positions))


class Mamba2(_Recurrent):
    """Mamba-2 (Nemotron-H): a state-space model whose decay is one number for each head."""

    kind: Literal["mamba2"]
    heads: Heads
    """Heads, each with a state."""
    head_dim: Width
    """Width of a head, elements."""
    state: Width
    """Elements of state for each channel of a head."""
    groups: Heads
    """Groups of heads that share what they write by and read by."""

    @property
    def core_heads(self) -> int:
        return self.heads

    def before_core(self, hidden: int) -> tuple[Projection, ...]:
        """Return gate, input, B, C and step sizes fused."""
        inner = self.heads * self.head_dim
        return (Projection(2 * inner + 2 * self.groups * self.state + self.heads, hidden),)

    def after_core(self, hidden: int) -> tuple[Projection, ...]:
        return (Projection(hidden, self.heads * self.head_dim),)

    def state_elements(self) -> int:
        return self.heads * self.head_dim * self.state

    def conv_channels(self) -> int:
        return self.heads * self.head_dim + 2 * self.groups * self.state

    def core(self, positions: int) -> AttentionCore:
        sizes = self.heads, self.head_dim, self.state, self.groups, self.conv, positions
        return AttentionCore("attention_mamba2", sizes)

    def core_flops(self, ctx: float) -> float:
        """Return decay (1), update (2) and read-out (2) of every element."""
        return 5.0 * self.state_elements()

    def cut(self, ways: int) -> Self:
        return self.replaced(
            heads=share(self.heads, ways, "heads"), groups=share(self.groups, ways, "groups")
        )
