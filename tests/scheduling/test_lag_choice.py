"""The static order that a ring takes: how often the promised one is the best of all, simulated."""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np

from sim.deployments.afd import ring as afd_ring
from sim.deployments.afd.ring import Lags, Ring
from tests.scripted_runs import period_ns
from tests.strategies.deployments import feasible_lags

MOST_NS = {"attention": 100, "experts": 100, "o_exchange": 30, "o_proj": 50, "o_reduce": 30}


def drawn_stages(rng: random.Random, shape: Ring) -> dict[str, int]:
    # No ring here has shared experts on its attention GPUs.
    stages = [stage for stage in afd_ring.STAGES if stage != "shared"]
    stage_ns = {stage: rng.randint(0, MOST_NS.get(stage, 60)) for stage in stages}
    if not shape.o_proj_groups:
        stage_ns = {stage: ns for stage, ns in stage_ns.items() if not stage.startswith("o_")}
    return stage_ns | {"lm_head": 0}


def pace(shape: Ring, lags: Lags, stage_ns: dict[str, int], delays: dict[str, int]) -> Fraction:
    program = afd_ring.program(shape, lags)
    rows = {(stage, int(stage == "lm_head")): ns for stage, ns in stage_ns.items()}
    return period_ns(program, program.times(rows, delays))


def test_the_chosen_order_is_nearly_always_the_best() -> None:
    # Of 40 rings with shared projections, half duplex or NVLink turns: the chosen order is the
    # best in 39.
    rng = random.Random(2)
    best = 0
    for _ in range(40):
        groups, half, turns = rng.choice([(0, 1, 0), (0, 0, 1), (1, 0, 0), (0, 1, 1), (1, 0, 1)])
        shape = Ring(
            (0,) * rng.randint(1, 3),
            rng.randint(2, 4),
            attention_gpus=2,
            ffn_instances=1,
            o_proj_groups=groups,
            half_duplex=bool(half),
            nvlink_turns=bool(turns),
        )
        stage_ns = drawn_stages(rng, shape)
        delays = {"link": rng.randint(0, 30), "host": 0}
        chosen = afd_ring.choose_lags(shape, stage_ns, delays["link"], 0)
        assert chosen.tail == 0
        paces = {
            lags: pace(shape, lags, stage_ns, delays)
            for lags in feasible_lags(shape)
            if lags.tail == 0
        }
        best += paces[chosen] == min(paces.values())
    assert best >= 38


def test_the_chosen_order_of_transfers_and_gathers_is_nearly_always_the_best() -> None:
    # Of 30 rings whose FFN instances gather and scatter on the link of the transfers.
    rng = random.Random(5)
    best, ahead = 0, 0
    for _ in range(30):
        shape = Ring((0,) * rng.randint(1, 3), rng.randint(2, 4), 2, 1, link="nvlink")
        assert shape.one_link
        stage_ns = drawn_stages(rng, shape)
        delays = {"link": rng.randint(0, 60), "host": 0}
        chosen = afd_ring.choose_lags(shape, stage_ns, delays["link"], 0)
        paces = {
            lags: pace(shape, lags, stage_ns, delays)
            for lags in feasible_lags(shape)
            if lags.tail == 0
        }
        best += paces[chosen] == min(paces.values())
        ahead += chosen.inward > 0
    assert best >= 29
    assert ahead > 0


def test_the_chosen_tail_is_mostly_the_best() -> None:
    # Of 25 rings with LM heads and host gaps of up to four attention stages. Of 40, 36 were the
    # best when this was written, and the others at most 1.1 % slower.
    rng = random.Random(3)
    best, worst = 0, Fraction(0)
    for _ in range(25):
        shape = Ring((0,) * rng.randint(6, 10), rng.randint(2, 5), 1, 1)
        stage_ns = drawn_stages(rng, shape) | {"lm_head": rng.randint(0, 100)}
        delays = {"link": rng.randint(0, 30), "host": rng.randint(0, 400)}
        chosen = afd_ring.choose_lags(shape, stage_ns, delays["link"], delays["host"])
        paces = {lags: pace(shape, lags, stage_ns, delays) for lags in feasible_lags(shape)}
        best += paces[chosen] == min(paces.values())
        worst = max(worst, paces[chosen] / min(paces.values()))
    assert best >= 20
    assert worst < Fraction(102, 100)


def test_a_host_gap_is_filled_with_lm_heads() -> None:
    # Attention is the bottleneck; a host gap as long as three turns is hidden behind the others.
    shape = Ring((0,) * 8, 4, 1, 1)
    stage_ns = {"attention": 100, "experts": 50, "a2f": 10, "a2f_in": 10, "f2a": 10, "f2a_in": 10}
    delays = {"link": 0, "host": 300}
    chosen = afd_ring.choose_lags(shape, stage_ns, 0, delays["host"])
    assert chosen.tail > 0
    hidden = pace(shape, chosen, stage_ns, delays)
    bare = pace(shape, chosen._replace(tail=0), stage_ns, delays)
    assert hidden < bare


def test_loads_asked_together_get_the_order_of_each() -> None:
    rng = random.Random(4)
    for groups, half, turns in [(0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 1)]:
        shape = Ring((0,) * 3, 4, 2, 1, groups, half_duplex=bool(half), nvlink_turns=bool(turns))
        loads = [drawn_stages(rng, shape) | {"lm_head": rng.randint(0, 100)} for _ in range(20)]
        latency_ns, host_ns = rng.randint(0, 30), np.array([rng.randint(0, 400) for _ in loads])
        stage_ns = {stage: np.array([ns[stage] for ns in loads]) for stage in loads[0]}
        alone = [
            afd_ring.choose_lags(shape, ns, latency_ns, int(host))
            for ns, host in zip(loads, host_ns, strict=True)
        ]
        assert afd_ring.lags_by_load(shape, stage_ns, latency_ns, host_ns) == alone
        assert len(set(alone)) > 1
