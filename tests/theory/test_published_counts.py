"""Models of 2026 as their publishers put them on Hugging Face: parameters and KV as published."""

from __future__ import annotations

from pathlib import Path

import pytest

import sim
from sim.deployments.weights import attention_bytes, ffn_bytes, vocab_bytes
from sim.explain.imported import ImportedModel
from sim.inputs import cards
from sim.inputs.model import MoeFfn
from sim.inputs.scenario import Precision

CONFIGS = Path(__file__).resolve().parents[3] / "shared" / "configs"

# Billions of parameters and of active ones, as published with each model; None: not published, or
# no model of experts.
PUBLISHED: dict[str, tuple[float, float | None]] = {
    "MiniMaxAI--MiniMax-M2.5": (229, 10),
    "Qwen--Qwen3-Coder-480B-A35B-Instruct": (480, 35),
    "Qwen--Qwen3.5-397B-A17B": (397, 17),
    "deepseek-ai--DeepSeek-V3.2": (671, 37),
    "deepseek-ai--DeepSeek-V4-Flash": (284, 13),
    "deepseek-ai--DeepSeek-V4-Pro": (1573, 49),
    "meta-llama--Llama-4-Maverick-17B-128E-Instruct": (400, 17),
    "moonshotai--Kimi-K2.5": (1026, 32),
    "nvidia--Gemma-4-31B-IT-NVFP4": (30.7, None),
    "nvidia--Kimi-K2.5-NVFP4": (1026, 32),
    "nvidia--NVIDIA-Nemotron-3-Super-120B-A12B-NVFP4": (120.6, 12),
    "openai--gpt-oss-120b": (116.8, 5.1),
    "stepfun-ai--Step-3.7-Flash": (196, 11),
    "zai-org--GLM-5.2": (744, 40),
}


def config(name: str) -> Path:
    path = CONFIGS / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"{name}: its config.json is not beside this checkout")
    return path


def imported(name: str) -> ImportedModel:
    return sim.import_model(config(name))


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters(name: str) -> None:
    found = imported(name)
    billions, active = PUBLISHED[name]
    assert found.parameters == pytest.approx(billions * 1e9, rel=0.01)
    if active is not None:
        # Publishers round to two digits: Qwen3.5's 17.35 are called 17.
        assert found.active_parameters == pytest.approx(active * 1e9, rel=0.021)


def test_kv_of_deepseek_v4() -> None:
    """15.57 KiB a token in SGLang's layout, its drafting layer included (SGLang's pool)."""
    assert imported("deepseek-ai--DeepSeek-V4-Flash").kv_bytes_per_token() / 1024 == pytest.approx(
        15.57, rel=0.01
    )


def test_kv_of_gemma_4() -> None:
    """10 full layers, and 50 windows of 1,024 tokens shared out over 32K: 105 KiB in BF16."""
    full, window = 4 * 2 * 512 * 2, 16 * 2 * 256 * 2
    found = imported("nvidia--Gemma-4-31B-IT-NVFP4")
    assert found.kv_bytes_per_token() == 10 * full + 50 * window * 1024 / 32_768 == 105 * 1024
    assert found.kv_bytes_per_token("fp8") == 52.5 * 1024


def test_kv_of_glm_5() -> None:
    """An FP8 latent of 576 and an index key of 132 bytes, in every layer as engines lay it out."""
    assert imported("zai-org--GLM-5.2").kv_bytes_per_token() == 78 * (576 + 132)


def test_weights_of_kimi_in_nvfp4_over_four_gpus() -> None:
    """152 GiB a GPU on B200: experts and shared experts alone are NVFP4."""
    card = imported("nvidia--Kimi-K2.5-NVFP4").card
    assert card.checkpoint is not None
    formats = card.checkpoint.precision()
    assert formats == {"gemm": "nvfp4", "attention": "bf16", "kv": "card", "lm_head": "bf16"}
    precision = Precision.model_validate(formats)

    def experts(ffn: MoeFfn) -> float:
        return ffn.experts / 4

    held = attention_bytes(card, precision, 1, drafts=False) + vocab_bytes(card, precision, 1)
    held += ffn_bytes(card, precision, experts, 1, 1)
    assert held / 2**30 == pytest.approx(152, rel=0.01)


SHIPPED = {
    "MiniMaxAI--MiniMax-M2.5": "minimax-m2.5",
    "Qwen--Qwen3-Coder-480B-A35B-Instruct": "qwen3-coder-480b-a35b",
    "Qwen--Qwen3.5-397B-A17B": "qwen3.5-397b-a17b",
    "deepseek-ai--DeepSeek-V3.2": "deepseek-v3.2",
    "deepseek-ai--DeepSeek-V4-Flash": "deepseek-v4-flash",
    "deepseek-ai--DeepSeek-V4-Pro": "deepseek-v4-pro",
    "moonshotai--Kimi-K2.5": "kimi-k2.5",
    "openai--gpt-oss-120b": "gpt-oss-120b",
    "stepfun-ai--Step-3.7-Flash": "step-3.7-flash",
    "zai-org--GLM-5.2": "glm-5.2",
}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_card_is_what_import_makes_of_the_config(name: str) -> None:
    card = SHIPPED[name]
    text = (cards.packaged(cards.MODELS) / f"{card}.yaml").read_text(encoding="utf-8")
    assert text == sim.import_model(config(name), card).text
