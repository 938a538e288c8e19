"""The attention of each layer, as the keys of a config state it; kinds with a state: `states`."""

from __future__ import annotations

from collections.abc import Callable

from sim.inputs.huggingface.file import ConfigFile, Fields, Keyed, assumed
from sim.inputs.huggingface.heads import head_dim, heads
from sim.inputs.huggingface.layer_kinds import layer_kinds
from sim.inputs.huggingface.states import gated_delta, kimi_delta, lightning, mamba2

_KV_HEADS = (
    *("num_key_value_heads", "num_kv_heads", "n_kv_heads", "num_attention_groups"),
    *("num_query_groups", "multi_query_group_num", "attn_config.kv_n_heads"),
)
_GATES = (
    *("attn_output_gate", "attention_output_gate", "use_output_gate", "output_gate"),
    *("use_attention_gate", "mla_use_output_gate", "gated_attention"),
)
# Families with an output gate that their configs do not name.
_GATED = ("qwen3_next", "afmoe")
_OVERLAPPED = 4
"""Tokens of an entry that DeepSeek-V4 scores by an index and lets overlap its neighbour."""
# Window and compressor rows for each token of context: SGLang's default for DeepSeek-V4.
_WINDOW_POOL = 0.1

_BF16_KV = assumed("bf16", "engines keep KV in the model's format unless told otherwise")
_FP8_KV = assumed("fp8", "engines keep it in FP8")


def attention_layers(config: ConfigFile, layers: int) -> tuple[list[str], dict[str, Fields]]:
    """Return the name of each layer's attention, and what stands behind each name."""
    if config.get("compress_ratios") is not None:
        return _compressed_layers(config, layers)
    kinds, key = layer_kinds(config, layers)
    sparse = _sparse_layers(config, layers)
    reuses = _reusing_layers(config, layers)
    names, parts = list[str](), dict[str, Fields]()
    for i, kind in enumerate(kinds):
        part = _part(config, kind, sparse[i], reuses[i], key, i)
        base = _named(kind, part, reuses[i])
        name, number = base, 2
        while name in parts and parts[name] != part:
            name, number = f"{base}_{number}", number + 1
        parts[name] = part
        names.append(name)
    return names, parts


def mixer(config: ConfigFile, kind: str) -> Fields:
    """Return the attention of a kind where a pattern, not a list of layers, names it."""
    return _part(config, kind, sparse=False, reuses=False, key="", layer=0)


def _named(kind: str, part: Fields, reuses: bool) -> str:
    if kind in ("full", "linear"):
        name = str(part["kind"].value)
        name = "full" if name == "gqa" else name
        return f"{name}_reusing" if reuses else name
    return kind


def _part(
    config: ConfigFile, kind: str, sparse: bool, reuses: bool, key: str, layer: int
) -> Fields:
    latent = config.get("kv_lora_rank") is not None
    if kind == "full" and latent:
        return _latent(config, reuses)
    if kind == "linear":
        named = config.get("linear_num_value_heads") is not None
        return gated_delta(config) if named else lightning(config)
    makers: dict[str, Callable[[ConfigFile], Fields]] = {"kda": kimi_delta, "mamba2": mamba2}
    if kind in makers:
        return makers[kind](config)
    if config.get("share_q_dim") is not None:
        return _factorized(config)
    part = _softmax(config, kind, key, layer)
    return _block_sparse(config, part) if sparse else part


