"""Bad speculation: probabilities, positions, layers and recordings that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.foundation.errors import ScenarioError
from sim.inputs import scenario
from sim.inputs.speculation import read_accepted

LAYER = "{attention: mfa, ffn: moe}"


def told(text: str) -> str:
    with pytest.raises(ScenarioError) as caught:
        scenario.load("step3-2a2f", [f"speculation={text}"])
    return "\n".join(caught.value.problems)


def sourced(value: float) -> str:
    return f"{{value: {value}, source: test}}"


@pytest.mark.parametrize(
    ("drafts", "law", "place", "remedy"),
    [
        (1, f"{{kind: constant, p: {sourced(1.2)}}}", "acceptance", "at most 1 (got 1.2)"),
        (1, f"{{kind: constant, p: {sourced(-0.1)}}}", "acceptance.p", "than or equal to 0"),
        (1, "{kind: constant, p: 0.5}", "acceptance.p", "mapping"),
        (
            2,
            f"{{kind: by_position, p: [{sourced(0.5)}]}}",
            "speculation",
            "has 1 positions for 2 drafts",
        ),
        (
            1,
            f"{{kind: by_position, p: [{sourced(0.5)}, {sourced(0.5)}]}}",
            "speculation",
            "has 2 positions for 1 drafts",
        ),
        (
            2,
            f"{{kind: by_position, p: [{sourced(0.5)}, {sourced(7)}]}}",
            "acceptance",
            "at most 1 (got 7)",
        ),
        (1, "{kind: trace, path: none.csv}", "acceptance.source", "missing"),
        (
            1,
            "{kind: trace, path: none.csv, source: test}",
            "acceptance.path",
            "none.csv: cannot be read",
        ),
        (0, f"{{kind: constant, p: {sourced(0.5)}}}", "speculation.drafts", "or equal to 1"),
    ],
)  # fmt: skip
def test_bad_laws(drafts: int, law: str, place: str, remedy: str) -> None:
    problem = told(f"{{drafts: {drafts}, draft_layer: {LAYER}, acceptance: {law}}}")
    assert place in problem
    assert remedy in problem


def test_the_drafting_layer_is_one_of_the_model() -> None:
    law = f"{{kind: constant, p: {sourced(0.5)}}}"
    problem = told(f"{{drafts: 1, draft_layer: {{attention: mla, ffn: mo}}, acceptance: {law}}}")
    assert "speculation.draft_layer.attention: step3 has no such attention" in problem
    assert "speculation.draft_layer.ffn: step3 has no such ffn: did you mean 'moe'" in problem
    assert "draft_layer" in told(f"{{drafts: 1, acceptance: {law}}}")


def test_more_tokens_accepted_than_drafted(tmp_path: Path) -> None:
    path = tmp_path / "accepted.csv"
    path.write_text("accepted,step\n1,0\n3,1\n-1,2\nmany,3\n2,4\n,5\n")
    law = f"{{kind: trace, path: {path}, source: test}}"
    problem = told(f"{{drafts: 2, draft_layer: null, acceptance: {law}}}")
    assert f"{path}:3: 3 drafts cannot be accepted of 2 drafted" in problem
    assert f"{path}:4: accepted should be a whole number from 0 to 2 (got '-1')" in problem
    assert f"{path}:5: accepted should be a whole number from 0 to 2 (got 'many')" in problem
    assert f"{path}:7: accepted should be a whole number from 0 to 2 (got '')" in problem
    assert problem.count("accepted.csv:") == 4


def test_recordings_without_the_column_or_steps(tmp_path: Path) -> None:
    path = tmp_path / "accepted.csv"
    path.write_text("taken\n1\n")
    with pytest.raises(ScenarioError, match=r"accepted\.csv:1: the header should name accepted"):
        read_accepted(str(path), 2)
    path.write_text("accepted\n")
    with pytest.raises(ScenarioError, match="at least 1 step is needed"):
        read_accepted(str(path), 3)


def test_a_long_list_of_bad_lines_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "accepted.csv"
    path.write_text("accepted\n" + "9\n" * 500)
    with pytest.raises(ScenarioError) as caught:
        read_accepted(str(path), 1)
    assert len(caught.value.problems) == 21
    assert caught.value.problems[-1].endswith("and 480 more bad lines")
