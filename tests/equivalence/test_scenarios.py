"""Whole scenarios on a model of three layers: all tables of both engines are equal to the byte."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings

from sim.decoding.run import Run, simulate
from sim.deployments import compile_deployment
from sim.engines.maxplus.plan import plan
from sim.engines.program import Link
from sim.engines.recurrence import RecurrenceEngine
from sim.foundation.errors import InfeasibleError
from sim.inputs import cards, scenario
from tests.equivalence.broken import Early, Late, all_relinked
from tests.strategies.scenarios import AFD, EP, settings_of_runs

LAYERS = {
    "deepseek-v3": """
  - repeat: 1
    pattern: [{attention: mla, ffn: dense}]
  - repeat: 2
    pattern: [{attention: mla, ffn: moe}]
""",
    "step3": """
  - repeat: 1
    pattern: [{attention: mfa, ffn: moe}]
  - repeat: 1
    pattern: [{attention: mfa, ffn: dense}]
  - repeat: 1
    pattern: [{attention: mfa, ffn: moe}]
""",
    "minimax-m1": """
  - repeat: 1
    pattern: [{attention: lightning, ffn: moe}, {attention: full, ffn: moe}]
""",
}


@pytest.fixture(scope="module", autouse=True)
def small_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Put the models, cut to a few layers, where their names are looked up first."""
    folder = tmp_path_factory.mktemp("small")
    (folder / cards.MODELS).mkdir(parents=True)
    for name, layers in LAYERS.items():
        text = (cards.packaged(cards.MODELS) / f"{name}.yaml").read_text(encoding="utf-8")
        head = text.split("\nlayers:")[0]
        (folder / cards.MODELS / f"{name}.yaml").write_text(f"{head}\nlayers:{layers}")
    before = Path.cwd()
    os.chdir(folder)
    yield
    os.chdir(before)


def run(name: str, settings: list[str], engine: str) -> Run | str:
    """Return the run, or why the shape is refused."""
    try:
        return simulate(scenario.load(name, [*settings, f"simulation.engine={engine}"]))
    except InfeasibleError as error:
        return str(error)


def compare(name: str, settings: list[str], scarce_bytes: float | None = None) -> Run | None:
    """Compare the engines and return the run, None if the shape is refused."""
    with ExitStack() as patched:
        if scarce_bytes is not None:
            patched.enter_context(
                patch(
                    "sim.deployments.kvcache.GpuMemory.kv_capacity_bytes",
                    lambda _self: scarce_bytes,
                )
            )
        fast, reference = run(name, settings, "recurrence"), run(name, settings, "event")
    if isinstance(fast, str) or isinstance(reference, str):
        assert fast == reference
        return None
    assert (fast.engine, fast.engine_note) == ("recurrence", "")
    for mine, other in (
        (fast.requests, reference.requests),
        (fast.steps, reference.steps),
        (fast.layer_ns, reference.layer_ns),
        ({"busy": fast.busy_ns}, {"busy": reference.busy_ns}),
        (fast.preemptions or {}, reference.preemptions or {}),
    ):
        assert list(mine) == list(other)
        for column, values in mine.items():
            expected = np.asarray(other[column])
            assert values.dtype == expected.dtype, column
            assert values.tobytes() == expected.tobytes(), column
    assert fast.usage_ns == reference.usage_ns
    return fast


@settings(max_examples=60, deadline=None)
@given(settings_of_runs())
def test_tables_are_equal_to_the_byte(drawn: tuple[str, list[str], float | None]) -> None:
    compare(*drawn)


@pytest.mark.nightly
@settings(max_examples=500, deadline=None)
@given(settings_of_runs())
def test_tables_are_equal_to_the_byte_nightly(drawn: tuple[str, list[str], float | None]) -> None:
    compare(*drawn)


UNEVEN = [
    "workload.arrivals={kind: closed, concurrency: 40}",
    "workload.lengths={kind: drawn, prompt: {kind: uniform, low: 1, high: 3000}, "
    "output: {kind: geometric, mean: 12, max_tokens: 60}}",
    "simulation.max_steps=20",
]
# KV for about a third of the requests, claimed as it grows.
SCARCE = [
    *UNEVEN,
    "admission.kv={kind: watermark, preemption: "
    "{kind: recompute, tokens_per_s: {value: 100000, source: test}}}",
    "workload.lengths={kind: drawn, prompt: {kind: uniform, low: 1, high: 300}, "
    "output: {kind: geometric, mean: 100, max_tokens: 600}}",
    "simulation.max_steps=60",
]
# Nothing hides behind other micro-batches, so that all that is waited for shows in the tables.
SHORT = {AFD: ["deployment.micro_batches=1"], EP: ["deployment.gpus=8", "deployment.overlap=none"]}


