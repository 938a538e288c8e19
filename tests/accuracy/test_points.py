"""Files of operating points: read by name, and every mistake told by line and column."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.experiments.accuracy import points, words
from sim.foundation.errors import ScenarioError
from tests.measured_points import ROW, written


def test_an_empty_cell_and_a_missing_column_are_unknown(tmp_path: Path) -> None:
    (found,) = points.read_points(written(tmp_path / "p.csv", ROW | {"gpus_ffn": ""}))
    assert found.gpus_ffn is None
    assert found.measured_tgs is None
    assert found.kv_format == ""
    assert (found.requests_per_gpu, found.gpus) == (16, 8)


def test_tokens_per_second_alone_give_the_tpot_of_all_gpus(tmp_path: Path) -> None:
    changed = {"deployment": "afd", "gpus_ffn": "4", "measured_tpot_ms": "", "measured_tgs": "500"}
    (found,) = points.read_points(written(tmp_path / "p.csv", ROW | changed))
    assert found.gpus == 12
    assert found.measured_ms == pytest.approx(1e3 * 16 / 500)


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    spoilt = ROW | {"requests_per_gpu": "many", "clock": "cpu", "gpus_attention": "0"}
    path = written(tmp_path / "p.csv", ROW, spoilt)
    with pytest.raises(ScenarioError) as caught:
        points.read_points(path)
    place = f"{path}:3: "
    assert [problem.split(": ")[1] for problem in caught.value.problems] == [
        *("requests_per_gpu", "gpus_attention", "clock", "id"),
    ]
    assert all(problem.startswith(place) for problem in caught.value.problems)


def test_an_unknown_column_is_told_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"kv_fromat.*did you mean 'kv_format'"):
        points.read_points(written(tmp_path / "p.csv", ROW | {"kv_fromat": "fp8"}))


def test_a_file_without_rows_is_told(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text(",".join(ROW) + "\n", encoding="utf-8")
    with pytest.raises(ScenarioError, match="no rows"):
        points.read_points(path)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("none", 1),
        ("none (no DBO), full decode CUDA graph at the exact batch", 1),
        ("overlap scheduling", 1),
        ("two-batch overlap", 2),
        ("2 ubatches (DBO), sync CAMP2p", 2),
        ("3 micro-batches, StepMesh", 3),
        ("", None),
    ],
)
def test_words_for_micro_batches(text: str, count: int | None) -> None:
    assert words.micro_batches(text) == count


def test_an_accepted_length_gives_the_acceptance_of_a_draft() -> None:
    found = words.drafts("3 drafts (4-token window), 2.44 accepted length")
    assert found is not None
    assert sum(found.p**n for n in range(found.count + 1)) == pytest.approx(2.44, abs=1e-3)
    assert words.drafts("simulated: 1 draft, 60 % accepted (doubled batch)") == words.Drafts(1, 0.6)
    assert words.drafts("off (not mentioned)") is None


def test_a_model_of_another_architecture_has_no_card() -> None:
    assert words.model("DeepSeek-R1-0528 (V3 architecture)") == "deepseek-v3"
    assert words.model("DeepSeek-R1-0528-NVFP4-v2") == "deepseek-v3"
    assert words.model("Qwen3-235B-A22B-Instruct-2507-FP8") == "qwen3-235b-a22b"
    assert words.accelerator("GB200 NVL72", []) == "gb200"
    for name in ("DeepSeek-V5", "DeepSeek-V4-Mini", ""):
        with pytest.raises(words.Unclear, match="no model card"):
            words.model(name)


def test_a_plug_in_has_a_profile_beside_its_engines() -> None:
    assert words.framework("vllm-ascend + afd-plugin") == "vllm-ascend"
    assert words.framework("vLLM 0.19") == "vllm"
    assert words.accelerator("Ascend A3 die", []) == "ascend-910c"
    assert words.model("DeepSeek-V3.2") == "deepseek-v3.2"
