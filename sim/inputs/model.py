"""Model cards: shapes, and the FLOPs and bytes they cost per decoded token (DESIGN §3).

FLOPs count 2 per multiply-add; `ctx` is the number of context tokens a decoded token attends to.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from sim.foundation.errors import did_you_mean
from sim.foundation.units import DTYPE_BYTES, DType
from sim.inputs.base import Strict
from sim.inputs.naming import Name

# Ranges that no model comes near the end of: what lies outside is a slip of the pen.
Width = Annotated[int, Field(ge=1, le=1_000_000)]
Experts = Annotated[int, Field(ge=1, le=65_536)]
Heads = Annotated[int, Field(ge=1, le=65_536)]


class Projection(NamedTuple):
    """A linear layer: `groups` independent (k → n) products of the same rows."""

    n: int
    k: int
    groups: int = 1

    def weights(self) -> int:
        """Return weight elements."""
        return self.groups * self.n * self.k


class _SoftmaxAttention(Strict):
    query_heads: Heads
    kv_heads: Heads
    head_dim: Width
    window: Annotated[int, Field(ge=1, le=10**9)] | None = None
    """Context tokens a layer looks back at most (sliding or chunked window); absent: all."""
    kv_dtype: DType
    """Format of the KV cache in the published serving recipe."""
    source: str

    def attended_tokens(self, ctx: float) -> float:
        """Return the context tokens that this layer reads for one decoded token."""
        return ctx if self.window is None else min(ctx, self.window)

    def kv_elements_per_token(self) -> int:
        """Return cached elements per context token: K and V of every KV head."""
        return self.kv_heads * 2 * self.head_dim

    def state_bytes(self) -> float:
        """Return bytes of constant state per request (none: this layer caches KV)."""
        return 0.0

    def core_flops(self, ctx: float) -> float:
        """Return FLOPs of QKᵀ and PV for one decoded token."""
        return self.query_heads * self.head_dim * 4 * self.attended_tokens(ctx)

    def effective_rank(self) -> int:
        """Return query heads × head dim, the attention effective rank of the Step-3 report."""
        return self.query_heads * self.head_dim


class Gqa(_SoftmaxAttention):
    """Grouped-query attention (multi-head if kv_heads = query_heads)."""

    kind: Literal["gqa"]

    def before_core(self, hidden: int) -> tuple[Projection, ...]:
        """Return the projections before the core: Q, K and V fused."""
        return (Projection((self.query_heads + 2 * self.kv_heads) * self.head_dim, hidden),)

    def after_core(self, hidden: int) -> tuple[Projection, ...]:
        """Return the output projection."""
        return (Projection(hidden, self.query_heads * self.head_dim),)


class Mfa(_SoftmaxAttention):
    """Multi-matrix factorization attention (Step-3): low-rank query, few wide KV heads."""

    kind: Literal["mfa"]
    query_rank: Width

    def before_core(self, hidden: int) -> tuple[Projection, ...]:
        """Return query down, K and V fused, then query up."""
        down = Projection(self.query_rank + 2 * self.kv_heads * self.head_dim, hidden)
        return down, Projection(self.query_heads * self.head_dim, self.query_rank)

    def after_core(self, hidden: int) -> tuple[Projection, ...]:
        """Return the output projection."""
        return (Projection(hidden, self.query_heads * self.head_dim),)


class Mla(Strict):
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

    def attended_tokens(self, ctx: float) -> float:
        """Return the context tokens that this layer reads for one decoded token: all."""
        return ctx

    def kv_elements_per_token(self) -> int:
        """Return cached elements per context token: the latent and its rotary part."""
        return self.kv_lora + self.rope

    def state_bytes(self) -> float:
        """Return bytes of constant state per request (none: this layer caches KV)."""
        return 0.0

    def core_flops(self, ctx: float) -> float:
        """Return FLOPs of the core as the Step-3 report counts them, 2·(576+576) per head."""
        return self.query_heads * 2 * 2 * (self.kv_lora + self.rope) * ctx

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

    def effective_rank(self) -> int:
        """Return heads × nope dim, the attention effective rank of the Step-3 report."""
        return self.query_heads * self.nope


class LinearAttention(Strict):
    """Linear (lightning) attention: a constant state per head, read and written each token."""

    kind: Literal["linear"]
    heads: Heads
    head_dim: Width
    state_dtype: DType
    flops_per_state_element: Annotated[int, Field(ge=1, le=1000)]
    projections: Annotated[int, Field(ge=2, le=16)]
    """Number of hidden × (heads·head_dim) projections of a layer (Q, K, V, gate, output: 5)."""
    source: str

    def attended_tokens(self, ctx: float) -> float:
        """Return the context tokens that this layer reads for one decoded token: none."""
        return 0.0

    def kv_elements_per_token(self) -> int:
        """Return cached elements per context token: none."""
        return 0

    def state_elements(self) -> int:
        """Return elements of the state of one request."""
        return self.heads * self.head_dim * self.head_dim

    def state_bytes(self) -> float:
        """Return bytes of the state of one request."""
        return self.state_elements() * DTYPE_BYTES[self.state_dtype]

    def core_flops(self, ctx: float) -> float:
        """Return FLOPs of the state update and read-out for one decoded token."""
        return float(self.state_elements() * self.flops_per_state_element)

    def before_core(self, hidden: int) -> tuple[Projection, ...]:
        """Return all projections but the output's, fused."""
        return (Projection((self.projections - 1) * self.heads * self.head_dim, hidden),)

    def after_core(self, hidden: int) -> tuple[Projection, ...]:
        """Return the output projection."""
        return (Projection(hidden, self.heads * self.head_dim),)

    def effective_rank(self) -> int:
        """Return heads × head dim."""
        return self.heads * self.head_dim