def _softmax(config: ConfigFile, kind: str, key: str, layer: int) -> Fields:
    slides = kind != "full"
    own_heads, kv_heads, own_dim, value_dim = (list[str]() for _ in range(4))
    other = "attention_other_setting"
    if slides:
        own_heads += ["swa_num_attention_heads", f"{other}.num_attention_heads"]
        kv_heads += ["swa_num_key_value_heads", f"{other}.num_attention_groups"]
        own_dim += ["swa_head_dim", f"{other}.head_dim"]
        value_dim += ["swa_v_head_dim"]
    else:
        kv_heads += ["num_global_key_value_heads"]
        own_dim += ["global_head_dim"]
    queries = heads(config, *own_heads, layer=layer)
    part: Fields = {
        "kind": Keyed("gqa", key or "softmax attention"),
        "query_heads": queries,
        "kv_heads": _shared_heads(config, _kv_heads(config, kv_heads, queries, layer), queries),
        "head_dim": head_dim(config, *own_dim),
    }
    values = config.whole(*value_dim, "v_head_dim")
    if values is not None and values.value != part["head_dim"].value:
        part["value_dim"] = values
    part |= _output_gate(config)
    same = config.flag("attention_k_eq_v")
    if same is not None and same.value and not slides:
        part["k_is_v"] = same
    if kind == "chunked":
        part["window"] = config.need("attention_chunk_size")
    elif kind == "sliding":
        part["window"] = config.need("sliding_window", "sliding_window_size")
    if slides and config.model_type.startswith("step3p") and config.get(other) is None:
        config.note(
            f"{other} is not in the config: sliding layers are taken to have as many heads as full "
            "ones (Step-3.5-Flash has 96 and 64)"
        )
    headwise = config.flag("use_head_wise_attn_gate")
    if headwise is not None and headwise.value:
        config.note("use_head_wise_attn_gate: gates of heads, hidden × heads a layer, left out")
    return part | {"kv_dtype": _BF16_KV}


def _kv_heads(config: ConfigFile, first: list[str], queries: Keyed, layer: int) -> Keyed:
    found = config.whole(*first, *_KV_HEADS, layer=layer)
    if found is not None:
        return found
    one = config.flag("multi_query")
    if one is not None and one.value:
        return Keyed(1, one.origin, one.keys)
    return Keyed(queries.value, f"{queries.origin}: as many", queries.keys)


def _shared_heads(config: ConfigFile, shared: Keyed, queries: Keyed) -> Keyed:
    if queries.value % shared.value and shared.keys:
        config.problem(
            shared.keys[0],
            f"should divide the {queries.value} of {queries.origin} (got {shared.value})",
        )
    return shared


def _output_gate(config: ConfigFile) -> Fields:
    gate = config.flag(*_GATES)
    if gate is None and config.model_type in _GATED:
        gate = assumed(value=True, why=f"{config.model_type} has an output gate")
    return {"output_gate": gate} if gate is not None and gate.value else {}


def _block_sparse(config: ConfigFile, part: Fields) -> Fields:
    own = "sparse_attention_config"
    return part | {
        "kind": Keyed("block_sparse", own, (own,)),
        "block_tokens": config.need(f"{own}.sparse_block_size"),
        "top_blocks": config.need(f"{own}.sparse_topk_blocks"),
        "index_heads": config.need(f"{own}.sparse_num_index_heads"),
        "index_dim": config.need(f"{own}.sparse_index_dim"),
    }


def _sparse_layers(config: ConfigFile, layers: int) -> list[bool]:
    own = "sparse_attention_config"
    used = config.flag(f"{own}.use_sparse_attention")
    if not isinstance(config.get(own), dict) or (used is not None and not used.value):
        return [False] * layers
    listed = config.each(f"{own}.sparse_attention_freq", layers)
    return [True] * layers if listed is None else [bool(each) for each in listed]


def _reusing_layers(config: ConfigFile, layers: int) -> list[bool]:
    """Return which layers take the choice of an indexer before them."""
    if config.get("index_topk") is None:
        return [False] * layers
    listed = config.each("indexer_types", layers)
    if listed is not None:
        return [each == "shared" for each in listed]
    pattern = config.get("index_topk_pattern")
    if isinstance(pattern, str) and pattern:
        return [pattern[i % len(pattern)].upper() == "S" for i in range(layers)]
    period = config.whole("index_topk_freq", "cli_factor")
    if period is None:
        return [False] * layers
    offset = config.whole("index_skip_topk_offset", least=0)
    first = 1 if offset is None else offset.value
    return [max(i - first + 1, 0) % period.value != 0 for i in range(layers)]


