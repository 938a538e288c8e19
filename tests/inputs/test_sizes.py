"""Sizes: what would take memory or hours is refused before it does, with figure and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sim.foundation.errors import ScenarioError
from sim.inputs import cards, scenario
from sim.inputs.documents.document import parse
from sim.inputs.model import MOST_LAYERS, Layer
from sim.study import cells
from sim.sweeps import sweep
from sim.sweeps.axes import Axis
from sim.sweeps.constraints import holds
from tests import small_study, tiny


def aliases(levels: int, wide: int) -> str:
    """Return YAML that stands for about `wide` to the power of `levels` values."""
    lines = ["a0: &a0 [" + ", ".join("1" * wide) + "]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [" + ", ".join([f"*a{level - 1}"] * wide) + "]")
    return "\n".join(lines) + "\n"


def values_of(levels: int, wide: int) -> int:
    """Return how many values, keys and lists `aliases` stands for."""
    lists = [1 + wide]
    for _ in range(1, levels):
        lists.append(1 + wide * lists[-1])
    return 1 + levels + sum(lists)


@pytest.mark.parametrize("levels", [9, 30])
def test_aliases_are_counted_and_not_written_out(levels: int, tmp_path: Path) -> None:
    text = aliases(levels, 9)
    with pytest.raises(ScenarioError) as caught:
        parse(text, "bomb.yaml")
    assert f"holds {values_of(levels, 9):,} values once" in str(caught.value) or levels > 9
    assert "write fewer aliases" in str(caught.value)
    path = tmp_path / "bomb.yaml"
    path.write_text(text)
    for load in (scenario.load, sweep.load, cells.load, lambda p: cards.model(str(p))):
        with pytest.raises(ScenarioError, match="fewer aliases"):
            load(path)


def test_a_bomb_in_a_setting() -> None:
    bomb = "{" + ", ".join(aliases(9, 9).splitlines()) + "}"
    with pytest.raises(ScenarioError, match=r"--set workload.*fewer aliases"):
        scenario.load("step3-2a2f", [f"workload={bomb}"])


def test_values_are_counted_to_the_last() -> None:
    # The mapping, its key and the list count as well.
    parse(f"{{a: [{', '.join(['1'] * 99_997)}]}}", "long.yaml")
    with pytest.raises(ScenarioError, match="holds 100,001 values"):
        parse(f"{{a: [{', '.join(['1'] * 99_998)}]}}", "long.yaml")


@pytest.mark.parametrize("digits", ["9" * 50_000, "0." + "1" * 50_000, "-" + "1" * 50_000])
def test_numbers_of_too_many_digits(digits: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        scenario.load("step3-2a2f", [f"simulation.seed={digits}"])
    assert "digits" in str(caught.value)
    assert len(str(caught.value)) < 300


def axis(values: Any) -> Axis:
    return Axis.model_validate({"simulation.seed": values})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"from": 1, "to": 10**9, "step": 1}, "1,000,000,000 values, so at least that many points"),
        ({"from": 1, "to": 8, "step": 5e-324}, "take a larger step"),
        ({"from": 0, "to": 1, "step": 1e-300}, "more than 1e+18 values"),
        ({"from": 1, "to": 8, "logspace": 10**12}, "1,000,000,000,000 values"),
        ({"from": 1, "to": float("inf"), "step": 1}, "finite"),
        ({"from": 1, "to": 8, "step": float("nan")}, "finite"),
        ({"from": float("-inf"), "to": 8, "step": 1}, "finite"),
        ({"from": 10**90, "to": 10**99, "step": 1}, "finite numbers of at most"),
        ({"from": 1, "to": float("inf"), "logspace": 3}, "finite"),
        ({"from": 1, "to": 8, "step": 0}, "step > 0"),
        ({"from": 8, "to": 1, "step": -1}, "step > 0"),
        ({"from": 1e17, "to": 1e17 + 64, "step": 1.0}, "too small to change"),
        ({"from": 1, "to": 8, "logspace": 1}, "at least 2 values"),
        ({"from": 0, "to": 8, "logspace": 3}, "0 < from < to"),
        ({"from": -2, "to": 8, "logspace": 3}, "0 < from < to"),
        ({"from": 5e-324, "to": 1e18, "logspace": 3}, "too far apart"),
        ({"from": 1, "to": 8, "step": True}, "needs numbers"),
        ([], "empty"),
    ],
)
def test_axes_that_cannot_be_made(values: Any, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        axis(values)
    assert said in str(caught.value)


def test_axes_of_as_many_values_as_may_be() -> None:
    most = {"from": 1, "to": 100_000, "step": 1}
    assert axis(most).positions() == 100_000
    with pytest.raises(ValidationError):
        axis(most | {"to": 100_001})
    assert axis({"from": -1, "to": 1, "step": 0.5}).values["simulation.seed"][0] == -1


SWEEP = """kind: sweep
name: many
max_points: {most}
families:
- family: x
  base: step3-2a2f
  axes:
  - simulation.seed: {{from: 1, to: {to}, step: 1}}
  - deployment.micro_batches: [2, 3]
