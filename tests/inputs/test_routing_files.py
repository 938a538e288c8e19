"""Measured routing is held to the model before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.deployments import compile_deployment
from sim.foundation.errors import ScenarioError
from sim.inputs import scenario

EXPERTS, LAYERS = 256, range(3, 61)


def told(path: Path, rows: list[str]) -> tuple[str, ...]:
    path.write_text("\n".join(["layer,expert,share", *rows]) + "\n")
    placed = "{placement: {kind: contiguous}}"
    routing = f"routing={{kind: measured, path: {path}, source: test, per_step: {placed}}}"
    with pytest.raises(ScenarioError) as caught:
        compile_deployment(scenario.load("dsv3-ep128", [routing]))
    return caught.value.problems


def test_every_layer_of_experts_needs_a_share(tmp_path: Path) -> None:
    rows = [f"{layer},{expert},{layer - 3}" for layer in LAYERS for expert in range(EXPERTS)]
    path = tmp_path / "r.csv"
    assert told(path, rows) == (f"{path}: no expert of layer 3 has a share",)


def test_what_the_model_does_not_have_is_told_at_once(tmp_path: Path) -> None:
    rows = [f"{layer},{expert},1" for layer in LAYERS for expert in range(EXPERTS)]
    path = tmp_path / "r.csv"
    assert told(path, [*rows, "999,0,1", "4,256,1"]) == (
        f"{path}: layer 999 is none of the model's layers of experts, 3 to 60",
        f"{path}: layer 4 has an expert 256; the model's are 0 to 255",
    )
