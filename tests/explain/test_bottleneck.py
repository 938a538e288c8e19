"""What explains a step time, where it is known in closed form (DESIGN §5: C2b, C7, C9).

The deployments are real ones of three layers; their times are made up.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings

from sim.deployments import compile_deployment
from sim.deployments.deployment import Deployment
from sim.engines.bound import BoundEngine
from sim.engines.program import Times
from sim.explain.balance import EpBalance, balance, exposed_ns, ideal_micro_batches
from sim.explain.bottleneck import critical_circuit
from sim.explain.sensitivity import CHANGE, stage_sensitivities
from sim.kernels.timed import NO_USAGE
from sim.steady.state import SteadyState
from tests import oracles, tiny
from tests.strategies.deployments import durations

LAYERS = tiny.LAYERS
M = 3
RING = ("attention", "experts", "a2f", "f2a", "link")
EP = ("dispatch", "shared", "attn0", "experts", "combine", "attn1")


@pytest.fixture(scope="module")
def ring_site(tiny_model: Path) -> Deployment:
    # Without a host gap to fill, the next step begins right after the last layer's turns.
    no_gap = "software.host_gap_us_per_step={value: 0, source: test}"
    return compile_deployment(tiny.load(tiny_model, "step3-2a2f", no_gap))


@pytest.fixture(scope="module")
def ep_sites(tiny_model: Path) -> dict[str, Deployment]:
    return {
        overlap: compile_deployment(
            tiny.load(tiny_model, "dsv3-ep128", f"deployment.overlap={overlap}")
        )
        for overlap in ("none", "two_batch")
    }


def steady(site: Deployment, rows: dict[str, int], **delays_ns: int) -> SteadyState:
    """Return a state in which every task of a stage takes the same time in every layer."""
    program = site.program
    tail = program.layer_kinds[-1]
    named = {
        (name, tail if name == "lm_head" else kind): ns
        for name, ns in rows.items()
        for kind in range(tail)
    }
    delays = {name: delays_ns.get(name, 0) for name in program.delays}
    return unchanging(site, program.times(named, delays))


def unchanging(site: Deployment, times: Times) -> SteadyState:
    requests, m = site.expected.requests(), site.micro_batches
    return SteadyState(site, requests, BoundEngine(site.program), (times,) * m, NO_USAGE)


def ring(site: Deployment, a: int, f: int, c1: int = 0, c2: int = 0, p: int = 0) -> SteadyState:
    rows = {"attention": a, "experts": f, "a2f": c1, "a2f_in": c1, "f2a": c2, "f2a_in": c2}
    return steady(site, rows, link=p)


@pytest.mark.parametrize(
    ("rows", "delays_ns", "kind", "servers"),
    [
        ({"attention": 900, "experts": 400, "a2f": 100}, {}, "attention-bound", {"a0.g0"}),
        ({"attention": 400, "experts": 900, "f2a": 100}, {}, "FFN-bound", {"f0"}),
        ({"attention": 400, "a2f": 900}, {}, "NIC-bound", {"NIC out a0.g0"}),
        ({"attention": 400, "f2a_in": 900}, {}, "NIC-bound", {"NIC in a0.g0"}),
        ({"attention": 400, "all_gather": 900}, {}, "NVLink-bound", {"NVLink in f0"}),
        ({"attention": 400, "experts": 400}, {"link": 900}, "loop-bound", {"a0.g0", "f0"}),
        ({"attention": 40, "lm_head": 900}, {"host": 9000}, "tail-bound", {"a0.g0"}),
    ],
)
def test_the_circuit_names_what_limits_a_ring(
    ring_site: Deployment,
    rows: dict[str, int],
    delays_ns: dict[str, int],
    kind: str,
    servers: set[str],
) -> None:
    circuit = critical_circuit(steady(ring_site, rows, **delays_ns))
    assert circuit.kind == kind
    assert {leg.server for leg in circuit.legs if leg.server} == servers
    assert sum(leg.share for leg in circuit.legs) == pytest.approx(1)
    assert sum(circuit.spent.values()) == pytest.approx(1)


def test_legs_say_how_busy_a_server_is_and_which_are_like_it(ring_site: Deployment) -> None:
    state = ring(ring_site, 300, 200, 100, 100, 150)
    legs = {leg.stage: leg for leg in critical_circuit(state).legs}
    assert state.step_ns == LAYERS * 1000
    assert [legs[stage].busy for stage in ("attention", "experts")] == pytest.approx([0.9, 0.6])
    assert [legs[stage].alike for stage in ("attention", "experts", "a2f")] == [4, 2, 4]
    assert legs["attention"].time_ms == pytest.approx(LAYERS * 300 / 1e6)
    assert (legs["link"].server, legs["link"].tasks) == (None, 2 * LAYERS)


def test_the_slowest_of_unlike_gpus_is_named(ring_site: Deployment) -> None:
    program = ring_site.program
    rows = {("attention", kind): [500, 500, 900, 500] for kind in range(2)}
    times = program.times(rows, dict.fromkeys(program.delays, 0))
    (leg,) = critical_circuit(unchanging(ring_site, times)).legs
    assert (leg.server, leg.alike, leg.busy) == ("a1.g0", 1, 1)


@settings(max_examples=60, deadline=None)
@given(drawn=durations(5))
def test_ring_slack_kind_and_sensitivities(ring_site: Deployment, drawn: list[int]) -> None:
    a, f, c1, c2, p = (10 * ns for ns in drawn)
    step_ns = oracles.ring_ns(LAYERS, M, a, f, c1, c2, p)
    assume(step_ns)
    state = ring(ring_site, a, f, c1, c2, p)
    assert state.step_ns == step_ns
    loop, turn = a + c1 + f + c2 + 2 * p, Fraction(step_ns, LAYERS)
    slack = {"attention": min(turn - loop, turn / M - a), "experts": min(turn - loop, turn / M - f)}
    slack["link"] = (turn - loop) / 2
    assert {name: state.bound.slack_ns[name] for name in slack} == slack

    terms = {"attention": M * a, "FFN": M * f, "NIC": M * max(c1, c2), "loop": loop}
    largest = [word for word, ns in terms.items() if ns == turn]
    if len(largest) == 1:
        assert critical_circuit(state).kind == f"{largest[0]}-bound"
    fullest = max(a, f, c1, c2)
    if fullest:
        assert ideal_micro_batches(state) == pytest.approx(loop / fullest)

    for of in stage_sensitivities(state):
        if of.of in ("attention", "experts", "link"):
            for effect, factor in ((of.larger, 1 + CHANGE), (of.smaller, 1 - CHANGE)):
                times = dict(zip(RING, (a, f, c1, c2, p), strict=True))
                times[of.of] = int(times[of.of] * factor)
                expected = Fraction(oracles.ring_ns(LAYERS, M, *times.values()), step_ns)
                assert effect.tpot == pytest.approx(float(expected - 1), abs=1e-12)
                assert effect.tgs == pytest.approx(float(1 / expected - 1), abs=1e-12)


def test_where_attention_decides_only_attention_counts(ring_site: Deployment) -> None:
    state = ring(ring_site, 1000, 500, 100, 100)
    effects = {of.of: (of.larger.tpot, of.smaller.tpot) for of in stage_sensitivities(state)}
    assert effects.pop("attention") == pytest.approx((0.1, -0.1))
    assert set(effects.values()) == {(0.0, 0.0)}


@settings(max_examples=60, deadline=None)
@given(drawn=durations(6))
def test_ep_kind_and_what_is_exposed(ep_sites: dict[str, Deployment], drawn: list[int]) -> None:
    assume(all(drawn))
    rows = dict(zip(EP, drawn, strict=True))
    d, s, a0, e, c, a1 = drawn
    for overlap, site in ep_sites.items():
        state = steady(site, rows)
        if overlap == "none":
            assert critical_circuit(state).kind == "loop-bound"
            step_ns, exposed = LAYERS * sum(drawn), LAYERS * (d + c)
        else:
            step_ns = oracles.two_batch_ns(LAYERS, d, s, a0, e, c, a1)
            exposed = LAYERS * 2 * (max(0, d - s - a0) + max(0, c - a1))
            if d < s + a0 and c < a1:
                assert critical_circuit(state).kind == "GPU-bound"
        assert state.step_ns == step_ns
        assert exposed_ns(state, state.times[0]) == exposed


def test_what_is_hidden_is_what_is_not_exposed(ep_sites: dict[str, Deployment]) -> None:
    # Of a dispatch of 300, 200 lie behind shared and attn0; a combine of 100 lies behind attn1.
    rows = dict(zip(EP, (300, 150, 50, 50, 100, 200), strict=True))
    found = balance(steady(ep_sites["two_batch"], rows))
    assert isinstance(found, EpBalance)
    assert found.exposed_ms == pytest.approx(LAYERS * 2 * 100 / 1e6)
    assert found.all_to_all_ms == pytest.approx(LAYERS * 2 * 400 / 1e6)
    assert found.hidden_share == pytest.approx(0.75)


def test_exposed_communication_is_the_loop(ep_sites: dict[str, Deployment]) -> None:
    rows = dict(zip(EP, (900, 100, 100, 50, 10, 200), strict=True))
    circuit = critical_circuit(steady(ep_sites["two_batch"], rows))
    assert circuit.kind == "loop-bound"
    shares = {leg.stage: leg.share for leg in circuit.legs}
    half_layer_ns = 900 + 50 + 200
    assert shares["dispatch"] == pytest.approx(900 / half_layer_ns)


def test_servers_are_called_by_instance_and_rank(
    ring_site: Deployment, ep_sites: dict[str, Deployment]
) -> None:
    pools = [pool.name for pool in ring_site.program.pools]
    assert ring_site.server_name(pools.index("attention"), 3) == "a1.g1"
    assert ring_site.server_name(pools.index("ffn"), 1) == "f1"
    assert ring_site.server_name(pools.index("attention.nic_in"), 2) == "NIC in a1.g0"
    assert ring_site.server_name(pools.index("ffn.nvlink_out"), 0) == "NVLink out f0"
    assert ep_sites["none"].server_name(0, 3) == "n0.g3"
    assert ep_sites["none"].server_name(1, 0) == "network"


def test_shared_output_projections_name_their_link_by_the_first_gpu(tiny_model: Path) -> None:
    shared = ("deployment.attention.o_proj_tp=2", "deployment.duplex=half")
    site = compile_deployment(tiny.load(tiny_model, "step3-2a2f", *shared))
    pools = [pool.name for pool in site.program.pools]
    assert site.server_name(pools.index("attention.nvlink"), 1) == "NVLink a1.g0"
    assert site.server_name(pools.index("attention.nic"), 1) == "NIC a0.g1"
    names = {
        site.server_name(index, server)
        for index, pool in enumerate(site.program.pools)
        for server in range(pool.servers)
    }
    assert len(names) == sum(pool.servers for pool in site.program.pools)
    assert np.unique(pools).size == len(pools)
