"""AFD over the scale-up link: bytes and rates by hand, and what the link does not reach.

FFN instances of one GPU are held to the same bytes over NICs.
"""

from __future__ import annotations

from fractions import Fraction
from math import prod

import numpy as np
import pytest

from sim.decoding.step_times import DrawnTimes
from sim.deployments import compile_deployment
from sim.deployments.afd import AfdDeployment
from sim.deployments.deployment import Deployment
from sim.explain.ratio import stochastic_ratio
from sim.foundation.errors import InfeasibleError
from sim.inputs import scenario
from sim.kernels import ops
from sim.steady.state import SteadyState
from sim.variation.unfold import unfold

BASE = "dsv3-afd-gb200"
# Of DeepSeek-V3: hidden size, experts, experts of a token.
H, E, K = 7168, 256, 8
OUT, BACK = H + 4 * H // 128, 2 * H
NVLINK, NIC = Fraction("900e9") * Fraction("0.515"), Fraction("50e9") * Fraction("0.8")
OVER_NICS = ("deployment.fabric=rdma",)
H800 = (
    *OVER_NICS,
    "deployment.attention.accelerator=h800",
    "deployment.ffn.accelerator=h800",
    "deployment.attention.gpus_per_instance=8",
    "deployment.attention.instances=4",
)
STEPWISE = "routing={{kind: uniform, per_step: {{placement: {}}}}}"


def afd(*overrides: str) -> AfdDeployment:
    site = compile_deployment(scenario.load(BASE, list(overrides)))
    assert isinstance(site, AfdDeployment)
    return site


def rows_of(site: Deployment, ffn: str) -> dict[str, list[int]]:
    """Return the times of a layer with FFN `ffn` by stage, at the nominal batch."""
    program, times = site.program, site.times(site.expected.batch())
    kind = next(i for i, each in enumerate(site.kinds) if each.layer.ffn == ffn)
    return {
        stage.name: program.row(times, stage.name, kind).tolist() for stage in program.stages[:-1]
    }


def visited(instances: int) -> Fraction:
    """Return the share of tokens of which one of 8 experts lies in a given one of `instances`.

    An instance stands for E/instances of the experts, replicas or not.
    """
    elsewhere = E - Fraction(E, instances)
    return 1 - prod(((elsewhere - i) / (E - i) for i in range(K)), start=Fraction(1))


@pytest.mark.parametrize(
    ("overrides", "bytes_per_s"), [((), NVLINK), (OVER_NICS, NIC), (H800, NIC)]
)
@pytest.mark.parametrize(("instances", "redundant"), [(32, 0), (16, 0), (24, 8)])
def test_single_gpu_instances_get_what_attention_sends(
    overrides: tuple[str, ...], bytes_per_s: Fraction, instances: int, redundant: int
) -> None:
    site = afd(
        *overrides,
        f"deployment.ffn.instances={instances}",
        f"deployment.ffn.redundant_experts={redundant}",
    )
    b = site.expected.batch().requests
    gpus, tokens = len(b), int(b.sum())
    assert (b == b[0]).all()
    for ffn, share in (("moe", visited(instances)), ("dense", Fraction(1))):
        found = rows_of(site, ffn)
        assert len(found["a2f"]) == gpus
        assert len(found["a2f_in"]) == instances
        for bytes_each, sent, received, out_of, into in (
            (OUT, "a2f", "a2f_in", int(b[0]) * instances, tokens),
            (BACK, "f2a_in", "f2a", int(b[0]) * instances, tokens),
        ):
            ns = bytes_each * share * 10**9 / bytes_per_s
            assert found[sent] == [round(out_of * ns)] * gpus
            assert found[received] == [round(into * ns)] * instances
        # Bytes out are bytes in, and of a single GPU there is nothing to gather or scatter.
        assert sum(found["a2f"]) == pytest.approx(sum(found["a2f_in"]), abs=gpus + instances)
        assert sum(found["f2a"]) == pytest.approx(sum(found["f2a_in"]), abs=gpus + instances)
        assert not {"all_gather", "reduce_scatter"} & set(found)


TRAYS = ("deployment.ffn.gpus_per_instance=4", "deployment.ffn.instances=8")


