"""Which kind of attention stands in each layer, by the keys in which families say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sim.foundation.printable import excerpt
from sim.inputs.huggingface.file import ConfigFile

# What layer_types and the like call a kind, and what it is here.
_KINDS = {
    "full": ("full_attention", "attention", "full", "global", "global_attention", "mla", "dense"),
    "sliding": ("sliding_attention", "sliding", "local", "local_attention", "swa", "window"),
    "chunked": ("chunked_attention",),
    "linear": ("linear_attention", "linear", "lightning", "gdn", "gated_deltanet"),
    "kda": ("kda", "kimi_delta_attention"),
    "mamba2": ("mamba", "mamba2"),
}
_KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names}
# Families whose windows are in every other layer, the first with one.
_ALTERNATING = ("gemma2", "gpt_oss")
# Families whose configs leave the period of their full layers out.
_PERIODS = {"gemma3": 6, "gemma3_text": 6, "cohere2": 4}

Rule = Callable[[ConfigFile, int], tuple[list[str], str] | None]


def layer_kinds(config: ConfigFile, layers: int) -> tuple[list[str], str]:
    """Return the kind of each layer (full, sliding, chunked, linear, kda, mamba2), and its key."""
    for rule in _RULES:
        found = rule(config, layers)
        if found is not None:
            return found
    return ["full"] * layers, ""


def _listed(config: ConfigFile, layers: int) -> tuple[list[str], str] | None:
    key = config.first(("layer_types", "layers_block_type"))
    named = None if key is None else config.each(key, layers)
    if key is None or named is None:
        return None
    kinds = []
    for name in named:
        kind = _KIND_OF.get(name) if isinstance(name, str) else None
        if kind is None and config.get("kv_lora_rank") is None:
            config.cannot(f"{key}: layers of kind {excerpt(str(name))!r} (written as full)")
        kinds.append(kind or "full")
    if config.get("linear_attn_config") is not None:
        kinds = ["kda" if kind == "linear" else kind for kind in kinds]
    return kinds, key


def _numbered(config: ConfigFile, layers: int) -> tuple[list[str], str] | None:
    """Read lists of 0 and 1: MiniMax's name full layers with 1, MiMo's windows."""
    for key, names in (
        ("attn_type_list", ("linear", "full")),
        ("hybrid_layer_pattern", ("full", "sliding")),
    ):
        listed = config.each(key, layers) if config.get(key) is not None else None
        if listed is not None:
            if any(each not in (0, 1) for each in listed):
                config.problem(key, "should hold 0 and 1 alone")
                return ["full"] * layers, key
            return [names[each] for each in listed], key
    return None


def _kimi(config: ConfigFile, layers: int) -> tuple[list[str], str] | None:
    key, others = "linear_attn_config.kda_layers", "linear_attn_config.full_attn_layers"
    listed, full = config.get(key), config.get(others)
    if listed is None:
        return None
    if not isinstance(listed, list) or not all(isinstance(each, int) for each in listed):
        config.problem(key, "should list the numbers of layers")
        return ["full"] * layers, key
    # Kimi counts layers from 1; who names a layer 0 counts from there.
    first = 0 if 0 in (*listed, *(full if isinstance(full, list) else ())) else 1
    return ["kda" if i + first in listed else "full" for i in range(layers)], key


def _interval(config: ConfigFile, layers: int) -> tuple[list[str], str] | None:
    keys = ("full_attention_interval", "layer_group_size", "full_attn_interval")
    period = config.whole(*keys)
    linear = ("linear_num_value_heads", "layer_group_size", "linear_attn_config")
    delta = config.first(("linear_attn_config", "use_kda_lora")) is not None
    if period is None or config.first(linear) is None:
        if config.get("linear_num_value_heads") is None:
            return None
        return _every(4, "full", "linear", layers), "linear_num_value_heads"
    other = "kda" if delta else "linear"
    kinds = _every(period.value, "full", other, layers)
    if period.origin == "layer_group_size":  # the layers behind the last whole group are full
        whole = layers // period.value * period.value
        kinds[whole:] = ["full"] * (layers - whole)
    return kinds, period.origin


def _chunked(config: ConfigFile, layers: int) -> tuple[list[str], str] | None:
    if config.whole("attention_chunk_size") is None:
        return None
    roped = config.get("no_rope_layers") or None
    if roped is not None:
        each = config.each("no_rope_layers", layers) or [1] * layers
        return ["chunked" if rope else "full" for rope in each], "no_rope_layers"
    period = config.whole("no_rope_layer_interval")
    every = 4 if period is None else period.value
    return _every(every, "full", "chunked", layers), "attention_chunk_size"


def _windows(config: ConfigFile, layers: int) -> tuple[list[str], str] | None:
    key = config.first(("sliding_window", "sliding_window_size"))
    wanted = config.flag("use_sliding_window")
    if key is None or (wanted is not None and not wanted.value):
        return None
    pattern: Any = config.get("sliding_window_pattern")
    if isinstance(pattern, str) and pattern:
        full = {"G", "g"}
        kinds = ["full" if pattern[i % len(pattern)] in full else "sliding" for i in range(layers)]
        return kinds, "sliding_window_pattern"
    period = config.whole("sliding_window_pattern", "global_attn_every_n_layers")
    if period is not None:
        return _every(period.value, "full", "sliding", layers), period.origin
    if config.model_type in _PERIODS:
        return _every(_PERIODS[config.model_type], "full", "sliding", layers), key
    if config.model_type in _ALTERNATING:
        return ["full" if i % 2 else "sliding" for i in range(layers)], key
    begin = config.whole("max_window_layers", least=0)
    if begin is not None and wanted is not None:
        return ["sliding" if i >= begin.value else "full" for i in range(layers)], begin.origin
    return ["sliding"] * layers, key


def _every(period: int, last: str, others: str, layers: int) -> list[str]:
    return [last if (i + 1) % period == 0 else others for i in range(layers)]


_RULES: tuple[Rule, ...] = (_listed, _numbered, _kimi, _interval, _chunked, _windows)
