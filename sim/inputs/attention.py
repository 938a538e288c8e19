"""Attention kinds: what a layer projects, keeps of its context and computes for a decoded token.

A new kind is a subclass of `AttentionKind` and a member of `Attention`. Its core is named by an
operation in `sim/kernels/cores.py`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field

from sim.foundation.units import DTYPE_BYTES, DType
from sim.inputs.base import Strict

# Ranges that no model comes near the end of: what lies outside is a slip of the pen.
Width = Annotated[int, Field(ge=1, le=1_000_000)]
Heads = Annotated[int, Field(ge=1, le=65_536)]

Window = int | None
"""Context tokens of a request, the latest ones; None: all."""


class Projection(NamedTuple):
    """A linear layer: `groups` independent (k → n) products of the same rows."""

    n: int
    k: int
    groups: int = 1

    def weights(self) -> int:
        """Return weight elements."""
        return self.groups * self.n * self.k


class AttentionCore(NamedTuple):
    """What stands between the projections, as kernels know it."""

    op: str
    """Operation in `sim/kernels/cores.py`."""
    sizes: tuple[float, ...]
    """Its sizes, in the order of that operation."""
    window: Window = None
    """What it reads of a request's context."""


class AttentionKind(Strict):
    """What every kind of attention tells; without more, a layer keeps all of its context."""

    @abstractmethod
    def before_core(self, hidden: int) -> tuple[Projection, ...]:
        """Return the projections before the core."""

    @abstractmethod
    def after_core(self, hidden: int) -> tuple[Projection, ...]:
        """Return the projections after the core, the output's last."""

    @abstractmethod
    def core(self, positions: int) -> AttentionCore:
        """Return the core for requests of `positions` tokens that attend to one context."""

    @abstractmethod
    def core_flops(self, ctx: float) -> float:
        """Return FLOPs of the core for one decoded token, as the Step-3 report counts them."""

    @abstractmethod
    def cache_dtype(self, kv: str) -> str:
        """Return the format of what is kept; `kv` is the scenario's, or `card`."""

    @abstractmethod
    def kept_elements(self) -> dict[Window, int]:
        """Return elements kept per context token, by the window that they are kept for."""

    def state_bytes(self) -> float:
        """Return bytes of constant state per request."""
        return 0.0

    def kept_bytes(self, kv: str) -> dict[Window, float]:
        """Return bytes kept per context token, by the window that they are kept for."""
        width = DTYPE_BYTES[self.cache_dtype(kv)]
        return {window: elements * width for window, elements in self.kept_elements().items()}

    def attended_tokens(self, ctx: float) -> float:
        """Return the context tokens that the core reads for one decoded token."""
        window = self.core(1).window
        return ctx if window is None else min(ctx, window)

    def read_bytes(self, kv: str, ctx: float) -> float:
        """Return bytes read for one decoded token, without a state."""
        return sum(self.kept_bytes(kv).values()) * self.attended_tokens(ctx)

    @abstractmethod
    def cut(self, ways: int) -> Self:
        """Return what each of `ways` GPUs has whose heads are shared out over them.

        Raises ValueError if they do not divide.
        """

    def weights(self, hidden: int) -> int:
        """Return weight elements of a layer, all projections together."""
        both = (*self.before_core(hidden), *self.after_core(hidden))
        return sum(projection.weights() for projection in both)


class _Softmax(AttentionKind):
    query_heads: Heads
    kv_heads: Heads
    head_dim: Width
    window: Annotated[int, Field(ge=1, le=10**9)] | None = None
    """Context tokens a layer looks back at most (sliding or chunked window); absent: all."""
    kv_dtype: DType
    """Format of the KV cache in the published serving recipe."""
    source: str

    def after_core(self, hidden: int) -> tuple[Projection, ...]:
        return (Projection(hidden, self.query_heads * self.head_dim),)

    def core(self, positions: int) -> AttentionCore:
        # Tokens that read the same cache are that many times the query heads to a kernel.
        sizes = self.query_heads * positions, self.kv_heads, self.head_dim
        return AttentionCore("attention_gqa", sizes, self.window)

    def core_flops(self, ctx: float) -> float:
        return self.query_heads * self.head_dim * 4 * self.attended_tokens(ctx)

    def cache_dtype(self, kv: str) -> str:
        return self.kv_dtype if kv == "card" else kv

    def kept_elements(self) -> dict[Window, int]:
        return {self.window: self.kv_heads * 2 * self.head_dim}

    def cut(self, ways: int) -> Self:
        """Return a share of the heads; fewer KV heads than GPUs are on several of them."""
        kv_heads = 1 if ways % self.kv_heads == 0 else _share(self.kv_heads, ways, "KV heads")
        return self.replaced(
            query_heads=_share(self.query_heads, ways, "query heads"), kv_heads=kv_heads
        )


