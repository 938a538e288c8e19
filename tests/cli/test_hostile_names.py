"""Markup, escapes and formulas in names: every verb prints them as written and goes on."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests import small_study, tiny
from tests.command_line import Call, call

NAME = "x [/fp8] [bold red]y[/bold red] :smile: <b>z</b>"
FORMULA = "=cmd|'/C calc'!A0"
SMALL = (
    "model=tiny.yaml",
    "deployment.attention.gpus_per_instance=2",
    "deployment.attention.lm_head_tp=1",
    "deployment.ffn.gpus_per_instance=2",
    "workload.arrivals={kind: closed, concurrency: 24}",
    "workload.lengths.prompt={kind: fixed, tokens: 100}",
    "workload.lengths.output={kind: fixed, tokens: 40}",
    "software.glue_us_per_layer={value: 5, source: test}",
)


@pytest.fixture
def afdsim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Return the command line in a directory with cards and a sweep of hostile names."""
    monkeypatch.chdir(tmp_path)
    card = tiny.write_model(tmp_path)
    title = tiny.MODEL.replace("title: Tiny", f"title: {json.dumps(NAME)}")
    card.write_text(title.replace("name: tiny", f"name: {json.dumps(NAME)}"))
    for folder in ("scenarios/models", "results"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "scenarios/models/hostile.yaml").write_text(card.read_text())

    return call


def one_line(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("run", "step3-2a2f"), 0),
        (("explain", "step3-2a2f"), 0),
        (("compare", "step3-2a2f", "step3-2a2f", "--most", "10"), 0),
    ],
)
def test_verbs_of_a_scenario_print_its_name_as_written(
    afdsim: Call, arguments: tuple[str, ...], code: int
) -> None:
    answer = afdsim(*arguments, settings=(*SMALL, f"name={json.dumps(NAME)}"))
    assert answer.code == code, answer.err
    assert NAME in one_line(answer.out)


def test_capacity_prints_the_name_as_written(afdsim: Call) -> None:
    answer = afdsim(
        *("capacity", "poisson-example", "--precision", "0.5", "--replications", "2"),
        settings=(
            f"name={json.dumps(NAME)}",
            "workload.arrivals.requests=60",
            "workload.lengths.output={kind: fixed, tokens: 20}",
            "slo={tpot_ms: 20, queue_ms: 1000}",
        ),
    )
    assert answer.code == 0, answer.err
    assert NAME in one_line(answer.out)


def test_cards_are_listed_with_their_titles_as_written(afdsim: Call) -> None:
    assert NAME in one_line(afdsim("models").out)
    assert NAME in one_line(afdsim("theory", "hostile").out)
    assert any(row["title"] == NAME for row in json.loads(afdsim("models", "--json").out))


SWEEP = f"""
kind: sweep
name: {json.dumps(NAME)}
set: {{simulation.engine: bound, model: tiny.yaml}}
families:
  - family: {json.dumps(NAME)}
    base: dsv3-ep128
    set: &small
      deployment.lm_head_tp: 1
      deployment.redundant_experts: 0
      workload.arrivals: {{kind: closed, concurrency: 24}}
      software.glue_us_per_layer: {{value: 5, source: test}}
    axes: [{{deployment.gpus: [2, 4]}}]
  - {{family: {json.dumps(FORMULA)}, base: dsv3-ep128, set: *small, axes: [deployment.gpus: [8]]}}
published:
  - {{label: {json.dumps(NAME)}, tpot_ms: 1, tgs: 1, source: {json.dumps(NAME)}}}
"""


def test_a_sweep_keeps_families_as_written_and_its_csv_inert(afdsim: Call, tmp_path: Path) -> None:
    (tmp_path / "hostile.yaml").write_text(SWEEP)
    answer = afdsim("sweep", "hostile.yaml", "--workers", "1", "--explain")
    assert answer.code == 0, answer.err
    assert NAME in one_line(answer.out)
    assert NAME in answer.err
    assert FORMULA in one_line(answer.out)
    (folder,) = (tmp_path / "results/runs").iterdir()
    assert folder.name == "x-fp8-bold-red-y-bold-red-smile-b-z-b"
    rows = list(csv.DictReader((folder / "sweep.csv").read_text().splitlines()))
    assert [row["family"] for row in rows] == [NAME, NAME, f"'{FORMULA}"]
    raw = json.loads((folder / "run.json").read_text())
    assert [family["family"] for family in raw["sweep"]["families"]] == [NAME, FORMULA]
    page = (folder / "report.html").read_text()
    assert "<b>z</b>" not in page
    assert "&lt;b&gt;z&lt;/b&gt;" in page
    assert afdsim("plot", str(folder), str(folder), "--out", "both.html").code == 0
    assert "<b>z</b>" not in (tmp_path / "both.html").read_text()


