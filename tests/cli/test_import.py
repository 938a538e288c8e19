"""`afdsim models import`: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.command_line import Call, left_behind
from tests.huggingface_configs import FAMILIES

LITE = "deepseek-ai/DeepSeek-V2-Lite"


def config(folder: Path, **keys: Any) -> str:
    path = folder / "given" / "deepseek-ai--DeepSeek-V2-Lite.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(FAMILIES[LITE].config | keys), encoding="utf-8")
    return str(path)


def test_import_writes_a_card_that_models_lists(afdsim: Call, tmp_path: Path) -> None:
    answer = afdsim("models", "import", config(tmp_path))
    assert answer.code == 0
    assert "15.71 B" in answer.out
    assert "scenarios/models/deepseek-v2-lite.yaml" in answer.err
    shown = afdsim("models", "show", "deepseek-v2-lite")
    assert "kv_lora: 512 # kv_lora_rank" in shown.out


def test_import_prints_one_json_object(afdsim: Call, tmp_path: Path) -> None:
    answer = afdsim("models", "import", config(tmp_path), "--json", "--name", "lite")
    told = json.loads(answer.out)
    assert {"name", "parameters", "active_parameters", "kv_bytes_per_token"} <= set(told)
    assert told["name"] == "lite"
    assert told["not_expressible"] == []
    assert told["kv_bytes_per_token"] == 27 * 576 * 2
    assert told["kv_bytes_per_token_by_format"]["fp8"] == 27 * 576
    assert told["file"] == "scenarios/models/lite.yaml"


def test_a_card_is_never_overwritten(afdsim: Call, tmp_path: Path) -> None:
    given = config(tmp_path)
    assert afdsim("models", "import", given).code == 0
    again = json.loads(afdsim("models", "import", given, "--json").out)
    assert again["file"] == "scenarios/models/deepseek-v2-lite.yaml"
    other = config(tmp_path, vocab_size=102401)
    assert afdsim("models", "import", other, "--name", "deepseek-v2-lite").code == 2
    assert json.loads(afdsim("models", "import", other, "--json").out)["name"].endswith("-2")
    assert afdsim("models", "import", given, "--out", "mine/card.yaml").code == 0
    assert left_behind(tmp_path) == [
        "given/deepseek-ai--DeepSeek-V2-Lite.json",
        "mine/card.yaml",
        "scenarios/models/deepseek-v2-lite-2.yaml",
        "scenarios/models/deepseek-v2-lite.yaml",
    ]


def test_what_a_card_cannot_express_needs_lossy(afdsim: Call, tmp_path: Path) -> None:
    given = config(tmp_path, num_kv_shared_layers=3)
    answer = afdsim("models", "import", given, "--json")
    assert answer.code == 4
    told = json.loads(answer.out)
    assert len(told["not_expressible"]) == 1
    assert told["file"] is None
    assert "--lossy" in answer.err
    assert not (tmp_path / "scenarios").exists()
    answer = afdsim("models", "import", given, "--lossy")
    assert answer.code == 0
    assert "left out: num_kv_shared_layers" in answer.err


def test_import_refuses_what_is_no_config(afdsim: Call, tmp_path: Path) -> None:
    answer = afdsim("models", "import", str(tmp_path))
    assert (answer.code, answer.out) == (3, "")
    assert "config.json" in answer.err
    assert afdsim("models", "import", config(tmp_path), "--name", "../x").code in (2, 3)
    assert not (tmp_path.parent / "x.yaml").exists()


def test_the_context_over_which_windows_are_shared(afdsim: Call, tmp_path: Path) -> None:
    given = tmp_path / "google--gemma-3-27b-it.json"
    given.write_text(json.dumps(FAMILIES["google/gemma-3-27b-it"].config), encoding="utf-8")
    found = [
        json.loads(afdsim("models", "import", str(given), "--json", "--context", each).out)
        for each in ("1024", "32768")
    ]
    token = 16 * 2 * 128 * 2
    assert found[0]["kv_bytes_per_token"] == 62 * token
    assert found[1]["kv_bytes_per_token"] == (10 + 52 / 32) * token


def test_new_puts_a_model_into_a_scenario(afdsim: Call, tmp_path: Path) -> None:
    quantization = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    given = config(tmp_path, quantization_config=quantization)
    assert afdsim("models", "import", given, "--name", "lite-fp8").code == 0
    answer = afdsim("new", "mine", "--from", "dsv3-ep16-h200-mtp", "--model", "lite-fp8")
    assert answer.code == 0
    assert "speculation" in answer.err
    text = (tmp_path / "scenarios/mine.yaml").read_text(encoding="utf-8")
    assert "model: lite-fp8" in text
    assert "precision: {gemm: fp8, kv: card, lm_head: bf16}" in text
    assert afdsim("validate", "mine").code == 0
    answer = afdsim("new", "other", "--from", "step3-2a2f", "--model", "qwen3-32b")
    assert "states no checkpoint" in answer.err
    text = (tmp_path / "scenarios/other.yaml").read_text(encoding="utf-8")
    assert "precision: {gemm: fp8, kv: fp8, lm_head: bf16}" in text
