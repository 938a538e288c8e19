"""Rings and EP schedules with their durations, in orders that do not deadlock."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from hypothesis import strategies as st

from sim.deployments.afd import ring as afd_ring
from sim.deployments.ep import schedule as ep_schedule
from sim.engines.program import Program, Times
from tests.oracles import EpTimes, Floats, RingTimes
from tests.scripted_runs import Script

# Durations come small, where ties and near-ties are frequent, or scaled up to real nanoseconds.
scales = st.sampled_from([1, 1, 997, 1_000])


@st.composite
def durations(draw: st.DrawFn, count: int, most: int = 40) -> list[int]:
    """Draw `count` durations of one scale, some of them zero."""
    scale = draw(scales)
    return [scale * draw(st.integers(0, most)) for _ in range(count)]


layer_counts = st.integers(1, 5)
micro_batch_counts = st.integers(1, 5)
server_counts = st.integers(1, 3)


@st.composite
def ring_cases(draw: st.DrawFn) -> RingTimes:
    """Draw the durations of a ring whose layers, GPUs and instances all differ."""
    layers, gpus, instances = draw(st.integers(1, 4)), draw(server_counts), draw(server_counts)
    scale = draw(scales)

    def drawn(*shape: int) -> Floats:
        return draw(_grids(shape)) * scale

    return RingTimes(
        attention=drawn(layers, gpus),
        a2f=drawn(layers, gpus),
        a2f_in=drawn(layers, instances),
        all_gather=drawn(layers, instances),
        experts=drawn(layers, instances),
        reduce_scatter=drawn(layers, instances),
        f2a=drawn(layers, instances),
        f2a_in=drawn(layers, gpus),
        lm_head=drawn(gpus),
        link=scale * draw(st.integers(0, 20)),
        host=scale * draw(st.integers(0, 60)),
    )


@st.composite
def ep_cases(draw: st.DrawFn) -> EpTimes:
    """Draw the durations of an EP schedule whose layers and GPUs all differ."""
    layers, gpus = draw(st.integers(1, 4)), draw(server_counts)
    scale = draw(scales)

    def drawn(*shape: int) -> Floats:
        return draw(_grids(shape)) * scale

    return EpTimes(
        attn0=drawn(layers, gpus),
        attn1=drawn(layers, gpus),
        shared=drawn(layers, gpus),
        experts=drawn(layers, gpus),
        dispatch=drawn(layers),
        combine=drawn(layers),
        lm_head=drawn(gpus),
        host=scale * draw(st.integers(0, 60)),
    )


def _grids(shape: tuple[int, ...]) -> st.SearchStrategy[Floats]:
    size = math.prod(shape)
    values = st.lists(st.integers(0, 40), min_size=size, max_size=size)
    return values.map(lambda numbers: np.array(numbers, dtype=np.float64).reshape(shape))


@st.composite
def ring_shapes(draw: st.DrawFn, most_micro_batches: int = 8) -> afd_ring.Ring:
    """Draw an AFD shape: shared output projections, half duplex, collectives, any link or none.

    Collectives may share the link of the transfers.
    """
    groups, each = draw(st.integers(0, 2)), draw(st.integers(1, 2))
    transfers = draw(st.integers(0, 3)) > 0
    collectives = transfers and draw(st.booleans())
    kinds = tuple(draw(st.lists(st.integers(0, 1), min_size=1, max_size=3)))
    shared = groups == 0 and draw(st.booleans())
    links: tuple[Literal["nic", "nvlink"], ...] = ("nic", "nvlink")
    link = draw(st.sampled_from(links[: 1 if groups else 2]))
    one_link = collectives and link == "nvlink"
    return afd_ring.Ring(
        layer_kinds=kinds,
        micro_batches=draw(st.integers(1, most_micro_batches)),
        attention_gpus=max(groups, 1) * each,
        ffn_instances=draw(server_counts),
        o_proj_groups=groups,
        half_duplex=transfers and not one_link and draw(st.booleans()),
        nvlink_turns=collectives and not one_link and draw(st.booleans()),
        collectives=collectives,
        link=link,
        transfers=transfers,
        shared=shared,
        stays=frozenset({1}) if shared and 0 in kinds and draw(st.booleans()) else frozenset(),
    )


@st.composite
def ep_shapes(draw: st.DrawFn) -> ep_schedule.Schedule:
    """Draw an EP shape, overlapped or not."""
    kinds = tuple(draw(st.lists(st.integers(0, 1), min_size=1, max_size=4)))
    return ep_schedule.Schedule(kinds, draw(server_counts), draw(st.booleans()))


def feasible_lags(shape: afd_ring.Ring) -> list[afd_ring.Lags]:
    """Return the lags that no order of DESIGN §4 forbids, told without circuits.

    What runs ahead must not run ahead into its own next layer; and data that FFN instances hold
    back for `nvlink` micro-batches must not be what a half-duplex NIC waits to send.
    """
    m = shape.micro_batches
    return [
        afd_ring.Lags(o_proj, nvlink, nic, tail, inward)
        for o_proj in range(m if shape.o_proj_groups else 1)
        for nvlink in range(m if shape.nvlink_turns else 1)
        for nic in range(m if shape.half_duplex else 1)
        for inward in range(m if shape.one_link else 1)
        for tail in range(m)
        if o_proj + max(nvlink, nic) < m and not (shape.half_duplex and nvlink > nic)
    ]


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Draw a program of either deployment, in any order that does not deadlock."""
    if draw(st.booleans()):
        return ep_schedule.program(draw(ep_shapes()))
    shape = draw(ring_shapes(most_micro_batches=4))
    return afd_ring.program(shape, draw(st.sampled_from(feasible_lags(shape))))


@st.composite
def scripts(draw: st.DrawFn, program: Program) -> Script:
    """Draw durations anew for every micro-batch and step, some steps of them empty."""
    seed, most = draw(st.integers(0, 2**32)), draw(st.sampled_from([1, 3, 40, 5_000]))
    empty = draw(st.sampled_from([0.0, 0.0, 0.3]))

    def script(micro_batch: int, step: int) -> Times:
        rng = np.random.default_rng([seed, micro_batch, step])
        if rng.random() < empty:
            return program.times({}, dict.fromkeys(program.delays, 0))
        kinds = range(max(program.layer_kinds) + 1)
        rows = {
            (stage.name, kind): rng.integers(0, most, program.pools[stage.pool].servers)
            for stage in program.stages
            for kind in kinds
        }
        return program.times(rows, {name: int(rng.integers(0, most)) for name in program.delays})

    return script
