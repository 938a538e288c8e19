"""Study files: cells, shapes, and mistakes in them, all told at once with their place."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.foundation.errors import ScenarioError
from sim.study import cells
from sim.study.best_shapes import admitted
from tests import small_study


def test_cells_are_the_product_of_the_dimensions(tmp_path: Path) -> None:
    loaded = cells.load(small_study.write(tmp_path))
    assert [cell.name() for cell in loaded.cells] == ["Loaded, fast", "Loaded, slow"]
    assert [cell.sides[0].first.slo.tpot_ms for cell in loaded.cells] == [0.9, 1.5]
    assert all(cell.priced for cell in loaded.cells)
    (slow,) = cells.load(tmp_path / "study.yaml", only=["pace=slow"]).cells
    assert slow.place == {"model": "Loaded", "pace": "slow"}


def test_a_card_without_a_price_makes_output_per_gpu_the_yield(tmp_path: Path) -> None:
    add = "set: {deployment.gpus: 4, deployment.lm_head_tp: 1}"
    axis = f"{add}\n    constraints: [gpus < 99]"
    more = ("- deployment.gpus: [2, 4, 8]", "- deployment.accelerator: [h800, h200-sxm]")
    loaded = cells.load(small_study.write(tmp_path, (add, axis), more))
    assert not any(cell.priced for cell in loaded.cells)


def test_values_add_shapes_to_a_side(tmp_path: Path) -> None:
    fast = "fast: {set: {slo.tpot_ms: 0.9}}"
    more = (
        "fast: {set: {slo.tpot_ms: 0.9}, sides: {EP: {axes: [deployment.overlap: [none]],"
        " constraints: [gpus < 8], set: {deployment.combine_dtype: fp8}}}}"
    )
    first, second = cells.load(small_study.write(tmp_path, (fast, more))).cells
    ep, other = first.sides[1], second.sides[1]
    assert len(ep.axes) == len(other.axes) + 1
    assert ep.constraints == ("gpus < 8",)
    assert ep.first.deployment.model_dump()["combine_dtype"] == "fp8"
    assert other.first.deployment.model_dump()["combine_dtype"] == "bf16"


def test_settings_change_a_scenario_alone(tmp_path: Path) -> None:
    first = cells.load(small_study.write(tmp_path)).cells[0].sides[0].first
    other = first.with_settings({"slo.tpot_ms": 3.0, "noise": None})
    assert (other.slo.tpot_ms, other.noise) == (3.0, None)
    assert (first.slo.tpot_ms, first.noise is None) == (0.9, False)
    assert first.with_settings({}) == first


MISTAKES = {
    ("deployment.ffn.instances: [1, 2]", "deployment.ffn.instances: [1, none]"): "valid integer",
    ("slo.tpot_ms: 1.5", "slo.tpott_ms: 1.5"): "did you mean 'tpot_ms'?",
    ("base: step3-2a2f", "base: step3-2a2g"): "sides.AFD.base: unknown scenario",
    ("constraints: [gpus <= 8]", "constraints: [gpu <= 8]"): "sides.AFD.constraints.0: gpu is no",
    ("pairs: 3", "pairs: 2"): "pairs: should be greater than or equal to 3",
    ("probe: 3, search: 2", "probe: 5, search: 4"): "shortlist: probe 5 exceeds reconsider 4",
    ("probe: 3, search: 2", "probe: 3, search: 4"): "shortlist: search 4 exceeds probe 3",
    ("{free: [link,", "{free: [links,"): "did you mean 'link'?",
    ("AFD: {free: [link", "AFF: {free: [link"): "counterfactuals.1.sides.AFF: no side; did you",
    (
        "EP: {set: {noise: null}}",
        "EP: {set: {nois: null}}",
    ): "counterfactuals.0.sides.EP.set: is no",
    ("routing: {kind: balanced}", "routing: {kind: even}"): "screen: is no scenario with it",
    ("  pace:\n", "  pace: {}\n  other:\n"): "dimensions.pace: ",
    ("closed, requests_per_gpu: 1}", "poisson, requests_per_s: 1, requests: 9}"): "of kind closed",
    ("- name: no jitter", "- name: x\n    where: {pase: [slow]}"): "where.pase: no dimension; did",
    ("- name: no jitter", "- name: x\n    where: {pace: [slw]}"): "where.pace.0: no value; did",
    ("{free: [link,", "{set: {slo.tpot_ms: 9}, free: [link,"): "give one of set and free",
    ("kind: study", "kind: sweep"): "kind: this file is a sweep",
}


@pytest.mark.parametrize("change", MISTAKES)
def test_mistakes_are_told_with_their_place(tmp_path: Path, change: tuple[str, str]) -> None:
    path = small_study.write(tmp_path, change)
    with pytest.raises(ScenarioError) as caught:
        cells.load(path)
    told = [line for line in caught.value.problems if MISTAKES[change] in line]
    assert told, caught.value.problems
    assert all(line.startswith(f"{path}:") for line in told)


def test_several_mistakes_are_told_at_once(tmp_path: Path) -> None:
    path = small_study.write(
        tmp_path,
        ("deployment.ffn.instances: [1, 2]", "deployment.ffn.instances: [1, none]"),
        ("slo.tpot_ms: 1.5", "slo.tpott_ms: 1.5"),
        ("gpus: [2, 4, 8]", "gpus: [2, 4, -8]"),
    )
    with pytest.raises(ScenarioError) as caught:
        cells.load(path)
    told = "\n".join(caught.value.problems)
    for word in ("instances", "tpott_ms", "gpus"):
        assert word in told


@pytest.mark.parametrize(
    ("only", "said"),
    [
        ("pase=slow", "did you mean 'pace'?"),
        ("pace=slw", "did you mean 'slow'?"),
        ("pace", "DIMENSION=VALUE"),
    ],
)
def test_wrong_choices_of_cells(tmp_path: Path, only: str, said: str) -> None:
    with pytest.raises(ScenarioError, match=said.replace("?", r"\?")):
        cells.load(small_study.write(tmp_path), only=[only])


def test_the_shipped_study_is_read() -> None:
    loaded = cells.load("afd-vs-ep")
    assert len(loaded.cells) == 39
    assert [cell.priced for cell in loaded.cells].count(True) == 14


CELLS = (
    "cells: [{where: {pace: [slow]}, set: {slo.tpot_ms: 1.4}, "
    "sides: {EP: {set: {deployment.combine_dtype: fp8}}}}]"
)
"""Cells of a study, with what holds for them alone."""


def test_cells_that_are_named_are_studied_alone(tmp_path: Path) -> None:
    path = small_study.write(tmp_path, ("pairs: 3", f"pairs: 3\n{CELLS}"))
    (cell,) = cells.load(path).cells
    assert cell.place["pace"] == "slow"
    assert [each.first.slo.tpot_ms for each in cell.sides] == [1.4, 1.4]
    assert cell.sides[1].first.deployment.model_dump()["combine_dtype"] == "fp8"
    with pytest.raises(ScenarioError, match="no cell of the study"):
        cells.load(path, only=["pace=fast"])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("where: {pace", "where: {pase", "cells.0.where.pase: no dimension; did you mean 'pace'?"),
        ("[slow]", "[slw]", "cells.0.where.pace.0: no value; did you mean 'slow'?"),
        ("{EP:", "{EPP:", "cells.0.sides.EPP: no side; did you mean 'EP'?"),
        ("tpot_ms: 1.4", "tpott_ms: 1.4", "did you mean 'tpot_ms'?"),
    ],
)
def test_mistakes_in_cells(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = small_study.write(tmp_path, ("pairs: 3", f"pairs: 3\n{CELLS.replace(old, new)}"))
    with pytest.raises(ScenarioError) as caught:
        cells.load(path)
    assert any(said in problem for problem in caught.value.problems), caught.value.problems


def test_shapes_that_people_build_are_crossed_with_axes(tmp_path: Path) -> None:
    axes = (
        "axes:\n      - deployment.gpus: [2, 4, 8]\n      - deployment.redundant_experts: [0, 3, 8]"
    )
    built = "shapes: {gpus: 16}\n    axes:\n      - deployment.combine_dtype: [fp8, bf16]"
    path = small_study.write(tmp_path, (axes, built))
    shapes = cells.load(path).cells[0].sides[1]
    found = admitted(shapes)
    assert {each["deployment.gpus"] for each in found} == {8, 16}
    assert {each["deployment.combine_dtype"] for each in found} == {"fp8", "bf16"}
