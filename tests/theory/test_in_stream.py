"""AFD whose GPUs send and receive in the stream of their computation, and FFN GPUs that route."""

from __future__ import annotations

import numpy as np
import pytest

from sim.deployments import compile_deployment
from sim.deployments.afd import AfdDeployment
from sim.deployments.layers import LayerTimer
from sim.foundation.errors import InfeasibleError, ScenarioError
from sim.foundation.nanoseconds import from_us
from sim.inputs import cards
from sim.inputs.model import MoeFfn
from sim.inputs.scenario import load

DIE = "accelerator: ascend-910c"
ATTENTION = (
    f"deployment.attention={{{DIE}, instances: 3, gpus_per_instance: 16, o_proj_tp: 1, "
    "lm_head_tp: 1}"
)
FFN = f"{DIE}, parallelism: ep, moe_kernel: fused"
APART = f"deployment.ffn={{{FFN}, instances: 16, gpus_per_instance: 1}}"
ROUTES = f"deployment.ffn={{{FFN}, instances: 1, gpus_per_instance: 16, collectives: all_to_all}}"
PLUGIN = (
    "model=deepseek-v3.2",
    ATTENTION,
    "deployment.micro_batches=2",
    "deployment.fabric=unified-bus",
    "deployment.a2f_dtype=bf16",
    "precision={gemm: int8, attention: int8, kv: bf16, lm_head: bf16}",
    "software=vllm-ascend",
    "memory={activation_reserve_gb: 0, kv_block_tokens: 64, utilisation: 1}",
    "routing={kind: balanced, experts: 64}",
    "workload.arrivals={kind: closed, concurrency: 1344}",
    "workload.lengths={kind: drawn, prompt: {kind: fixed, tokens: 16384}, "
    "output: {kind: fixed, tokens: 1024}}",
)
IN_STREAM = "deployment.transfers=in_stream"


def afd(*more: str) -> AfdDeployment:
    site = compile_deployment(load("dsv3-afd-gb200", [*PLUGIN, *more]))
    assert isinstance(site, AfdDeployment)
    return site


def stages(site: AfdDeployment, kind: int = 1) -> dict[str, int]:
    rows = site.durations(site.expected.batch()).rows
    return {name: int(ns.max()) for (name, of), ns in rows.items() if of == kind}


def test_gpus_are_busy_with_what_links_would_carry_beside_them() -> None:
    beside, site = stages(afd(APART)), afd(APART, IN_STREAM)
    in_stream = stages(site)
    half = from_us(cards.fabric("unified-bus").latency_us / 2, "a message")
    attention = beside["attention"] + beside["a2f"] + beside["f2a_in"] + 2 * half
    experts = beside["a2f_in"] + beside["experts"] + beside["f2a"] + 2 * half
    assert in_stream == {"attention": attention, "experts": experts}
    assert [pool.name for pool in site.program.pools] == ["attention", "ffn"]
    assert site.delays_ns["answer"] == 0


def test_ffn_gpus_that_route_take_the_router_dispatch_and_combine() -> None:
    site = afd(ROUTES, IN_STREAM)
    ffn = site.model.ffn["moe"]
    assert isinstance(ffn, MoeFfn)
    tokens = site.expected.batch().requests
    each = float(tokens.sum()) / 16
    parts = site._links.exchanges(ffn, np.array([each]))
    timed = site.ffn_timer.experts.expected(
        ffn, site.spread(ffn), np.array([tokens.sum()]), shared=True
    )
    router = from_us(75, "the router")
    fabric, die = cards.fabric("unified-bus"), cards.accelerator("ascend-910c")
    n_bytes = each * site.model.hidden * 2
    rate = float(die.node.scale_up_bytes_per_s) * float(fabric.goodput)
    way = from_us(fabric.latency_us / 2, "a message") + n_bytes / rate * 1e9
    exchanged = sum(int(part.ns.max()) for part in parts.values())
    expected = int(timed.ns.max()) + exchanged + router + 2 * way
    assert stages(site)["experts"] == pytest.approx(expected, abs=4)
    assert stages(afd(APART, IN_STREAM))["attention"] > stages(site)["attention"]


def test_a_dense_ffn_is_whole_where_tokens_come_to_one_gpu() -> None:
    site = afd(ROUTES, IN_STREAM)
    sliced = afd(APART, IN_STREAM)
    more = site.ffn_memory.weights_bytes - sliced.ffn_memory.weights_bytes
    dense = 3 * 3 * 18432 * site.model.hidden * 15 / 16
    assert more == pytest.approx(dense)


def test_experts_without_tokens_are_not_read() -> None:
    """Forced routing over 64 of 256 experts is the work of a model that has no others."""
    site = afd(APART)
    timer, ffn = site.ffn_timer, site.model.ffn["moe"]
    assert isinstance(ffn, MoeFfn)
    assert timer.chosen == 64
    tokens = np.array([[64], [672], [2688]])
    few = ffn.model_copy(update={"experts": 64})
    whole = LayerTimer(timer.model, timer.precision, "balanced", "fused", timer.table)
    forced = timer.experts.expected(ffn, site.spread(ffn), tokens).ns
    spread = site.spread(ffn)._replace(copies=64)
    assert forced.tolist() == whole.experts.expected(few, spread, tokens).ns.tolist()
    assert (forced < whole.experts.expected(ffn, site.spread(ffn), tokens).ns).all()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("deployment.attention.o_proj_tp=2", "o_proj_tp 2 does not go with transfers in_stream"),
        ("deployment.attention.computes=[shared]", "computes"),
        ("deployment.ffn.moe_kernel=fused_ep", "fused_ep has no transfers beside it"),
        ("deployment.transfers=beside", "set transfers to in_stream"),
        ("deployment.ffn.parallelism=tp", "set parallelism to ep"),
        ("deployment.ffn.instances=2", "set instances to 1 and gpus_per_instance to 32"),
        ("routing.experts=300", "300 exceeds the 256 experts"),
        (
            "routing={kind: balanced, experts: 64, per_step: {placement: {kind: contiguous}}}",
            "per_step",
        ),
        ("routing={kind: uniform, per_step: {placement: {kind: contiguous}}}", "per_step"),
    ],
)
def test_what_does_not_go_together_is_refused_with_a_remedy(change: str, told: str) -> None:
    with pytest.raises((ScenarioError, InfeasibleError), match=told):
        afd(ROUTES, IN_STREAM, change)
