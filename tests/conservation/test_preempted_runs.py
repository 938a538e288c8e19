"""Runs in which requests give way: nothing is lost, and what it costs is told."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from sim.decoding.run import Run, simulate
from sim.deployments import compile_deployment
from sim.experiments.run_folder import save_run
from sim.metrics import summary as metrics
from sim.metrics.summary import request_tpot_ms, summary
from tests import tiny

BASES = ("step3-2a2f", "dsv3-ep128")
HOW = {
    "recompute": "{kind: recompute, tokens_per_s: {value: 50000, source: test}}",
    "swap": "{kind: swap, bytes_per_s: {value: 1.0e+9, source: test}}",
}
# Attention without a window, so that KV grows.
FULL = tiny.MODEL.replace("    window: 64\n", "")


@pytest.fixture(scope="module", params=[(base, how) for base in BASES for how in HOW])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs of both deployments whose GPUs have KV for some five requests each."""
    base, how = request.param
    model = tmp_path_factory.mktemp("full") / "model.yaml"
    model.write_text(FULL)
    scenario = tiny.load(
        model,
        base,
        "workload.arrivals={kind: poisson, requests_per_s: 2000, requests: 150}",
        "workload.lengths.output={kind: geometric, mean: 300, max_tokens: 900}",
        f"admission.kv={{kind: watermark, preemption: {HOW[how]}}}",
        "simulation.engine=recurrence",
    )
    one = float(compile_deployment(scenario).layout.request_bytes(1000))
    with patch("sim.deployments.kvcache.GpuMemory.kv_capacity_bytes", lambda _self: 2 * one):
        return simulate(scenario)


def preemptions(run: Run) -> dict[str, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    assert run.preemptions is not None
    assert len(run.preemptions["request"]) > 20
    return run.preemptions


def test_tokens_in_are_tokens_out(run: Run) -> None:
    preemptions(run)
    requests = run.requests
    assert len(requests["request"]) == 150
    assert requests["finished"].all()
    assert (requests["tokens_in_run"] == requests["output_tokens"]).all()
    assert run.steps["tokens"].sum() == requests["output_tokens"].sum()
    assert (run.steps["kv_bytes_max"] <= run.kv_capacity_bytes).all()


def test_every_token_is_a_first_one_or_ends_a_gap_or_a_pause(run: Run) -> None:
    pauses = len(preemptions(run)["request"])
    first = len(run.requests["request"])
    assert run.steps["tokens"].sum() == run.steps["continuing"].sum() + first + pauses


def test_all_come_back_after_their_kv(run: Run) -> None:
    table = preemptions(run)
    assert (table["preempted_ns"] < table["restored_ns"]).all()
    assert (table["restored_ns"] <= table["token_ns"]).all()
    last_ns = dict(zip(run.requests["request"], run.requests["last_token_ns"], strict=True))
    for request, token_ns in zip(table["request"], table["token_ns"], strict=True):
        assert token_ns <= last_ns[request]


def test_lives_are_gaps_and_pauses(run: Run) -> None:
    # Σ over requests of last − first token = Σ over steps of gap · who saw it + Σ of pauses.
    table, steps, requests = preemptions(run), run.steps, run.requests
    lives = (requests["last_token_ns"] - requests["first_token_ns"]).sum()
    gaps = ((steps["end_ns"] - steps["previous_end_ns"]) * steps["continuing"]).sum()
    assert lives == gaps + (table["token_ns"] - table["preempted_ns"]).sum()


def test_the_figures_count_them(run: Run, tmp_path: Path) -> None:
    table, figures = preemptions(run), summary(run)
    pauses_ms = (table["token_ns"] - table["preempted_ns"]) / 1e6
    assert figures["preemptions"] == len(pauses_ms)
    assert figures["preempted_share"] == len(set(table["request"].tolist())) / 150
    assert figures["preemption_ms_mean"] == pytest.approx(pauses_ms.mean())
    cut = metrics.cut_steps(run)
    whole = request_tpot_ms(run, cut)
    often = np.bincount(table["request"], minlength=150).argmax()
    mine = run.requests["request"] == often
    lived = run.requests["last_token_ns"][mine] - run.requests["first_token_ns"][mine]
    tpot_ms = (lived / (run.requests["tokens_in_run"][mine] - 1) / 1e6).item()
    assert np.isclose(whole, tpot_ms, rtol=1e-12).any()
    folder = save_run(run, summary(run), tmp_path / "saved")
    lines = (folder / "preemptions.csv").read_text().splitlines()
    assert len(lines) == 1 + len(pauses_ms)


def test_runs_that_reserve_have_no_such_figures(tiny_model: Path) -> None:
    run = simulate(tiny.load(tiny_model, "step3-2a2f"))
    assert run.preemptions is None
    assert not {"preemptions", "preempted_share", "preemption_ms_mean"} & summary(run).keys()
