"""What the command line lists: scenarios, a hardware card in short, verbs by group, refusals."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from sim.inputs import cards
from tests.command_line import Call

SHIPPED = len(list(cards.packaged(cards.SCENARIOS).glob("*.yaml")))


def listed(afdsim: Call) -> list[dict[str, Any]]:
    answer = afdsim("scenarios", "--json")
    assert answer.code == 0
    rows: list[dict[str, Any]] = json.loads(answer.out)
    return rows


def test_everything_shipped_is_listed_with_model_and_cards(afdsim: Call) -> None:
    rows = {(row["kind"], row["name"]): row for row in listed(afdsim)}
    assert not any(row["own"] for row in rows.values())
    assert sum(kind == "scenario" for kind, _ in rows) == SHIPPED
    mixed = rows["scenario", "step3-h20-h800"]
    assert (mixed["models"], mixed["cards"]) == (["step3"], ["h20", "h800"])
    sweep = rows["sweep", "validation"]
    assert sweep["models"] == ["step3", "deepseek-v3"]
    assert set(sweep["cards"]) == {"h800", "h200-sxm", "gb200", "h100-sxm"}
    study = rows["study", "afd-vs-ep"]
    assert {"deepseek-v3", "qwen3-235b-a22b", "step3"} <= set(study["models"])
    assert {"h20", "h800", "gb200"} <= set(study["cards"])
    table = afdsim("scenarios").out
    assert "afd-vs-ep" in table
    assert len(table.splitlines()) < len(rows) + 8, "a line each"
    assert " own " not in table


def test_files_of_the_working_directory_come_first_and_are_marked(
    afdsim: Call, tmp_path: Path
) -> None:
    assert afdsim("new", "mine", "--from", "dsv3-ep8-h200").code == 0
    assert afdsim("new", "step3-2a2f", "--from", "qwen3-ep16").code == 0
    (tmp_path / "scenarios/broken.yaml").write_text("name: [", encoding="utf-8")
    (tmp_path / "loose.yaml").write_text("kind: sweep\nfamilies: 3\nset: [model]\n")
    (tmp_path / "compose.yaml").write_text("services: {}\n")
    (tmp_path / "notes.yaml").write_text("- not\n- a mapping\n")
    rows = listed(afdsim)
    own = [row["name"] for row in rows if row["own"]]
    assert own == [row["name"] for row in rows[: len(own)]]
    assert own == ["loose.yaml", "broken", "mine", "step3-2a2f"]
    by_name = {row["name"]: row for row in rows}
    assert by_name["step3-2a2f"]["models"] == ["qwen3-235b-a22b"]
    assert by_name["mine"]["cards"] == ["h200-sxm"]
    assert by_name["broken"]["description"].startswith("cannot be read: ")
    assert sum(row["name"] == "step3-2a2f" for row in rows) == 1
    assert " own " in afdsim("scenarios").out


def test_hostile_files_are_listed_as_what_they_are(afdsim: Call, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: study\nsides: {x: 3}\ndimensions: {y: [1]}\n")
    (tmp_path / "b.yaml").write_text("kind: study\nsides: []\ndimensions: {y: {v: {sides: 4}}}\n")
    (tmp_path / "c.yaml").write_text("kind: sweep\nfamilies: [{base: ../x, axes: [{model: 1}]}]\n")
    (tmp_path / "d.yaml").write_text('deployment: 3\nmodel: "[red]m\\e[31m"\n')
    names = [row["name"] for row in listed(afdsim) if row["own"]]
    assert names == ["a.yaml", "b.yaml", "c.yaml", "d.yaml"]
    shown = afdsim("scenarios").out
    assert "[red]m" in shown
    assert "\x1b" not in shown


def test_a_card_is_shown_in_short_and_whole_on_demand(afdsim: Call) -> None:
    short = afdsim("hardware", "show", "h800").out
    assert len(short.splitlines()) < 50
    for text in ("989 TFLOP/s", "3.35 TB/s", "NICs", "2 USD/h", "gemm", "--op"):
        assert text in short
    assert "h7168i2048" not in short
    whole = afdsim("hardware", "show", "h800", "--all").out
    assert "h7168i2048" in whole
    assert "arXiv 2507.19427" in whole
    assert "not calibrated" in afdsim("hardware", "show", "mi300x").out


def test_curves_of_an_op_are_shown_alone(afdsim: Call) -> None:
    gemm = afdsim("hardware", "show", "h800", "--op", "gemm").out
    assert "blockwise" in gemm
    assert "TFLOP/s" not in gemm
    assert "deepep_ll" not in gemm
    found = json.loads(afdsim("hardware", "show", "h800", "--op", "gemm", "--json").out)
    assert {curve["op"] for curve in found["calibration"]} == {"gemm"}
    every = json.loads(afdsim("hardware", "show", "h800", "--json").out)
    assert len(every["calibration"]) > len(found["calibration"])
    wrong = afdsim("hardware", "show", "h800", "--op", "gem")
    assert (wrong.code, wrong.out) == (2, "")
    assert "did you mean 'gemm'" in " ".join(wrong.err.split())


def test_the_version_is_that_of_the_project(afdsim: Call) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert afdsim("--version") == (0, f"afdsim {project['version']}\n", "")


def test_verbs_stand_in_groups(afdsim: Call) -> None:
    shown = afdsim("--help").out
    heads = [line for line in shown.splitlines() if line.endswith(":") and line[0] != " "]
    assert heads == [
        *("Options:", "What to run:", "One deployment:", "Many deployments:"),
        "Scenarios and cards:",
        "Measurements:",
    ]
    assert "\n  scenarios " in shown


REFUSED = """
kind: sweep
name: refused
families:
  - family: EP
    base: dsv3-ep128
    axes:
      - deployment.overlap: [none, two_batch]
      - deployment.gpus: [128]
      - workload.arrivals.requests_per_gpu: [16, 900, 1000]