def attention_weights(attention: Attention, hidden: int) -> int:
    """Return weight elements of one attention layer, all projections together."""
    both = (*attention.before_core(hidden), *attention.after_core(hidden))
    return sum(projection.weights() for projection in both)


Attention = Annotated[Gqa | Mfa | Mla | LinearAttention, Field(discriminator="kind")]


class DenseFfn(Strict):
    """A dense gated FFN: up, gate and down projection."""

    kind: Literal["dense"]
    intermediate: Width
    source: str

    def weights(self, hidden: int) -> int:
        """Return weight elements held for one layer."""
        return 3 * hidden * self.intermediate

    def active_weights(self, hidden: int) -> int:
        """Return weight elements that one token multiplies with."""
        return self.weights(hidden)


class MoeFfn(Strict):
    """A mixture of gated experts with optional shared experts."""

    kind: Literal["moe"]
    experts: Experts
    top_k: Experts
    expert_intermediate: Width
    shared: Annotated[int, Field(ge=0, le=1024)]
    shared_intermediate: Annotated[int, Field(ge=0, le=1_000_000)]
    """Intermediate size of one shared expert; 0 without one."""
    source: str

    @model_validator(mode="after")
    def _check(self) -> MoeFfn:
        if self.top_k > self.experts:
            raise ValueError(f"top_k {self.top_k} exceeds the {self.experts} experts")
        if (self.shared == 0) != (self.shared_intermediate == 0):
            raise ValueError("shared and shared_intermediate must both be 0 or both positive")
        return self

    def expert_weights(self, hidden: int) -> int:
        """Return weight elements of one routed expert."""
        return 3 * hidden * self.expert_intermediate

    def shared_weights(self, hidden: int) -> int:
        """Return weight elements of all shared experts."""
        return self.shared * 3 * hidden * self.shared_intermediate

    def weights(self, hidden: int) -> int:
        """Return weight elements held for one layer, router left out."""
        return self.experts * self.expert_weights(hidden) + self.shared_weights(hidden)

    def active_weights(self, hidden: int) -> int:
        """Return weight elements that one token multiplies with, router left out."""
        return self.top_k * self.expert_weights(hidden) + self.shared_weights(hidden)

    def sparsity(self) -> float:
        """Return (top_k + shared) / (E + shared), the S of Step-3's table 7."""
        return (self.top_k + self.shared) / (self.experts + self.shared)


Ffn = Annotated[DenseFfn | MoeFfn, Field(discriminator="kind")]


class Layer(Strict):
    """One layer: the names of its attention and its FFN among the card's variants."""

    attention: str
    ffn: str


# Published models have up to some 130; every layer is a part of every step.
MOST_LAYERS = 1_000


class LayerGroup(Strict):
    """A pattern of layers that repeats."""

    repeat: Annotated[int, Field(ge=1, le=MOST_LAYERS)]
    pattern: Annotated[list[Layer], Field(min_length=1)]


class ModelCard(Strict):
    """A model: its layer variants and the order in which they stand."""

    kind: Literal["model"]
    name: Name
    title: str
    hidden: Width
    vocab: Annotated[int, Field(ge=1, le=10**8)]
    attention: dict[str, Attention]
    ffn: dict[str, Ffn]
    layers: Annotated[list[LayerGroup], Field(min_length=1)]
    max_context_tokens: Annotated[int, Field(ge=1, le=10**9)] | None = None
    """Longest context that the model is published for; a run beyond it says so."""
    source: str
    """Where hidden size, vocabulary and layer order were read."""

    @field_validator("layers")
    @classmethod
    def _few_enough(cls, layers: list[LayerGroup]) -> list[LayerGroup]:
        found = sum(group.repeat * len(group.pattern) for group in layers)
        if found > MOST_LAYERS:
            raise ValueError(f"{found:,} layers, of {MOST_LAYERS:,} at most; lower repeat")
        return layers

    @model_validator(mode="after")
    def _check(self) -> ModelCard:
        for group in self.layers:
            for layer in group.pattern:
                if layer.attention not in self.attention:
                    remedy = did_you_mean(layer.attention, self.attention)
                    raise ValueError(f"layers name attention {layer.attention!r}: {remedy}")
                if layer.ffn not in self.ffn:
                    remedy = did_you_mean(layer.ffn, self.ffn)
                    raise ValueError(f"layers name ffn {layer.ffn!r}: {remedy}")
        return self

    def with_layer(self, layer: Layer) -> ModelCard:
        """Return the card with another layer after its last."""
        more = LayerGroup(repeat=1, pattern=[layer])
        # A copy would keep what is derived from the layers.
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return ModelCard.model_construct(**fields | {"layers": [*self.layers, more]})

    @cached_property
    def layer_sequence(self) -> tuple[Layer, ...]:
        """The layers from first to last."""
        return tuple(
            layer for group in self.layers for _ in range(group.repeat) for layer in group.pattern
        )

    @cached_property
    def layer_counts(self) -> dict[Layer, int]:
        """How often each kind of layer stands in the model, in order of first appearance."""
        counts: dict[Layer, int] = {}
        for layer in self.layer_sequence:
            counts[layer] = counts.get(layer, 0) + 1
        return counts
