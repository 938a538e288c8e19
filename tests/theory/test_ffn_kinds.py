"""FFN kinds: experts without a gate, in a latent width, and beside experts that cost nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim.deployments import compile_deployment
from sim.deployments.afd import AfdDeployment
from sim.deployments.batch import GpuTokens
from sim.deployments.deployment import Deployment
from sim.deployments.ep import EpDeployment
from sim.explain.theory import active_params, router_params, total_params
from sim.foundation.errors import InfeasibleError, ScenarioError
from sim.inputs import cards
from sim.inputs.model import MoeFfn
from sim.inputs.routing import Groups
from sim.kernels import kernel_table, ops
from sim.kernels.hottest_rank import Held, draw
from sim.variation import expert_loads
from tests import tiny

H, LATENT, E, K, COLUMNS, SHARED = 1024, 256, 8, 2, 512, 1536
MOE = (
    f"kind: moe, experts: {E}, top_k: {K}, expert_intermediate: {COLUMNS}, shared: 2, "
    f"shared_intermediate: {SHARED}, source: test"
)
SHARED_ON_ATTENTION = "deployment.attention.computes=[shared]"
ROUTED = "deployment.a2f=routed"


def load(folder: Path, base: str, more: str, *sets: str) -> Deployment:
    """Return a deployment of the tiny model, whose experts have `more` keys."""
    before = tiny.MODEL[tiny.MODEL.index("  moe:") : tiny.MODEL.index("layers:")]
    path = folder / "kinds.yaml"
    path.write_text(tiny.MODEL.replace(before, f"  moe: {{{MOE}{more}}}\n"))
    return compile_deployment(tiny.load(path, base, *tiny.BARE, *sets))


def afd(folder: Path, more: str, *sets: str) -> AfdDeployment:
    site = load(folder, "step3-2a2f", more, *sets)
    assert isinstance(site, AfdDeployment)
    return site


def ep(folder: Path, more: str, *sets: str) -> EpDeployment:
    site = load(folder, "dsv3-ep128", more, *sets)
    assert isinstance(site, EpDeployment)
    return site


def rows(site: Deployment) -> dict[str, float]:
    """Return the times of the MoE layers for the expected load, slowest server, ns."""
    found = site.durations(site.expected.batch()).rows
    return {stage: float(ns.max()) for (stage, kind), ns in found.items() if kind == 1}


def moe(site: Deployment) -> MoeFfn:
    found = site.model.ffn["moe"]
    assert isinstance(found, MoeFfn)
    return found


def test_parameters_of_a_card(tmp_path: Path) -> None:
    usual, bare, latent, zero = (
        load(tmp_path, "dsv3-ep128", more).model
        for more in ("", ", gated: false", f", latent: {LATENT}", ", zero_experts: 8")
    )
    experts, shared = 3 * E * H * COLUMNS, 2 * 3 * H * SHARED
    assert total_params(usual) - total_params(bare) == 2 * (experts + shared) // 3
    narrower = experts * (H - LATENT) // H - 2 * H * LATENT
    assert total_params(usual) - total_params(latent) == 2 * narrower
    assert router_params(zero) == 2 * router_params(usual) == 2 * 2 * H * E
    # Half of what a token chooses is free, and the router scores twice as many.
    free = K // 2 * 3 * H * COLUMNS - H * 8
    assert active_params(usual) - active_params(zero) == 2 * free


@pytest.mark.parametrize("gated", [True, False])
def test_experts_have_two_or_three_projections(gated: bool) -> None:
    op = ops.moe("bf16", H, COLUMNS, 4, 40, 1, "fused", 8, gated=gated)
    matrices = 3 if gated else 2
    assert op.least_flops() == 2 * 40 * matrices * H * COLUMNS
    activations = 40 * (H * 2 * 2 + 2 * COLUMNS * 2)
    assert op.bytes == 4 * matrices * H * COLUMNS * 2 + activations


def test_experts_without_a_gate_borrow_a_kernel_with_one() -> None:
    table = kernel_table.load(cards.accelerator("h200-sxm"), cards.calibration("h200-sxm"))
    ungated, gated = (
        ops.moe("fp8", 4096, 1536, 16, 320, 1, "fused", 16, gated=gated) for gated in (False, True)
    )
    (curve, own), (usual, known) = table.serving(ungated), table.serving(gated)
    assert curve is usual
    assert known
    assert not own
    assert table.timed(ungated).usage_ns[1] == table.timed(ungated).ns.sum()
    assert table.timed(ungated).ns < table.timed(gated).ns


@pytest.mark.parametrize("part", ["dense", "shared"])
def test_an_ffn_without_a_gate_is_two_products(tmp_path: Path, part: str) -> None:
    timer = ep(tmp_path, "").layer_timer
    tokens = np.array([24])
    with_gate, without = (timer.dense(SHARED, tokens, gated=gated) for gated in (True, False))
    columns = {"dense": SHARED, "shared": 2 * SHARED}[part]
    tile = timer.table.accelerator.gemm_tile_rows
    up, down = (
        timer.table.timed(ops.gemm(timer.precision.of("dense"), tokens, n, k, tile))
        for n, k in ((columns, H), (H, columns))
    )
    assert timer.dense(columns, tokens, gated=False).ns == (up + down).ns
    assert without.ns < with_gate.ns


def test_latent_experts_shorten_the_trip(tmp_path: Path) -> None:
    whole, latent = (
        afd(tmp_path, more, SHARED_ON_ATTENTION) for more in ("", f", latent: {LATENT}")
    )
    before, after = rows(whole), rows(latent)
    for stage in ("a2f", "a2f_in", "f2a", "f2a_in"):
        assert after[stage] == pytest.approx(before[stage] * LATENT / H, abs=1)
    tokens = GpuTokens(latent.expected.batch().requests)
    down, up = latent.attention_timer.latent(moe(latent), tokens)
    more = after["attention"] - before["attention"]
    assert more == float((down + up).ns.max()) > 0
    assert after["experts"] < before["experts"]


@pytest.mark.parametrize("sets", [(), (ROUTED,)])
def test_shared_experts_on_ffn_gpus_take_whole_tokens_besides(
    tmp_path: Path, sets: tuple[str, ...]
) -> None:
    site = afd(tmp_path, f", latent: {LATENT}", "deployment.ffn.parallelism=tp_ep", *sets)
    links, ffn, batch = site._links, moe(site), site.expected.batch()
    row = ops.activation_bytes(1, site.afd.a2f_dtype)
    visits, each = links.visits(ffn), float(batch.requests.max())
    # Each of the two instances may want a token in its latent width; one of them also whole.
    sent = each * (2 * visits * LATENT + H) * row
    goodput = links.goodput(site.attention_timer)
    assert rows(site)["a2f"] == pytest.approx(float(sent) / goodput * 1e9, abs=1)
    rail = float(links.rails(GpuTokens(batch.requests))[0])
    come = rail * (visits * LATENT + H / 2) * row
    assert rows(site)["a2f_in"] == pytest.approx(float(come) / goodput * 1e9, abs=1)
    apart = afd(tmp_path, f", latent: {LATENT}", SHARED_ON_ATTENTION, *sets)
    assert rows(apart)["a2f"] < rows(site)["a2f"]


def test_weights_of_latent_projections_are_beside_the_router(tmp_path: Path) -> None:
    whole, latent = (
        afd(tmp_path, more, SHARED_ON_ATTENTION) for more in ("", f", latent: {LATENT}")
    )
    width = 1  # of the FP8 weights of the scenario
    more = latent.attention_memory.weights_bytes - whole.attention_memory.weights_bytes
    assert more == 2 * 2 * H * LATENT * width
    experts = latent.ffn_memory.weights_bytes - latent_dense(latent)
    assert experts == (whole.ffn_memory.weights_bytes - latent_dense(whole)) * LATENT / H


def latent_dense(site: AfdDeployment) -> float:
    """Return bytes of the dense layer on an FFN GPU."""
    return 3 * H * 4096 / site.afd.ffn.gpu_count()


def test_latent_experts_shorten_the_all_to_all(tmp_path: Path) -> None:
    sites = [ep(tmp_path, more) for more in ("", f", latent: {LATENT}")]
    directions: tuple[tuple[ops.Direction, str], ...] = ("dispatch", "fp8"), ("combine", "bf16")
    for direction, dtype in directions:
        whole, latent = (
            site._exchange(moe(site))._op(direction, dtype, "", 64.0).bytes for site in sites
        )
        assert latent == whole * LATENT / H
    before, after = (rows(site) for site in sites)
    tokens = GpuTokens(sites[1].expected.batch().requests)
    down, up = (float(t.ns.max()) for t in sites[1].layer_timer.latent(moe(sites[1]), tokens))
    assert after["attn0"] == pytest.approx(before["attn0"] + up, abs=1)
    assert after["attn1"] == pytest.approx(before["attn1"] + down, abs=1)


def test_one_kernel_takes_tokens_of_one_width(tmp_path: Path) -> None:
    with pytest.raises(InfeasibleError, match="put shared into"):
        afd(
            tmp_path,
            f", latent: {LATENT}",
            *("deployment.attention.accelerator=gb200", "deployment.ffn.accelerator=gb200"),
            *("deployment.fabric=nvlink", "deployment.ffn.moe_kernel=fused_ep"),
            *("precision.gemm=mxfp4", "deployment.ffn.parallelism=ep"),
            *("deployment.ffn.collectives=none", "deployment.attention.computes=[dense]", ROUTED),
        )


@pytest.mark.parametrize("free", [0, 4, 8, 24])
def test_pairs_of_experts_that_cost(tmp_path: Path, free: int) -> None:
    site = ep(tmp_path, f", zero_experts: {free}")
    ffn = moe(site)
    assert ffn.computed() == pytest.approx(K * E / (E + free))
    sent = site._exchange(ffn)._op("dispatch", "fp8", "", 64.0)
    usual = site._exchange(ffn.replaced(zero_experts=0))._op("dispatch", "fp8", "", 64.0)
    assert sent.bytes == pytest.approx(usual.bytes * E / (E + free))


@pytest.mark.parametrize("base", ["step3-2a2f", "dsv3-ep128"])
def test_free_experts_cost_no_time(tmp_path: Path, base: str) -> None:
    few = "routing={kind: uniform}", "workload.arrivals.concurrency=16"
    times = [rows(load(tmp_path, base, f", zero_experts: {free}", *few)) for free in (0, 8, 24)]
    assert times[0]["experts"] > times[1]["experts"] > times[2]["experts"]


def test_tokens_that_choose_free_experts_alone_stay(tmp_path: Path) -> None:
    site = afd(tmp_path, ", zero_experts: 8", ROUTED, "deployment.ffn.parallelism=tp_ep")
    # Two of 16 experts, of which an instance holds 4: both lie elsewhere with 12/16 · 11/15.
    assert site._links.visits(moe(site)) == pytest.approx(1 - 12 / 16 * 11 / 15)


def test_expected_draws_have_the_pairs_that_cost() -> None:
    held = Held(E, 4, E, zero=8)
    assert held.computed(K) == 1.0
    loads = draw("power_law_0.6", 4096, E, held.computed(K), np.random.default_rng(0))
    assert loads.sum() == 4096


def test_drawn_loads_leave_out_what_falls_on_free_experts() -> None:
    shares = np.full((2000, E), 1 / E)
    rng = np.random.default_rng(0)
    loads = expert_loads.draw(shares, 64, K, None, rng, zero=1 / 3)
    assert loads.sum(axis=1).mean() == pytest.approx(64 * K * 2 / 3, rel=0.01)
    assert loads.sum(axis=1).std() == pytest.approx((64 * K * 2 / 9) ** 0.5, rel=0.1)


def test_groups_do_not_go_with_free_experts() -> None:
    grid = expert_loads.ExpertGrid((0,), E, K, E, 4, 1, zero=8)
    with pytest.raises(ScenarioError, match="leave groups out"):
        expert_loads._check_groups(Groups(count=4, chosen=2), grid)


def test_shared_experts_of_another_width_are_one_dense_ffn(tmp_path: Path) -> None:
    site = ep(tmp_path, "")
    tokens = site.expected.batch().requests
    both = site.layer_timer.dense(2 * SHARED, tokens)
    assert rows(site)["shared"] == pytest.approx(float(both.ns.max()), abs=1)
