"""What a decoded token costs on paper: the closed-form tables of the Step-3 report.

Bytes, FLOPs and USD per decoded token follow from a model card's shapes and an accelerator card's
peaks alone (arXiv 2507.19427, tables 1, 2, 3 and 6); every kernel is perfect here. The tables leave
out router, embedding and LM head; parameter counts include them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sim.foundation.units import DTYPE_BYTES
from sim.inputs.hardware import Accelerator
from sim.inputs.model import Ffn, Layer, ModelCard, MoeFfn
from sim.kernels import mixing

FLOPS_PER_WEIGHT = 2
"""One multiply and one add per weight and token."""
TOKENS_PRICED = 1_000_000
"""Costs are USD per this many output tokens."""


@dataclass(frozen=True)
class Cost:
    """What the two parts of a model cost on one accelerator, USD per 1M tokens; None: no price."""

    accelerator: str
    attention_usd_per_1m: float | None
    ffn_usd_per_1m: float | None


@dataclass(frozen=True)
class TheoryRow:
    """One model at one context: bytes and FLOPs per decoded token, parameters and costs."""

    model: str
    context: int
    kv_bytes: float
    attention_flops: float
    linear_flops: float
    ffn_flops: float
    total_params: int
    active_params: int
    arithmetic_intensity: float
    sparsity: float | None
    costs: tuple[Cost, ...]
    afd_usd_per_1m: float | None
    afd_attention_accelerator: str | None
    afd_ffn_accelerator: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain values, `costs` as a list of mappings."""
        return {**asdict(self), "costs": [asdict(cost) for cost in self.costs]}


def theory(
    models: Sequence[ModelCard], contexts: Sequence[int], accelerators: Sequence[Accelerator]
) -> list[TheoryRow]:
    """Return one row per model and context, with the costs on every accelerator."""
    return [_row(model, ctx, accelerators) for model in models for ctx in contexts]


def _row(model: ModelCard, ctx: int, accelerators: Sequence[Accelerator]) -> TheoryRow:
    costs = tuple(
        Cost(
            accelerator=accelerator.name,
            attention_usd_per_1m=attention_usd_per_1m(model, ctx, accelerator),
            ffn_usd_per_1m=ffn_usd_per_1m(model, accelerator),
        )
        for accelerator in accelerators
    )
    attention = _cheapest(costs, lambda cost: cost.attention_usd_per_1m)
    ffn = _cheapest(costs, lambda cost: cost.ffn_usd_per_1m)
    return TheoryRow(
        model=model.name,
        context=ctx,
        kv_bytes=kv_bytes(model, ctx),
        attention_flops=attention_flops(model, ctx),
        linear_flops=linear_flops(model),
        ffn_flops=ffn_flops(model),
        total_params=total_params(model),
        active_params=active_params(model),
        arithmetic_intensity=arithmetic_intensity(model, ctx),
        sparsity=sparsity(model),
        costs=costs,
        afd_usd_per_1m=None if attention is None or ffn is None else attention[0] + ffn[0],
        afd_attention_accelerator=None if attention is None else attention[1],
        afd_ffn_accelerator=None if ffn is None else ffn[1],
    )


def _cheapest(
    costs: Sequence[Cost], part: Callable[[Cost], float | None]
) -> tuple[float, str] | None:
    """Return the lowest price of a part and its accelerator; the first named wins a tie."""
    priced = [(usd, cost.accelerator) for cost in costs if (usd := part(cost)) is not None]
    return min(priced, key=lambda item: item[0], default=None)


def _over_layers(model: ModelCard, of: Callable[[Layer], float]) -> float:
    return sum(count * of(layer) for layer, count in model.layer_counts.items())


def kv_bytes(model: ModelCard, ctx: float) -> float:
    """Return bytes of KV read for one token, plus constant states read and written (table 2)."""

    def of(layer: Layer) -> float:
        attention = model.attention[layer.attention]
        return 2 * attention.state_bytes() + attention.read_bytes("card", ctx)

    return float(_over_layers(model, of))


def mixing_bytes(model: ModelCard) -> float:
    """Return bytes of residual streams that hyper-connections read and write for one token.

    Not in the report's tables. 0 for a model with one residual.
    """
    streams = model.hyper_connections
    if streams is None:
        return 0.0
    vectors = sum(mixing.vectors(side, streams) for side in mixing.OPS.values())
    return len(model.layer_sequence) * vectors * model.hidden * DTYPE_BYTES[mixing.STREAM]


