"""Sweep files: axes, constraints, and mistakes in them."""

from __future__ import annotations

import math
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.foundation.errors import ScenarioError
from sim.sweeps import sweep
from sim.sweeps.axes import Axis, crossed
from sim.sweeps.constraints import UnknownPathError, holds
from sim.sweeps.sweep import LoadedSweep

BOTH = "deployment.attention.instances + deployment.ffn.instances"


def values(written: Any) -> list[Any]:
    return Axis.model_validate({"x": written}).values["x"]


def test_ranges() -> None:
    assert values([3, "a", None]) == [3, "a", None]
    assert values({"from": 1, "to": 8, "step": 3}) == [1, 4, 7]
    assert values({"from": 0.5, "to": 1, "step": 0.25}) == [0.5, 0.75, 1.0]
    assert values({"from": 1, "to": 64, "logspace": 7}) == [1, 2, 4, 8, 16, 32, 64]
    assert values({"from": 1, "to": 4, "logspace": 7}) == [1, 2, 3, 4]


@given(
    st.floats(1e-6, 1e6), st.floats(1.01, 1e6), st.integers(2, 40), st.sampled_from([float, int])
)
def test_logspace_is_even_in_the_logarithm_with_both_ends(
    first: float, ratio: float, count: int, kind: type[int] | type[float]
) -> None:
    low = max(kind(first), kind(1)) if kind is int else first
    high = kind(low * ratio) + (kind is int)
    found = values({"from": low, "to": high, "logspace": count})
    assert (found[0], found[-1]) == (low, high)
    assert found == sorted(set(found))
    if kind is int:
        assert all(type(value) is int for value in found)
        assert len(found) <= count
    else:
        steps = [math.log(b / a) for a, b in pairwise(found)]
        assert len(found) == count
        assert steps == pytest.approx([math.log(high / low) / (count - 1)] * (count - 1), rel=1e-6)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ([], "list of values is empty"),
        (3, "write a list"),
        ({"from": 1, "to": 8}, "logspace: 7"),
        ({"from": 1, "to": 8, "step": 1, "logspace": 3}, "write a list"),
        ({"from": 1, "to": "8", "step": 1}, "a range needs numbers"),
        ({"from": 1, "to": 8, "step": 0}, "step > 0"),
        ({"from": 8, "to": 1, "step": 1}, "from <= to"),
        ({"from": 0, "to": 8, "logspace": 3}, "0 < from < to"),
        ({"from": 1, "to": 8, "logspace": 1}, "at least 2"),
        ({"from": 1, "to": 8, "logspace": 2.5}, "a whole number of them"),
    ],
)
def test_wrong_ranges(written: Any, said: str) -> None:
    with pytest.raises(ValueError, match=f"x: .*{said}"):
        values(written)


def test_zipped_paths_move_together_and_axes_are_crossed() -> None:
    axes = [
        Axis.model_validate({"a": [1, 2], "b": {"from": 10, "to": 20, "step": 10}}),
        Axis.model_validate({"c": [5, 6]}),
    ]
    assert [tuple(point.values()) for point in crossed(axes)] == [
        *((1, 10, 5), (1, 10, 6), (2, 20, 5), (2, 20, 6))
    ]


NUMBERS = {"gpus": 32, "a": {"b": 3, "c": 0.5, "text": "x", "flag": True, "none": None}}


@pytest.mark.parametrize(
    ("constraint", "expected"),
    [
        ("gpus <= 32", True),
        ("gpus < 32", False),
        ("a.b + 2 * a.c == 4", True),
        ("1 < a.b <= 3 != gpus", True),
        ("1 < a.b < 3", False),
        ("gpus % 5 == 2", True),
        ("gpus // 5 / -a.b > -2.1", True),
        ("(a.b + 1) * 2 >= 8", True),
        (" gpus\n>= 1 ", True),
    ],
)
def test_constraints(constraint: str, expected: bool) -> None:
    assert holds(constraint, NUMBERS) is expected


@pytest.mark.parametrize(
    "constraint",
    [
        *("", "gpus", "1 + 1", "gpus <", "gpus = 3", "gpus in (1, 2)", "gpus is 3", "not gpus > 1"),
        *("gpus > 1 and gpus < 3", "gpus ** 9 > 1", "gpus > 'x'", "gpus > True", "f(gpus) > 1"),
        *("gpus[0] > 1", "__import__('os').system('true') == 0", "(lambda: 1)() > 0", "gpus > 1j"),
        *("[1] > [0]", "gpus > (x := 3)", "().__class__ == 1", "1 if gpus else 2 > 1", "~gpus > 1"),
        *("gpus > 1; gpus > 2", "gpus > \x00", "(" * 250 + "1" + ")" * 250, "gpus > 0_", "-" * 299),
    ],
)
def test_what_is_no_comparison_of_arithmetic(constraint: str) -> None:
    with pytest.raises(ValueError, match=r"write|compare|null bytes"):
        holds(constraint, NUMBERS)


