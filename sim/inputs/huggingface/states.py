"""Attention with a state: gated delta net, Kimi delta, Mamba-2 and lightning attention."""

from __future__ import annotations

from sim.inputs.huggingface.file import ConfigFile, Fields, Keyed, assumed
from sim.inputs.huggingface.heads import HEAD_DIM, HEADS, head_dim

_STATES = ("mamba_ssm_cache_dtype", "mamba_ssm_dtype", "ssm_dtype")
_STATE_FORMATS = {"float32": "fp32", "bfloat16": "bf16", "float16": "bf16"}
# What one state element of lightning attention costs, as the Step-3 system report counts it.
_LIGHTNING_FLOPS, _LIGHTNING_PROJECTIONS = 10, 5


def _state_dtype(config: ConfigFile, served: str) -> Keyed:
    key = config.first(_STATES)
    if key is None:
        return assumed("fp32", served)
    value = config.get(key)
    if value not in _STATE_FORMATS:
        config.problem(key, f"should be one of {', '.join(_STATE_FORMATS)} (got {value!r})")
    return Keyed(_STATE_FORMATS.get(value, "fp32"), key, (key,))


def gated_delta(config: ConfigFile) -> Fields:
    return {
        "kind": Keyed("gdn", "linear_num_value_heads"),
        "key_heads": config.need("linear_num_key_heads"),
        "value_heads": config.need("linear_num_value_heads"),
        "key_dim": config.need("linear_key_head_dim"),
        "value_dim": config.need("linear_value_head_dim"),
        "conv": config.need("linear_conv_kernel_dim"),
        "state_dtype": _state_dtype(config, "SGLang and vLLM keep states in FP32"),
    }


def kimi_delta(config: ConfigFile) -> Fields:
    own = "linear_attn_config"
    values = config.need(f"{own}.num_heads", "linear_num_value_heads", *HEADS)
    keys = config.whole(f"{own}.num_key_heads", "linear_num_key_heads") or values
    dim = config.need(f"{own}.head_dim", "linear_value_head_dim", *HEAD_DIM)
    gate = config.flag(f"{own}.use_full_rank_gate")
    return {
        "kind": Keyed("kda", own),
        "key_heads": keys,
        "value_heads": values,
        "key_dim": config.whole(f"{own}.head_dim", "linear_key_head_dim") or dim,
        "value_dim": dim,
        "conv": config.need(f"{own}.short_conv_kernel_size", "linear_conv_kernel_dim"),
        "state_dtype": _state_dtype(config, "SGLang keeps states in FP32"),
        **({"full_rank_gate": gate} if gate is not None and gate.value else {}),
    }


def mamba2(config: ConfigFile) -> Fields:
    return {
        "kind": Keyed("mamba2", "mamba_num_heads"),
        "heads": config.need("mamba_num_heads", "mamba_n_heads"),
        "head_dim": config.need("mamba_head_dim", "mamba_d_head"),
        "state": config.need("ssm_state_size", "mamba_d_state"),
        "groups": config.need("n_groups", "mamba_n_groups"),
        "conv": config.need("conv_kernel", "mamba_d_conv"),
        "state_dtype": _state_dtype(config, "engines keep states in FP32 unless told otherwise"),
    }


def lightning(config: ConfigFile) -> Fields:
    counted = "as the Step-3 system report (arXiv 2507.19427) counts it"
    return {
        "kind": Keyed("linear", "lightning attention"),
        "heads": config.need("linear_num_heads", *HEADS),
        "head_dim": head_dim(config, "linear_head_dim"),
        "state_dtype": _state_dtype(config, "states are kept in FP32"),
        "flops_per_state_element": assumed(_LIGHTNING_FLOPS, counted),
        "projections": assumed(_LIGHTNING_PROJECTIONS, "Q, K, V, gate and output"),
    }
