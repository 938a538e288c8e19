"""The trace says what the engine did: every task once, to the nanosecond, with true arrows."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sim.decoding.run import Run, simulate
from sim.inputs.scenario import Scenario
from sim.pictures import perfetto
from tests import tiny

Event = dict[str, Any]

SETTINGS = {
    "afd": ("step3-2a2f",),
    "afd half duplex": ("step3-2a2f", "deployment.duplex=half"),
    "afd shared projection": ("step3-2a2f", "deployment.attention.o_proj_tp=2"),
    "ep": ("dsv3-ep128",),
    "ep in sequence": ("dsv3-ep128", "deployment.overlap=none"),
}
STEPS = range(2, 5)


def scenario_of(kind: str, model: Path) -> Scenario:
    base, *overrides = SETTINGS[kind]
    return tiny.load(model, base, *overrides)


def parsed(path: Path) -> list[Event]:
    events: list[Event] = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return events


def of_phase(events: list[Event], *phases: str) -> list[Event]:
    return [event for event in events if event["ph"] in phases]


def ns(us: float) -> int:
    whole = round(us * 1000)
    assert whole / 1000 == us
    return whole


@pytest.fixture(params=SETTINGS)
def traced(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path: Path
) -> tuple[Scenario, Run, list[Event]]:
    """Return a scenario, its run with STEPS recorded, and the trace that was written of it."""
    scenario = scenario_of(request.param, tiny_model)
    run = perfetto.record(scenario, STEPS)
    perfetto.write(run, tmp_path / "trace.json.gz")
    return scenario, run, parsed(tmp_path / "trace.json.gz")


Traced = tuple[Scenario, Run, list[Event]]


def test_every_task_is_one_slice_of_its_track(traced: Traced) -> None:
    _scenario, run, events = traced
    program = run.program
    assert {r.step for r in run.records} == set(STEPS)
    tracks = {
        (event["pid"], event["tid"]): event["args"]["name"]
        for event in events
        if event["name"] == "thread_name"
    }
    assert len(tracks) == sum(pool.servers for pool in program.pools)
    assert len({tid for _pid, tid in tracks}) == len(tracks)
    drawn = Counter(
        (
            *(tracks[event["pid"], event["tid"]], event["name"], *event["args"].values()),
            *(ns(event["ts"]), ns(event["dur"])),
        )
        for event in of_phase(events, "X")
    )
    expected: Counter[tuple[object, ...]] = Counter()
    for record in run.records:
        node = program.nodes[record.node]
        stage = program.stages[node.stage]
        track = f"{program.pools[stage.pool].name} {record.server}"
        what = (track, stage.name, node.layer, node.micro_batch, record.step)
        if record.end_ns > record.start_ns:
            expected[*what, record.start_ns, record.end_ns - record.start_ns] += 1
    assert drawn == expected
    assert max(drawn.values()) == 1
    assert sum(ns(event["dur"]) for event in of_phase(events, "X")) == sum(
        record.end_ns - record.start_ns for record in run.records
    )


def test_slices_of_a_track_never_overlap(traced: Traced) -> None:
    _scenario, _run, events = traced
    free: dict[int, int] = {}
    for event in of_phase(events, "X"):
        start_ns = ns(event["ts"])
        assert start_ns >= free.get(event["tid"], 0)
        free[event["tid"]] = start_ns + ns(event["dur"])


def test_arrows_lead_from_slice_to_slice_along_the_way_of_the_data(traced: Traced) -> None:
    scenario, run, events = traced
    at = {
        (event["pid"], event["tid"], instant): event
        for event in of_phase(events, "X")
        for instant in (ns(event["ts"]), ns(event["ts"]) + ns(event["dur"]) - 1)
    }
    arrows: dict[int, list[tuple[str, Event]]] = {}
    for event in of_phase(events, "s", "t", "f"):
        bound = at[event["pid"], event["tid"], ns(event["ts"])]
        arrows.setdefault(event["id"], []).append((event["ph"], bound))
    afd = scenario.deployment.kind == "afd"
    first = "attention" if afd else "attn0"
    middle = ("a2f", "a2f_in", "all_gather", "experts", "reduce_scatter", "f2a", "f2a_in")
    needed = middle if afd else ("attn1", "dispatch", "experts", "combine")
    seen: Counter[int] = Counter()
    for phases, slices in (zip(*arrow, strict=True) for arrow in arrows.values()):
        assert phases == ("s", *"t" * (len(phases) - 2), "f")
        names = [one["name"] for one in slices]
        places = {(one["args"]["step"], one["args"]["micro_batch"]) for one in slices}
        layers = [one["args"]["layer"] for one in slices]
        assert names[0] == first
        assert names[-1] in (first, "lm_head")
        assert len(places) == 1
        assert layers == [layers[0]] * (len(layers) - 1) + [layers[0] + 1]
        if layers[0] > 0:  # the dense layer needs no way to experts elsewhere
            assert [name for name in names[1:-1] if name in needed] == list(needed)
        assert slices[0]["tid"] == slices[-1]["tid"]
        starts = [one["ts"] for one in slices]
        assert starts == sorted(starts)
        seen[slices[0]["tid"]] += 1
    gpus = next(pool.servers for pool in run.program.pools if pool.kind == "gpu")
    ways = len(STEPS) * run.program.micro_batches * tiny.LAYERS
    assert list(seen.values()) == [ways] * gpus


def test_counters_are_the_table_of_steps(traced: Traced) -> None:
    _scenario, run, events = traced
    counted = {
        (event["name"], ns(event["ts"])): value
        for event in of_phase(events, "C")
        for value in event["args"].values()
    }
    expected = {}
    columns = (run.steps[name].tolist() for name in ("step", "micro_batch", "start_ns", "tokens"))
    for row, (step, micro_batch, start_ns, tokens) in enumerate(zip(*columns, strict=True)):
        if step in STEPS:
            expected[f"requests, micro-batch {micro_batch}", start_ns] = tokens
        if step in STEPS and micro_batch == 0:
            for which in ("mean", "max"):
                kv_bytes = run.steps[f"kv_bytes_{which}"][row]
                expected[f"KV bytes per attention GPU, {which}", start_ns] = kv_bytes
    assert counted == expected
    assert all(value > 0 for value in counted.values())


def test_a_window_is_a_part_of_the_whole_run(traced: Traced) -> None:
    scenario, run, _events = traced
    whole = simulate(scenario, lambda _node, step: step in STEPS)
    assert whole.steps["step"].max() > STEPS[-1] + 1
    assert run.records == whole.records
    assert perfetto.trace_events(run) == perfetto.trace_events(whole)


def test_layers_can_be_chosen(tiny_model: Path) -> None:
    run = perfetto.record(scenario_of("afd", tiny_model), range(2, 3), range(1, 2))
    events = perfetto.trace_events(run)
    assert {event["args"]["layer"] for event in of_phase(events, "X")} == {1}
    # The next layer is not there: the way ends where the answer has come in.
    slices = {(e["tid"], e["ts"]): e["name"] for e in of_phase(events, "X")}
    ends = [slices[event["tid"], event["ts"]] for event in of_phase(events, "f")]
    assert ends == ["f2a_in"] * len(ends)
    assert ends


@pytest.mark.parametrize("kind", ["afd", "ep"])
def test_the_same_bytes_again(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        perfetto.write(perfetto.record(scenario_of(kind, tiny_model), STEPS), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


@pytest.mark.parametrize(
    ("steps", "layers", "said"),
    [
        (range(1), range(tiny.LAYERS + 2), r"layers 0:2 and the LM head, 3 \(got 0:4\)"),
        (range(9999), None, "set simulation.max_steps=9999"),
        (range(100, 101), None, r"the run has steps 0:\d+ \(got 100:100\)"),
    ],
)
def test_windows_outside_the_run_are_refused(
    steps: range, layers: range | None, said: str, tiny_model: Path
) -> None:
    with pytest.raises(perfetto.WindowError, match=said):
        perfetto.record(scenario_of("afd", tiny_model), steps, layers)
