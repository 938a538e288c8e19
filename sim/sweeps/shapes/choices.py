"""Choices that both kinds of deployment have: widths, copies of experts, tensor parallelism."""

from __future__ import annotations

import math

from sim.inputs import cards
from sim.inputs.model import ModelCard, MoeFfn

# Numbers of instances or nodes that are tried, at most a half apart.
_COUNTS = (1, 2, 3, 4, 6, 7, 8, 12, 16, 18, 24, 32, 48, 64, 96)

# Copies of experts as a share of the experts: none, DeepSeek-V3's 32 of 256 (technical report,
# section 3.4), and more, up to as many as experts.
_COPIED = (0, 1 / 8, 1 / 2, 1)

# GPUs that may share requests. A latent is on each of them, so that only DeepSeek-V3's own way of
# decoding is tried, over four (technical report, section 3.4.2).
_SHARE_HEADS = (1, 2, 4, 8)
_SHARE_LATENT = (1, 4)


def counts(most: int) -> list[int]:
    """Return the numbers of instances or nodes that are tried: some up to `most`, and `most`."""
    tried = [count for count in _COUNTS if count <= most]
    return [*tried, most] if most > 0 and most not in tried else tried


def copies(experts: int, ranks: int, most: float = 1.0) -> list[int]:
    """Return numbers of copies that fill all slots of the ranks: the fewest, and shares of all.

    The shares are at most `most`.
    """
    shares = [share for share in _COPIED if share <= most]
    slots = {math.ceil(experts * (1 + share) / ranks) for share in shares}
    return [each * ranks - experts for each in sorted(slots)]


def routed_experts(model: ModelCard) -> int:
    """Return the routed experts of a layer; 0 for a model without."""
    return max((ffn.experts for ffn in model.ffn.values() if isinstance(ffn, MoeFfn)), default=0)


def sharing(model: ModelCard, most: int) -> list[int]:
    """Return the numbers of GPUs that may share requests, up to `most`.

    KV heads are divided as far as there are several.
    """
    heads = max(getattr(each, "kv_heads", 1) for each in model.attention.values())
    ways = [each for each in _SHARE_HEADS if each <= heads] if heads > 1 else _SHARE_LATENT
    return [each for each in ways if each <= most]


def lm_head_tp(gpus: int, card: str) -> int:
    """Return how many GPUs share an LM head: those of a node, as far as they divide `gpus`."""
    return math.gcd(gpus, cards.accelerator(card).node.gpus)
