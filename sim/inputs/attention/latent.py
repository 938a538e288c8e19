"""Multi-head latent attention: over all of the context, or over the tokens an indexer chooses."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field

from sim.foundation.units import DTYPE_BYTES, DType
from sim.inputs.attention.kind import (
    AttentionCore,
    AttentionKind,
    Heads,
    Projection,
    Tokens,
    Width,
    Window,
    share,
)

# An FP8 index key has one FP32 scale for its 128 elements.
INDEX_SCALE_BYTES = 4


class Latent(AttentionKind):
    query_heads: Heads
    """Query heads of a layer."""
    q_lora: Width | None = None
    """Rank of the query; absent where queries are projected from the hidden state at once
    (DeepSeek-V2-Lite)."""
    kv_lora: Width
    """Width of the latent that KV is kept as, elements."""
    rope: Annotated[int, Field(ge=0, le=1_000_000)]
    """Rotary part of keys and queries; 0: no layer has positions."""
    nope: Width
    """Width of a head's key that carries no position, elements."""
    v: Width
    """Width of a head's value, elements."""
    output_gate: bool = False
    """Whether a projection of the hidden state, as wide as all heads' values, gates the result."""
    kv_dtype: DType
    """Format in which KV is kept where a scenario's `precision.kv` is `card`."""
    source: str
    """Where its figures were read."""

    @property
    def core_heads(self) -> int:
        return self.query_heads

    def before_core(self, hidden: int) -> tuple[Projection, ...]:
        """Return query and latent down fused, query up, and the absorption of K per head.

        Without a rank of the query, latent down and the whole query take the place of the first
        two. A gate is fused with the first.
        """
        latent, query = self.kv_lora + self.rope, self.query_heads * (self.nope + self.rope)
        latent += self.query_heads * self.v if self.output_gate else 0
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

    def kept_elements(self) -> dict[Window, float]:
        """Return the latent and its rotary part."""
        return {None: self.kv_lora + self.rope}

    def cut(self, ways: int) -> Self:
        """Return a share of the heads; the latent is whole on every GPU."""
        return self.replaced(query_heads=share(self.query_heads, ways, "query heads"))


class Mla(Latent):
    """Multi-head latent attention (DeepSeek-V2/V3), weights absorbed in decoding."""

    kind: Literal["mla"]


class Dsa(Latent):
    """DeepSeek sparse attention (V3.2, GLM-5): an indexer chooses the tokens a core reads.

    The indexer scores an FP8 key of every context token with each of its heads. Up to `top_k`
    tokens of context nothing is scored, and the core is that of MLA.
    """

    measured_whole: ClassVar[bool] = True

    kind: Literal["dsa"]
    index_heads: Heads
    """Heads of the indexer."""
    index_dim: Width
    """Width of an indexer head, elements."""
    top_k: Tokens
    """Context tokens that a token attends to."""
    indexes: bool = True
    """Whether the layer has an indexer; false: it takes the choice of a layer before it (GLM-5.2),
    whose index cache engines keep room for all the same."""

    def before_core(self, hidden: int) -> tuple[Projection, ...]:
        """Return MLA's, and the index queries, key and weights of heads."""
        latent = super().before_core(hidden)
        if not self.indexes:
            return latent
        queries = Projection(self.index_heads * self.index_dim, self.q_lora or hidden)
        return *latent, queries, Projection(self.index_dim + self.index_heads, hidden)

    def core(self, positions: int) -> AttentionCore:
        index_heads = self.index_heads * positions if self.indexes else 0
        sizes = (
            *(self.query_heads * positions, self.kv_lora, self.rope),
            *(index_heads, self.index_dim, self.top_k, positions),
        )
        return AttentionCore("attention_dsa", sizes)

    def attended_tokens(self, ctx: float) -> float:
        return min(ctx, self.top_k)

    def indexed_tokens(self, ctx: float) -> float:
        """Return the context tokens that are scored: none where all are attended to."""
        return ctx if self.indexes and ctx > self.top_k else 0.0

    def core_flops(self, ctx: float) -> float:
        index = self.index_heads * self.index_dim * 2 * self.indexed_tokens(ctx)
        return super().core_flops(self.attended_tokens(ctx)) + index

    def index_bytes(self) -> float:
        """Return bytes of a token's index key with its scale."""
        return self.index_dim * DTYPE_BYTES["fp8"] + INDEX_SCALE_BYTES

    def kept_bytes(self, kv: str) -> dict[Window, float]:
        """Return bytes of latent and index key, as engines lay them out: in every layer."""
        return {None: super().kept_bytes(kv)[None] + self.index_bytes()}

    def read_bytes(self, kv: str, ctx: float) -> float:
        latent = super().kept_bytes(kv)[None]
        return latent * self.attended_tokens(ctx) + self.index_bytes() * self.indexed_tokens(ctx)