@pytest.mark.parametrize("parallelism", ["ep", "tp_ep"])
def test_a_tray_gathers_and_scatters_on_the_link_of_the_transfers(parallelism: str) -> None:
    nvls = "deployment.ffn.collectives=nvls"
    site = afd(*TRAYS, nvls, f"deployment.ffn.parallelism={parallelism}")
    b = site.expected.batch().requests
    found, tokens, share = rows_of(site, "moe"), int(b.sum()), visited(8)
    # A token goes once to a tray that has one of its experts, and a GPU gets a fourth of them.
    names: tuple[ops.Collective, ...] = ("all_gather", "reduce_scatter")
    for bytes_each, sent, received, together in (
        (OUT, "a2f", "a2f_in", names[0]),
        (BACK, "f2a_in", "f2a", names[1]),
    ):
        ns = bytes_each * share * 10**9
        assert found[sent] == [round(int(b[0]) * 8 * ns / NVLINK)] * len(b)
        assert found[received] == [round(tokens // 4 * ns / NVLINK)] * 8
        whole = float(tokens * share * bytes_each)
        alone = site.ffn_timer.table.timed(ops.collective(together, "bf16", 4, whole, "nvls"))
        assert found[together] == [pytest.approx(int(alone.ns), abs=1)] * 8
    on = {stage.name: site.program.pools[stage.pool].name for stage in site.program.stages}
    assert on["a2f_in"] == on["all_gather"] == "ffn.nvlink_in"
    assert on["f2a"] == on["reduce_scatter"] == "ffn.nvlink_out"
    links = [d for p, d in zip(site.program.pools, site.devices(), strict=True) if p.side == "ffn"]
    assert links == [{"nvlink": 4}, {"nvlink": 4}, {"gpu": 4}]


def test_a_tray_gathers_what_it_gets_under_drawn_loads() -> None:
    site = afd(*TRAYS, STEPWISE.format("{kind: contiguous}"))
    drawn = DrawnTimes(site)
    times = drawn.step(site.expected.batch(), 1, 3).times
    assert drawn._experts is not None
    ((ffn, _positions, _layers, loads),) = drawn._experts._loads
    timed = site.routed(ffn, site.expected.batch().requests, loads.drawn(4096, 1, 3))
    assert {"all_gather", "reduce_scatter", "a2f_in", "f2a"} < set(timed)
    fullest = timed["a2f_in"].ns.argmax(axis=1)
    assert (timed["all_gather"].ns.argmax(axis=1) == fullest).all()
    assert times.values.min() >= 0


@pytest.mark.parametrize("overrides", [(), OVER_NICS])
def test_drawn_tokens_arrive_where_they_are_sent(overrides: tuple[str, ...]) -> None:
    site = afd(*overrides, STEPWISE.format("{kind: contiguous}"))
    drawn = DrawnTimes(site)
    times = drawn.step(site.expected.batch(), 1, 3).times
    assert drawn._experts is not None
    ((ffn, _positions, layers, loads),) = drawn._experts._loads
    timed = site.routed(ffn, site.expected.batch().requests, loads.drawn(4096, 1, 3))
    assert set(timed) == {"experts", "a2f", "a2f_in", "f2a", "f2a_in"}
    for sent, received in (("a2f", "a2f_in"), ("f2a_in", "f2a")):
        out, into = timed[sent].ns.sum(axis=1), timed[received].ns.sum(axis=1)
        assert len(out) == len(layers) == 58
        assert np.abs(out - into).max() <= (32 + 32) / 2
    # Loads differ, so some instance takes longer than the others: by its own incast.
    assert (timed["a2f_in"].ns.max(axis=1) > timed["a2f_in"].ns.mean(axis=1)).all()
    assert times.values.min() >= 0


SHAPES: dict[tuple[str, ...], tuple[int, int]] = {
    (): (8, 32),
    ("deployment.ffn.instances=24", "deployment.ffn.redundant_experts=8"): (11, 24),
    ("deployment.ffn.parallelism=tp_ep",): (8, 32),
}


def test_an_ffn_gpu_holds_its_experts_a_shared_one_and_its_slice_of_the_dense_layers() -> None:
    of = {shape: afd(*shape).ffn_memory.weights_bytes for shape in SHAPES}
    expert, dense = 3 * H * 2048, 3 * H * 18432
    assert of == {
        shape: 58 * (held + 1) * expert + 3 * dense / gpus for shape, (held, gpus) in SHAPES.items()
    }


def test_nothing_that_people_see_calls_the_link_a_nic() -> None:
    site = afd()
    names = {
        site.server_name(index, server)
        for index, pool in enumerate(site.program.pools)
        for server in range(pool.servers)
    }
    assert {"NVLink out a7.g3", "NVLink in a0.g0", "NVLink in f31", "NVLink out f0"} <= names
    assert not any("NIC" in name or "nic" in name for name in names)
    assert not any("nic" in pool.name for pool in site.program.pools)
    assert len(names) == sum(pool.servers for pool in site.program.pools)
    assert site.devices() == [{pool.kind: 1} for pool in site.program.pools]


@pytest.mark.parametrize(("server", "changes"), [("nvlink", True), ("nic", False)])
def test_noise_of_the_link_meets_the_transfers(server: str, changes: bool) -> None:
    slow = "share: {value: 1, source: test}, factor: {value: 2, source: test}"
    site = afd(f"noise={{slow: [{{server: {server}, {slow}}}]}}")
    batch = site.expected.batch()
    noisy, calm = (
        DrawnTimes(site).step(batch, 0, 1).times,
        DrawnTimes(afd("noise={}")).step(batch, 0, 1).times,
    )
    differs = noisy.values != calm.values
    assert differs.any() == changes
    assert (noisy.values[differs] == 2 * calm.values[differs]).all()


@pytest.mark.parametrize(("way", "stages"), [("in", {"a2f_in", "f2a_in"}), ("out", {"a2f", "f2a"})])
def test_a_direction_of_the_link_may_pause_alone(way: str, stages: set[str]) -> None:
    often = "rate_per_s: {value: 1.0e+4, source: test}, mean_us: {value: 100, source: test}"
    stall = f"{{server: nvlink, way: {way}, duration: fixed, {often}}}"
    site, calm = afd(f"noise={{stalls: [{stall}]}}"), afd("noise={}")
    unfolding, batch = unfold(site.program), site.expected.batch()
    noisy = DrawnTimes(site).step(batch, 0, 1).times.values
    still = DrawnTimes(calm).step(batch, 0, 1).times.values
    assert {
        stage.name
        for index, stage in enumerate(site.program.stages)
        if (unfolding.block(noisy, index) != unfolding.block(still, index)).any()
    } == stages


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["deployment.attention.instances=11"], r"76 GPUs .* fabric nvlink, .* gb200 joins 72: .*"),
        (
            [*TRAYS, "deployment.ffn.collectives=copy_engine"],
            r"ffn\.gpus_per_instance is 4: .* set deployment\.ffn\.collectives to nccl or nvls",
        ),
        ([*TRAYS, "deployment.duplex=half"], r"deployment\.duplex to full; or set .* to none"),
        (["deployment.attention.o_proj_tp=2"], r"o_proj_tp is 2: .* set deployment\.attention"),
        (["deployment.ffn.accelerator=b200"], r"does not join gb200 to b200: take one accelerator"),
        (["deployment.attention.accelerator=h20", "deployment.ffn.accelerator=h20"], "joins 8"),
        (
            ["deployment.ffn.instances=30"],
            r"256 experts and copies do not divide over 30 .*: set redundant_experts to 14",
        ),
    ],
)
def test_what_the_link_does_not_carry_is_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(InfeasibleError, match=said):
        afd(*overrides)


