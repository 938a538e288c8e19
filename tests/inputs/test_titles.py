"""What was overwritten stands in the title: no run of another model is called Step-3."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.experiments.run_folder import run_directory
from sim.foundation.errors import ScenarioError
from sim.inputs.scenario import load
from sim.sweeps.sweep import load as load_sweep

MODEL = "model=qwen3-235b-a22b"


def test_another_model_stands_in_name_description_and_folder() -> None:
    found = load("step3-2a2f", [MODEL, "deployment.micro_batches=2"])
    assert found.name == "step3-2a2f with qwen3-235b-a22b"
    assert found.description == ("Qwen3-235B-A22B in the shape of step3-2a2f; with 2 micro-batches")
    assert run_directory(found).name.startswith("step3-2a2f-with-qwen3-235b-a22b-")


def test_other_changes_stand_in_the_description() -> None:
    base = load("step3-2a2f")
    settings = ["deployment.attention.accelerator=h20", "workload.context=8192", "slo.tpot_ms=30"]
    found = load("step3-2a2f", settings)
    assert found.name == base.name
    told = "attention on h20, context 8,192, TPOT within 30 ms"
    assert found.description == f"{base.description}; with {told}"


def test_what_changes_nothing_and_a_title_of_ones_own_stay() -> None:
    base = load("step3-2a2f")
    same = load("step3-2a2f", ["model=step3", "deployment.micro_batches=3", "simulation.seed=0"])
    assert same == base
    assert load("step3-2a2f", ["simulation.seed=9"]).description == base.description
    own = load("step3-2a2f", [MODEL, "name=mine", "description=my own"])
    assert (own.name, own.description) == ("mine", "my own")


def test_a_model_by_its_path_and_one_with_a_point_are_told_by_their_names(tmp_path: Path) -> None:
    text = Path(__file__).parents[2].joinpath("scenarios/models/step3.yaml").read_text("utf-8")
    (tmp_path / "mine-v3.2.yaml").write_text(text, encoding="utf-8")
    found = load("step3-2a2f", [f"model={tmp_path}/mine-v3.2.yaml"])
    assert found.name == "step3-2a2f with mine-v3.2"
    long = f"name={'x' * 200}"
    assert load("step3-2a2f", [long, MODEL]).name == "x" * 200


def test_a_wrong_model_is_told_as_before() -> None:
    with pytest.raises(ScenarioError, match="unknown model 'step4'"):
        load("step3-2a2f", ["model=step4"])
    with pytest.raises(ScenarioError, match="model: should be"):
        load("step3-2a2f", ["model=[3]"])


def test_a_sweep_of_another_model_has_another_name() -> None:
    base = load_sweep("afd-ratio").sweep
    found = load_sweep("afd-ratio", [MODEL, "precision.kv=fp8", "simulation.engine=bound"]).sweep
    assert found.name == "afd-ratio with qwen3-235b-a22b"
    assert found.description == f"{base.description}; with qwen3-235b-a22b, KV fp8"
    assert load_sweep("afd-ratio", ["simulation.engine=bound"]).sweep == base