"""


def test_a_sweep_tells_each_refusal_once_and_every_axis_that_differs(
    afdsim: Call, tmp_path: Path
) -> None:
    (tmp_path / "s.yaml").write_text(REFUSED)
    arguments = ("sweep", "s.yaml", "--engine", "bound", "--workers", "1")
    answer = afdsim(*arguments)
    told = [line for line in answer.err.splitlines() if " refused: " in line]
    assert len(told) == 1
    assert told[0].startswith("4 points refused: KV cache needs … GB per EP GPU, h800 has ")
    assert "EP128, no overlap, 16 requests/GPU" in answer.out
    found = json.loads(afdsim(*arguments, "--json").out)
    assert [group["points"] for group in found["refused"]] == [4]
    saved = json.loads((tmp_path / "results/runs/refused-bound/run.json").read_text())
    assert saved["refused"] == found["refused"]
    assert saved["fronts"] == found["fronts"]
    assert saved["fronts"]["EP"][0]["described"].startswith("EP128, ")
    page = (tmp_path / "results/runs/refused-bound/report.html").read_text()
    assert "4 refused: KV cache needs …" in page


def test_a_run_of_another_model_is_not_titled_with_the_old_one(
    afdsim: Call, tmp_path: Path
) -> None:
    settings = ("--set", "model=qwen3-235b-a22b", "--set", "precision.kv=bf16")
    load = ("--set", "simulation.engine=bound", "--set", "workload.arrivals.concurrency=512")
    answer = afdsim("run", "step3-2a2f", *settings, *load)
    assert answer.code == 0, answer.err
    assert answer.out.splitlines()[0].strip() == "step3-2a2f with qwen3-235b-a22b"
    (folder,) = (tmp_path / "results/runs").iterdir()
    assert folder.name.startswith("step3-2a2f-with-qwen3-235b-a22b-")
    saved = json.loads((folder / "run.json").read_text())
    assert saved["scenario"]["description"].startswith("Qwen3-235B-A22B in the shape of")
    assert "Step-3," not in saved["scenario"]["description"]


def test_lists_of_cards_tell_the_mistakes_of_all_cards(afdsim: Call, tmp_path: Path) -> None:
    for verb, folder in (
        ("models", cards.MODELS),
        ("hardware", cards.ACCELERATORS),
        ("software", cards.SOFTWARE),
    ):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name, text in (("broken", "name: ["), ("empty", "")):
            (tmp_path / folder / f"{name}.yaml").write_text(text)
        answer = afdsim(verb)
        assert (answer.code, answer.out) == (3, "")
        for name in ("broken", "empty"):
            assert f"{folder}/{name}.yaml:" in answer.err
