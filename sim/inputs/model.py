"""Model cards: shapes, and the FLOPs and bytes they cost per decoded token (DESIGN §3).

FLOPs count 2 per multiply-add; `ctx` is the number of context tokens a decoded token attends to.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from sim.foundation.errors import did_you_mean
from sim.inputs.attention import Attention, Width
from sim.inputs.base import Strict
from sim.inputs.checkpoint import Checkpoint, Encoder
from sim.inputs.naming import Name

# Ranges that no model comes near the end of: what lies outside is a slip of the pen.
Experts = Annotated[int, Field(ge=1, le=65_536)]


class DenseFfn(Strict):
    """A dense FFN: up, gate and down projection."""

    kind: Literal["dense"]
    intermediate: Width
    """Width between up and down projection, elements."""
    gated: bool = True
    """Whether it has a gate; false: up and down projection alone (Nemotron's ReLU²)."""
    source: str
    """Where its figures were read."""

    def weights(self, hidden: int) -> int:
        """Return weight elements held for one layer."""
        return matrices(self.gated) * hidden * self.intermediate

    def active_weights(self, hidden: int) -> int:
        """Return weight elements that one token multiplies with."""
        return self.weights(hidden)


def matrices(gated: bool) -> int:
    """Return the projections of an FFN."""
    return 3 if gated else 2


class MoeFfn(Strict):
    """A mixture of experts with optional shared experts."""

    kind: Literal["moe"]
    experts: Experts
    """Routed experts."""
    top_k: Experts
    """Experts that a token chooses."""
    expert_intermediate: Width
    """Width between up and down projection of a routed expert, elements."""
    shared: Annotated[int, Field(ge=0, le=1024)]
    """Shared experts, which every token goes through; 0: none."""
    shared_intermediate: Annotated[int, Field(ge=0, le=1_000_000)]
    """Intermediate size of one shared expert; 0 without one."""
    gated: bool = True
    """Whether experts have a gate; false: up and down projection alone (Nemotron's ReLU²)."""
    latent: Width | None = None
    """Width of what routed experts take and give where it is not the hidden size: the layer
    projects tokens down before it dispatches them, and the sum of results up (Nemotron 3)."""
    zero_experts: Annotated[int, Field(ge=0, le=65_536)] = 0
    """Further experts that return their input and cost nothing (LongCat); tokens choose `top_k`
    among both."""
    source: str
    """Where its figures were read."""

    @model_validator(mode="after")
    def _check(self) -> MoeFfn:
        if self.top_k > self.experts:
            raise ValueError(f"top_k {self.top_k} exceeds the {self.experts} experts")
        if (self.shared == 0) != (self.shared_intermediate == 0):
            raise ValueError("shared and shared_intermediate must both be 0 or both positive")
        return self

    def width(self, hidden: int) -> int:
        """Return the elements of a token that routed experts take and give."""
        return self.latent or hidden

    def computed(self) -> float:
        """Return how many of the experts that a token chooses compute something, on average."""
        return self.top_k * self.experts / (self.experts + self.zero_experts)

    def expert_weights(self, hidden: int) -> int:
        """Return weight elements of one routed expert."""
        return matrices(self.gated) * self.width(hidden) * self.expert_intermediate

    def latent_weights(self, hidden: int) -> int:
        """Return weight elements of the projections to and from the width of the experts."""
        return 0 if self.latent is None else 2 * hidden * self.latent

    def shared_weights(self, hidden: int) -> int:
        """Return weight elements of all shared experts."""
        return self.shared * matrices(self.gated) * hidden * self.shared_intermediate

    def router_weights(self, hidden: int) -> int:
        """Return weight elements of the router, which scores experts that cost nothing, too."""
        return hidden * (self.experts + self.zero_experts)

    def weights(self, hidden: int) -> int:
        """Return weight elements held for one layer, router left out."""
        whole = self.shared_weights(hidden) + self.latent_weights(hidden)
        return self.experts * self.expert_weights(hidden) + whole

    def active_weights(self, hidden: int) -> int:
        """Return weight elements that one token multiplies with, router left out."""
        whole = self.shared_weights(hidden) + self.latent_weights(hidden)
        return round(self.computed() * self.expert_weights(hidden)) + whole

    def sparsity(self) -> float:
        """Return (k + shared) / (E + shared), the S of Step-3's table 7, of experts that cost."""
        return (self.computed() + self.shared) / (self.experts + self.shared)


Ffn = Annotated[DenseFfn | MoeFfn, Field(discriminator="kind")]


class Layer(Strict):
    """One layer: the names of its attention and its FFN among the card's variants."""

    attention: str
    """Its attention, a name under `attention`."""
    ffn: str | None = None
    """Absent: the next layer's attention follows at once (Nemotron)."""


class DraftLayer(Layer):
    """The layer of a multi-token prediction (MTP) module, which drafts tokens."""

    source: str
    """Where it was read that the model has one."""


# Published models have up to some 130; every layer is a part of every step.
MOST_LAYERS = 1_000


class LayerGroup(Strict):
    """A pattern of layers that repeats."""

    repeat: Annotated[int, Field(ge=1, le=MOST_LAYERS)]
    """How often the pattern stands, one after the other."""
    pattern: Annotated[list[Layer], Field(min_length=1)]
    """Its layers, in order."""


class ModelCard(Strict):
    """A model: its layer variants and the order in which they stand."""

    kind: Literal["model"]
    name: Name
    """Name of the card, and of its file."""
    title: str
    """What people call the model."""
    hidden: Width
    """Width of the residual stream, elements."""
    vocab: Annotated[int, Field(ge=1, le=10**8)]
    """Rows of embedding and LM head, tokens."""
    attention: dict[str, Attention]
    """Kinds of attention, each under a name that layers use."""
    ffn: dict[str, Ffn]
    """Kinds of FFN, each under a name that layers use."""
    layers: Annotated[list[LayerGroup], Field(min_length=1)]
    """The layers from first to last."""
    draft_layer: DraftLayer | None = None
    """The layer with which it can draft, of a multi-token prediction (MTP) module; absent: none, or
    none that is published. Whether it drafts, `speculation` of a scenario says."""
    max_context_tokens: Annotated[int, Field(ge=1, le=10**9)] | None = None
    """Longest context that the model is published for; a run beyond it says so."""
    tied: bool = False
    """Whether the LM head has the embedding's weights."""
    hyper_connections: Annotated[int, Field(ge=2, le=64)] | None = None
    """Residual streams that layers mix (mHC of DeepSeek-V4); absent: one residual."""
    encoders: dict[str, Encoder] | None = None
    """What reads images or sound, by name; absent: none, or left out."""
    checkpoint: Checkpoint | None = None
    """Formats of the published checkpoint; absent: not stated."""
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
                self._check_names(layer, "layers name")
        if self.draft_layer is not None:
            self._check_names(self.draft_layer, "draft_layer names")
        return self

    def _check_names(self, layer: Layer, who: str) -> None:
        if layer.attention not in self.attention:
            remedy = did_you_mean(layer.attention, self.attention)
            raise ValueError(f"{who} attention {layer.attention!r}: {remedy}")
        if layer.ffn is not None and layer.ffn not in self.ffn:
            remedy = did_you_mean(layer.ffn, self.ffn)
            raise ValueError(f"{who} ffn {layer.ffn!r}: {remedy}")

    def with_layer(self, layer: Layer) -> ModelCard:
        """Return the card with another layer after its last."""
        more = LayerGroup(repeat=1, pattern=[layer])
        # A copy would keep what is derived from the layers.
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return ModelCard.model_construct(**fields | {"layers": [*self.layers, more]})

    def cut(self, ways: int) -> ModelCard:
        """Return the card as each of `ways` GPUs has it that share out attention heads.

        Raises ValueError if the heads do not divide.
        """
        if ways == 1:
            return self
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        shares = {name: attention.cut(ways) for name, attention in self.attention.items()}
        return ModelCard.model_construct(**fields | {"attention": shares})

    def found_ffn(self, layer: Layer) -> Ffn | None:
        """Return the FFN of a layer; None if it has none."""
        return None if layer.ffn is None else self.ffn[layer.ffn]

    def ffn_of(self, layer: Layer) -> Ffn:
        """Return the FFN of a layer that has one."""
        assert layer.ffn is not None
        return self.ffn[layer.ffn]

    def encoder_bytes(self) -> float:
        """Return bytes of the encoders, which every attention GPU holds whole."""
        return sum(encoder.bytes_held() for encoder in (self.encoders or {}).values())

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
