"""Did you mean: case does not count, whole words and prefixes come before likeness."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.foundation.errors import ScenarioError, did_you_mean
from sim.foundation.suggestions import nearest
from sim.inputs import cards

ACCELERATORS = cards.names(cards.ACCELERATORS)


@pytest.mark.parametrize(
    ("word", "folder", "meant"),
    [
        ("H200", cards.ACCELERATORS, "h200-sxm"),
        ("h200_sxm", cards.ACCELERATORS, "h200-sxm"),
        ("H 800", cards.ACCELERATORS, "h800"),
        ("gb", cards.ACCELERATORS, "gb200"),
        ("A100-SXM-80GB", cards.ACCELERATORS, "a100-sxm"),
        ("deepseek", cards.MODELS, "deepseek-v3"),
        ("DeepSeek-V3", cards.MODELS, "deepseek-v3"),
        ("DSV3-EP128", cards.SCENARIOS, "dsv3-ep128"),
        ("step3-2a3f", cards.SCENARIOS, "step3-2a2f"),
    ],
)
def test_the_likeliest_is_suggested_and_others_are_listed(
    word: str, folder: str, meant: str
) -> None:
    names = cards.names(folder)
    remedy = did_you_mean(word, names)
    assert remedy.startswith(f"did you mean {meant!r}? known: ")
    few = len(names) <= 20
    assert remedy.endswith(", ".join(names) if few else f"{len(names) - 5} more")


@pytest.mark.parametrize("word", ["", "-", "zzzzz", "²", "x" * 50_000])
def test_what_is_like_nothing_lists_what_there_is(word: str) -> None:
    assert did_you_mean(word, ACCELERATORS) == f"known: {', '.join(ACCELERATORS)}"
    assert did_you_mean(word, []) == "none are known here"


def test_of_many_names_the_nearest_are_listed_and_the_others_counted() -> None:
    names = [f"card-{number:03}" for number in range(100)]
    remedy = did_you_mean("card-0050", names)
    assert remedy.startswith("did you mean 'card-005'? known: ")
    assert remedy.endswith(", 95 more")
    assert did_you_mean("zzz", names).endswith("card-019, 80 more")


def test_order_is_case_and_signs_then_words_then_prefixes_then_likeness() -> None:
    names = ["one_two", "twone", "one two three", "onetwothree", "on", "onetvo"]
    assert nearest("One-Two", names) == ["one_two", "one two three", "onetwothree", "on", "onetvo"]


def test_a_card_that_is_no_file_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / cards.MODELS
    folder.mkdir(parents=True)
    (folder / "zeros.yaml").symlink_to("/dev/zero")
    monkeypatch.chdir(tmp_path)
    assert "zeros" not in cards.names(cards.MODELS)
    with pytest.raises(ScenarioError, match="unknown model 'zeros'; known"):
        cards.model("zeros")
