"""A model's config.json becomes a card: every family's keys, every mistake told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import sim
from sim.explain.imported import ImportedModel
from sim.inputs.attention import (
    CompressedAttention,
    Dsa,
    GatedDelta,
    Gqa,
    KimiDelta,
    Mamba2,
    Mfa,
    Mla,
)
from sim.inputs.documents.document import parse
from sim.inputs.model import DenseFfn, ModelCard, MoeFfn
from tests.huggingface_configs import FAMILIES

SMALL: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 512,
    "vocab_size": 1000,
}
COUNT = "num_nextn_predict_layers"
EXPERTS: dict[str, Any] = {
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "n_shared_experts": 1,
}


def written(folder: Path, config: object, name: str = "owner--Small.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")
    return path


def imported(folder: Path, lossy: bool = False, **keys: Any) -> ImportedModel:
    config = {key: value for key, value in (SMALL | keys).items() if value != "absent"}
    return sim.import_model(written(folder, config), lossy=lossy)


def attention_of(card: ModelCard) -> list[str]:
    return [layer.attention for layer in card.layer_sequence]


def ffn_of(card: ModelCard) -> list[str | None]:
    return [layer.ffn for layer in card.layer_sequence]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_has_its_published_parameters(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    path = written(tmp_path, family.config, f"{name.replace('/', '--')}.json")
    found = sim.import_model(path, lossy=True)
    assert found.parameters == pytest.approx(family.billions * 1e9, rel=0.01)
    if family.active is not None:
        counts = found.active_by_convention().values()
        nearest = min(abs(each / (family.active * 1e9) - 1) for each in counts)
        assert nearest < 0.025, counts


@pytest.mark.parametrize("name", FAMILIES)
def test_the_card_is_what_its_text_says(name: str, tmp_path: Path) -> None:
    path = written(tmp_path, FAMILIES[name].config, f"{name.replace('/', '--')}.json")
    found = sim.import_model(path, lossy=True)
    assert parse(found.text, "card").validate(ModelCard) == found.card
    for part in (*found.card.attention.values(), *found.card.ffn.values()):
        assert part.source.startswith(f"config.json of {name}: ")


def test_kinds_of_attention(tmp_path: Path) -> None:
    def kinds(name: str) -> dict[str, Any]:
        path = written(tmp_path, FAMILIES[name].config)
        return dict(sim.import_model(path, lossy=True).card.attention)

    lite = kinds("deepseek-ai/DeepSeek-V2-Lite")["mla"]
    assert isinstance(lite, Mla)
    assert lite.q_lora is None
    gdn = kinds("Qwen/Qwen3-Next-80B-A3B-Instruct")
    assert isinstance(gdn["gdn"], GatedDelta)
    assert isinstance(gdn["full"], Gqa)
    assert gdn["full"].output_gate
    assert isinstance(kinds("moonshotai/Kimi-Linear-48B-A3B-Instruct")["kda"], KimiDelta)
    assert isinstance(kinds("stepfun-ai/step3")["mfa"], Mfa)
    mimo = kinds("XiaomiMiMo/MiMo-V2-Flash")
    assert (mimo["full"].kv_heads, mimo["sliding"].kv_heads) == (4, 8)
    assert (mimo["sliding"].window, mimo["sliding"].value_dim) == (128, 128)
    step = kinds("stepfun-ai/Step-3.5-Flash")
    assert (step["full"].query_heads, step["sliding"].query_heads) == (64, 96)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("deepseek-ai/DeepSeek-V3", ("mla", "moe")),
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", ("full", "moe")),
        ("stepfun-ai/Step-3.5-Flash", ("sliding", "dense")),
        ("baidu/ERNIE-4.5-300B-A47B-PT", ("full", "dense")),
        ("google/gemma-3-27b-it", ("full", "dense")),
    ],
)
def test_the_layer_that_drafts(name: str, layer: tuple[str, str], tmp_path: Path) -> None:
    config = FAMILIES[name].config
    without = sim.import_model(written(tmp_path, config | {COUNT: 0}), lossy=True)
    assert without.card.draft_layer is None
    found = sim.import_model(written(tmp_path, config | {COUNT: 1}), lossy=True)
    drafts = found.card.draft_layer
    assert drafts is not None
    assert (drafts.attention, drafts.ffn) == layer
    assert parse(found.text, "card").validate(ModelCard) == found.card


def test_a_list_of_layers_may_name_the_one_that_drafts(tmp_path: Path) -> None:
    keys: dict[str, Any] = {
        "num_attention_heads": 8,
        "q_lora_rank": 64,
        "head_dim": 64,
        "qk_rope_head_dim": 32,
    }
    keys |= {"o_groups": 2, "o_lora_rank": 64, "sliding_window": 32, COUNT: 1}
    keys |= {"index_n_heads": 4, "index_head_dim": 32, "index_topk": 16}
    card = imported(tmp_path, **keys, compress_ratios=[4, 128, 4, 128, 0]).card
    assert attention_of(card) == ["csa", "hca", "csa", "hca"]
    assert card.draft_layer is not None
    assert card.draft_layer.attention == "window"


def test_modules_without_weights_do_not_draft(tmp_path: Path) -> None:
    found = imported(tmp_path, model_type="minimax_m2", num_mtp_modules=3, **EXPERTS)
    assert found.card.draft_layer is None
    assert any("weights are not published" in note for note in found.notes)


def test_a_model_without_such_a_layer_does_not_draft(tmp_path: Path) -> None:
    keys: dict[str, Any] = {COUNT: 3}
    found = imported(tmp_path, model_type="step3p5", **keys)
    assert found.card.draft_layer is None
    assert any("no layer is like those that draft" in note for note in found.notes)


@pytest.mark.parametrize(
    ("keys", "kinds"),
    [
        (
            {"layer_types": ["full_attention", "sliding_attention"] * 2, "sliding_window": 64},
            "fsfs",
        ),
        ({"sliding_window": 64}, "ssss"),
        ({"sliding_window": 64, "use_sliding_window": False}, "ffff"),
        ({"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 3}, "fffs"),
        ({"sliding_window": 64, "sliding_window_pattern": 2}, "sfsf"),
        ({"sliding_window": 64, "sliding_window_pattern": "LLLG"}, "sssf"),
        ({"sliding_window": 64, "model_type": "gpt_oss"}, "sfsf"),
        ({"sliding_window": 64, "hybrid_layer_pattern": [0, 1, 1, 0]}, "fssf"),
        ({"attention_chunk_size": 64, "no_rope_layers": [1, 0, 1, 1]}, "cfcc"),
        ({"attention_chunk_size": 64}, "cccf"),
    ],
)
def test_which_layers_have_windows(keys: dict[str, Any], kinds: str, tmp_path: Path) -> None:
    card = imported(tmp_path, **keys).card
    assert "".join(name[0] for name in attention_of(card)) == kinds
    windows = {name: kind.core(1).window for name, kind in card.attention.items()}
    assert windows == {name: None if name == "full" else 64 for name in windows}


@pytest.mark.parametrize(
    ("keys", "moe"),
    [
        ({}, "mmmm"),
        ({"first_k_dense_replace": 2}, "ddmm"),
        ({"first_k_dense_replace": 1, "moe_layer_freq": 2}, "ddmd"),
        ({"moe_layer_freq": [0, 1, 1, 0]}, "dmmd"),
        ({"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]}, "dmmm"),
        ({"interleave_moe_layer_step": 2}, "dmdm"),
        ({"decoder_sparse_step": 2, "mlp_only_layers": [3]}, "dmdd"),
        ({"moe_layers_enum": "1,3"}, "dmdm"),
        ({"moe_layer_start_index": 1, "moe_layer_end_index": 2}, "dmmd"),
        ({"is_moe_layer": [False, True, False, True]}, "dmdm"),
        ({"expert_layer_period": 2, "expert_layer_offset": 1}, "dmdm"),
        ({"enable_moe_block": False}, "dddd"),
        ({"num_experts": 0}, "dddd"),
        ({"num_experts": None}, "dddd"),
    ],
)
def test_which_layers_have_experts(keys: dict[str, Any], moe: str, tmp_path: Path) -> None:
    card = imported(tmp_path, **(EXPERTS | keys)).card
    assert "".join(str(name)[0] for name in ffn_of(card)) == moe


@pytest.mark.parametrize(
    ("keys", "shared"),
    [
        ({"n_shared_experts": 2}, (2, 64)),
        ({"n_shared_experts": "absent"}, (0, 0)),
        ({"n_shared_experts": "absent", "shared_expert_intermediate_size": 96}, (1, 96)),
        ({"n_shared_experts": "absent", "share_expert_dim": 96}, (1, 96)),
        ({"n_shared_experts": "absent", "num_shared_expert": [1] * 4}, (1, 64)),
        ({"moe_shared_expert_intermediate_size": 96}, (1, 96)),
        ({"n_shared_experts": "absent", "shared_intermediate_size": 0}, (0, 0)),
        ({"n_shared_experts": "absent", "model_type": "llama4_text"}, (1, 64)),
        ({"n_shared_experts": "absent", "residual_moe": True}, (1, 512)),
    ],
)
def test_shared_experts(keys: dict[str, Any], shared: tuple[int, int], tmp_path: Path) -> None:
    ffn = imported(tmp_path, **(EXPERTS | keys)).card.ffn["moe"]
    assert isinstance(ffn, MoeFfn)
    assert (ffn.shared, ffn.shared_intermediate) == shared


def test_ffns_without_gate_latent_experts_and_experts_that_cost_nothing(tmp_path: Path) -> None:
    keys = EXPERTS | {"moe_latent_size": 128, "zero_expert_num": 8, "mlp_hidden_act": "relu2"}
    ffn = imported(tmp_path, **keys).card.ffn["moe"]
    assert isinstance(ffn, MoeFfn)
    assert (ffn.latent, ffn.zero_experts, ffn.gated) == (128, 8, False)
    dense = imported(tmp_path, model_type="nemotron").card.ffn["dense"]
    assert isinstance(dense, DenseFfn)
    assert not dense.gated


LATENT: dict[str, Any] = {
    "kv_lora_rank": 64,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "q_lora_rank": 128,
}
INDEX: dict[str, Any] = {"index_topk": 128, "index_n_heads": 4, "index_head_dim": 32}


@pytest.mark.parametrize(
    ("keys", "reusing"),
    [
        ({}, []),
        ({"indexer_types": ["full", "shared", "full", "shared"]}, [1, 3]),
        ({"index_topk_pattern": "FSS"}, [1, 2]),
        ({"index_topk_freq": 4, "index_skip_topk_offset": 2}, [2, 3]),
    ],
)
def test_layers_that_reuse_a_choice(
    keys: dict[str, Any], reusing: list[int], tmp_path: Path
) -> None:
    card = imported(tmp_path, **(LATENT | INDEX | keys)).card
    kinds = [card.attention[name] for name in attention_of(card)]
    assert all(isinstance(kind, Dsa) for kind in kinds)
    assert [i for i, kind in enumerate(kinds) if not getattr(kind, "indexes", True)] == reusing


def test_gates_of_kimi_k3(tmp_path: Path) -> None:
    path = written(tmp_path, FAMILIES["moonshotai/Kimi-K3"].config)
    with pytest.raises(sim.InexpressibleError, match="attn_res_block_size"):
        sim.import_model(path)
    card = sim.import_model(path, lossy=True).card
    kda, mla = card.attention["kda"], card.attention["mla"]
    assert isinstance(kda, KimiDelta)
    assert isinstance(mla, Mla)
    assert kda.full_rank_gate
    assert mla.output_gate
    assert attention_of(card).count("mla") == 24


def test_layers_counted_from_zero(tmp_path: Path) -> None:
    own = {"num_heads": 4, "head_dim": 32, "short_conv_kernel_size": 4}
    for lists in ({"kda_layers": [0, 2]}, {"kda_layers": [1, 3], "full_attn_layers": [2, 4]}):
        config = LATENT | {"linear_attn_config": own | lists, "qk_rope_head_dim": 0}
        assert attention_of(imported(tmp_path, **config).card) == ["kda", "mla"] * 2


def test_compressed_layers(tmp_path: Path) -> None:
    keys = INDEX | {
        "compress_ratios": [0, 4, 128, 4, 0],  # the last drafts
        "q_lora_rank": 128,
        "qk_rope_head_dim": 16,
        "head_dim": 64,
        "o_groups": 2,
        "o_lora_rank": 32,
        "sliding_window": 64,
        "hc_mult": 4,
    }
    card = imported(tmp_path, **(EXPERTS | keys)).card
    assert attention_of(card) == ["window", "csa", "hca", "csa"]
    csa, hca = card.attention["csa"], card.attention["hca"]
    assert isinstance(csa, CompressedAttention)
    assert isinstance(hca, CompressedAttention)
    assert csa.index is not None
    assert hca.index is None
    assert card.hyper_connections == 4


def test_the_context_of_scaled_rotations(tmp_path: Path) -> None:
    scaled = {"factor": 4.0, "original_max_position_embeddings": 1024}
    card = imported(tmp_path, max_position_embeddings=4096, rope_scaling=scaled).card
    assert card.max_context_tokens == 4096
    card = imported(tmp_path, max_position_embeddings=1024, rope_scaling=scaled).card
    assert card.max_context_tokens == 4096


def test_a_directory_a_name_and_a_nested_text_config(tmp_path: Path) -> None:
    folder = tmp_path / "models--owner--Tiny-3B" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    vision = {"hidden_size": 64, "depth": 2, "intermediate_size": 128, "num_hidden_layers": 2}
    config = {
        "model_type": "vlm",
        "vision_config": vision,
        "text_config": SMALL,
        "tie_word_embeddings": True,
    }
    written(folder, config, "config.json")
    found = sim.import_model(folder)
    assert found.card.name == "tiny-3b"
    assert found.published.parameters == 3e9
    assert found.card.tied
    assert found.card.encoders is not None
    assert found.card.encoders["vision"].parameters == (
        2 * (4 * 64**2 + 2 * 64 * 128) + 64 * (64 + 256)
    )
    assert sim.import_model(folder, "mine").card.name == "mine"


def test_parameters_in_the_words_of_mistral(tmp_path: Path) -> None:
    folder = tmp_path / "Small-2"
    folder.mkdir()
    heads = {"n_heads": 8, "n_kv_heads": 2, "head_dim": 32}
    experts = {"num_experts": 16, "num_experts_per_tok": 2, "expert_hidden_dim": 64}
    more = {"num_shared_experts": 1, "first_k_dense_replace": 1}
    params = {"dim": 256, "n_layers": 4, "hidden_dim": 512, "vocab_size": 1000, **heads}
    written(folder, params | {"moe": experts | more}, "params.json")
    card = sim.import_model(folder).card
    assert card.name == "small-2"
    written(folder, params | {"quantization": {"qformat_weight": "fp8_e4m3"}}, "params.json")
    assert formats(sim.import_model(folder))["attention"] == "fp8_tensor"
    assert ffn_of(card) == ["dense", "moe", "moe", "moe"]
    same = EXPERTS | {"first_k_dense_replace": 1, "head_dim": 32}
    assert card.ffn["moe"].weights(256) == imported(tmp_path, **same).card.ffn["moe"].weights(256)


def formats(found: ImportedModel) -> dict[str, str]:
    checkpoint = found.card.checkpoint
    assert checkpoint is not None
    return {
        key: value
        for key, value in checkpoint.model_dump().items()
        if key != "source" and value is not None
    }


NVFP4_GROUP = {
    "targets": ["Linear"],
    "weights": {"num_bits": 4, "type": "float", "group_size": 16},
    "input_activations": {"num_bits": 4, "type": "float", "group_size": 16},
}
INT4_GROUP = {
    "targets": ["Linear"],
    "weights": {"num_bits": 4, "type": "int", "group_size": 32},
    "input_activations": None,
}


@pytest.mark.parametrize(
    ("quantization", "attention", "dense", "experts", "head"),
    [
        (None, "bf16", "bf16", "bf16", "bf16"),
        (
            {"quant_method": "fp8", "weight_block_size": [128, 128]},
            *("fp8", "fp8", "fp8", "bf16"),
        ),
        ({"quant_method": "fp8"}, *("fp8_tensor",) * 3, "bf16"),
        (
            {"config_groups": {"a": {"weights": {"num_bits": 8, "type": "float"}}}},
            *("fp8_tensor",) * 3,
            "fp8",
        ),
        (
            {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]},
            *("bf16", "bf16", "mxfp4", "bf16"),
        ),
        (
            {
                "quant_method": "modelopt",
                "quant_algo": "NVFP4",
                "ignore": ["lm_head", "model.layers.*.self_attn*"],
            },
            *("bf16", "nvfp4", "nvfp4", "bf16"),
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": INT4_GROUP},
                "ignore": [
                    "lm_head",
                    "re:.*self_attn.*",
                    "re:.*shared_experts.*",
                    "re:.*mlp\\.(gate|up|gate_up|down)_proj.*",
                ],
            },
            *("bf16", "bf16", "int4_group32", "bf16"),
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"a": NVFP4_GROUP | {"targets": ["re:.*experts.*"]}},
                "ignore": ["re:.*shared_experts.*"],
            },
            *("bf16", "bf16", "nvfp4", "bf16"),
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "mxfp4-pack-quantized",
                "ignore": ["lm_head", "re:.*shared_experts.*", "re:.*self_attn.*", "layers.0"],
            },
            *("bf16", "bf16", "mxfp4", "bf16"),
        ),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "int4", "int4", "int4", "bf16"),
        (
            {"quant_method": "gptq", "bits": 4, "modules_to_not_convert": ["self_attn"]},
            *("bf16", "int4", "int4", "bf16"),
        ),
        (
            {
                "quant_method": "quark",
                "global_quant_config": {"weight": {"dtype": "fp4"}},
                "exclude": ["lm_head", "*self_attn*"],
            },
            *("bf16", "mxfp4", "mxfp4", "bf16"),
        ),
    ],
)
def test_formats_by_part(
    quantization: dict[str, Any] | None,
    attention: str,
    dense: str,
    experts: str,
    head: str,
    tmp_path: Path,
) -> None:
    keys = EXPERTS | {"first_k_dense_replace": 1, "torch_dtype": "bfloat16"}
    if quantization is not None:
        keys["quantization_config"] = quantization
    assert formats(imported(tmp_path, **keys)) == {
        "attention": attention,
        "o_proj": attention,
        "dense": dense,
        "experts": experts,
        "lm_head": head,
    }


def test_formats_beside_the_config(tmp_path: Path) -> None:
    written(tmp_path, SMALL, "config.json")
    quantization = {
        "quant_algo": "FP8",
        "kv_cache_quant_algo": "FP8",
        "exclude_modules": ["lm_head"],
    }
    written(tmp_path, {"quantization": quantization}, "hf_quant_config.json")
    found = formats(sim.import_model(tmp_path))
    assert (found["attention"], found["dense"], found["kv"]) == ("fp8_tensor", "fp8_tensor", "fp8")
    assert "experts" not in found


def test_a_name_with_a_format_that_the_config_does_not_state(tmp_path: Path) -> None:
    found = sim.import_model(written(tmp_path, SMALL, "owner--Small-NVFP4.json"))
    assert found.card.checkpoint is None
    assert any("NVFP4" in note for note in found.read.notes)


def test_experts_with_a_format_of_their_own(tmp_path: Path) -> None:
    quantization = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    keys: dict[str, Any] = EXPERTS | {"expert_dtype": "fp4", "quantization_config": quantization}
    assert formats(imported(tmp_path, **keys))["experts"] == "mxfp4"


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({"num_kv_shared_layers": 2}, "num_kv_shared_layers"),
        ({"hidden_size_per_layer_input": 64}, "hidden_size_per_layer_input"),
        ({"layer_types": ["conv", "full_attention"] * 2}, "conv"),
        ({"use_cla": True, "cla_share_factor": 2}, "use_cla"),
        ({"parallel_attn_mlp_res": True}, "beside the experts"),
        ({"lru_width": 256}, "RecurrentGemma"),
        ({"model_type": "rwkv7"}, "RWKV"),
        ({"model_type": "xlm-roberta"}, "encoder"),
        ({"model_type": "esm", "architectures": ["EsmForMaskedLM"]}, "encoder"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "bitsandbytes"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "quantization"),
        (
            {
                "quantization_config": {
                    "quant_method": "modelopt",
                    "quant_algo": "NVFP4",
                    "ignore": ["model.layers.0.self_attn*"],
                }
            },
            "several formats",
        ),
    ],
)
def test_what_a_card_cannot_express_is_an_error(
    keys: dict[str, Any], word: str, tmp_path: Path
) -> None:
    with pytest.raises(sim.InexpressibleError, match=word) as caught:
        imported(tmp_path, **keys)
    assert "--lossy" in str(caught.value)
    found = imported(tmp_path, lossy=True, **keys)
    assert any(word in each for each in found.not_expressible)
    assert all(f"# Left out: {each}.\n" in found.text for each in found.not_expressible)


def test_missing_keys_are_told_with_what_no_card_has(tmp_path: Path) -> None:
    with pytest.raises(sim.ScenarioError, match="missing: vocab_size") as caught:
        imported(tmp_path, is_encoder_decoder=True, vocab_size="absent")
    assert any("is_encoder_decoder" in each for each in caught.value.problems)


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({"num_key_value_heads": 3}, "num_key_value_heads: should divide the 8"),
        ({"num_key_value_heads": 16}, "num_key_value_heads: should divide the 8"),
        ({"num_attention_heads": 10}, "num_attention_heads: should divide the 256"),
        (EXPERTS | {"num_experts": -16}, "num_experts: should be from 1"),
        (EXPERTS | {"first_k_dense_replace": 5}, "first_k_dense_replace: is 5, more than the 4"),
    ],
)
def test_counts_that_do_not_fit_are_mistakes(
    keys: dict[str, Any], word: str, tmp_path: Path
) -> None:
    with pytest.raises(sim.ScenarioError, match=word):
        imported(tmp_path, **keys)


def test_what_gemma_leaves_to_its_class(tmp_path: Path) -> None:
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10_240}
    config = {"text_config": text | {"num_hidden_layers": 34, "sliding_window": 1024}}
    found = sim.import_model(written(tmp_path, config, "google--gemma-3-4b-it.json"))
    assert abs(found.parameters / 3.88e9 - 1) < 0.01  # 4.3 billion with its encoder of 0.42
    assert attention_of(found.card)[:7] == ["sliding"] * 5 + ["full", "sliding"]
    assert "head_dim: 256 # not in the config: default of gemma3_text" in found.text


@pytest.mark.parametrize(
    ("name", "family", "counted"),
    [
        ("Small-1B-A1B", "llama", "with embedding and LM head"),
        ("Small-1B-A9B", "mistral", "with embedding and LM head"),
        ("Small-1B-A1B", "mistral", "with LM head, without embedding"),
    ],
)
def test_the_family_counts_active_parameters_unless_the_name_denies_it(
    name: str, family: str, counted: str, tmp_path: Path
) -> None:
    keys = {"model_type": family, "vocab_size": 100_000, "intermediate_size": 300_000}
    found = sim.import_model(written(tmp_path, SMALL | keys, f"owner--{name}.json"))
    assert found.active_convention == counted


def test_a_name_that_says_another_number_is_told(tmp_path: Path) -> None:
    found = sim.import_model(written(tmp_path, SMALL, "owner--Small-7B.json"))
    assert found.published.parameters == 7e9
    assert any("off the name's" in note for note in found.notes)
    assert imported(tmp_path).notes == ()


def test_keys_that_nothing_reads_are_told(tmp_path: Path) -> None:
    assert imported(tmp_path, attention_memory_size=64).read.unread == ("attention_memory_size",)


def test_all_mistakes_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    with pytest.raises(sim.ScenarioError) as caught:
        imported(
            tmp_path,
            hidden_size="256",
            vocab_size="absent",
            num_key_value_heads=0,
            tie_word_embeddings="no",
            layer_types=["full_attention"],
        )
    text = (tmp_path / "owner--Small.json").read_text(encoding="utf-8").splitlines()
    for key in ("hidden_size", "num_key_value_heads", "tie_word_embeddings", "layer_types"):
        line = next(i for i, each in enumerate(text, 1) if f'"{key}"' in each)
        assert any(f".json:{line}:" in each and key in each for each in caught.value.problems)
    assert any("missing: vocab_size" in each for each in caught.value.problems)
    assert len(set(caught.value.problems)) == len(caught.value.problems)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("", "empty"),
        ("{", "not JSON"),
        ('{"a": 1,}', "not JSON"),
        ("[1]", "object"),
        ("<!doctype html>", "web page"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:1", "Git LFS"),
        ("{}", "missing: hidden_size"),
        ('{"hidden_size": 8, "hidden_size": 9}', "duplicate"),
        ("[" * 100_000, "nested"),
        ('{"text_config": 3}', "missing"),
    ],
)
def test_files_that_are_no_config(content: str, word: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(sim.ScenarioError, match=word) as caught:
        sim.import_model(path)
    assert "config.json" in str(caught.value)


def test_places_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(sim.ScenarioError, match=r"has no config\.json"):
        sim.import_model(tmp_path)
    with pytest.raises(sim.ScenarioError, match="cannot be read"):
        sim.import_model(tmp_path / "nothing.json")
    huge = tmp_path / "model.safetensors"
    huge.write_bytes(b" " * (3 << 20))
    with pytest.raises(sim.ScenarioError, match="not its weights"):
        sim.import_model(huge)


def test_blocks_become_layers_some_of_them_without_an_ffn(tmp_path: Path) -> None:
    name = "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B"
    path = written(tmp_path, FAMILIES[name].config)
    card = sim.import_model(path).card
    pattern = str(FAMILIES[name].config["hybrid_override_pattern"])
    assert len(card.layer_sequence) == pattern.count("M") + pattern.count("*")
    assert ffn_of(card).count(None) == pattern.count("M*")
    assert isinstance(card.attention["mamba2"], Mamba2)
    with pytest.raises(sim.InexpressibleError, match="without attention"):
        imported(tmp_path, hybrid_override_pattern="-***", **EXPERTS)
