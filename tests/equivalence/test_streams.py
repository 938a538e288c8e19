"""Transfers in the stream of computation under each engine: the same bytes, and the bound."""

from __future__ import annotations

import pytest

from sim.deployments import compile_deployment
from sim.engines.bound import BoundEngine
from sim.inputs.scenario import load
from tests import tiny
from tests.equivalence.test_bound import steady_ns
from tests.equivalence.test_scenarios import compare

BASE = "step3-2a2f"
SHAPES = {
    "sent to each instance": (),
    "where experts are": ("deployment.a2f=routed", "deployment.ffn.parallelism=tp_ep"),
    "routed by FFN GPUs": (
        *("deployment.ffn.instances=1", "deployment.ffn.gpus_per_instance=4"),
        *("deployment.ffn.parallelism=ep", "deployment.ffn.collectives=all_to_all"),
        "routing={kind: balanced, experts: 4}",
    ),
}


def sets(shape: str) -> list[str]:
    return [
        "routing={kind: balanced}",
        "deployment.attention.gpus_per_instance=2",
        "deployment.attention.lm_head_tp=1",
        "deployment.ffn.gpus_per_instance=2",
        "deployment.transfers=in_stream",
        "workload.arrivals={kind: closed, concurrency: 40}",
        "workload.lengths={kind: drawn, prompt: {kind: uniform, low: 1, high: 900}, "
        "output: {kind: geometric, mean: 12, max_tokens: 60}}",
        "simulation.max_steps=20",
        *SHAPES[shape],
    ]


@pytest.fixture
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("models") / "tiny.yaml"
    path.write_text(tiny.MODEL)
    return f"model={path}"


@pytest.mark.parametrize("micro_batches", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_engines_agree(shape: str, micro_batches: int, model: str) -> None:
    settings = [model, *sets(shape), f"deployment.micro_batches={micro_batches}"]
    assert compare(BASE, settings) is not None


@pytest.mark.parametrize("shape", SHAPES)
def test_the_bound_is_the_steady_state(shape: str, model: str) -> None:
    site = compile_deployment(load(BASE, [model, *sets(shape)]))
    times = [site.times(site.expected.batch_of(20)) for _ in range(site.micro_batches)]
    assert BoundEngine(site.program).step_ns(times) == steady_ns(site.program, times)
