"""The FFN of each layer, as the keys of a config state it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sim.inputs.huggingface.file import ConfigFile, Fields, Keyed, assumed

_EXPERTS = (
    *("n_routed_experts", "num_routed_experts", "num_local_experts", "num_experts"),
    *("moe_num_experts", "n_experts", "num_moe_experts", "moe.num_experts"),
    "ffn_config.moe_num_experts",
)
_TOP_K = (
    *("num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk"),
    *("moe_top_k", "moe_k", "top_k_experts", "moe_router_topk", "num_selected_experts"),
    *("num_activated_experts", "moe.num_experts_per_tok", "ffn_config.moe_top_k"),
)
_EXPERT_WIDTH = (
    *("moe_intermediate_size", "expert_ffn_hidden_size", "expert_intermediate_size"),
    *("moe_ffn_hidden_size", "expert_dim", "moe.expert_hidden_dim"),
    *("ffn_config.ffn_hidden_size", "intermediate_size", "ffn_hidden_size"),
)
_SHARED = (
    *("n_shared_experts", "num_shared_experts", "num_shared_expert", "moe_num_shared_experts"),
    *("n_shared_expert", "moe.num_shared_experts"),
)
_SHARED_WIDTH = (
    *("moe_shared_expert_intermediate_size", "shared_expert_intermediate_size"),
    *("share_expert_dim", "shared_expert_dim", "shared_intermediate_size"),
    "shared_expert_hidden_size",
)
_DENSE_WIDTH = (
    *("dense_intermediate_size", "intermediate_size_mlp", "ffn_hidden_size"),
    *("intermediate_size", "hidden_dim", "n_inner"),
)
_LATENT = ("moe_latent_size", "routed_expert_hidden_size", "moe_latent_dim")
_ZERO = ("zero_expert_num", "num_zero_experts", "zero_experts")
_FIRST_DENSE = (
    *("first_k_dense_replace", "num_dense_layers", "n_dense_layers", "first_num_dense_layers"),
    *("moe_layer_num_skipped", "moe.first_k_dense_replace"),
)
# Families whose FFNs have no gate; elsewhere a squared ReLU says so.
_NO_GATE = (
    *("nemotron", "nemotron_h", "arcee", "falcon", "gpt_bigcode", "starcoder2", "gpt_neox"),
    *("gpt2", "opt", "bloom", "phi", "mpt", "apertus"),
)


def ffn_layers(config: ConfigFile, layers: int) -> tuple[list[str], dict[str, Fields]]:
    """Return the name of each layer's FFN, and what stands behind each name."""
    mixed = moe_layers(config, layers)
    names, parts = list[str](), dict[str, Fields]()
    for i, is_moe in enumerate(mixed):
        part = moe(config, i) if is_moe else dense(config, i)
        base = "moe" if is_moe else "dense"
        name, number = base, 2
        while name in parts and parts[name] != part:
            name, number = f"{base}_{number}", number + 1
        parts[name] = part
        names.append(name)
    return names, parts


def dense(config: ConfigFile, layer: int = 0) -> Fields:
    keys = _DENSE_WIDTH
    part: Fields = {
        "kind": Keyed("dense", "no experts"),
        "intermediate": config.need(*keys, layer=layer),
    }
    return part | _gate(config)


def moe(config: ConfigFile, layer: int = 0) -> Fields:
    experts = config.need(*_EXPERTS, layer=layer)
    width = config.need(*_EXPERT_WIDTH, layer=layer)
    shared, shared_width = _shared(config, width, layer)
    part: Fields = {
        "kind": Keyed("moe", experts.origin),
        "experts": experts,
        "top_k": config.need(*_TOP_K, layer=layer),
        "expert_intermediate": width,
        "shared": shared,
        "shared_intermediate": shared_width,
    }
    if part["top_k"].value > experts.value:
        config.problem(
            part["top_k"].origin,
            f"is {part['top_k'].value}, more than the {experts.value} of {experts.origin}",
        )
    latent = config.whole(*_LATENT)
    if latent is not None:
        part["latent"] = latent
    zero = config.whole(*_ZERO, least=0)
    if zero is not None and zero.value:
        part["zero_experts"] = zero
    return part | _gate(config)


def has_experts(config: ConfigFile) -> bool:
    """Return whether a config has routed experts: some name them and say 0, or switch them off."""
    block = config.flag("enable_moe_block")
    if block is not None and not block.value:
        return False
    key = config.first(_EXPERTS)
    if key is None:
        return False
    value = config.get(key)
    if isinstance(value, list):
        return bool(value)
    return not isinstance(value, int) or value not in (0, 1)