class Gqa(_Softmax):
    """Grouped-query attention (multi-head if kv_heads = query_heads)."""

    kind: Literal["gqa"]

    def before_core(self, hidden: int) -> tuple[Projection, ...]:
        """Return Q, K and V fused."""
        return (Projection((self.query_heads + 2 * self.kv_heads) * self.head_dim, hidden),)


class Mfa(_Softmax):
    """Multi-matrix factorization attention (Step-3): low-rank query, few wide KV heads."""

    kind: Literal["mfa"]
    query_rank: Width

    def before_core(self, hidden: int) -> tuple[Projection, ...]:
        """Return query down, K and V fused, then query up."""
        down = Projection(self.query_rank + 2 * self.kv_heads * self.head_dim, hidden)
        return down, Projection(self.query_heads * self.head_dim, self.query_rank)


class Mla(AttentionKind):
    """Multi-head latent attention (DeepSeek-V2/V3), weights absorbed in decoding."""

    kind: Literal["mla"]
    query_heads: Heads
    q_lora: Width | None = None
    """Rank of the query; absent where queries are projected from the hidden state at once
    (DeepSeek-V2-Lite)."""
    kv_lora: Width
    rope: Width
    nope: Width
    v: Width
    kv_dtype: DType
    source: str

    def before_core(self, hidden: int) -> tuple[Projection, ...]:
        """Return query and latent down fused, query up, and the absorption of K per head.

        Without a rank of the query, latent down and the whole query take the place of the first
        two.
        """
        latent, query = self.kv_lora + self.rope, self.query_heads * (self.nope + self.rope)
        absorb = Projection(self.kv_lora, self.nope, self.query_heads)
        if self.q_lora is None:
            return Projection(latent, hidden), Projection(query, hidden), absorb
        return Projection(self.q_lora + latent, hidden), Projection(query, self.q_lora), absorb

    def after_core(self, hidden: int) -> tuple[Projection, ...]:
        """Return the absorption of V per head and the output projection."""
        absorb = Projection(self.v, self.kv_lora, self.query_heads)
        return absorb, Projection(hidden, self.query_heads * self.v)

    def core(self, positions: int) -> AttentionCore:
        return AttentionCore(
            "attention_mla", (self.query_heads * positions, self.kv_lora, self.rope)
        )

    def core_flops(self, ctx: float) -> float:
        """Return 2·(576+576) per head and context token: the report lets PV count the rotary part.

        A kernel skips that part.
        """
        return self.query_heads * 2 * 2 * (self.kv_lora + self.rope) * ctx

    def cache_dtype(self, kv: str) -> str:
        return self.kv_dtype if kv == "card" else kv

    def kept_elements(self) -> dict[Window, int]:
        """Return the latent and its rotary part."""
        return {None: self.kv_lora + self.rope}

    def cut(self, ways: int) -> Self:
        """Return a share of the heads; the latent is whole on every GPU."""
        return self.replaced(query_heads=_share(self.query_heads, ways, "query heads"))


class LinearAttention(AttentionKind):
    """Linear (lightning) attention: a constant state per head, read and written each token."""

    kind: Literal["linear"]
    heads: Heads
    head_dim: Width
    state_dtype: DType
    flops_per_state_element: Annotated[int, Field(ge=1, le=1000)]
    projections: Annotated[int, Field(ge=2, le=16)]
    """Number of hidden × (heads·head_dim) projections of a layer (Q, K, V, gate, output: 5)."""
    source: str

    def before_core(self, hidden: int) -> tuple[Projection, ...]:
        """Return all projections but the output's, fused."""
        return (Projection((self.projections - 1) * self.heads * self.head_dim, hidden),)

    def after_core(self, hidden: int) -> tuple[Projection, ...]:
        return (Projection(hidden, self.heads * self.head_dim),)

    def core(self, positions: int) -> AttentionCore:
        sizes = self._state_elements(), self.core_flops(0) * positions
        return AttentionCore("attention_linear", sizes)

    def core_flops(self, ctx: float) -> float:
        """Return FLOPs of the state update and read-out, whatever the context."""
        return float(self._state_elements() * self.flops_per_state_element)

    def cache_dtype(self, kv: str) -> str:
        return self.state_dtype

    def kept_elements(self) -> dict[Window, int]:
        return {}

    def state_bytes(self) -> float:
        return self._state_elements() * DTYPE_BYTES[self.state_dtype]

    def cut(self, ways: int) -> Self:
        return self.replaced(heads=_share(self.heads, ways, "heads"))

    def _state_elements(self) -> int:
        return self.heads * self.head_dim * self.head_dim


def _share(heads: int, ways: int, what: str) -> int:
    if heads % ways:
        raise ValueError(f"{heads} {what} do not divide over {ways} GPUs")
    return heads // ways


Attention = Annotated[Gqa | Mfa | Mla | LinearAttention, Field(discriminator="kind")]