def attention_flops(model: ModelCard, ctx: float) -> float:
    """Return FLOPs of the attention cores for one token, MLA as the report counts it (table 2)."""
    return float(_over_layers(model, lambda of: model.attention[of.attention].core_flops(ctx)))


def linear_params(model: ModelCard) -> int:
    """Return weights of the projections before and after the attention cores."""
    hidden = model.hidden
    return int(_over_layers(model, lambda of: model.attention[of.attention].weights(hidden)))


def linear_flops(model: ModelCard) -> float:
    """Return FLOPs of the attention projections for one token (table 2)."""
    return float(FLOPS_PER_WEIGHT * linear_params(model))


def ffn_params(model: ModelCard) -> int:
    """Return weights of all dense FFNs and experts, routers left out."""
    return sum(count * ffn.weights(model.hidden) for ffn, count in _ffn_layers(model))


def active_ffn_params(model: ModelCard) -> int:
    """Return FFN weights that one token multiplies with, routers left out."""
    return sum(count * ffn.active_weights(model.hidden) for ffn, count in _ffn_layers(model))


def ffn_flops(model: ModelCard) -> float:
    """Return FLOPs of the FFNs for one token (table 2)."""
    return float(FLOPS_PER_WEIGHT * active_ffn_params(model))


def router_params(model: ModelCard) -> int:
    """Return weights of the routers: hidden × experts per MoE layer, zero experts included."""
    return sum(count * ffn.router_weights(model.hidden) for ffn, count in _moe_layers(model))


def embedding_params(model: ModelCard) -> int:
    """Return weights of the embedding; an untied LM head has as many again."""
    return model.vocab * model.hidden


def total_params(model: ModelCard) -> int:
    """Return all weights: attention, FFN, router, embedding, LM head (norms left out; table 1)."""
    layers = linear_params(model) + ffn_params(model) + router_params(model)
    return layers + (1 if model.tied else 2) * embedding_params(model)


def active_params(model: ModelCard) -> int:
    """Return weights one token multiplies with: as `total_params`, active experts, no embedding."""
    layers = linear_params(model) + active_ffn_params(model) + router_params(model)
    return layers + embedding_params(model)


def arithmetic_intensity(model: ModelCard, ctx: float) -> float:
    """Return core attention FLOPs per byte of KV and state moved."""
    return attention_flops(model, ctx) / kv_bytes(model, ctx)


def sparsity(model: ModelCard) -> float | None:
    """Return S = (top_k + shared)/(E + shared), mean over the MoE layers; None if none is MoE."""
    layers = _moe_layers(model)
    if not layers:
        return None
    return sum(ffn.sparsity() * count for ffn, count in layers) / sum(n for _, n in layers)


def _moe_layers(model: ModelCard) -> list[tuple[MoeFfn, int]]:
    return [(ffn, count) for ffn, count in _ffn_layers(model) if isinstance(ffn, MoeFfn)]


def _ffn_layers(model: ModelCard) -> list[tuple[Ffn, int]]:
    pairs = [(model.found_ffn(layer), count) for layer, count in model.layer_counts.items()]
    return [(ffn, count) for ffn, count in pairs if ffn is not None]


def attention_usd_per_1m(model: ModelCard, ctx: float, accelerator: Accelerator) -> float | None:
    """Return USD per 1M tokens of attention: max(core FLOPs, KV bytes) + projections (table 6)."""
    per_flop, per_byte = accelerator.usd_per_flop(), accelerator.usd_per_byte()
    if per_flop is None or per_byte is None:
        return None
    core = max(attention_flops(model, ctx) * per_flop, kv_bytes(model, ctx) * per_byte)
    return TOKENS_PRICED * (core + linear_flops(model) * per_flop)


def ffn_usd_per_1m(model: ModelCard, accelerator: Accelerator) -> float | None:
    """Return USD per 1M tokens of the FFNs, limited by FLOPs at a large batch (table 6)."""
    per_flop = accelerator.usd_per_flop()
    return None if per_flop is None else TOKENS_PRICED * ffn_flops(model) * per_flop
