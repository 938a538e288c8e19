"""Modules of a model by the names that implementations give them, and patterns that name them."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from sim.inputs.huggingface.layers import Stack

PARTS = ("attention", "o_proj", "dense", "experts", "lm_head")
_PREFIXES = (
    *("", "model.", "language_model.model.", "model.language_model.", "language_model."),
    *("backbone.", "transformer."),
)
# What implementations call a module of each part, behind the number of its layer.
_ATTENTION = (
    *("self_attn.q_proj", "self_attn.q_b_proj", "self_attn.qkv_proj", "attn.wq_b", "mixer.q_proj"),
)
_OUTPUT = ("self_attn.o_proj", "attn.wo_b", "mixer.o_proj")
_LINEAR = ("linear_attn.in_proj_qkvz", "linear_attn.in_proj_qkv", "self_attn.q_proj")
_LINEAR_OUTPUT = ("linear_attn.out_proj", "self_attn.o_proj")
_MIXER, _MIXER_OUTPUT = ("mixer.in_proj", "mamba.in_proj"), ("mixer.out_proj", "mamba.out_proj")
_DENSE = ("mlp.down_proj", "feed_forward.down_proj", "mixer.down_proj")
_SHARED = (
    *("mlp.shared_experts.down_proj", "mlp.shared_expert.down_proj"),
    *("mixer.shared_experts.down_proj", "feed_forward.shared_expert.down_proj"),
    *("share_expert.down_proj", "mlp.shared_mlp.down_proj"),
    "block_sparse_moe.shared_experts.down_proj",
)
EXPERTS = (
    *("mlp.experts.0.down_proj", "block_sparse_moe.experts.0.w2", "mixer.experts.0.down_proj"),
    *("feed_forward.experts.down_proj", "moe.experts.0.down_proj", "mlp.experts.down_proj"),
)

Modules = tuple[str, ...]
"""All names of one module."""


def matches(pattern: str, module: Modules) -> bool:
    """Return whether a quantizer's pattern names a module, under any prefix that models have."""
    return any(_names(pattern, prefix + name) for name in module for prefix in _PREFIXES)


def _names(pattern: str, path: str) -> bool:
    if pattern.startswith("re:"):
        try:
            return re.match(pattern[3:], path) is not None
        except re.error:
            return False
    if "*" in pattern:
        return fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}.*")
    return f".{pattern}." in f".{path}."


def modules_of(layers: Stack) -> dict[str, list[Modules]]:
    """Return the modules of each part, each by all names that implementations give it."""
    found: dict[str, list[Modules]] = {part: [] for part in PARTS}
    found["lm_head"] = [("lm_head",)]

    def add(part: str, layer: int, names: Modules) -> None:
        found[part].append(tuple(f"layers.{layer}.{name}" for name in names))

    for i, (attention, ffn) in enumerate(layers.order):
        kind = layers.attention[attention]["kind"].value
        first: Modules = _ATTENTION
        output: Modules = _OUTPUT
        if kind in ("gdn", "kda", "linear"):
            first, output = _LINEAR, _LINEAR_OUTPUT
        elif kind == "mamba2":
            first, output = _MIXER, _MIXER_OUTPUT
        add("attention", i, first)
        add("o_proj", i, output)
        if ffn is None:
            continue
        if layers.ffn[ffn]["kind"].value == "dense":
            add("dense", i, _DENSE)
            continue
        add("experts", i, EXPERTS)
        if layers.ffn[ffn]["shared"].value:
            add("dense", i, _SHARED)
    return found
