"""In which format a checkpoint stores each part, by what its quantization leaves out.

Quantizers name modules by path, by glob and by regular expression; `modules` has the paths of a
model's own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from sim.foundation.printable import excerpt
from sim.inputs.huggingface.file import ConfigFile, Keyed
from sim.inputs.huggingface.layers import Stack
from sim.inputs.huggingface.modules import EXPERTS, Modules, matches, modules_of

_PLAIN = {"bfloat16": "bf16", "float16": "bf16", "float32": "fp32"}
# An LM head is stated without how its scales lie.
_BARE = {"fp8_tensor": "fp8", "int4_fp8": "int4", "int4_group32": "int4"}
_SAID_BY_NAME = re.compile(r"nvfp4|mxfp4|fp4|fp8|int4|int8|awq|gptq|w4a16|w8a8", re.I)
# Modules in another format than the others of their part that a note is enough for.
_FEW = 0.1
# Names by which compressed-tensors calls what it packs: mxfp4-pack-quantized.
_PACKED = re.compile("(mxfp4|nvfp4)-pack")
Names = Callable[[Modules], bool]


class StoredFormats(NamedTuple):
    """The format of each part, of KV where the checkpoint brings scales, and what says so."""

    parts: dict[str, Keyed]
    """Of the parts that the model has; empty where nothing says it."""
    kv: Keyed | None


class _Scheme(NamedTuple):
    """What a quantizer did: a format to the modules it names, but not to those excluded."""

    dtype: str
    targets: Names
    key: str


def stored_formats(config: ConfigFile, layers: Stack, name: str) -> StoredFormats:
    """Return the formats of a checkpoint. What a card cannot say of them is noted."""
    plain, modules = _plain(config), modules_of(layers)
    place, section = _section(config)
    if section is None:
        said = _SAID_BY_NAME.search(name)
        if said:
            config.note(
                f"the name says {said[0]}, the config states no quantization: put "
                "hf_quant_config.json beside it, or state precision in the scenario"
            )
            return StoredFormats({}, None)
        return StoredFormats({part: plain for part, each in modules.items() if each}, None)
    schemes, excluded = _schemes(config, place, section), _excluded(section)
    parts = {}
    for part, named in modules.items():
        if not named:
            continue
        found = Counter(_format(each, schemes, excluded, plain) for each in named)
        (dtype, most), *others = found.most_common()
        key = next((scheme.key for scheme in schemes if scheme.dtype == dtype), None)
        origin = f"{place}: excluded" if dtype == plain.value else key or place
        parts[part] = Keyed(dtype, origin, (place,))
        if part == "lm_head":
            parts[part] = parts[part]._replace(value=_BARE.get(dtype, dtype))
        if others:
            told = ", ".join(f"{n} {each}" for each, n in [(dtype, most), *others])
            few = len(named) - most <= _FEW * len(named)
            tell = config.note if few else config.cannot
            tell(f"{place}: modules of {part} in several formats ({told}); the first kept")
    expert = config.get("expert_dtype")
    if expert is not None and "experts" in parts:
        parts["experts"] = _expert_format(config, expert)
    return StoredFormats(parts, _kv(section, place))


def _plain(config: ConfigFile) -> Keyed:
    key = config.first(("torch_dtype", "dtype"))
    value = None if key is None else config.get(key)
    if key is None or value not in _PLAIN:
        return Keyed("bf16", "not in the config: weights are published in BF16")
    return Keyed(_PLAIN[str(value)], key, (key,))


def _expert_format(config: ConfigFile, value: Any) -> Keyed:
    known = {"fp4": "mxfp4", "mxfp4": "mxfp4", "nvfp4": "nvfp4", "fp8": "fp8", "bf16": "bf16"}
    if value not in known:
        config.problem("expert_dtype", f"should be one of {', '.join(known)} (got {value!r})")
    note = "expert_dtype: one scale of 8 bits for 32 weights" if value == "fp4" else "expert_dtype"
    return Keyed(known.get(value, "bf16"), note, ("expert_dtype",))


def _section(config: ConfigFile) -> tuple[str, dict[str, Any] | None]:
    """Return what states the quantization: the config's section, else ModelOpt's own file."""
    for key in ("quantization_config", "compression_config", "quantization"):
        found = config.get(key)
        if isinstance(found, dict):
            return key, found
        if found is not None:
            config.problem(key, "should be an object")
    if config.quantization is not None:
        found = config.quantization.get(("quantization",))
        if isinstance(found, dict):
            return "hf_quant_config.json", found
        config.problems.append(
            config.quantization.problem((), "has no object 'quantization'; save it as published")
        )
    return "", None


def _schemes(config: ConfigFile, place: str, section: dict[str, Any]) -> list[_Scheme]:
    """Return the formats that a quantizer wrote, the most particular first."""
    groups = section.get("config_groups")
    if isinstance(groups, dict) and groups:
        return [
            _Scheme(_group_format(config, group), _targets(group), f"{place}.config_groups.{name}")
            for name, group in groups.items()
            if isinstance(group, dict)
        ]
    layers = section.get("quantized_layers")
    if isinstance(layers, dict):
        return [
            _Scheme(_algorithm(config, layer.get("quant_algo")), _is(path), place)
            for path, layer in layers.items()
            if isinstance(layer, dict)
        ]
    packed = _PACKED.match(str(section.get("format")))
    if packed:
        return [_Scheme(packed[1], _all, f"{place}.format")]
    if section.get("qformat_weight") == "fp8_e4m3":  # of Mistral's params.json
        return [_Scheme("fp8_tensor", _but_the_head, f"{place}.qformat_weight")]
    method = str(section.get("quant_method") or section.get("quant_algo") or "").lower()
    if method == "modelopt":
        method = str(section.get("quant_algo") or "").lower()
    if method == "mxfp4":
        return [_Scheme("mxfp4", _routed_experts, f"{place}.quant_method")]
    if method in ("awq", "gptq", "auto-round", "gptq_marlin", "awq_marlin"):
        bits = section.get("bits", section.get("w_bit", 4))
        dtype = _integers(config, bits, section.get("group_size", section.get("q_group_size")))
        return [_Scheme(dtype, _but_the_head, f"{place}.bits")]
    if method == "quark":
        return [_Scheme(_quark(config, section), _all, f"{place}.global_quant_config")]
    if method == "fp8":
        blocks = section.get("weight_block_size") is not None
        key = f"{place}.weight_block_size" if blocks else f"{place}.quant_method"
        return [_Scheme("fp8" if blocks else "fp8_tensor", _but_the_head, key)]
    return [_Scheme(_algorithm(config, method), _all, f"{place}.quant_algo")]


def _all(_module: Modules) -> bool:
    return True


def _but_the_head(module: Modules) -> bool:
    return module != ("lm_head",)


def _routed_experts(module: Modules) -> bool:
    return module[0].endswith(EXPERTS[0])


def _algorithm(config: ConfigFile, name: Any) -> str:
    known = {
        "nvfp4": "nvfp4",
        "w4a16_nvfp4": "nvfp4",
        "nvfp4_awq": "nvfp4",
        "fp8": "fp8_tensor",
        "fp8_pb_wo": "fp8",
        "fp8_pb_real": "fp8",
        "fp8_per_channel_per_token": "fp8_tensor",
        "w8a8_fp8": "fp8_tensor",
        "mxfp4": "mxfp4",
        "w4a8_awq": "int4_fp8",
        "w4a16_awq": "int4",
        "w8a16": "int8",
        "w8a8_sq_per_channel": "int8",
    }
    found = known.get(str(name).lower())
    if found is None:
        config.cannot(f"quantization {excerpt(str(name))!r}: weights written as bf16")
    return found or "bf16"


def _group_format(config: ConfigFile, group: dict[str, Any]) -> str:
    weights = group.get("weights")
    if not isinstance(weights, dict):
        return "bf16"
    bits, kind, size = (weights.get(key) for key in ("num_bits", "type", "group_size"))
    packed = _PACKED.match(str(group.get("format")))
    if packed:
        return packed[1]
    acts = group.get("input_activations")
    if kind == "int":
        narrow = isinstance(acts, dict) and acts.get("num_bits") == 8
        found = _integers(config, bits, size)
        return "int4_fp8" if narrow and found == "int4" else found
    if bits == 4:
        return "nvfp4" if size == 16 else "mxfp4"
    if bits == 8:
        return "fp8" if weights.get("strategy") == "block" else "fp8_tensor"
    return _algorithm(config, f"{kind} of {bits} bits")


def _integers(config: ConfigFile, bits: Any, group: Any) -> str:
    if bits == 8:
        return "int8"
    if bits != 4:
        return _algorithm(config, f"int of {bits} bits")
    if isinstance(group, int) and group == 32:
        return "int4_group32"
    return "int4"


def _quark(config: ConfigFile, section: dict[str, Any]) -> str:
    stated = section.get("global_quant_config")
    weight = stated.get("weight") if isinstance(stated, dict) else None
    dtype = weight.get("dtype") if isinstance(weight, dict) else None
    known = {"fp4": "mxfp4", "fp8_e4m3": "fp8_tensor", "int4": "int4", "int8": "int8"}
    return known.get(str(dtype)) or _algorithm(config, f"quark {dtype}")


def _targets(group: dict[str, Any]) -> Names:
    names = group.get("targets")
    listed = [each for each in names if isinstance(each, str)] if isinstance(names, list) else []
    if not listed or "Linear" in listed:
        return _all
    return lambda module: any(matches(each, module) for each in listed)


def _is(path: str) -> Names:
    return lambda module: matches(path, module)


def _excluded(section: dict[str, Any]) -> list[str]:
    """Return what a quantizer left alone, under all the names for that."""
    keys = ("ignore", "exclude_modules", "modules_to_not_convert", "ignored_layers", "exclude")
    return [
        each
        for key in keys
        for each in (section.get(key) if isinstance(section.get(key), list) else None) or ()
        if isinstance(each, str)
    ]


def _format(module: Modules, schemes: list[_Scheme], excluded: list[str], plain: Keyed) -> str:
    if not any(matches(each, module) for each in excluded):
        for scheme in schemes:
            if scheme.targets(module):
                return scheme.dtype
    return str(plain.value)


def _kv(section: dict[str, Any], place: str) -> Keyed | None:
    """Return the format of KV that a checkpoint brings scales for; None without."""
    scheme = section.get("kv_cache_scheme")
    if isinstance(scheme, dict) and scheme.get("num_bits") == 8:
        return Keyed("fp8", f"{place}.kv_cache_scheme")
    named = str(section.get("kv_cache_quant_algo") or section.get("kv_cache_quant") or "").lower()
    known = {"fp8": "fp8", "nvfp4": "nvfp4", "int8": "int8"}
    return Keyed(known[named], f"{place}.kv_cache_quant_algo") if named in known else None
