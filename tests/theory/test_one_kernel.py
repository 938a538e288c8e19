"""AFD with a kernel that receives, computes and sends: what FFN GPUs are busy with, and for whom.

Also FFN instances of several GPUs that get tokens apart.
"""

from __future__ import annotations

import numpy as np
import pytest

from sim.decoding.step_times import DrawnTimes
from sim.deployments import compile_deployment
from sim.deployments.afd import AfdDeployment
from sim.foundation.errors import InfeasibleError, ScenarioError
from sim.foundation.nanoseconds import from_us
from sim.inputs import cards
from sim.inputs.model import MoeFfn
from sim.inputs.scenario import load
from sim.kernels import ops

QWEN = (
    "model=qwen3-235b-a22b",
    "deployment.attention={accelerator: gb200, instances: 3, gpus_per_instance: 4, "
    "o_proj_tp: 1, lm_head_tp: 1}",
    "deployment.ffn={accelerator: gb200, instances: 1, gpus_per_instance: 4, parallelism: ep, "
    "moe_kernel: fused_ep}",
    "workload.arrivals.requests_per_gpu=48",
    "routing={kind: balanced}",
)
MXFP4 = "precision.gemm=mxfp4"
# The masked kernel would lack the SMs that transfers beside it take.
IN_TURN = (
    "software={profile: fastafd, communication_sms: {value: 0, source: test}, "
    "kernels: {moe_fused_ep: {fp8: []}}}",
)
MEGA = ("deepgemm_mega", "mxfp4", "h4096")
DRAWN = "routing={kind: uniform, per_step: {placement: {kind: contiguous}}}"


def afd(*more: str) -> AfdDeployment:
    site = compile_deployment(load("dsv3-afd-gb200", [*QWEN, *more]))
    assert isinstance(site, AfdDeployment)
    return site


def stages(site: AfdDeployment) -> dict[str, np.ndarray]:
    rows = site.durations(site.expected.batch()).rows
    return {name: ns for (name, kind), ns in rows.items() if kind == 0}


def test_ffn_gpus_are_busy_until_they_have_sent() -> None:
    site = afd(MXFP4)
    assert set(stages(site)) == {"attention", "experts"}
    assert [pool.name for pool in site.program.pools] == ["attention", "ffn"]
    tokens = int(site.expected.batch().requests.sum())
    ffn = site.model.ffn["moe"]
    assert isinstance(ffn, MoeFfn)
    timed = site.ffn_timer.experts.expected(ffn, site.spread(ffn), np.array([tokens]), shared=True)
    latency = from_us(cards.fabric("nvlink").latency_us, "a message")
    assert site.delays_ns["answer"] == latency
    assert stages(site)["experts"].tolist() == [int(timed.ns.max()) - latency] * 4


def test_one_that_was_not_measured_receives_computes_and_sends_in_turn() -> None:
    apart = ("deployment.ffn.moe_kernel=masked", "deployment.ffn.collectives=none")
    whole, parts = stages(afd(*IN_TURN)), stages(afd(*IN_TURN, *apart))
    one_after_the_other = parts["a2f_in"] + parts["experts"] + parts["f2a"]
    assert whole["experts"].tolist() == one_after_the_other.tolist()
    assert set(whole) == {"attention", "experts"}


def test_an_engines_kernel_measured_with_narrower_weights_takes_the_bytes_of_its_own() -> None:
    """FP8 is what MXFP4 weights are multiplied in, so that weights alone differ."""
    fp8, mxfp4 = afd(), afd(MXFP4)
    ffn = fp8.model.ffn["moe"]
    assert isinstance(ffn, MoeFfn)
    curve = next(c for c in fp8.ffn_timer.table.curves if c.identity[1:] == MEGA)
    assert fp8.ffn_timer.experts.kernel == mxfp4.ffn_timer.experts.kernel == curve.kernel
    tokens = np.array([1024])
    slow, fast = (
        site.ffn_timer.experts.expected(ffn, site.spread(ffn), tokens) for site in (fp8, mxfp4)
    )
    assert float(slow.usage_ns[0]) == 0  # not calibrated
    more = 32 * 3 * 4096 * 1536 * (1 - 0.53125)
    extra_ns = (slow.ns - fast.ns).max()
    bandwidth = fp8.ffn_timer.table.accelerator.hbm_bytes_per_s
    assert 0.6 < extra_ns / (more / bandwidth * 1e9) < 1.8


def test_pairs_that_come_from_elsewhere_all_cross_the_link_one_way_each() -> None:
    card, pairs = cards.accelerator("gb200"), np.array([1e6])
    experts = ops.moe("mxfp4", 4096, 1536, 32, pairs, 128.0, "fused_ep", 32)
    op = ops.moe_fused_ep(experts, 4096, pairs, 4, card.memory_per_link(), elsewhere=True)
    assert op.bytes == pytest.approx(1e6 * 2 * 4096 * card.memory_per_link())


@pytest.mark.parametrize("more", [(MXFP4,), IN_TURN])
def test_drawn_loads_take_as_long_as_expected_ones(more: tuple[str, ...]) -> None:
    site = afd(*more, DRAWN)
    drawn, requests = DrawnTimes(site), site.expected.batch().requests
    assert drawn._experts is not None
    ((ffn, _positions, _layers, loads),) = drawn._experts._loads
    timed = site.routed(ffn, requests, loads.drawn(int(requests.sum()), 0, 1))
    even = int(stages(afd(*more, "routing={kind: uniform}"))["experts"].max())
    assert set(timed) == {"experts"}
    assert timed["experts"].ns.max(axis=1).mean() == pytest.approx(even, rel=0.1)


@pytest.mark.parametrize("fabric", ["nvlink", "rdma"])
def test_gpus_of_an_instance_that_get_tokens_apart_are_instances_of_one(fabric: str) -> None:
    shared = ("deployment.ffn.moe_kernel=masked", f"deployment.fabric={fabric}")
    tray = afd(*shared, "deployment.ffn.collectives=none")
    single = afd(*shared, "deployment.ffn.instances=4", "deployment.ffn.gpus_per_instance=1")
    batch = tray.expected.batch()
    assert (tray.times(batch).values == single.times(batch).values).all()
    assert tray.ffn_memory.weights_bytes == single.ffn_memory.weights_bytes
    names = {tray.server_name(pool, 3) for pool in range(len(tray.program.pools))}
    assert "f0.g3" in names


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["deployment.ffn.parallelism=tp_ep"], "moe_kernel fused_ep: tokens go to the GPU"),
        (["deployment.a2f=broadcast"], "a2f broadcast does not go with moe_kernel fused_ep"),
        (["deployment.duplex=half"], "duplex half does not go with moe_kernel fused_ep"),
        (
            [
                "deployment.ffn.moe_kernel=masked",
                "deployment.ffn.collectives=none",
                "deployment.ffn.parallelism=tp",
            ],
            "collectives none: tokens go to the GPU",
        ),
    ],
)
def test_what_the_kernel_does_not_do_is_a_mistake(sets: list[str], said: str) -> None:
    with pytest.raises(ScenarioError, match=said):
        load("dsv3-afd-gb200", [*QWEN, *sets])


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["deployment.fabric=rdma"], "reads and writes the memory of other GPUs"),
        (["model=deepseek-v3", "deployment.ffn.instances=4"], "layers with a dense FFN"),
    ],
)
def test_where_the_kernel_does_not_reach_it_is_refused(sets: list[str], said: str) -> None:
    with pytest.raises(InfeasibleError, match=said):
        afd(*sets)