def test_the_domain_may_be_full() -> None:
    assert afd("deployment.attention.instances=10").attention_gpus + 32 == 72


def test_ep_reaches_as_far_as_the_link() -> None:
    ep = ["deployment.accelerator=gb200", "deployment.fabric=nvlink", "memory.utilisation=1.0"]
    within = compile_deployment(scenario.load("dsv3-ep128", [*ep, "deployment.gpus=64"]))
    over_nics = compile_deployment(
        scenario.load("dsv3-ep128", [ep[0], ep[2], "deployment.gpus=64"])
    )
    batch = within.expected.batch()
    # The all-to-all is measured: the fabric changes nothing.
    assert (within.times(batch).values == over_nics.times(batch).values).all()
    with pytest.raises(InfeasibleError, match=r"128 GPUs .* joins 72: take at most 72 GPUs"):
        compile_deployment(scenario.load("dsv3-ep128", ep))


def test_an_all_to_all_that_no_one_measured_moves_its_bytes_as_the_fabric_would() -> None:
    sets = ["deployment.accelerator=a100-sxm", "memory.utilisation=1.0", "deployment.gpus=8"]
    sets += ["workload.arrivals.requests_per_gpu=16", "model=qwen3-235b-a22b"]
    sets += ["workload.lengths.prompt.tokens=64", "deployment.fabric=nvlink"]
    sets += ["routing={kind: uniform}"]
    site = compile_deployment(scenario.load("dsv3-ep8-h200", sets))
    found, b = rows_of(site, "moe"), int(site.expected.batch().requests[0])
    for stage, bytes_each in (("dispatch", 4096 + 4 * 4096 // 128), ("combine", 2 * 4096)):
        # 7 of 8 pairs go to other GPUs, over 300 GB/s.
        ns = 13_000 + b * 8 * Fraction(7, 8) * bytes_each / (300 * Fraction("0.515"))
        assert found[stage] == [pytest.approx(float(ns), abs=1)]


@pytest.mark.parametrize("base", [BASE, "dsv3-ep8-h200"])
def test_kv_from_prefill_does_not_come_over_the_link(base: str) -> None:
    figures = "nic_share: {value: 0.5, source: test}, latency_us: {value: 9, source: test}"
    sets = [f"admission.kv_transfer={{{figures}}}"]
    site = compile_deployment(scenario.load(base, [*sets, "deployment.fabric=nvlink"]))
    with pytest.raises(InfeasibleError, match="over NICs, and fabric nvlink has no NICs"):
        site.kv_transfer()
    site = compile_deployment(scenario.load(base, [*sets, "deployment.fabric=rdma"]))
    transfer = site.kv_transfer()
    assert transfer is not None
    assert transfer.bytes_per_s == pytest.approx(50e9 * 0.8 * 0.5)


LOADING = STEPWISE.format("{kind: eplb, every_steps: 1, window_steps: 1, hierarchical: false}")


@pytest.mark.parametrize(
    ("base", "overrides", "bytes_per_ns"),
    [
        (BASE, [], 900 * 0.515),
        (BASE, ["deployment.fabric=rdma"], 50 * 0.8),
        ("dsv3-ep8-h200", ["deployment.fabric=nvlink"], 450 * 0.515),
        ("dsv3-ep8-h200", ["deployment.fabric=rdma"], 450),  # no fabric tells of its link
    ],
)
def test_loaded_experts_take_the_way_of_the_fabric(
    base: str, overrides: list[str], bytes_per_ns: float
) -> None:
    site = compile_deployment(scenario.load(base, [*overrides, LOADING]))
    drawn = DrawnTimes(site)
    assert drawn._experts is not None
    ((ffn, _positions, _layers, loads),) = drawn._experts._loads
    requests = site.expected.batch().requests
    still = loads.drawn(int(requests.sum()), 0, 0)
    one = still._replace(moved=np.ones_like(still.moved))
    none = still._replace(moved=np.zeros_like(still.moved))
    loading, idle = (site.routed(ffn, requests, loads)["experts"].ns for loads in (one, none))
    assert (loading - idle)[0] == pytest.approx(3 * H * 2048 / bytes_per_ns, abs=1)


@pytest.mark.parametrize(
    ("overrides", "nodes"),
    [
        ([], 8),  # 32 GPUs in trays of 4
        (["deployment.ffn.instances=24", "deployment.ffn.redundant_experts=8"], 6),
        (
            ["deployment.ffn.instances=18", "deployment.ffn.redundant_experts=14"],
            1,
        ),  # half a tray more
        (["deployment.ffn.parallelism=tp"], 1),
        ([*OVER_NICS, "deployment.ffn.gpus_per_instance=8", "deployment.ffn.instances=4"], 4),
    ],
)
def test_single_gpu_instances_share_nodes(overrides: list[str], nodes: int) -> None:
    site = compile_deployment(
        scenario.load(BASE, [*overrides, "workload.arrivals.requests_per_gpu=4"])
    )
    assert site.expert_nodes == nodes


def test_the_best_ratio_stays_within_the_domain() -> None:
    lengths = "{kind: drawn, prompt: {kind: geometric, mean: 9000, max_tokens: 40000}"
    output = "output: {kind: fixed, tokens: 512}}"
    sets = [f"workload.lengths={lengths}, {output}", "workload.arrivals.requests_per_gpu=32"]
    found = stochastic_ratio(SteadyState.of(scenario.load(BASE, sets)))
    assert found.barrier.attention_instances == 10
    assert found.mean_field.attention_instances == 10