def _latent(config: ConfigFile, reuses: bool) -> Fields:
    indexed = config.get("index_topk") is not None
    part: Fields = {
        "kind": Keyed("dsa", "index_topk") if indexed else Keyed("mla", "kv_lora_rank"),
        "query_heads": heads(config),
    }
    rank = config.whole("q_lora_rank")
    if rank is not None:
        part["q_lora"] = rank
    part |= {
        "kv_lora": config.need("kv_lora_rank"),
        "rope": config.need("qk_rope_head_dim", least=0),
        "nope": config.need("qk_nope_head_dim"),
        "v": config.need("v_head_dim"),
    }
    part |= _output_gate(config)
    if indexed:
        part |= {
            "index_heads": config.need("index_n_heads"),
            "index_dim": config.need("index_head_dim"),
            "top_k": config.need("index_topk"),
        }
        if reuses:
            key = config.first(("indexer_types", "index_topk_pattern", "index_topk_freq")) or ""
            part["indexes"] = Keyed(value=False, origin=key, keys=(key,))
    return part | {"kv_dtype": _FP8_KV if indexed else _BF16_KV}


def _compressed_layers(config: ConfigFile, layers: int) -> tuple[list[str], dict[str, Fields]]:
    key = "compress_ratios"
    ratios = config.each(key, layers) or [0] * layers
    if not all(isinstance(each, int) and not isinstance(each, bool) for each in ratios):
        config.problem(key, "should hold whole numbers")
        ratios = [0] * layers
    drafting = drafting_ratio(config, layers)
    further = [] if drafting is None else [drafting]
    names = {ratio: ratio_name(ratio) for ratio in dict.fromkeys([*ratios, *further])}
    parts = {name: _compressed(config, ratio) for ratio, name in names.items()}
    return [names[ratio] for ratio in ratios], parts


def drafting_ratio(config: ConfigFile, layers: int) -> int | None:
    """Return the ratio that `compress_ratios` states behind the last layer; None without one."""
    ratios = config.get("compress_ratios")
    if not isinstance(ratios, list) or len(ratios) <= layers:
        return None
    ratio = ratios[layers]
    return ratio if isinstance(ratio, int) and not isinstance(ratio, bool) else None


def ratio_name(ratio: int) -> str:
    """Return what attention of so many tokens an entry is called."""
    if ratio <= 0:
        return "window"
    return "csa" if ratio == _OVERLAPPED else "hca" if ratio == 128 else f"hca_{ratio}"


def _compressed(config: ConfigFile, ratio: int) -> Fields:
    key = "compress_ratios"
    part: Fields = {
        "kind": Keyed("compressed", key, (key,)),
        "query_heads": heads(config),
        "q_lora": config.need("q_lora_rank"),
        "head_dim": config.need("head_dim"),
        "rope": config.need("qk_rope_head_dim"),
        "o_groups": config.need("o_groups"),
        "o_lora": config.need("o_lora_rank"),
        "window": config.need("sliding_window"),
    }
    if ratio > 0:
        overlaps = ratio == _OVERLAPPED
        rows = ratio * (1 + overlaps)
        part["compression"] = {
            "tokens": Keyed(ratio, key, (key,)),
            "overlap": assumed(overlaps, f"as published for entries of {_OVERLAPPED} tokens alone"),
            "state_rows": assumed(rows, "tokens of an entry, and of the one it overlaps (SGLang)"),
        }
        if overlaps:
            part["index"] = {
                "heads": config.need("index_n_heads"),
                "dim": config.need("index_head_dim"),
                "top_k": config.need("index_topk"),
            }
    pool = assumed(_WINDOW_POOL, "SGLang's swa_full_tokens_ratio for DeepSeek-V4")
    return part | {"window_pool": pool, "kv_dtype": _FP8_KV}


def _factorized(config: ConfigFile) -> Fields:
    return {
        "kind": Keyed("mfa", "share_q_dim"),
        "query_heads": heads(config),
        "kv_heads": config.need(*_KV_HEADS),
        "head_dim": head_dim(config),
        "query_rank": config.need("share_q_dim"),
        "kv_dtype": _BF16_KV,
    }
