"""Programs of every variety and scripted controllers for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import Literal

import numpy as np
from hypothesis import strategies as st

from sim.deployments.afd import ring as afd_ring
from sim.deployments.ep import schedule as ep_schedule
from sim.engines.controller import Wait
from sim.engines.program import Link, Program, ProgramBuilder, Times, When, Wiring

WHENS: tuple[When, ...] = ("end", "end", "start")
WIRINGS: tuple[Wiring, ...] = ("each", "all")


@st.composite
def layer_kinds(draw: st.DrawFn, most: int = 4) -> tuple[int, ...]:
    count = draw(st.integers(1, most))
    return tuple(draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)))


@st.composite
def afd_programs(draw: st.DrawFn) -> Program:
    m = draw(st.integers(1, 8))
    shares = draw(st.sampled_from((0, 1, 2, 3)))
    groups = draw(st.integers(1, 3)) if shares else 0
    transfers = draw(st.integers(0, 3)) > 0
    collectives = transfers and draw(st.booleans())
    links: tuple[Literal["nic", "nvlink"], ...] = ("nic", "nvlink")
    link = draw(st.sampled_from(links[: 1 if groups else 2]))
    one_link = collectives and link == "nvlink"
    shape = afd_ring.Ring(
        layer_kinds=draw(layer_kinds()),
        micro_batches=m,
        attention_gpus=groups * shares if shares else draw(st.integers(1, 6)),
        ffn_instances=draw(st.integers(1, 4)),
        o_proj_groups=groups,
        half_duplex=transfers and not one_link and draw(st.booleans()),
        nvlink_turns=collectives and not one_link and draw(st.booleans()),
        collectives=collectives,
        transfers=transfers,
        shared=not groups and draw(st.booleans()),
        link=link,
    )
    lag = st.integers(0, m - 1)
    lags = afd_ring.Lags(*(draw(lag) for _ in afd_ring.Lags._fields))
    return afd_ring.program(shape, lags)


@st.composite
def ep_programs(draw: st.DrawFn) -> Program:
    return ep_schedule.program(
        ep_schedule.Schedule(draw(layer_kinds()), draw(st.integers(1, 5)), draw(st.booleans()))
    )


@st.composite
def pipelines(draw: st.DrawFn) -> Program:
    """Rings of stages on pools of unlike sizes with links of every kind.

    Where a link waits for a start, the stage after the next waits for that end.
    """
    m, stages = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    sizes = draw(st.sampled_from(((1, 2, 4), (1, 3, 6), (2, 4, 8))))
    build = ProgramBuilder(draw(layer_kinds(3)), m, ("link", "host"))
    for k in range(stages):
        build.pool(f"pool{k}", "gpu", draw(st.sampled_from(sizes)))
        build.stage(f"stage{k}", k)
    build.stage("tail", 0)
    whens: list[When] = [draw(st.sampled_from(WHENS)) for _ in range(stages)]
    wirings: list[Wiring] = [draw(st.sampled_from(WIRINGS)) for _ in range(stages)]
    delays = [draw(st.sampled_from((None, "link"))) for _ in range(stages)]
    places = [(layer, k) for layer in range(build.layers) for k in range(stages)]
    for at, (layer, k) in enumerate([*places, (build.layers, stages)]):
        name = "tail" if k == stages else f"stage{k}"
        for j in range(m):
            inputs: list[Link] = []
            if at:
                past, before = places[at - 1]
                when: When = whens[before]
                if name == "tail":
                    when = "end"
                inputs.append(
                    build.link(f"stage{before}", past, j, wirings[before], when, delays[before])
                )
            if at > 1 and whens[places[at - 2][1]] == "start":
                past, before = places[at - 2]
                inputs.append(build.link(f"stage{before}", past, j, "all"))
            build.node(name, layer, j, inputs, gated=at == 0)
    if m > 1 and draw(st.booleans()):
        layer, k = draw(st.sampled_from(places))
        source = f"stage{k}", layer, draw(st.integers(1, m - 1))
        build.wait(("stage0", 0, 0), build.link(*source, "each", steps_back=1))
    for k in range(stages):
        names = [f"stage{k}", *(["tail"] if k == 0 else [])]
        cells = product(range(build.layers + 1), range(m), names)
        order = [(name, layer, j) for layer, j, name in cells if (name, layer, j) in build.ids]
        build.order(k, [(key, 0) for key in order])
    return build.build("tail", "host")


programs = st.one_of(afd_programs(), ep_programs(), pipelines())


@dataclass
class Script:
    """A controller that answers from a stream of random numbers and notes every call.

    It draws in the order of the calls, so two engines agree only if all their calls do.
    """

    program: Program
    seed: int
    longest_ns: int
    empty: float
    idle: float
    calls_left: int
    calls: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def boundary(self, micro_batch: int, now_ns: int) -> Times | Wait | None:
        self.calls.append((micro_batch, now_ns))
        self.calls_left -= 1
        if self.calls_left < 0:
            return None
        kind = self.rng.random()
        if kind < self.idle:
            return Wait(now_ns + int(self.rng.integers(0, self.longest_ns + 1)))
        if kind < self.idle + self.empty:
            return self.program.times({}, dict.fromkeys(self.program.delays, 0))
        return random_times(self.program, self.rng, self.longest_ns)


def random_times(program: Program, rng: np.random.Generator, longest_ns: int) -> Times:
    """Return times from 0 to `longest_ns`, like on all servers of a pool or not."""
    alike = rng.random() < 0.3
    rows = {}
    for stage, kind in product(program.stages, range(max(program.layer_kinds) + 1)):
        width = program.pools[stage.pool].servers
        rows[stage.name, kind] = rng.integers(0, longest_ns + 1, 1 if alike else width)
    delays = {name: int(rng.integers(0, longest_ns + 1)) for name in program.delays}
    return program.times(rows, delays)


@st.composite
def scripts(draw: st.DrawFn, of: st.SearchStrategy[Program] = programs) -> Script:
    program = draw(of)
    return Script(
        program=program,
        seed=draw(st.integers(0, 2**32)),
        longest_ns=draw(st.sampled_from((0, 1, 3, 20, 100_000))),
        empty=draw(st.sampled_from((0.0, 0.0, 0.2, 0.6))),
        idle=draw(st.sampled_from((0.0, 0.0, 0.1, 0.4))),
        calls_left=draw(st.integers(0, 12 * program.micro_batches)),
    )
