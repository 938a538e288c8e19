"""Cautions: each is said where it holds, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sim.foundation.errors import ScenarioError
from sim.inputs import cards, scenario
from sim.metrics.cautions import cautions
from sim.metrics.steady_summary import steady_summary
from sim.steady.state import steady_state
from sim.sweeps.cautions import counted

# Figures that nothing is to be said about.
SOUND: dict[str, Any] = {
    "stable": None,
    "requests_in_flight": 512.0,
    "tpot_ms_mean": 30.0,
    "tpot_ms_p99": 40.0,
    "engine": "recurrence",
    "extrapolated_share": 0.2,
    "uncalibrated_share": 0.1,
}


# A power law of popularities is told with every figure.
EVEN = "routing={kind: uniform}"


def told(name: str, *settings: str, **figures: object) -> str:
    return "\n".join(cautions(scenario.load(name, [EVEN, *settings]), SOUND | figures))


def test_sound_figures_need_no_caution() -> None:
    assert told("dsv3-ep8-h200") == ""


def test_a_growing_line_is_told() -> None:
    assert told("poisson-example", stable=False).startswith("unstable: more requests arrive")
    assert "unstable" not in told("poisson-example", stable=True)


@pytest.mark.parametrize(
    ("settings", "is_told"),
    [
        ((), True),
        (("workload.arrivals={kind: poisson, requests_per_s: 1, requests: 9}",), False),
        (("routing={kind: uniform, per_step: {placement: {kind: contiguous}}}",), False),
    ],
)
def test_a_tail_that_is_the_mean_is_told_where_nothing_is_random(
    settings: tuple[str, ...], is_told: bool
) -> None:
    text = told("dsv3-ep8-h200", *settings, tpot_ms_p99=30.002)
    assert ("p99 TPOT equals the mean" in text) == is_told


def test_noise_and_drafts_are_random() -> None:
    for name in ("step3-2a2f-jitter", "dsv3-ep72-h100-mtp"):
        assert "p99 TPOT" not in told(name, tpot_ms_p99=30.002)


def test_the_bound_engine_knows_no_percentile() -> None:
    loaded = scenario.load("dsv3-ep8-h200", [EVEN, "simulation.engine=bound"])
    figures = steady_summary(steady_state(loaded))
    assert cautions(loaded, figures) == []
    assert cautions(loaded, figures, asks_percentile=True) != []
    more = [EVEN, "simulation.engine=bound", "slo.tpot_percentile=99"]
    asked = scenario.load("dsv3-ep8-h200", more)
    assert cautions(asked, figures) == cautions(loaded, figures, asks_percentile=True)


def test_kernel_time_that_is_mostly_guessed_is_told() -> None:
    assert "more than half of the kernel time" in told("dsv3-ep8-h200", extrapolated_share=0.45)
    assert told("dsv3-ep8-h200", extrapolated_share=0.4) == ""


def test_software_figures_of_another_model_are_told() -> None:
    whole = ("deployment.ffn.moe_kernel=fused",)
    text = told("step3-2a2f", *whole)
    assert text == "the software figures were measured on deepseek-v3, the model is step3"
    assert told("step3-2a2f", *whole, "software.measured_on=step3") == ""


@pytest.mark.parametrize(
    ("name", "settings", "shape"),
    [
        ("qwen3-ep16", ("deployment.moe_kernel=masked",), "4096 x 1536 on h800"),
        ("step3-2a2f", (), "7168 x 640 on h800"),
        ("step3-2a2f", ("deployment.ffn.parallelism=tp",), "7168 x 320 on h800"),
        ("qwen3-ep16", ("deployment.moe_kernel=fused",), None),
        ("dsv3-ep128", (), None),
    ],
)
def test_masked_experts_of_a_shape_that_no_one_measured_are_told_with_a_range(
    name: str, settings: tuple[str, ...], shape: str | None
) -> None:
    text = told(name, *settings)
    assert ("masked experts" in text) == (shape is not None)
    if shape is not None:
        assert f"no one measured masked experts of {shape}" in text
        assert "of h7168i2048" in text
        assert "30 % at the 90th percentile" in text


def test_software_of_a_model_that_is_not_there_is_refused() -> None:
    with pytest.raises(ScenarioError, match=r"measured_on.*deepseek-v3"):
        scenario.load("step3-2a2f", ["software.measured_on=deepseek"])


@pytest.mark.parametrize(
    ("lengths", "is_told"),
    [
        ("{kind: drawn, prompt: {kind: fixed, tokens: 163839}, output: {kind: fixed, tokens: 1}}",
         False),
        ("{kind: drawn, prompt: {kind: fixed, tokens: 163839}, output: {kind: fixed, tokens: 2}}",
         True),
        ("{kind: drawn, prompt: {kind: bimodal, short: 1, long: 200000, long_share: 0.01}, "
         "output: {kind: uniform, low: 1, high: 2}}", True),
    ],
)  # fmt: skip
def test_contexts_beyond_those_of_the_model_are_told(lengths: str, is_told: bool) -> None:
    text = told("dsv3-ep8-h200", f"workload.lengths={lengths}")
    assert ("longer than the 163,840 of deepseek-v3" in text) == is_told


def test_contexts_of_a_trace_are_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "lengths.csv"
    path.write_text("prompt_tokens,output_tokens\n10,10\n163839,9\n")
    text = told("dsv3-ep8-h200", f"workload.lengths={{kind: csv, path: {path}}}")
    assert "163,848" in text


def test_every_shipped_model_has_its_longest_context() -> None:
    for name in cards.names(cards.MODELS):
        assert cards.model(name).max_context_tokens


def test_cautions_of_many_points_are_counted() -> None:
    assert counted([["a", "b"], [], ["a"]]) == ["2 points: a", "1 point: b"]
    assert counted([[], []]) == []
