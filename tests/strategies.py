"""All Hypothesis strategies of the tests."""

from __future__ import annotations

import math
import re
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

from sim.deployments import afd_ring, ep_schedule
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
    """Draw an AFD shape: shared output projections, half duplex, collectives, either link."""
    groups, each = draw(st.integers(0, 2)), draw(st.integers(1, 2))
    collectives = draw(st.booleans())
    return afd_ring.Ring(
        layer_kinds=tuple(draw(st.lists(st.integers(0, 1), min_size=1, max_size=3))),
        micro_batches=draw(st.integers(1, most_micro_batches)),
        attention_gpus=max(groups, 1) * each,
        ffn_instances=draw(server_counts),
        o_proj_groups=groups,
        half_duplex=draw(st.booleans()),
        nvlink_turns=collectives and draw(st.booleans()),
        collectives=collectives,
        link="nic" if collectives or groups else draw(st.sampled_from(("nic", "nvlink"))),
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
        afd_ring.Lags(o_proj, nvlink, nic, tail)
        for o_proj in range(m if shape.o_proj_groups else 1)
        for nvlink in range(m if shape.nvlink_turns else 1)
        for nic in range(m if shape.half_duplex else 1)
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


class Arrival(NamedTuple):
    """A request of a scripted workload."""

    at_ns: int
    prompt: int
    output: int


@st.composite
def arrivals(draw: st.DrawFn) -> list[Arrival]:
    """Draw up to 25 requests in the order of their arrivals, several of them at one instant."""
    gaps = draw(st.lists(st.sampled_from([0, 0, 1, 7, 10, 35]), min_size=1, max_size=25))
    lengths = [(draw(st.integers(1, 25)), draw(st.integers(1, 8))) for _ in gaps]
    return [
        Arrival(at, prompt, output)
        for at, (prompt, output) in zip(accumulate(gaps), lengths, strict=True)
    ]


_ODD_SCALARS = (
    *("-1", "0", "1", "1e6", "1e999", "9" * 400, "0x1F", "0o17", "1_000", ".nan", "-.inf"),
    *("true", "null", "~", "''", "[]", "{}", "[1, 2]", "{a: 1}", "{a: 1, a: 2}", "2001-01-01"),
    *("2001-02-30", "!!binary aGk=", "!!binary é", "!!set {a}", "!!float x", "!!int ''"),
    *("!!bool x", "!!pairs [a]", "*a", "&a b", "&a [*a]", "'unclosed", "a: b: c", "<<", "? x"),
    *("|", ">", "%", "@", "\t", "\x00"),
)


@st.composite
def mangled(draw: st.DrawFn, text: str) -> str:
    """Draw one to four mistakes of an editor or a hurried hand in `text`."""
    for _ in range(draw(st.integers(1, 4))):
        lines = text.splitlines()
        if not lines:
            return text
        at = draw(st.integers(0, len(lines) - 1))
        match draw(
            st.sampled_from(("delete", "double", "move", "scalar", "insert", "cut", "dedent"))
        ):
            case "delete":
                del lines[at]
            case "double":
                lines.insert(at, lines[at])
            case "move":
                lines.insert(draw(st.integers(0, len(lines) - 1)), lines.pop(at))
            case "scalar":
                lines[at] = _with_odd_value(draw, lines[at])
            case "insert":
                column = draw(st.integers(0, len(lines[at])))
                noise = draw(st.text(st.characters(codec="utf-8"), min_size=1, max_size=4))
                lines[at] = lines[at][:column] + noise + lines[at][column:]
            case "cut":
                lines[at] = lines[at][: draw(st.integers(0, len(lines[at])))]
            case "dedent":
                lines[at] = lines[at].lstrip() if draw(st.booleans()) else f"  {lines[at]}"
        text = "\n".join(lines) + "\n"
    return text


def _with_odd_value(draw: st.DrawFn, line: str) -> str:
    """Replace one of the values of a line."""
    values = list(re.finditer(r"(?<=: )[^,{}\[\]]+", line))
    odd = draw(st.sampled_from(_ODD_SCALARS))
    if not values:
        return f"{line} {odd}"
    value = draw(st.sampled_from(values))
    return line[: value.start()] + odd + line[value.end() :]


@st.composite
def assignments(draw: st.DrawFn) -> str:
    """Draw `--set` texts, nearly right or not at all."""
    if draw(st.integers(0, 3)) == 0:
        return draw(st.text(max_size=20))
    words = ("model", "deployment", "attention", "instances", "workload", "lengths", "prompt")
    more = ("kind", "tokens", "slo", "tpot_ms", "0", "nonsense", "", "software", "value")
    path = draw(st.lists(st.sampled_from(words + more), min_size=1, max_size=4))
    return f"{'.'.join(path)}={draw(st.sampled_from(_ODD_SCALARS))}"


@st.composite
def csv_texts(draw: st.DrawFn) -> str:
    """Draw a table of lengths with some cells that are none."""
    cell = st.one_of(
        st.sampled_from(
            [
                "1",
                "20",
                " 7 ",
                "0",
                "-1",
                "1.5",
                "1e3",
                "²",
                "١",
                "",
                '"',
                "9" * 5000,
                "9" * 150_000,
            ]
        ),
        st.text(max_size=4),
    )
    rows = draw(st.lists(st.lists(cell, max_size=3), max_size=5))
    header = draw(st.sampled_from(["prompt_tokens,output_tokens", "output_tokens,prompt_tokens,x"]))
    return "\n".join([header, *(",".join(row) for row in rows)])
