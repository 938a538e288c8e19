"""Softmax attention over keys and values of every head: grouped-query, MFA and block-sparse."""

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


class Softmax(AttentionKind):
    query_heads: Heads
    """Query heads of a layer."""
    kv_heads: Heads
    """KV heads, each shared by as many query heads."""
    head_dim: Width
    """Width of a head, elements."""
    window: Tokens | None = None
    """Context tokens a layer looks back at most (sliding or chunked window); absent: all."""
    kv_dtype: DType
    """Format of the KV cache in the published serving recipe."""
    source: str
    """Where its figures were read."""

    @property
    def core_heads(self) -> int:
        return self.query_heads

    @property
    def value_width(self) -> int:
        """Elements of a head of values."""
        return self.head_dim

    def after_core(self, hidden: int) -> tuple[Projection, ...]:
        return (Projection(hidden, self.query_heads * self.value_width),)

    def core(self, positions: int) -> AttentionCore:
        # Tokens that read the same cache are that many times the query heads to a kernel. Keys and
        # values of two widths are the FLOPs and bytes of twice their mean.
        width = (self.head_dim + self.value_width) / 2
        head_dim = self.head_dim if self.value_width == self.head_dim else width
        sizes = self.query_heads * positions, self.kv_heads, head_dim
        return AttentionCore("attention_gqa", sizes, self.window)

    def core_flops(self, ctx: float) -> float:
        widths = self.head_dim + self.value_width
        return self.query_heads * widths * 2 * self.attended_tokens(ctx)

    def cache_dtype(self, kv: str) -> str:
        return self.kv_dtype if kv == "card" else kv

    def kept_elements(self) -> dict[Window, float]:
        return {self.window: self.kv_heads * (self.head_dim + self.value_width)}

    def cut(self, ways: int) -> Self:
        """Return a share of the heads; fewer KV heads than GPUs are on several of them."""
        kv_heads = 1 if ways % self.kv_heads == 0 else share(self.kv_heads, ways, "KV heads")
        return self.replaced(
            query_heads=share(self.query_heads, ways, "query heads"), kv_heads=kv_heads
        )


class _GroupedQuery(Softmax):
    value_dim: Width | None = None
    """Width of a head of values where it is not `head_dim` (MiMo)."""
    output_gate: bool = False
    """Whether a projection as wide as the core's result gates it (Qwen3.5)."""
    k_is_v: bool = False
    """Whether values are projected by the keys' weights (Gemma 4's full layers); both are kept."""

    @property
    def value_width(self) -> int:
        return self.value_dim or self.head_dim

    def before_core(self, hidden: int) -> tuple[Projection, ...]:
        """Return Q, K, V and the gate fused."""
        value = self.value_width
        columns = self.query_heads * self.head_dim + self.kv_heads * self.head_dim
        columns += 0 if self.k_is_v else self.kv_heads * value
        columns += self.query_heads * value if self.output_gate else 0
        return (Projection(columns, hidden),)


class Gqa(_GroupedQuery):
    """Grouped-query attention (multi-head if kv_heads = query_heads)."""

    kind: Literal["gqa"]


class BlockSparseGqa(_GroupedQuery):
    """Grouped-query attention over the blocks of context that an indexer chooses (MiniMax-M3).

    An index head for each KV head scores the index keys of all tokens; each block takes its best
    score. Up to `top_blocks` blocks of context, it is dense. Index keys are BF16, whatever the
    format of the cache: with longer contexts, blocks of vLLM, SGLang and TensorRT-LLM take 35 to 40
    ps more a token on B200 and 57 to 61 on H200, with caches of either format. These are 256 B at
    0.8 to 0.94 of the bandwidth.
    """

    measured_whole: ClassVar[bool] = True

    kind: Literal["block_sparse"]
    block_tokens: Tokens
    """Tokens of one block."""
    top_blocks: Annotated[int, Field(ge=1, le=10**6)]
    """Blocks that a token attends to, its own among them."""
    index_heads: Heads
    """Heads of the indexer."""
    index_dim: Width
    """Width of an indexer head, elements."""

    def before_core(self, hidden: int) -> tuple[Projection, ...]:
        """Return Q, K and V fused with the index queries and the index key."""
        (fused,) = super().before_core(hidden)
        return (fused._replace(n=fused.n + (self.index_heads + 1) * self.index_dim),)

    def core(self, positions: int) -> AttentionCore:
        sizes = (
            *(self.query_heads * positions, self.kv_heads, (self.head_dim + self.value_width) / 2),
            *(self.index_heads * positions, self.index_dim),
            *(self.block_tokens * self.top_blocks, positions),
        )
        return AttentionCore("attention_block_sparse", sizes, self.window)

    def attended_tokens(self, ctx: float) -> float:
        return min(super().attended_tokens(ctx), self.block_tokens * self.top_blocks)

    def indexed_tokens(self, ctx: float) -> float:
        """Return the context tokens whose index keys are scored: none where all are attended to."""
        seen = super().attended_tokens(ctx)
        return seen if seen > self.block_tokens * self.top_blocks else 0.0

    def core_flops(self, ctx: float) -> float:
        index = self.index_heads * self.index_dim * 2 * self.indexed_tokens(ctx)
        return super().core_flops(ctx) + index

    def index_bytes(self) -> float:
        """Return bytes of a token's index key."""
        return self.index_dim * DTYPE_BYTES["bf16"]

    def kept_bytes(self, kv: str) -> dict[Window, float]:
        ((window, n_bytes),) = super().kept_bytes(kv).items()
        return {window: n_bytes + self.index_bytes()}

    def read_bytes(self, kv: str, ctx: float) -> float:
        ((_window, kept),) = super().kept_bytes(kv).items()
        return kept * self.attended_tokens(ctx) + self.index_bytes() * self.indexed_tokens(ctx)

    def cut(self, ways: int) -> Self:
        index_heads = 1 if ways % self.index_heads == 0 else self.index_heads // ways
        return super().cut(ways).replaced(index_heads=index_heads)


class Mfa(Softmax):
    """Multi-matrix factorization attention (Step-3): low-rank query, few wide KV heads."""

    kind: Literal["mfa"]
    query_rank: Width
    """Width of the latent that queries are made of, elements."""

    def before_core(self, hidden: int) -> tuple[Projection, ...]:
        """Return query down, K and V fused, then query up."""
        down = Projection(self.query_rank + 2 * self.kv_heads * self.head_dim, hidden)
        return down, Projection(self.query_heads * self.head_dim, self.query_rank)
