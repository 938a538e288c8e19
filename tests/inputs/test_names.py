"""Names: what a scenario, sweep, study or card may be called, and where its results go."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from sim.experiments.run_folder import run_directory
from sim.foundation.errors import ScenarioError
from sim.inputs import cards, scenario
from sim.inputs.naming import Label, Name, folder_name
from sim.results.files import RUNS
from sim.study import cells
from sim.sweeps import sweep as sweeps
from tests import small_study, tiny

PATHS = ["../../../../escaped", "/abs", ".", "..", "a/../b", "a/..", "..\\x", "\\\\host\\x", "//"]
UNPRINTABLE = ["a\0b", "a\nb", "\x1b[31mred", "a\x9bb", "tab\there", "\u202eabc"]
NOTHING = ["", " ", "[]", "..."]
LONG = ["n" * 201, "n" * 300, "n" * 100_000]
PLAIN = ["x [/fp8] y", "[bold red]x", "step3-2a2f", "Qwen/Qwen3-235B", "模型 1", "=1+1", ".hidden"]


@pytest.mark.parametrize("name", [*PATHS, *UNPRINTABLE, *NOTHING, *LONG])
def test_a_name_that_is_none_is_refused_in_a_line(name: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Name).validate_python(name)
    (problem,) = caught.value.errors()
    assert "write " in problem["msg"]
    assert problem["msg"].isprintable()
    assert len(problem["msg"]) < 300


@pytest.mark.parametrize("name", PLAIN)
def test_any_other_name_is_kept_as_written(name: str) -> None:
    assert TypeAdapter(Name).validate_python(name) == name


@pytest.mark.parametrize("label", [*UNPRINTABLE, "", " ", *LONG])
def test_a_label_is_text_on_one_line(label: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Label).validate_python(label)


@given(st.text(max_size=200))
def test_results_of_any_accepted_name_stay_in_their_folder(name: str) -> None:
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        return
    folder = folder_name(name)
    assert (RUNS / folder).resolve().parent == RUNS.resolve()
    assert folder[0] not in ".-"
    assert folder.isprintable()
    assert len(folder.encode()) <= 150
    assert folder_name(folder) == folder


def test_shipped_names_are_their_folders() -> None:
    for name in cards.names(cards.SCENARIOS):
        assert run_directory(scenario.load(name)).name.startswith(f"{name}-")


@pytest.mark.parametrize("name", ["../x", "", "a\\nb", "n" * 300])
def test_every_kind_of_file_refuses_it_at_its_place(tmp_path: Path, name: str) -> None:
    written = f'name: "{name}"'
    sweep, study, card = (tmp_path / f"{kind}.yaml" for kind in ("sweep", "study", "card"))
    sweep.write_text(f"kind: sweep\n{written}\nfamilies:\n- family: x\n  base: step3-2a2f\n")
    small_study.write(tmp_path, ("name: small", written)).rename(study)
    card.write_text(tiny.MODEL.replace("name: tiny", written))
    for load, place in (
        (lambda: sweeps.load(sweep), f"{sweep}:2:1: name: "),
        (lambda: cells.load(study), f"{study}:3:1: name: "),
        (lambda: cards.model(str(card)), f"{card}:3:1: name: "),
        (lambda: scenario.load("step3-2a2f", [f'name="{name}"']), "--set name: name: "),
    ):
        with pytest.raises(ScenarioError) as caught:
            load()
        assert [line for line in caught.value.problems if line.startswith(place)]


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("family: x", 'family: "a\\eb"', "families.0.family"),
        ("label: x", 'label: ""', "published.0.label"),
    ],
)
def test_labels_of_a_sweep(tmp_path: Path, old: str, new: str, path: str) -> None:
    text = "kind: sweep\nname: x\nfamilies:\n- family: x\n  base: step3-2a2f\n"
    text += "published: [{label: x, tpot_ms: 1, tgs: 1, source: here}]\n"
    assert old in text
    (tmp_path / "sweep.yaml").write_text(text.replace(old, new))
    with pytest.raises(ScenarioError, match=f": {path}: "):
        sweeps.load(tmp_path / "sweep.yaml")


def test_a_measurement_names_a_family_of_its_sweep(tmp_path: Path) -> None:
    text = "kind: sweep\nname: x\nfamilies:\n- family: x\n  base: step3-2a2f\n"
    text += "published: [{label: x, tpot_ms: 1, tgs: 1, source: here, family: y}]\n"
    (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(ScenarioError, match="published names no family of this sweep: y"):
        sweeps.load(tmp_path / "sweep.yaml")


def test_names_of_a_study_that_are_keys(tmp_path: Path) -> None:
    path = small_study.write(tmp_path, ("    slow:", '    "a\\eb":'), ("[slow]", "[fast]"))
    with pytest.raises(ScenarioError, match=r"dimensions\.pace") as caught:
        cells.load(path)
    assert "\x1b" not in str(caught.value)
