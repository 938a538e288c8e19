"""Long contexts and long runs: sizes stay exact, and what is kept of them stays bounded."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from sim.decoding.run import Run, simulate
from sim.deployments import compile_deployment
from sim.inputs.cards import packaged
from sim.metrics import summary
from tests import tiny
from tests.scripted_schedulers import open_loop
from tests.strategies.requests import Arrival

BASES = ("step3-2a2f", "dsv3-ep128")


def test_contexts_of_a_million_tokens_are_counted_to_the_token() -> None:
    script = [Arrival(0, 900_000, 100_000)] * 3
    scheduler = open_loop(script, gpus=1, m=1, capacity=3_000_100, block=64)
    scheduler.admit(0, 0)
    assert scheduler.in_flight() == 3
    for step in range(100_000):
        finished = scheduler.emit(0, step).finished
        if step % 9973 == 0 or step > 99_990:
            contexts = scheduler.micro_batches[0].contexts.tolist()
            assert contexts == [900_001 + step] * len(contexts)
            assert scheduler.kv_bytes().tolist() == [
                sum(-(-context // 64) * 64 for context in contexts)
            ]
    assert finished.tolist() == [0, 1, 2]
    assert scheduler.used_bytes.tolist() == [0]


def deep(model: Path, prompt: int, output: int) -> Run:
    """Return a run of long requests on DeepSeek-V3's attention."""
    arrivals = "workload.arrivals={kind: closed, concurrency: 8}"
    lengths = (
        f"workload.lengths={{kind: drawn, prompt: {{kind: fixed, tokens: {prompt}}}, "
        f"output: {{kind: fixed, tokens: {output}}}}}"
    )
    settings = (arrivals, lengths, "simulation.engine=recurrence", "deployment.overlap=none")
    return simulate(tiny.load(model, "dsv3-ep128", *settings, "simulation.max_steps=30"))


@pytest.fixture(scope="module")
def mla_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return DeepSeek-V3 with four layers."""
    text = (packaged("scenarios/models") / "deepseek-v3.yaml").read_text(encoding="utf-8")
    layers = (
        "layers:\n  - repeat: 1\n    pattern: [{attention: mla, ffn: dense}]\n"
        "  - repeat: 3\n    pattern: [{attention: mla, ffn: moe}]\n"
    )
    path = tmp_path_factory.mktemp("deep") / "model.yaml"
    path.write_text(text.split("\nlayers:")[0] + "\n" + layers)
    return path


def test_steps_grow_in_a_straight_line_with_very_long_contexts(mla_model: Path) -> None:
    prompts = np.array([200_000, 400_000, 800_000])
    steps_ns = [
        float(np.median((run.steps["end_ns"] - run.steps["start_ns"])[2:]))
        for run in (deep(mla_model, int(prompt), 1000) for prompt in prompts)
    ]
    slopes = np.diff(steps_ns) / np.diff(prompts)
    assert (slopes > 0).all()
    assert slopes[1] == pytest.approx(slopes[0], rel=0.05)
    run = deep(mla_model, 800_000, 1000)
    # Latent and rope of MLA in BF16, in four layers, of two requests on each of four GPUs.
    least, most = (2 * 4 * (512 + 64) * 2 * tokens for tokens in (800_000, 801_064))
    assert (run.steps["kv_bytes_mean"] >= least).all()
    assert (run.steps["kv_bytes_max"] <= most).all()


@pytest.mark.parametrize("base", BASES)
def test_rows_of_busy_time_are_shared_when_there_are_many(base: str, tiny_model: Path) -> None:
    arrivals = "workload.arrivals={kind: poisson, requests_per_s: 800, requests: 200}"
    scenario = tiny.load(tiny_model, base, arrivals, "simulation.engine=recurrence")
    whole = simulate(scenario)
    with (
        patch("sim.decoding.work_log._MOST_ROWS", 16),
        patch("sim.decoding.work_log._MOST_VALUES", 2000),
    ):
        shared = simulate(scenario)
    assert (whole.busy_steps, len(shared.busy_ns)) == (1, len(shared.busy_ns))
    assert shared.busy_steps > 1
    assert len(shared.busy_ns) <= 16
    width = shared.busy_steps
    padded = np.pad(whole.busy_ns, ((0, -len(whole.busy_ns) % width), (0, 0)))
    folded = padded.reshape(-1, width, padded.shape[1]).sum(axis=1)
    assert np.array_equal(shared.busy_ns, folded[: len(shared.busy_ns)])
    assert not folded[len(shared.busy_ns) :].any()
    cut = summary.cut_steps(whole)
    exact, near = (summary.server_utilisation(run, cut) for run in (whole, shared))
    assert near == pytest.approx(exact, rel=0.1, abs=0.02)
    for name, column in whole.steps.items():
        assert np.array_equal(column, shared.steps[name])


@pytest.mark.parametrize("base", BASES)
def test_any_row_of_the_steps_is_a_row_of_their_layer_times(base: str, tiny_model: Path) -> None:
    run = simulate(tiny.load(tiny_model, base))
    assert compile_deployment(run.scenario).breakdown.keys() == run.layer_ns.keys()
    assert {len(column) for column in run.layer_ns.values()} == {len(run.steps["step"])}
