"""Fitting a software profile: figures that made the rows are found, others are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from sim.experiments.accuracy import software_fit
from sim.experiments.accuracy.points import OperatingPoint, read_points
from sim.experiments.accuracy.setup import setup
from sim.experiments.accuracy.verdict import predicted
from sim.foundation.errors import ScenarioError
from sim.inputs import cards
from tests.measured_points import ROW, written

KNOWN = ROW | {"weight_format_experts": "fp8", "framework": "sglang", "kv_format": "bf16"}
SHAPES = [
    (model, batch, "2048")
    for batch in ("1", "2", "4", "8", "16")
    for model in ("DeepSeek-V3", "Qwen3-235B-A22B")
]
ONE_MODEL = [shape for shape in SHAPES if shape[0] == "DeepSeek-V3"]


def made(
    folder: Path, shapes: Sequence[tuple[str, str, str]], clock: str = "wall"
) -> list[OperatingPoint]:
    """Return rows of an engine with 12 µs more glue a layer and 2.5 ms more of host a step."""
    rows = [
        KNOWN
        | {"id": str(number), "model": model, "requests_per_gpu": batch, "clock": clock}
        | {"context_tokens_mean": context}
        for number, (model, batch, context) in enumerate(shapes)
    ]
    profile = cards.software("sglang")
    glue = float(profile.glue_us_per_layer) + 12
    gap = float(profile.host_gap_us_per_step) + 2500
    settings = {
        "software.glue_us_per_layer": {"value": glue, "source": "test"},
        "software.host_gap_us_per_step": {"value": gap, "source": "test"},
    }
    found = []
    for point in read_points(written(folder / "p.csv", *rows)):
        seen = predicted(setup(point).validated().with_settings(settings))
        tpot_ms = seen.device_ms if clock == "device" else seen.wall_ms
        found.append(replace(point, measured_tpot_ms=tpot_ms))
    return found


def test_figures_that_made_the_rows_are_found(tmp_path: Path) -> None:
    found = software_fit.fit_software(made(tmp_path, SHAPES), "sglang")
    profile = cards.software("sglang")
    values = {one.of.name: one.value for one in found.fitted}
    assert values["glue_us_per_layer"] == pytest.approx(
        float(profile.glue_us_per_layer) + 12, abs=0.5
    )
    assert values["host_gap_us_per_step"] == pytest.approx(
        float(profile.host_gap_us_per_step) + 2500, abs=50
    )
    assert all(one.low <= one.value <= one.high for one in found.fitted)
    assert found.refused["routing_imbalance"] == "no row depends on it"
    assert "from host_gap_us_per_step" in found.refused["host_us_per_further_rank"]
    assert found.error < 1e-3 < found.error_before


def test_rows_of_one_model_do_not_tell_glue_from_host(tmp_path: Path) -> None:
    found = software_fit.fit_software(made(tmp_path, ONE_MODEL), "sglang")
    both = {"glue_us_per_layer", "host_gap_us_per_step"}
    (refused,) = both & set(found.refused)
    assert "cannot tell it from" in found.refused[refused]
    assert {one.of.name for one in found.fitted} == both - {refused}


def test_rows_of_the_device_clock_say_nothing_of_the_host(tmp_path: Path) -> None:
    found = software_fit.fit_software(made(tmp_path, SHAPES, "device"), "sglang")
    assert found.refused["host_gap_us_per_step"] == "no row depends on it"
    assert [one.of.name for one in found.fitted] == ["glue_us_per_layer"]


def test_a_fitted_card_is_one_that_scenarios_take(tmp_path: Path) -> None:
    points = made(tmp_path, SHAPES)
    found = software_fit.fit_software(points, "sglang")
    path = tmp_path / "mine.yaml"
    software_fit.write(path, found, "p.csv")
    card = cards.software(str(path))
    assert card.glue_us_per_layer.low is not None
    assert "fitted to 10 rows of p.csv" in card.glue_us_per_layer.source
    again = predicted(setup(points[0], str(path)).validated())
    assert again.wall_ms == pytest.approx(points[0].measured_ms, rel=1e-2)


def test_rows_of_another_framework_are_none(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="framework trtllm"):
        software_fit.fit_software(made(tmp_path, SHAPES[:1]), "trtllm")
