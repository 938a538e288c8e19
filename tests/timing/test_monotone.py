"""More work never ends earlier, more bandwidth never later, and GPUs may change places."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.decoding.run import simulate
from sim.deployments.afd import ring as afd_ring
from sim.engines.program import Program, Times
from sim.inputs import cards
from sim.metrics import summary
from tests import tiny
from tests.oracles import Floats, RingTimes
from tests.scripted_runs import play
from tests.strategies.deployments import programs, ring_cases, scripts

few = settings(max_examples=40, deadline=None)
STEPS = 3


@few
@given(programs(), st.data())
def test_no_task_starts_earlier_when_a_stage_takes_longer(
    program: Program, data: st.DataObject
) -> None:
    script = data.draw(scripts(program))
    slot = data.draw(st.sampled_from(sorted({node.slot for node in program.nodes})))
    more = data.draw(st.integers(1, 50))

    def slower(micro_batch: int, step: int) -> Times:
        times = script(micro_batch, step)
        assert isinstance(times, Times)
        changed = times._replace(values=times.values.copy())
        changed.rows[slot][:] += more
        return changed

    before, after = play(program, script, STEPS), play(program, slower, STEPS)
    assert (after.starts() >= before.starts()).all()
    for mine, slow in zip(before.boundaries, after.boundaries, strict=True):
        assert all(a <= b for a, b in zip(mine, slow, strict=True))


@few
@given(programs(), st.data())
def test_no_task_starts_earlier_when_a_latency_grows(program: Program, data: st.DataObject) -> None:
    script = data.draw(scripts(program))
    more = data.draw(st.integers(1, 50))

    def slower(micro_batch: int, step: int) -> Times:
        times = script(micro_batch, step)
        assert isinstance(times, Times)
        return times._replace(delays_ns=tuple(ns + more for ns in times.delays_ns))

    assert (play(program, slower, STEPS).starts() >= play(program, script, STEPS).starts()).all()


def ring_boundaries(t: RingTimes, m: int) -> list[list[int]]:
    layers, gpus = t.attention.shape
    shape = afd_ring.Ring(tuple(range(layers)), m, gpus, t.experts.shape[1])
    program = afd_ring.program(shape, afd_ring.Lags())
    names = ("attention", "a2f", "a2f_in", "all_gather", "experts", "reduce_scatter", "f2a")
    rows = {
        (name, layer): getattr(t, name)[layer]
        for name in (*names, "f2a_in")
        for layer in range(layers)
    }
    rows["lm_head", layers] = t.lm_head
    times = program.times(rows, {"link": int(t.link), "host": int(t.host)})
    return play(program, times, STEPS).boundaries


@few
@given(ring_cases(), st.integers(1, 4), st.data())
def test_attention_gpus_and_ffn_instances_may_change_places(
    t: RingTimes, m: int, data: st.DataObject
) -> None:
    gpus = data.draw(st.permutations(range(t.attention.shape[1])))
    instances = data.draw(st.permutations(range(t.experts.shape[1])))
    shuffled = replace(
        t,
        **{name: getattr(t, name)[:, gpus] for name in ("attention", "a2f", "f2a_in")},
        **{
            name: getattr(t, name)[:, instances]
            for name in ("a2f_in", "all_gather", "experts", "reduce_scatter", "f2a")
        },
        lm_head=t.lm_head[list(gpus)],
    )
    assert ring_boundaries(shuffled, m) == ring_boundaries(t, m)


@few
@given(ring_cases(), st.integers(1, 4))
def test_another_gpu_makes_no_boundary_earlier(t: RingTimes, m: int) -> None:
    def with_one_more(values: Floats) -> Floats:
        return np.concatenate([values, values[:, :1] + 3], axis=1)

    larger = replace(
        t,
        attention=with_one_more(t.attention),
        a2f=with_one_more(t.a2f),
        f2a_in=with_one_more(t.f2a_in),
        lm_head=np.append(t.lm_head, 0),
    )
    pairs = zip(ring_boundaries(t, m), ring_boundaries(larger, m), strict=True)
    assert all(a <= b for mine, theirs in pairs for a, b in zip(mine, theirs, strict=True))


BANDWIDTHS = ("nic_bytes_per_s", "scale_up_bytes_per_s", "hbm_bytes_per_s")


@pytest.mark.parametrize("base", ["step3-2a2f", "dsv3-ep128"])
@pytest.mark.parametrize("figure", BANDWIDTHS)
def test_more_bandwidth_is_never_slower(
    base: str, figure: str, tiny_model: Path, tmp_path: Path
) -> None:
    steps = []
    for factor in (0.25, 0.5, 1.0, 2.0, 4.0):
        card = faster_card(tmp_path, figure, factor)
        sides = ("attention.", "ffn.") if base == "step3-2a2f" else ("",)
        accelerators = [f"deployment.{side}accelerator={card}" for side in sides]
        # Over 16 GPUs EP leaves the node; long messages make the links felt.
        size = (
            [] if base == "step3-2a2f" else ["deployment.gpus=16", "deployment.redundant_experts=8"]
        )
        load = "workload.arrivals={kind: closed, concurrency: 4800}"
        scenario = tiny.load(tiny_model, base, load, *accelerators, *size)
        steps.append(summary.summary(simulate(scenario))["t_step_ms"])
    assert all(slow >= fast for slow, fast in pairwise(steps))
    matters = not (base == "dsv3-ep128" and figure == "scale_up_bytes_per_s")
    assert (steps[0] > steps[-1]) == matters


def faster_card(folder: Path, figure: str, factor: float) -> Path:
    """Write an H800 whose `figure` is `factor` times as large, and return its path."""
    text = cards.find(cards.ACCELERATORS, "h800", "accelerator").read_text()
    lines = []
    for line in text.splitlines():
        if line.strip().startswith(f"{figure}:"):
            key, rest = line.split("{value: ", 1)
            value, source = rest.split(",", 1)
            line = f"{key}{{value: {float(value) * factor!r},{source}"
        lines.append(line)
    changed = "\n".join(lines)
    assert factor == 1.0 or changed != text
    path = folder / f"h800-{figure}-{factor}.yaml"
    path.write_text(changed)
    return path
