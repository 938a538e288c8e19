"""Heads and their width: what all kinds of attention ask a config for."""

from __future__ import annotations

from sim.inputs.huggingface.file import ConfigFile, Keyed

HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
HEAD_DIM = ("head_dim", "attention_head_dim", "kv_channels")


def heads(config: ConfigFile, *first: str, layer: int | None = None) -> Keyed:
    return config.need(*first, *HEADS, layer=layer)


def head_dim(config: ConfigFile, *first: str) -> Keyed:
    """Return the width of a head; without a key, the hidden size over the heads."""
    found = config.whole(*first, *HEAD_DIM)
    if found is not None:
        return found
    hidden, count = config.hidden(), heads(config)
    if hidden.value % count.value and count.keys:
        config.problem(
            count.keys[0],
            f"should divide the {hidden.value} of {hidden.origin} (got {count.value}), or head_dim "
            "say how wide a head is",
        )
    return Keyed(
        max(1, hidden.value // count.value),
        f"{hidden.origin} / {count.origin}",
        (*hidden.keys, *count.keys),
    )
