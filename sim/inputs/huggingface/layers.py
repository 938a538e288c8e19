"""The order of layers: attention and FFN of each, and the patterns that repeat."""

from __future__ import annotations

from typing import NamedTuple

from sim.foundation.printable import excerpt
from sim.inputs.huggingface.attention import attention_layers, mixer
from sim.inputs.huggingface.ffn import dense, ffn_layers, moe
from sim.inputs.huggingface.file import ConfigFile, Fields, Keyed

# Longest pattern that is looked for.
_MOST_IN_PATTERN = 16
# What a letter of Nemotron-H's pattern stands for: an attention or an FFN by itself.
_MIXERS = {"M": ("mamba2", "mamba2"), "*": ("full", "full")}
_FFNS = ("E", "-")
_BLOCKS = {"mamba": "M", "mamba2": "M", "attention": "*", "moe": "E", "mlp": "-"}


class Stack(NamedTuple):
    """The layers of a model by names, and what stands behind the names."""

    order: list[tuple[str, str | None]]
    """Attention and FFN of each layer; None: no FFN."""
    attention: dict[str, Fields]
    ffn: dict[str, Fields]


def stack(config: ConfigFile) -> Stack:
    """Return the layers of a model."""
    pattern = _block_pattern(config)
    if pattern is not None:
        return _by_blocks(config, pattern)
    layers = config.layers()
    names, attention = attention_layers(config, layers)
    ffns, ffn = ffn_layers(config, layers)
    if config.model_type.startswith("longcat_flash"):
        return _shortcut(config, names, attention, ffn)
    return Stack(list(zip(names, ffns, strict=True)), attention, ffn)


def repeated(order: list[tuple[str, str | None]]) -> list[tuple[int, list[tuple[str, str | None]]]]:
    """Return layers as patterns with how often each repeats: few lines that say the same."""
    groups: list[tuple[int, list[tuple[str, str | None]]]] = []
    place = 0
    while place < len(order):
        best = 1, 1
        for size in range(1, min(_MOST_IN_PATTERN, len(order) - place) + 1):
            pattern = order[place : place + size]
            times = 1
            while order[place + times * size : place + (times + 1) * size] == pattern:
                times += 1
            if times > 1 and times * size > best[0] * best[1]:
                best = times, size
        times, size = best
        groups.append((times, order[place : place + size]))
        place += times * size
    return groups


def _block_pattern(config: ConfigFile) -> str | None:
    """Return the pattern of a model whose attention and FFNs are counted as layers of their own."""
    key = "hybrid_override_pattern"
    value = config.get(key)
    if value is None and isinstance(config.get("hybrid_layer_pattern"), str):
        key, value = "hybrid_layer_pattern", config.get("hybrid_layer_pattern")
    if value is None:
        listed = config.get("layers_block_type")
        if not isinstance(listed, list) or not {"moe", "mlp"} & {str(each) for each in listed}:
            return None
        key, value = "layers_block_type", "".join(_BLOCKS.get(str(each), "?") for each in listed)
    if not isinstance(value, str) or not value:
        config.problem(key, f"should be a text of M, *, E and - (got {excerpt(repr(value))})")
        return None
    value = value.replace("/", "")  # where pipelines are cut
    layers = config.layers()
    if layers != len(value):
        config.problem(key, f"has {len(value)} blocks, the model {layers} layers")
    return value


def _by_blocks(config: ConfigFile, pattern: str) -> Stack:
    """Put each FFN behind the attention before it: the same blocks in the same order."""
    order: list[tuple[str, str | None]] = []
    attention, ffn = dict[str, Fields](), dict[str, Fields]()
    for letter in pattern:
        if letter in _MIXERS:
            name, kind = _MIXERS[letter]
            attention.setdefault(name, mixer(config, kind))
            order.append((name, None))
        elif letter in _FFNS:
            name = "moe" if letter == "E" else "dense"
            ffn.setdefault(name, moe(config) if letter == "E" else dense(config))
            if order and order[-1][1] is None:
                order[-1] = order[-1][0], name
            else:
                config.cannot("hybrid_override_pattern: an FFN without attention before it")
        else:
            config.cannot(f"hybrid_override_pattern: blocks {letter!r} (left out)")
    if not order:
        config.problem("hybrid_override_pattern", "names no attention")
    return Stack(order, attention, ffn)


def _shortcut(
    config: ConfigFile, names: list[str], attention: dict[str, Fields], ffn: dict[str, Fields]
) -> Stack:
    """Return LongCat's layers as two each: attention and dense FFN, the first with experts too.

    The dense FFN beside the experts is written as a shared expert: the same weights, FLOPs and
    bytes.
    """
    wide = dense(config)
    width: Keyed = wide["intermediate"]
    both = {
        name: part | {"shared": Keyed(1, width.origin, width.keys), "shared_intermediate": width}
        for name, part in ffn.items()
        if name == "moe"
    }
    config.cannot(
        "experts of LongCat run beside the dense FFN and the second attention of their layer; "
        "written one after the other"
    )
    order: list[tuple[str, str | None]] = []
    for name in names:
        order += [(name, "moe"), (name, "dense")]
    return Stack(order, attention, both | {"dense": wide})