@pytest.mark.parametrize(
    ("constraint", "said"),
    [
        ("gpu < 3", "did you mean 'gpus'"),
        ("a.d < 3", "did you mean 'a.b'|did you mean 'a.c'"),
        ("a.text < 3", "a.text is no number"),
        ("a.flag < 3", "a.flag is no number"),
        ("a.none < 3", "a.none is no number"),
        ("a.b.c < 3", "a.b.c is no number"),
    ],
)
def test_unknown_paths(constraint: str, said: str) -> None:
    with pytest.raises(UnknownPathError, match=said):
        holds(constraint, NUMBERS)


def test_arithmetic_without_a_result() -> None:
    with pytest.raises(ValueError, match="gpus / 0: division by zero"):
        holds("gpus / 0 > 1", NUMBERS)


@given(st.text(alphabet="gpusab.c0123456789+-*/%()<>=! ", max_size=40))
def test_any_text_is_a_constraint_or_is_told(text: str) -> None:
    with suppress(ValueError, UnknownPathError):
        assert holds(text, NUMBERS) in (True, False)


def load(folder: Path, constraints: str = "", of_family: str = "", extra: str = "") -> LoadedSweep:
    path = folder / "sweep.yaml"
    path.write_text(
        "kind: sweep\nname: s\n"
        f"{constraints}\n"
        "families:\n"
        "  - family: AFD\n"
        "    base: step3-2a2f\n"
        f"    {of_family or 'set: {}'}\n"
        "    axes:\n"
        "      - deployment.attention.instances: [1, 2, 3, 4]\n"
        "      - deployment.ffn.instances: [1, 2, 4]\n"
        f"{extra}"
    )
    return sweep.load(path)


def shapes(loaded: LoadedSweep) -> list[str]:
    return [point.scenario.deployment.shape_name() for point in loaded.points]


def test_constraints_leave_points_out_and_they_are_counted(tmp_path: Path) -> None:
    loaded = load(tmp_path, f'constraints: ["{BOTH} <= 4"]')
    assert shapes(loaded) == ["1A1F", "1A2F", "2A1F", "2A2F", "3A1F"]
    assert loaded.left_out == 7
    assert [point.index for point in loaded.points] == [0, 1, 2, 3, 4]
    both = load(tmp_path, f'constraints: ["{BOTH} <= 4"]', 'constraints: ["gpus >= 32"]')
    assert shapes(both) == ["2A2F", "3A1F"]


def test_a_constraint_may_leave_out_what_is_no_scenario(tmp_path: Path) -> None:
    ep = (
        "  - family: EP\n    base: dsv3-ep128\n    {}\n"
        "    axes:\n      - deployment.gpus: {{from: 4, to: 16, step: 2}}\n"
    )
    with pytest.raises(ScenarioError, match="lm_head_tp 8 does not divide 4 gpus"):
        load(tmp_path, extra=ep.format("set: {}"))
    rule = 'constraints: ["deployment.gpus % deployment.lm_head_tp == 0"]'
    loaded = load(tmp_path, extra=ep.format(rule))
    assert shapes(loaded)[12:] == ["EP8", "EP16"]
    assert loaded.left_out == 5


@pytest.mark.parametrize(
    ("constraints", "of_family", "place", "said"),
    [
        ('constraints: ["gpus << 3 < 1"]', "", "3:15: constraints.0", "no number, path"),
        ('constraints: ["gpus"]', "", "3:15: constraints.0", "compares nothing"),
        ("", 'constraints: ["gpus <= "]', "7:19: families.0.constraints.0", "cannot be read"),
        (
            'constraints: ["gpus > 1", "deployment.atention.instances < 3"]',
            "",
            "3:27: constraints.1",
            "did you mean 'deployment.attention.instances'",
        ),
        ('constraints: ["gpus > 1e9"]', "", "3:1: constraints", "no point meets the constraints"),
        ("constraints: gpus", "", "3:1: constraints", "should be a list"),
    ],
)
def test_wrong_constraints_are_told_with_their_place(
    tmp_path: Path, constraints: str, of_family: str, place: str, said: str
) -> None:
    with pytest.raises(ScenarioError) as caught:
        load(tmp_path, constraints, of_family)
    (line,) = caught.value.problems
    assert line.startswith(f"{tmp_path}/sweep.yaml:{place}: ")
    assert said in line
