"""No figure leaves a run that is infinite, negative, or beyond what the hardware can do."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.decoding.run import simulate
from sim.foundation import json_text
from sim.foundation.errors import EXIT_BUG, ImpossibleFigureError, InfeasibleError
from sim.inputs import cards, scenario
from sim.metrics.physical import check_run, check_step, checked, floor
from sim.metrics.steady_summary import steady_summary
from sim.metrics.summary import summary
from sim.steady.state import steady_state
from tests import tiny

SHORT = ["simulation.min_steps=20", "simulation.max_steps=20"]
SHIPPED = cards.names(cards.SCENARIOS)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_scenarios_keep_within_the_hardware(name: str) -> None:
    loaded = scenario.load(name, SHORT)
    least = floor(loaded, 1)
    assert 0 < least.rounding_ns < least.any_ns
    if loaded.workload.arrivals.kind == "closed":
        steady_summary(steady_state(loaded))


@pytest.mark.parametrize(
    ("name", "ratio"), [("step3-2a2f", 16), ("dsv3-ep8-h200", 100), ("dsv3-ep16-h200-mtp", 100)]
)
def test_the_bound_catches_a_wrong_order_of_magnitude(name: str, ratio: int) -> None:
    run = simulate(scenario.load(name, SHORT))
    check_run(run)
    times = {key: run.steps[key] // ratio for key in ("start_ns", "end_ns", "previous_end_ns")}
    with pytest.raises(ImpossibleFigureError, match=r"t_step_ms|tgs") as caught:
        check_run(replace(run, steps=run.steps | times))
    assert caught.value.exit_code == EXIT_BUG


def test_a_steady_state_beyond_the_hardware_is_refused() -> None:
    loaded = scenario.load("step3-2a2f")
    step_ns = float(steady_state(loaded).step_ns)
    check_step(loaded, step_ns, 6144, 3)
    with pytest.raises(ImpossibleFigureError, match="t_step_ms"):
        check_step(loaded, step_ns / 16, 6144, 3)


@pytest.fixture(scope="module", params=[tiny.write_model, tiny.write_loaded_model])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    written: Path = request.param(tmp_path_factory.mktemp("model"))
    return written


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["qwen3-ep16", "step3-2a2f"]),
    st.sampled_from(["h800", "h20", "a100-sxm", "b200"]),
    st.integers(1, 400),
    st.integers(1, 3000),
    st.integers(0, 3),
)
def test_tiny_deployments_keep_within_the_hardware(
    model: Path, base: str, card: str, concurrency: int, prompt: int, seed: int
) -> None:
    sides = (
        [f"deployment.{side}.accelerator={card}" for side in ("attention", "ffn")]
        if base == "step3-2a2f"
        else [f"deployment.accelerator={card}"]
    )
    loaded = tiny.load(
        model,
        base,
        *sides,
        f"workload.arrivals={{kind: closed, concurrency: {concurrency}}}",
        f"workload.lengths.prompt={{kind: uniform, low: {prompt}, high: {2 * prompt}}}",
        f"simulation.seed={seed}",
        "simulation.max_steps=20",
    )
    try:
        figures = summary(simulate(loaded))
    except InfeasibleError:
        return
    peak = _most_tokens_per_s_and_gpu(loaded, prompt)
    # Of each micro-batch the steps are timed on their own.
    assert figures["tgs"] <= loaded.deployment.micro_batches * peak
    assert json.loads(json_text.dumps(figures)) == figures


def _most_tokens_per_s_and_gpu(loaded: scenario.Scenario, prompt: int) -> float:
    least = floor(loaded, prompt)
    return 1e9 / max(least.request_ns, 1e-9) / loaded.gpu_count()


@pytest.mark.parametrize(
    ("figures", "named"),
    [
        ({"tgs": math.inf}, "tgs is inf"),
        ({"tpot_ms_mean": math.nan}, "tpot_ms_mean is nan"),
        ({"t_step_ms": -9.08e12}, "t_step_ms is -9.08e"),
        ({"utilisation": {"gpu": 1.5}}, "utilisation.gpu is 1.5"),
        ({"calibrated_share": 2.0}, "calibrated_share is 2"),
        ({"slo_attainment": 1.01}, "slo_attainment is 1.01"),
    ],
)
def test_an_impossible_figure_is_refused_by_its_name(figures: dict[str, Any], named: str) -> None:
    with pytest.raises(ImpossibleFigureError, match=named):
        checked({"gpus": 8, **figures})


def test_figures_that_do_not_exist_and_words_pass() -> None:
    figures = {"tgs": None, "name": "x", "slo_met": False, "utilisation": {"gpu": 1.0}, "n": 0}
    assert checked(figures) is figures


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_never_holds_what_json_does_not_have(value: float) -> None:
    with pytest.raises(ImpossibleFigureError, match=r"rows\.1\.tgs is not finite"):
        json_text.dumps({"rows": [{"tgs": 1.0}, {"tgs": value}]})
    assert json_text.without_nan({"a": [math.nan, 1.0], "b": "x"}) == {"a": [None, 1.0], "b": "x"}