def _shared(config: ConfigFile, width: Keyed, layer: int) -> tuple[Keyed, Keyed]:
    """Return how many shared experts a layer has, and how wide each is."""
    count = config.whole(*_SHARED, layer=layer, least=0)
    own = config.whole(*_SHARED_WIDTH, layer=layer, least=0)
    if count is None and own is not None and own.value:
        return Keyed(1, own.origin, own.keys), own
    if count is None and config.model_type in ("llama4", "llama4_text"):
        one = assumed(1, "each MoE layer of Llama 4 has one as wide as an expert")
        return one, Keyed(width.value, width.origin, width.keys)
    # Grok 2 and Gemma 4 have a dense FFN beside the experts.
    residual = config.flag("residual_moe", "enable_moe_block")
    if count is None and residual is not None and residual.value:
        return Keyed(1, residual.origin, residual.keys), config.need(*_DENSE_WIDTH)
    if count is None or not count.value or (own is not None and not own.value):
        key = count or own
        none = assumed(0, "no shared expert") if key is None else Keyed(0, key.origin, key.keys)
        return none, none
    return count, own or Keyed(width.value, width.origin, width.keys)


def _gate(config: ConfigFile) -> Fields:
    key = config.first(("mlp_hidden_act", "hidden_act", "hidden_activation", "activation_function"))
    act = None if key is None else config.get(key)
    if key is not None and act in ("relu2", "relu_squared", "squared_relu"):
        return {"gated": Keyed(value=False, origin=key, keys=(key,))}
    if config.model_type in _NO_GATE:
        return {"gated": assumed(value=False, why=f"FFNs of {config.model_type} have no gate")}
    return {}


Rule = Callable[[ConfigFile, int], list[bool] | None]


def moe_layers(config: ConfigFile, layers: int) -> list[bool]:
    """Return which layers have experts."""
    if not has_experts(config):
        return [False] * layers
    for rule in (_listed, _named, _by_period):
        found = rule(config, layers)
        if found is not None:
            return found
    return [True] * layers


def _listed(config: ConfigFile, layers: int) -> list[bool] | None:
    """Read lists with an item for each layer: 0 and 1, true and false, or words."""
    for key in ("mlp_layer_types", "is_moe_layer", "moe_layer_freq", "ffn_types"):
        if not isinstance(config.get(key), list):
            continue
        listed = config.each(key, layers)
        if listed is None:
            return [True] * layers
        strange = [each for each in listed if each not in (*_MOE_WORDS, *_DENSE_WORDS)]
        if strange:
            config.problem(key, f"should say dense or sparse of each layer (got {strange[0]!r})")
        return [each in _MOE_WORDS for each in listed]
    return None


_MOE_WORDS = (1, "sparse", "moe", "expert")
_DENSE_WORDS = (0, "dense", "mlp")


def _named(config: ConfigFile, layers: int) -> list[bool] | None:
    """Read which layers have experts, by number: 3,4,5 or [3, 4, 5]."""
    key = config.first(("moe_layers_enum", "moe_layers"))
    if key is None:
        return None
    value: Any = config.get(key)
    if isinstance(value, str) and re.fullmatch(r"[\d,\s]+", value):
        value = [int(each) for each in value.split(",") if each.strip()]
    if not isinstance(value, list) or not all(isinstance(each, int) for each in value):
        config.problem(key, "should list the numbers of layers")
        return [True] * layers
    return [i in value for i in range(layers)] if value else None


def _by_period(config: ConfigFile, layers: int) -> list[bool]:
    """Read periods, first and last layers."""
    first = config.whole(*_FIRST_DENSE, "moe_layer_start_index", least=0)
    begin = 0 if first is None else first.value
    if first is not None and begin > layers:
        config.problem(first.origin, f"is {begin}, more than the {layers} layers")
    last = config.whole("moe_layer_end_index", least=-1)
    end = layers - 1 if last is None or last.value < 0 else last.value
    ends_dense = config.whole("last_k_dense_replace", least=0)
    end -= 0 if ends_dense is None else ends_dense.value
    # The period of some begins with its first layer, that of others ends with its last.
    leading = config.whole("moe_layer_freq")
    trailing = config.whole(
        *("interleave_moe_layer_step", "decoder_sparse_step", "moe_layer_interval", "moe_every_n")
    )
    only: Any = config.get("mlp_only_layers") or []
    if not isinstance(only, list):
        config.problem("mlp_only_layers", "should list the numbers of layers")
        only = []
    period = config.whole("expert_layer_period")
    offset = config.whole("expert_layer_offset", least=0)
    kept = []
    for i in range(layers):
        moe_here = begin <= i <= end and i not in only
        if leading is not None:
            moe_here &= i % leading.value == 0
        if trailing is not None:
            moe_here &= (i + 1) % trailing.value == 0
        if period is not None:
            moe_here &= (i - (0 if offset is None else offset.value)) % period.value == 0
        kept.append(moe_here)
    return kept
