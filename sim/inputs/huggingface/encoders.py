"""What reads images or sound beside a language model, as far as a config gives its size."""

from __future__ import annotations

from typing import Any

from sim.inputs.huggingface.file import ConfigFile, Fields, Keyed

_SECTIONS = {
    "vision": ("vision_config", "visual_config", "vision_encoder"),
    "audio": ("audio_config",),
}
_WIDTH = ("vt_hidden_size", "hidden_size", "embed_dim", "d_model", "width")
_DEPTH = ("vt_num_hidden_layers", "num_hidden_layers", "depth", "layers", "encoder_layers")
_INNER = ("vt_intermediate_size", "intermediate_size", "encoder_ffn_dim", "mlp_dim")
_GATED = ("gemma4_vision",)


def encoders(config: ConfigFile, dtype: str) -> dict[str, Fields]:
    """Return the encoders of a multimodal model: layers, patches and a projector of two layers.

    Notes those that the config says nothing of but their presence.
    """
    found: dict[str, Fields] = {}
    for name, keys in _SECTIONS.items():
        key = next((each for each in keys if isinstance(config.get(each), dict)), None)
        if key is None:
            continue
        section: dict[str, Any] = config.get(key)
        sizes = [_first(section, names) for names in (_WIDTH, _DEPTH, _INNER)]
        if None in sizes:
            config.note(f"{key}: states no size; the encoder is left out")
            continue
        (wide, width), (deep, depth), (inner, inside) = (size for size in sizes if size)
        matrices = 3 if section.get("model_type") in _GATED else 2
        layer = 4 * width**2 + matrices * width * inside
        patch, channels = section.get("patch_size"), section.get("in_channels", 3)
        counted = depth * layer
        if isinstance(patch, int) and isinstance(channels, int):
            counted += width * channels * patch**2
        merged = _merged_patches(section) * width
        counted += merged * (merged + _out(section, config))
        origin = f"{key}: {deep} × (4·{wide}² + {matrices}·{wide}·{inner})"
        found[name] = {
            "parameters": Keyed(counted, f"{origin}, patches and projector", (key,)),
            "dtype": Keyed(dtype, "quantizers leave encoders alone"),
        }
    return found


def _merged_patches(section: dict[str, Any]) -> int:
    """Return how many patches a projector takes in at once."""
    side = section.get("spatial_merge_size", section.get("merge_kernel_size"))
    if isinstance(side, list) and side:
        side = side[0]
    return side**2 if isinstance(side, int) and 0 < side < 100 else 1


def _out(section: dict[str, Any], config: ConfigFile) -> int:
    """Return the width that a projector gives: the language model's."""
    found = _first(section, ("out_hidden_size", "text_hidden_size"))
    return int(config.hidden().value) if found is None else found[1]


def _first(section: dict[str, Any], keys: tuple[str, ...]) -> tuple[str, int] | None:
    for key in keys:
        value = section.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**6:
            return key, value
    return None