- {{family: y, base: step3-2a2f}}
"""


def test_points_are_counted_before_any_is_made(tmp_path: Path) -> None:
    path = tmp_path / "many.yaml"
    path.write_text(SWEEP.format(most=40, to=90_000))
    with pytest.raises(ScenarioError) as caught:
        sweep.load(path)
    assert str(caught.value) == (
        f"{path}:4:1: families: 180,001 combinations of the axes, of max_points 40 at most; take "
        "fewer values, or write a larger max_points in the sweep"
    )
    path.write_text(SWEEP.format(most=5, to=2))
    assert len(sweep.load(path).points) == 5
    path.write_text(SWEEP.format(most=4, to=2))
    with pytest.raises(ScenarioError, match="5 combinations"):
        sweep.load(path)


def test_shapes_of_a_study_are_counted_before_any_is_made(tmp_path: Path) -> None:
    # Two cells, with 6 shapes of AFD and 9 of EP in each.
    path = small_study.write(tmp_path, ("pairs: 3", "pairs: 3\nmax_shapes: 29"))
    with pytest.raises(ScenarioError, match="30 shapes in all cells, of max_shapes 29"):
        cells.load(path)
    path.write_text(path.read_text().replace("max_shapes: 29", "max_shapes: 30"))
    assert len(cells.load(path).cells) == 2


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("deployment.attention.instances=2147483648", "less than or equal to 16384"),
        ("deployment.ffn.gpus_per_instance=99999", "less than or equal to 16384"),
        ("deployment.attention.instances=16384", "131,072 GPUs, of 16,384 at most"),
        ("deployment.ffn.instances=4096", "32,768 GPUs, of 16,384 at most"),
        ("deployment.micro_batches=9", "less than or equal to 8"),
        ("workload.arrivals.concurrency=10000001", "equal to 10000000"),
        ("workload.arrivals={kind: closed, requests_per_gpu: 100001}", "equal to 100000"),
        ("workload.arrivals={kind: poisson, requests_per_s: 1, requests: 10000001}", "10000000"),
        ("simulation.replications=10001", "equal to 10000"),
        ("simulation.max_steps=1000001", "equal to 1000000"),
    ],
)
def test_sizes_of_a_scenario(setting: str, said: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        scenario.load("step3-2a2f", [setting])
    assert said in str(caught.value)


def test_layers_of_a_model(tmp_path: Path) -> None:
    path = tmp_path / "deep.yaml"
    for repeat, sound in ((MOST_LAYERS - 1, True), (MOST_LAYERS, False), (10**9, False)):
        path.write_text(tiny.MODEL.replace("repeat: 2", f"repeat: {repeat}"))
        if sound:
            card = cards.model(str(path))
            assert len(card.layer_sequence) == MOST_LAYERS
            # A drafting layer may come on top.
            assert len(card.with_layer(Layer(attention="swa", ffn="moe")).layer_sequence) == 1001
        else:
            with pytest.raises(ScenarioError, match=r"1,001 layers, of 1,000|equal to 1000"):
                cards.model(str(path))


@pytest.mark.parametrize(
    "path", ["workload.²", "families.٣.x", "workload.-1", "workload." + "9" * 5000, "a.0.b"]
)
def test_settings_of_no_place(path: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        scenario.load("step3-2a2f", [f"{path}=1"])
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("path", ["", ".", "a..b", ".a", "a."])
def test_settings_of_no_path(path: str) -> None:
    with pytest.raises(ScenarioError, match="write path=value"):
        scenario.load("step3-2a2f", [f"{path}=1"])


@pytest.mark.parametrize("place", ["9", "99999999999999999999"])
def test_places_outside_of_a_list(place: str) -> None:
    with pytest.raises(ScenarioError, match=r"there is no noise\.tasks"):
        scenario.load("step3-2a2f", ["noise={tasks: []}", f"noise.tasks.{place}=1"])


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9 < 1",
        "1/0 < 1",
        "gpus[0] < 1",
        "a\0b < 1",
        "__import__('os') < 1",
        "lambda: 1",
        "1j<1",
    ],
)
def test_constraints_that_are_no_arithmetic(text: str) -> None:
    with pytest.raises(ValueError, match=r"write e\.g\.|division by zero|compare"):
        holds(text, {"gpus": 8})


def test_constraints_that_are_long_or_deep() -> None:
    assert holds("(" * 140 + "1" + ")" * 140 + " < 2", {})
    assert holds("-" * 290 + "1 < 2", {})
    assert not holds("9" * 290 + " * gpus < 1", {"gpus": 8})


def test_points_that_are_all_wrong_are_not_all_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "many.yaml"
    path.write_text(
        "kind: sweep\nname: many\nset: {routing: {kind: unknown}}\nfamilies:\n"
        "  - {family: all, base: qwen3-ep16, axes: "
        "[simulation.seed: {from: 1, to: 5000, step: 1}]}\n"
    )
    with pytest.raises(ScenarioError) as caught:
        sweep.load(str(path))
    told = caught.value.problems
    assert any("unknown kind" in problem for problem in told)
    assert told[-1].endswith("more points may be wrong; mend these first")
