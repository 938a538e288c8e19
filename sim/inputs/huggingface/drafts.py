"""The layer that drafts: a multi-token prediction (MTP) module, which configs count at most.

Its attention and FFN are as engines build them: full attention and the FFN of the last layer, as
DeepSeek-V3's (technical report, section 2.2), but for the families below.
"""

from __future__ import annotations

from sim.inputs.huggingface.attention import drafting_ratio, ratio_name
from sim.inputs.huggingface.file import ConfigFile, Fields, Keyed, assumed
from sim.inputs.huggingface.layers import Stack

_COUNTS = (
    *("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers", "num_mtp_modules"),
    "mtp_num_layers",
)
# Families that draft with a dense FFN, and the attention they draft with, where it is not full:
# vLLM's step3p5_mtp, mimo_v2_mtp, ernie_mtp and longcat_flash_mtp.
_DENSE = {"step3p": "sliding", "mimo_v2": "sliding", "ernie4_5": None, "longcat_flash": None}
# Families whose checkpoints hold no weights of the modules that their configs count
# (github.com/MiniMax-AI/MiniMax-M2.5/issues/8).
_WITHOUT_WEIGHTS = ("minimax_m2",)
_AS_BUILT = "as vLLM builds the module"
# Attention that keeps a state instead of the context.
_STATES = ("gdn", "kda", "lightning", "mamba2")


def draft_layers(config: ConfigFile) -> Keyed | None:
    """Return how many layers draft; None where the config does not say."""
    used = config.flag("use_mtp")
    found = config.whole(*_COUNTS, least=0)
    return None if used is not None and not used.value else found


def draft_layer(config: ConfigFile, layers: Stack, count: Keyed | None) -> Fields | None:
    """Return attention and FFN of the layer that drafts; None without one."""
    if count is None or not count.value or config.problems:
        return None
    if config.model_type.startswith(_WITHOUT_WEIGHTS):
        config.note(f"{count.origin}: {count.value}, but their weights are not published")
        return None
    attention, ffn = _attention(config, layers), assumed(_last_ffn(layers), _AS_BUILT)
    for family, of_family in _DENSE.items():
        if config.model_type.startswith(family):
            attention = assumed(of_family or attention.value, _AS_BUILT)
            ffn = assumed("dense", _AS_BUILT)
    if attention.value not in layers.attention or ffn.value not in layers.ffn:
        config.note(f"{count.origin}: no layer is like those that draft; none is on the card")
        return None
    return {"attention": attention, "ffn": ffn}


def _attention(config: ConfigFile, layers: Stack) -> Keyed:
    """Return what the config names behind the last layer, else the last full attention."""
    ratio = drafting_ratio(config, config.layers())
    if ratio is not None:
        key = "compress_ratios"
        return Keyed(ratio_name(ratio), key, (key,))
    return assumed(_full_attention(layers), _AS_BUILT)


def _full_attention(layers: Stack) -> str | None:
    """Return the last attention that reads the whole context and does so by itself."""
    for name, _ffn in reversed(layers.order):
        part = layers.attention[name]
        if part["kind"].value not in _STATES and not {"window", "indexes"} & set(part):
            return name
    return None


def _last_ffn(layers: Stack) -> str | None:
    return next((ffn for _attention, ffn in reversed(layers.order) if ffn is not None), None)
