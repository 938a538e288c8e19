"""The verb recommend as a user calls it: stdout, stderr, files and exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sim.study import recommendation
from sim.study.question import Question, asked
from sim.study.recommendation import Recommendation
from sim.study.rounds import RoundProgress, Tell
from tests.command_line import Ended, call, left_behind

Ask = Callable[..., Ended]


@pytest.fixture(scope="module")
def known(loaded_model: Path) -> Recommendation:
    """Return what is recommended for a small question."""
    return recommendation.recommended(
        asked(str(loaded_model), "8xh800", 2.0, context=2000, output=200)
    )


@pytest.fixture
def recommend(loaded_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Return a function that runs the verb in an empty directory; None leaves an option out."""
    monkeypatch.chdir(tmp_path)
    small = {"model": str(loaded_model), "gpus": "8xh800", "context": "2000", "output": "200"}
    small |= {"tpot": "2", "workers": "1"}

    def ask(*more: str, **changed: str | None) -> Ended:
        given = {name: value for name, value in {**small, **changed}.items() if value is not None}
        words = [word for name, value in given.items() for word in (f"--{name}", value)]
        return call("recommend", *words, *more)

    return ask


@pytest.fixture
def answered(recommend: Ask, known: Recommendation, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Return the same where the search is made already."""

    def made(question: Question, workers: object, tell: Tell) -> Recommendation:
        assert question == known.question
        tell(RoundProgress("searching", 0, 2))
        return known

    monkeypatch.setattr(recommendation, "recommended", made)
    return recommend


def kinds(known: Recommendation) -> dict[str, str]:
    """Return an engine by the role whose kind it runs."""
    answer = known.answer.side.kind
    engines = {"afd": "afd-plugin", "ep": "vllm"}
    return {"answer": engines.pop(answer), "other_side": engines.popitem()[1]}


def test_it_prints_the_answer_and_says_where_it_is(answered: Ask, known: Recommendation) -> None:
    answer = answered()
    assert answer.code == 0
    assert answer.out.startswith(f"Run {known.answer.shape} of loaded ")
    for word in (
        "answer",
        "other side",
        "runner up",
        "tokens/s/GPU",
        "It yields",
        "Twice the GPUs",
    ):
        assert word in answer.out
    assert "prefill is not included" in answer.out
    assert "searching" in answer.err
    folder = Path("results/runs/recommend-loaded-8xh800")
    assert f"afdsim run {folder}/answer.yaml" in answer.err
    assert left_behind(folder) == [
        *("answer.yaml", "other_side.yaml", "recommendation.json", "report.html", "runner_up.yaml"),
    ]


def test_json_is_one_object(answered: Ask) -> None:
    answer = answered("--json", "--out", "here")
    told: dict[str, Any] = json.loads(answer.out)
    assert told["answer"]["scenario"] == "here/answer.yaml"
    assert Path(told["other_side"]["scenario"]).is_file()
    assert "launch" not in told


def test_a_second_answer_leaves_the_first_alone(answered: Ask) -> None:
    assert "saved in here;" in answered("--out", "here").err
    assert "saved in here-2;" in answered("--out", "here").err


@pytest.mark.parametrize("role", ["answer", "other_side"])
def test_a_launch_file_lies_beside(role: str, answered: Ask, known: Recommendation) -> None:
    answer = answered("--emit", kinds(known)[role], "--out", "here", "--json")
    told = json.loads(answer.out)["launch"]
    assert told["of"] == role
    assert Path(told["file"]).read_text()
    assert ("the best " in answer.err) == (role == "other_side")
    assert ("not in the file: " in answer.err) == bool(told["cannot"])


@pytest.mark.parametrize(
    ("changed", "code", "told"),
    [
        ({"model": "deepsek-v3"}, 3, "did you mean 'deepseek-v3'"),
        ({"gpus": "8xh80"}, 3, "did you mean 'h800'"),
        ({"gpus": "0xh800"}, 3, "write how many of which card"),
        ({"context": "99"}, 3, "a mean context holds half of an output"),
        ({"context": None}, 3, "no context: give --context"),
        ({"trace": "nowhere.csv"}, 3, "nowhere.csv: cannot be read"),
        ({"price": "h80=1"}, 3, "did you mean 'h800'"),
        ({"price": "h20=1"}, 2, "no GPU of the question is a h20; give the price of h800"),
        ({"gpus": "1xh800"}, 4, "does not fit on 1 × h800 in any shape"),
        ({"tpot": "0.1"}, 4, "the least is"),
        ({"output": "1"}, 2, "--output"),
        ({"tpot": "nan"}, 2, "--tpot"),
        ({"rate": "0"}, 2, "--rate"),
        ({"max-gpus": "16"}, 2, "goes with --rate or --trace"),
        ({"acceptance": "0"}, 2, "--acceptance"),
        ({"acceptance": "nan"}, 2, "between 0 and 1"),
        ({"acceptance": "often"}, 2, "--acceptance"),
        ({"acceptance": "0.8"}, 2, "has no draft_layer"),
        ({"acceptance": "0.8", "model": "deepsek-v3"}, 3, "did you mean 'deepseek-v3'"),
        ({"emit": "vlm"}, 2, "did you mean 'vllm'"),
        ({"software": "vlm"}, 3, "did you mean 'vllm'"),
        ({"precision": "fp9"}, 3, "precision: unknown format; did you mean 'fp8'"),
        ({"kv": "int3"}, 3, "kv: unknown format; did you mean 'int8'"),
    ],
)
def test_wrong_questions_are_told_and_nothing_is_written(
    changed: dict[str, str | None],
    code: int,
    told: str,
    recommend: Ask,
    tmp_path: Path,
) -> None:
    answer = recommend(**changed)
    assert answer.code == code
    assert told in answer.err
    assert answer.out == ""
    assert sum("rror: " in line for line in answer.err.splitlines()) == 1
    assert left_behind(tmp_path) == []


def test_all_mistakes_of_a_question_are_told_at_once(recommend: Ask) -> None:
    wrong = {"model": "deepsek-v3", "gpus": "8xh80", "software": "vlm", "precision": "fp9"}
    answer = recommend(**wrong, tpot="inf", acceptance="0.8", kv="int3")
    assert answer.code == 3
    problems = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    for name in ("TPOT inf", "'deepsek-v3'", "'h80'", "'vlm'", "'fp9'", "'int3'"):
        assert sum(name in problem for problem in problems) == 1, name
    assert len(problems) == 6


def test_a_directory_that_cannot_be_is_told_before_the_search(
    recommend: Ask, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for out in ("file", "file/below", "/proc/none"):
        answer = recommend("--out", out)
        assert answer.code == 6
        assert answer.out == ""
        assert answer.err.startswith(f"error: {out}: ")
        assert "choose another --out" in answer.err
    assert left_behind(tmp_path) == ["file"]