DRAWN_LOADS = "routing={kind: uniform, per_step: {placement: {kind: contiguous}}}"
ON_NVL72 = [
    "deployment.accelerator=gb200",
    "deployment.gpus=16",
    "deployment.redundant_experts=0",
    "precision.gemm=nvfp4",
    "deployment.dispatch_dtype=nvfp4",
]


IN_TRAYS = [
    "deployment.attention.accelerator=gb200",
    "deployment.ffn.accelerator=gb200",
    "deployment.attention.instances=1",
    "deployment.ffn.instances=2",
    "deployment.ffn.gpus_per_instance=4",
    "deployment.fabric=nvlink",
]


@pytest.mark.parametrize(
    ("name", "kernels"),
    [
        (EP, [*ON_NVL72, "deployment.moe_kernel=fused_ep", "deployment.overlap=none"]),
        (EP, [*ON_NVL72, "deployment.moe_kernel=fused_ep", "deployment.overlap=two_batch"]),
        (EP, [*ON_NVL72, "deployment.moe_kernel=fused", "software=trtllm"]),
        (AFD, ["deployment.ffn.collectives=nvls"]),
        (AFD, ["deployment.ffn.collectives=copy_engine"]),
        (AFD, [*IN_TRAYS, "deployment.micro_batches=1"]),
        (AFD, [*IN_TRAYS, "deployment.micro_batches=3"]),
        (AFD, [*IN_TRAYS, DRAWN_LOADS]),
        (EP, ["software.tokens_per_exchange={value: 3, source: test}"]),
        (EP, ["software.tokens_per_exchange={value: 3, source: test}", DRAWN_LOADS]),
    ],
)
def test_kernels_by_name_run_alike(name: str, kernels: list[str]) -> None:
    assert compare(name, [*UNEVEN, *kernels]) is not None


@pytest.mark.parametrize(("name", "scarce_bytes"), [(AFD, 1.5e6), (EP, 6e6)])
@pytest.mark.parametrize("arrivals", ["{kind: poisson, requests_per_s: 3000, requests: 90}", None])
def test_requests_that_give_way_do_so_alike(
    name: str, scarce_bytes: float, arrivals: str | None
) -> None:
    settings = [*SCARCE, *SHORT[name], "simulation.min_steps=60"]
    settings += [f"workload.arrivals={arrivals}"] if arrivals else []
    with patch("sim.deployments.kvcache.GpuMemory.check_kv"):
        seen = compare(name, settings, scarce_bytes)
    assert seen is not None
    assert seen.preemptions is not None
    assert (seen.preemptions["token_ns"] >= 0).any()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda link: link._replace(delay=None), id="without latency"),
        pytest.param(lambda link: link._replace(when="end"), id="without cut-through"),
        pytest.param(lambda link: link._replace(wiring="each"), id="without barriers"),
    ],
)
def test_a_recurrence_of_other_links_is_caught(change: Callable[[Link], Link]) -> None:
    settings = [*UNEVEN, *SHORT[AFD]]
    compare(AFD, settings)
    program = compile_deployment(scenario.load(AFD, settings)).program
    broken = plan(all_relinked(program, change))
    with (
        patch("sim.engines.recurrence.plan", lambda _program: broken),
        pytest.raises(AssertionError),
    ):
        compare(AFD, settings)


@pytest.mark.parametrize("name", [AFD, EP])
@pytest.mark.parametrize("engine", [Late, Early])
def test_a_recurrence_that_is_off_by_a_step_or_a_gap_is_caught(
    name: str, engine: type[RecurrenceEngine]
) -> None:
    settings = [*UNEVEN, *SHORT[name]]
    with patch("sim.engines.recurrence.RecurrenceEngine", engine), pytest.raises(AssertionError):
        compare(name, settings)


def test_a_timeline_says_that_the_event_engine_ran() -> None:
    recorded = simulate(
        scenario.load("step3-2a2f", ["simulation.max_steps=20"]), lambda node, step: step == 1
    )
    assert recorded.engine == "event"
    assert recorded.engine_note == "the event engine ran: it alone records a timeline"
    assert recorded.records


@pytest.mark.parametrize("error", [InfeasibleError("no room"), RuntimeError("a bug")])
def test_a_run_that_fails_says_how_far_it_had_come(error: Exception) -> None:
    limits = ["simulation.min_steps=20", "simulation.max_steps=20"]
    clocks = []
    for engine in ("event", "recurrence"):
        loaded = scenario.load(EP, [*limits, f"simulation.engine={engine}"])
        ends_ns = simulate(loaded).steps["end_ns"]
        with (
            patch("sim.decoding.decoder.Decoder._enough", side_effect=error),
            pytest.raises(type(error), match=str(error)) as raised,
        ):
            simulate(loaded)
        clocks.append(vars(raised.value)["clock_ns"])
        assert clocks[-1] in ends_ns
    assert clocks[0] == clocks[1] > 0
