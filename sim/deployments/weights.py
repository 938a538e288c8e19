"""Weights: the bytes of a model that a GPU holds, by how its parts are shared out."""

from __future__ import annotations

from collections.abc import Callable

from sim.foundation.units import DTYPE_BYTES
from sim.inputs.model import DenseFfn, ModelCard, MoeFfn
from sim.inputs.scenario import Precision


def moe_ffns(model: ModelCard) -> list[MoeFfn]:
    """Return the kinds of MoE that layers of a model have."""
    used = dict.fromkeys(layer.ffn for layer in model.layer_counts if layer.ffn is not None)
    return [ffn for ffn in map(model.ffn.__getitem__, used) if isinstance(ffn, MoeFfn)]


def attention_bytes(model: ModelCard, precision: Precision, o_proj_tp: int, drafts: bool) -> float:
    """Return bytes of projections, routers and encoders on a GPU.

    Output projections are shared by `o_proj_tp`. Beside the router stand the projections to and
    from the width of experts. With `drafts` the last layer drafts: it has a projection of 2·hidden
    to hidden besides.
    """
    elements, outputs, latent, router = 0.0, 0.0, 0, 0
    for layer, count in model.layer_counts.items():
        attention = model.attention[layer.attention]
        *whole, output = (
            *attention.before_core(model.hidden),
            *attention.after_core(model.hidden),
        )
        elements += count * sum(projection.weights() for projection in whole)
        outputs += count * output.weights() / o_proj_tp
        ffn = model.found_ffn(layer)
        if isinstance(ffn, MoeFfn):
            router += count * ffn.router_weights(model.hidden)
            latent += count * ffn.latent_weights(model.hidden)
    if drafts:
        elements += 2 * model.hidden**2
    held = elements * DTYPE_BYTES[precision.of("attention")]
    held += outputs * DTYPE_BYTES[precision.of("o_proj")]
    held += latent * DTYPE_BYTES[precision.of("dense")]
    return held + router * DTYPE_BYTES[precision.lm_head] + model.encoder_bytes()


def vocab_bytes(model: ModelCard, precision: Precision, tp: int) -> float:
    """Return bytes of embedding and LM head on a GPU when `tp` GPUs share them."""
    return (
        (1 if model.tied else 2) * model.vocab * model.hidden / tp * DTYPE_BYTES[precision.lm_head]
    )


def ffn_bytes(
    model: ModelCard,
    precision: Precision,
    experts: Callable[[MoeFfn], float],
    shared_ways: float,
    dense_ways: float,
) -> float:
    """Return bytes of FFNs on a GPU that holds so many `experts` (or parts of them) of a layer.

    A shared expert is cut `shared_ways` ways, a dense FFN `dense_ways`; ∞: the GPU has none of it.
    """
    dense, routed = 0.0, 0.0
    for layer, count in model.layer_counts.items():
        ffn = model.found_ffn(layer)
        if ffn is None:
            continue
        if isinstance(ffn, DenseFfn):
            dense += count * ffn.weights(model.hidden) / dense_ways
            continue
        routed += count * experts(ffn) * ffn.expert_weights(model.hidden)
        dense += count * ffn.shared_weights(model.hidden) / shared_ways
    return dense * DTYPE_BYTES[precision.of("dense")] + routed * experts_bytes(precision)


def experts_bytes(precision: Precision) -> float:
    """Return bytes of a weight of a routed expert, its scales included."""
    return DTYPE_BYTES[precision.of("experts")]
