"""Compressed attention of DeepSeek-V4: entries that stand for several tokens, and a window.

CSA keeps an entry for 4 tokens and lets an indexer choose among them, HCA one for 128 and reads
all (DeepSeek-V4 report, arXiv 2606.19348). Every head reads the same entries, keys and values at
once; the latest tokens are read as they are.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

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
from sim.inputs.attention.latent import INDEX_SCALE_BYTES
from sim.inputs.base import Strict

# In FP8 the part without positions has a scale for 64 elements and is padded to 8 of them; the
# rotary part stays BF16: 584 bytes of an entry of 512 (SGLang, DSV4PoolConfigurator).
_SCALES_BYTES = 8
# Compressors keep the keys and the gates of the tokens that are not compressed yet in FP32.
_KEYS_AND_GATES = 2


class EntryIndex(Strict):
    """The indexer of CSA: it chooses the entries that a token reads."""

    heads: Heads
    """Heads of the indexer."""
    dim: Width
    """Width of each of them, elements."""
    top_k: Annotated[int, Field(ge=1, le=10**9)]
    """Entries that a token reads."""


class Compression(Strict):
    """How tokens become entries."""

    tokens: Tokens
    """Tokens of context for each entry."""
    overlap: bool
    """Whether an entry also takes in the tokens of the one before it (CSA)."""
    state_rows: Annotated[int, Field(ge=1, le=10**6)]
    """Tokens whose keys and gates a compressor keeps for each request."""


class CompressedAttention(AttentionKind):
    """DeepSeek-V4's attention: CSA with an index, HCA without one, or the window alone."""

    measured_whole: ClassVar[bool] = True

    kind: Literal["compressed"]
    query_heads: Heads
    """Query heads of a layer."""
    q_lora: Width
    """Width of the latent that queries are made of, elements."""
    head_dim: Width
    """Width of an entry, and of a head's query."""
    rope: Width
    """Rotary part of it."""
    o_groups: Heads
    """Groups of heads whose outputs are projected down apart, before all are projected up."""
    o_lora: Width
    """Rank of the output of each group of heads."""
    window: Tokens
    """Latest tokens that are read as they are."""
    compression: Compression | None = None
    """Absent: the window alone."""
    index: EntryIndex | None = None
    """Absent: all entries are read."""
    window_pool: Annotated[float, Field(gt=0, le=1)] | None = None
    """Window and compressor rows that an engine keeps for each token of context that it has room
    for (SGLang's swa_full_tokens_ratio); absent: those of each request."""
    kv_dtype: DType
    """Format in which KV is kept where a scenario's `precision.kv` is `card`."""
    source: str
    """Where its figures were read."""

    @model_validator(mode="after")
    def _window_within_choice(self) -> Self:
        chosen = 0 if self.index is None else self.index.top_k
        if self.index is not None and self.compression is None:
            raise ValueError("an index chooses among entries, and there is no compression")
        if self.compression is not None and 0 < chosen * self.compression.tokens < self.window:
            raise ValueError(
                f"{chosen} entries of {self.compression.tokens} tokens are fewer tokens than the "
                f"window of {self.window}"
            )
        return self

    @property
    def core_heads(self) -> int:
        return self.query_heads

    def before_core(self, hidden: int) -> tuple[Projection, ...]:
        """Return query and entry down fused with the compressors, query up, and index queries."""
        down = self.q_lora + self.head_dim
        compression, index = self.compression, self.index
        if compression is not None:
            widths = self.head_dim + (0 if index is None else index.dim)
            down += _KEYS_AND_GATES * (1 + compression.overlap) * widths
        down += 0 if index is None else index.heads
        parts = [
            Projection(down, hidden),
            Projection(self.query_heads * self.head_dim, self.q_lora),
        ]
        if index is not None:
            parts.append(Projection(index.heads * index.dim, self.q_lora))
        return tuple(parts)

    def after_core(self, hidden: int) -> tuple[Projection, ...]:
        """Return the output down by groups of heads, and up."""
        heads = self.query_heads // self.o_groups
        down = Projection(self.o_lora, heads * self.head_dim, self.o_groups)
        return down, Projection(hidden, self.o_groups * self.o_lora)

    def core(self, positions: int) -> AttentionCore:
        compression, index = self.compression, self.index
        sizes = (
            *(self.query_heads * positions, self.head_dim, self.rope, self.window),
            0 if compression is None else compression.tokens,
        )
        if compression is None:
            return AttentionCore("attention_hca", sizes, self.window)
        if index is None:
            return AttentionCore("attention_hca", sizes)
        indexed = index.heads * positions, index.dim, index.top_k, positions
        return AttentionCore("attention_csa", (*sizes, *indexed))

    def entries(self, ctx: float) -> float:
        """Return the entries that stand for `ctx` tokens."""
        return 0.0 if self.compression is None else ctx / self.compression.tokens

    def indexed_entries(self, ctx: float) -> float:
        """Return the entries that are scored: none where all are read."""
        chosen = self.index is not None and self.entries(ctx) > self.index.top_k
        return self.entries(ctx) if chosen else 0.0

    def attended_tokens(self, ctx: float) -> float:
        """Return the tokens of the window and the entries that the core reads."""
        entries = self.entries(ctx)
        read = entries if self.index is None else min(entries, self.index.top_k)
        return min(ctx, self.window) + read

    def core_flops(self, ctx: float) -> float:
        core = self.query_heads * self.head_dim * 4 * self.attended_tokens(ctx)
        if self.index is None:
            return core
        return core + self.index.heads * self.index.dim * 2 * self.indexed_entries(ctx)

    def cache_dtype(self, kv: str) -> str:
        return self.kv_dtype if kv == "card" else kv

    def kept_elements(self) -> dict[Window, float]:
        return {None: self.head_dim * self.entries(1), self.window: self.head_dim}

    def entry_bytes(self, kv: str) -> float:
        """Return bytes of an entry, or of a token of the window."""
        return entry_bytes(self.cache_dtype(kv), self.head_dim, self.rope)

    def index_bytes(self) -> float:
        """Return bytes of an index key with its scale."""
        return 0.0 if self.index is None else self.index.dim + INDEX_SCALE_BYTES

    def kept_bytes(self, kv: str) -> dict[Window, float]:
        entries = (self.entry_bytes(kv) + self.index_bytes()) * self.entries(1)
        if self.window_pool is None:
            return {None: entries, self.window: self.entry_bytes(kv)}
        rows = self._rows_bytes() / self.window
        pooled = entries + self.window_pool * (self.entry_bytes(kv) + rows)
        # The pool holds the window's tokens; cores still ask how many a request has.
        return {None: pooled, self.window: 0.0}

    def state_bytes(self) -> float:
        return self._rows_bytes() if self.window_pool is None else 0.0

    def _rows_bytes(self) -> float:
        """Return bytes of what the compressors keep of a request's latest tokens."""
        compression = self.compression
        if compression is None:
            return 0.0
        widths = self.head_dim + (0 if self.index is None else self.index.dim)
        row = _KEYS_AND_GATES * (1 + compression.overlap) * widths * DTYPE_BYTES["fp32"]
        return compression.state_rows * row

    def read_bytes(self, kv: str, ctx: float) -> float:
        core = self.entry_bytes(kv) * self.attended_tokens(ctx)
        return core + self.index_bytes() * self.indexed_entries(ctx)

    def cut(self, ways: int) -> Self:
        """Return a share of heads and groups; entries and indexer are whole on every GPU."""
        return self.replaced(
            query_heads=share(self.query_heads, ways, "query heads"),
            o_groups=share(self.o_groups, ways, "groups of heads"),
        )


def entry_bytes(dtype: str, head_dim: int, rope: int) -> float:
    """Return bytes of an entry of `head_dim` elements, the last `rope` of which are rotary."""
    if DTYPE_BYTES[dtype] >= DTYPE_BYTES["bf16"]:
        return head_dim * DTYPE_BYTES[dtype]
    plain = (head_dim - rope) * DTYPE_BYTES[dtype]
    return plain + rope * DTYPE_BYTES["bf16"] + _SCALES_BYTES
