"""EP on one GPU: it exchanges nothing, so its step is the sum of what its kernels take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.decoding.run import simulate
from sim.deployments import compile_deployment
from sim.inputs import scenario
from sim.metrics.summary import summary

ONE = (
    "deployment.gpus=1",
    "deployment.lm_head_tp=1",
    "deployment.redundant_experts=0",
    "simulation.max_steps=24",
)
LITE = """
kind: model
name: lite
title: DeepSeek-V2-Lite
hidden: 2048
vocab: 102400
source: config.json of deepseek-ai/DeepSeek-V2-Lite
attention:
  mla:
    {kind: mla, query_heads: 16, QUERY kv_lora: 512, rope: 64, nope: 128, v: 128, kv_dtype: bf16,
     source: config.json}
ffn:
  dense: {kind: dense, intermediate: 10944, source: config.json}
  moe: {kind: moe, experts: 64, top_k: 6, expert_intermediate: 1408, shared: 2,
        shared_intermediate: 1408, source: config.json}
layers:
  - {repeat: 1, pattern: [{attention: mla, ffn: dense}]}
  - {repeat: 26, pattern: [{attention: mla, ffn: moe}]}
"""


@pytest.fixture(params=["q_lora: null,", ""])
def lite(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the path of a model without a low-rank query, written in both ways."""
    path = tmp_path / "lite.yaml"
    path.write_text(LITE.replace("QUERY", request.param))
    return str(path)


def figures(*settings: str) -> dict[str, Any]:
    return summary(simulate(scenario.load("dsv3-ep8-h200", [*ONE, *settings])))


@pytest.mark.parametrize("engine", ["event", "recurrence"])
def test_a_mixture_of_experts_without_all_to_all(lite: str, engine: str) -> None:
    one = scenario.load("dsv3-ep8-h200", [*ONE, f"model={lite}", f"simulation.engine={engine}"])
    run = simulate(one)
    found = summary(run)
    assert found["t_a2f_layer_us"] == found["t_f2a_layer_us"] == 0
    assert found["utilisation"]["network"] == 0
    site = compile_deployment(one)
    batch = site.expected.batch()
    program = site.program
    times = site.times(batch)
    work_ns = int(program.busy_ns(times).max()) + sum(times.delays_ns)
    # The batch of the expected load is that of every step but for the context of its requests.
    assert found["t_step_ms"] * 1e6 == pytest.approx(work_ns, rel=0.01)


@pytest.mark.parametrize(
    "routing",
    [
        "{kind: uniform, per_step: {placement: {kind: contiguous}}}",
        "{kind: balanced}",
    ],
)
def test_two_batches_on_one_gpu_only_wait_for_each_other(lite: str, routing: str) -> None:
    settings = f"model={lite}", f"routing={routing}"
    both = figures(*settings, "deployment.overlap=two_batch")
    alone = figures(*settings, "deployment.overlap=none")
    assert both["tgs"] < alone["tgs"]


def test_the_slow_down_beside_communication_is_of_no_use_on_one_gpu(lite: str) -> None:
    settings = f"model={lite}", "deployment.overlap=two_batch"
    slowed = figures(*settings, "software.overlap_slowdown={value: 2, source: test}")
    plain = figures(*settings, "software.overlap_slowdown={value: 1, source: test}")
    assert slowed == plain


def test_a_dense_model_on_one_gpu() -> None:
    found = figures("model=qwen3-32b", "workload.arrivals.requests_per_gpu=8")
    assert found["t_a2f_layer_us"] == found["t_f2a_layer_us"] == 0
    assert found["tgs"] > 0


def test_a_query_without_low_rank_has_the_weights_of_its_projection(lite: str) -> None:
    from sim.inputs import cards

    model = cards.model(lite)
    mla = model.attention["mla"]
    # q_proj, kv_a_proj, kv_b_proj and o_proj of the published checkpoint.
    expected = 2048 * 16 * 192 + 2048 * 576 + 512 * 16 * (128 + 128) + 16 * 128 * 2048
    assert mla.weights(model.hidden) == expected
    rows = np.array([projection.weights() for projection in mla.before_core(model.hidden)])
    assert rows.tolist() == [2048 * 576, 2048 * 16 * 192, 16 * 128 * 512]