def test_a_study_shows_its_sides_and_values_as_written(afdsim: Call, tmp_path: Path) -> None:
    hostile = json.dumps(NAME)
    path = small_study.write(tmp_path, ("    slow:", f"    {hostile}:"), ("[slow]", f"[{hostile}]"))
    path.write_text(path.read_text().replace("name: small", f"name: {hostile}"))
    answer = afdsim("study", str(path), "--workers", "1", "--only", "pace=fast")
    assert answer.code == 0, answer.err
    (folder,) = (tmp_path / "results/runs").iterdir()
    for made in ("report.html", "report.md"):
        assert "<b>z</b>" not in (folder / made).read_text()
    assert afdsim("study", str(path), "--only", "pace=nothing").err.count(NAME) == 1


@pytest.mark.parametrize(
    "arguments",
    [("run", NAME), ("validate", NAME), ("models", "show", NAME), ("sweep", NAME), ("study", NAME)],
)
def test_unknown_names_are_told_as_written(afdsim: Call, arguments: tuple[str, ...]) -> None:
    answer = afdsim(*arguments)
    assert answer.code == 3
    assert NAME in answer.err
    assert answer.out == ""


@pytest.mark.parametrize("verb", ["run", "validate", "plot", "explain", "theory"])
def test_escapes_in_arguments_never_reach_the_terminal(afdsim: Call, verb: str) -> None:
    answer = afdsim(verb, "\x1b[31mred\x9b")
    assert answer.code == 3
    assert "\\x1b[31mred\\x9b" in answer.err
    assert not {"\x1b", "\x9b"} & set(answer.err + answer.out)


@pytest.mark.parametrize(
    "name",
    ["../x", "/abs", ".", "..", "", ".hidden", "-x", "a/b", "a b", "a\nb", "a\0b", "n" * 300],
)
def test_new_takes_names_of_files_alone(afdsim: Call, tmp_path: Path, name: str) -> None:
    before = sorted(tmp_path.rglob("*"))
    answer = afdsim("new", "--", name)
    assert answer.code == 3
    assert "write letters, digits" in answer.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["yes", "123", "null", "1e3"])
def test_a_new_name_that_yaml_would_read_otherwise_stays_a_name(afdsim: Call, name: str) -> None:
    assert afdsim("new", name).code == 0
    assert afdsim("validate", name).code == 0


@pytest.mark.parametrize("long", ["a" * 300, "a" * 300 + ".yaml", "b/" + "a" * 5000])
def test_paths_that_no_file_system_takes(afdsim: Call, long: str) -> None:
    refused: tuple[tuple[str, ...], ...] = (
        *(("run", long), ("validate", long), ("sweep", long), ("study", long), ("plot", long)),
        *(("explain", long), ("models", "show", long), ("hardware", "show", long)),
        ("validate", "step3-2a2f", "--set", f"model={long}"),
        ("validate", "step3-2a2f", "--set", f"deployment.fabric={long}"),
        ("validate", "step3-2a2f", "--set", f"workload.lengths={{kind: csv, path: {long}}}"),
        ("validate", "step3-2a2f", "--set", f"routing={{kind: measured, path: {long}}}"),
    )
    for arguments in refused:
        answer = afdsim(*arguments)
        assert answer.code == 3, (arguments[:2], answer.err)
    not_kept: tuple[tuple[str, ...], ...] = (
        ("run", "dsv3-ep128", "--set", "simulation.engine=bound", "--out", long),
        ("explain", "dsv3-ep128", "--picture", long),
        ("timeline", "step3-2a2f", "--steps", "1:1", "--out", long),
    )
    for arguments in not_kept:
        settings = SMALL if arguments[1] == "step3-2a2f" else ()
        answer = afdsim(*arguments, settings=settings)
        assert answer.code == 6, (arguments[:2], answer.err)


def test_a_card_that_is_shown_cannot_steer_the_terminal(afdsim: Call, tmp_path: Path) -> None:
    path = tmp_path / "scenarios/models/coloured.yaml"
    path.write_text("kind: model # \x1b[31mred\n")
    answer = afdsim("models", "show", "coloured")
    assert (answer.code, answer.out) == (0, "kind: model # \\x1b[31mred\n")
