"""What the command line can do, Python can: run, save, load, draw, explain, compare."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import sim
from sim.decoding import run as decoding
from sim.decoding.decoder import Decoder
from tests import small_study

FEW = ["simulation.min_steps=20", "simulation.max_steps=20"]
SWEEP = """
kind: sweep
name: small
set: {simulation.engine: bound}
families:
  - family: AFD
    base: step3-2a2f
    axes:
      - deployment.attention.instances: {from: 1, to: 3, step: 1}
"""


def test_the_public_names() -> None:
    assert sim.__all__ == [
        *("CalibrationError", "InexpressibleError", "InfeasibleError", "Run", "Scenario"),
        *("ScenarioError", "SimError"),
        *(
            "StoreError",
            "capacity",
            "check_tables",
            "compare",
            "coverage",
            "doubt_of",
            "draw",
            "explain_scenario",
        ),
        *(
            "fit_software",
            "fit_table",
            "how_sure",
            "import_model",
            "judge_points",
            "launch_file",
            "load",
            "load_results",
            "margin_of",
            "max_batch_under_slo",
            "pareto_front",
            "plot",
            "read_points",
            "recommend",
            "reoptimised",
            "run",
            "run_study",
        ),
        *("run_sweep", "save_run", "simulate", "summary", "sweep"),
    ]
    for name in sim.__all__:
        assert getattr(sim, name).__doc__


def test_a_run_is_saved_and_loaded(tmp_path: Path) -> None:
    saved = sim.run(sim.load("step3-2a2f", FEW), tmp_path / "run")
    again = sim.load_results(saved.folder)
    assert again.described["summary"]["tgs"] == saved.figures["tgs"]
    assert set(again.tables) == {"requests", "servers", "steps"}


def test_a_study_in_ten_lines(tmp_path: Path) -> None:
    path = small_study.write(tmp_path)
    result = sim.run_study(path, out=tmp_path / "study", only=["pace=fast"], workers=1)
    page = sim.draw(result)
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert [cell.verdict for cell in result.cells] == ["AFD"]
    table = sim.load_results(result.folder).tables["study"]
    assert list(table["shape"]) == list(result.table()["shape"])


def test_a_sweep_is_resumed_loaded_and_drawn(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SWEEP)
    result = sim.run_sweep(tmp_path / "small.yaml", out=tmp_path / "out", workers=1)
    again = sim.run_sweep(tmp_path / "small.yaml", out=tmp_path / "out", workers=1)
    assert again.rows == result.rows
    assert list(sim.load_results(result.folder).tables["sweep"]["shape"]) == [
        "1A2F",
        "2A2F",
        "3A2F",
    ]
    sim.draw(result)
    assert "1A2F" in sim.plot([result.folder], tmp_path / "both.html").read_text()


@pytest.mark.parametrize("made_of", ["run.json", "sweep.csv", "sweep.parquet"])
def test_a_page_is_drawn_again_when_what_it_is_made_of_is_newer(
    made_of: str, tmp_path: Path
) -> None:
    (tmp_path / "small.yaml").write_text(SWEEP)
    result = sim.run_sweep(tmp_path / "small.yaml", out=tmp_path / "out", workers=1)
    page = sim.draw(result)
    drawn = page.read_text()
    page.write_text("kept")
    again = sim.run_sweep(tmp_path / "small.yaml", out=tmp_path / "out", workers=1)
    assert sim.draw(again).read_text() == "kept"
    (tmp_path / "out" / made_of).touch()
    assert sim.draw(again).read_text() == drawn
    page.unlink()
    assert sim.draw(again).read_text() == drawn


def test_explaining_and_comparing() -> None:
    scenario = sim.load("step3-2a2f", FEW)
    assert sim.explain_scenario(scenario).circuit.legs
    assert sim.compare(scenario, scenario, most=10).is_precise()


def test_how_sure_figures_are() -> None:
    scenario = sim.load("step3-2a2f", FEW)
    low, high = sim.doubt_of(scenario).interval(80)
    found = sim.how_sure(scenario)
    assert found.tpot_ms_p10 == pytest.approx(low * found.tpot_ms)
    assert found.tgs_p10 == pytest.approx(found.tgs / high)
    assert sim.margin_of(0.0, scenario, scenario).interval(90) == (0, 0)
    again = sim.reoptimised(scenario.with_settings({"slo.tpot_ms": found.tpot_ms}))
    assert again.tgs_p10 < again.tgs < again.tgs_p90


def test_a_failed_run_leaves_its_scenario_error_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(decoder: Decoder, *_: object) -> None:
        decoder.clock_ns = 12
        raise ValueError("bad luck")

    monkeypatch.setattr(decoding, "_engine_run", fail)
    with pytest.raises(ValueError, match="bad luck"):
        sim.run(sim.load("step3-2a2f", FEW), tmp_path / "run")
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert told["error"] == "ValueError: bad luck"
    assert told["clock_ns"] == 12
    assert told["scenario"]["name"] == "step3-2a2f"


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(sim.ScenarioError, match=r"run\.json"):
        sim.load_results(tmp_path)


def test_tables_are_checked_against_measurement_files(tmp_path: Path) -> None:
    path = tmp_path / "gemm.csv"
    path.write_text(
        "gpu,dtype,m,n,k,latency_us,source\n"
        "h800,bfloat16,64,7168,7168,50,test\nh800,bfloat16,128,7168,7168,55,test\n"
    )
    (found,) = sim.check_tables([path])
    assert (found.op, found.points, len(found.modelled_us)) == ("gemm", 2, 2)
    (unknown,) = sim.check_tables([path], tmp_path)
    assert unknown.mape is None
