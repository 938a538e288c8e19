"""FFNs that attention GPUs compute: shared experts beside the trip, dense layers without one."""

from __future__ import annotations

import pytest

from sim.decoding.run import simulate
from sim.deployments import compile_deployment
from sim.deployments.afd import AfdDeployment
from sim.foundation.errors import ScenarioError
from sim.inputs.scenario import load
from sim.metrics import summary

H, SHARED, DENSE = 7168, 3 * 7168 * 2048, 3 * 7168 * 18432
ALL = "deployment.attention.computes=[shared, dense]"
EVEN = "routing={kind: balanced}"
ONE_KERNEL = ("deployment.ffn.moe_kernel=fused_ep", "precision.gemm=mxfp4")


def afd(*sets: str) -> AfdDeployment:
    site = compile_deployment(load("dsv3-afd-gb200", [EVEN, *sets]))
    assert isinstance(site, AfdDeployment)
    return site


@pytest.mark.parametrize(
    ("computes", "moe", "dense"), [("[shared]", 1, 0), ("[dense]", 0, 1), ("[shared, dense]", 1, 1)]
)
def test_weights_move_from_ffn_to_attention_gpus(computes: str, moe: int, dense: int) -> None:
    before, after = afd(), afd(f"deployment.attention.computes={computes}")
    more = after.attention_memory.weights_bytes - before.attention_memory.weights_bytes
    less = before.ffn_memory.weights_bytes - after.ffn_memory.weights_bytes
    assert more == pytest.approx(58 * moe * SHARED + 3 * dense * DENSE)
    assert less == pytest.approx(58 * moe * SHARED + 3 * dense * DENSE / 32)


def test_a_dense_layer_does_not_leave_its_gpu() -> None:
    slower = "software={profile: ideal, overlap_slowdown: {value: 1.189, source: test}}"
    site = afd(ALL, slower)
    rows = site.durations(site.expected.batch()).rows
    assert {stage for stage, kind in rows if kind == 0} == {"attention", "shared"}
    stages = {site.program.stages[node.stage].name for node in site.program.nodes if node.layer < 3}
    assert stages == {"attention", "shared"}
    timer, tokens = site.attention_timer, site.expected.batch().requests
    slowed = timer.dense(18432, tokens).ns * 1.189
    assert rows["shared", 0] == pytest.approx(slowed, abs=1)
    assert (
        rows["experts", 1].max()
        < afd(slower).durations(site.expected.batch()).rows["experts", 1].max()
    )


def test_one_kernel_serves_models_whose_dense_layers_stay() -> None:
    site = afd(*ONE_KERNEL, ALL)
    assert [pool.name for pool in site.program.pools] == ["attention", "ffn"]


@pytest.mark.parametrize(
    "more", [(), ("deployment.ffn.moe_kernel=fused_ep", "precision.gemm=mxfp4")]
)
def test_engines_agree(more: tuple[str, ...]) -> None:
    found = [
        summary.summary(
            simulate(
                load(
                    "dsv3-afd-gb200",
                    [ALL, *more, "simulation.max_steps=20", f"simulation.engine={engine}"],
                )
            )
        )
        for engine in ("event", "recurrence")
    ]
    assert found[0]["tpot_ms_mean"] == found[1]["tpot_ms_mean"]


def test_a_shared_output_projection_is_a_mistake_beside_them() -> None:
    with pytest.raises(ScenarioError, match="computes does not go with"):
        load("step3-2a2f", [ALL, "deployment.attention.o_proj_tp=8"])
