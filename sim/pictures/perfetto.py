"""Timeline: what every server did in some steps, as a trace that Perfetto and Chrome open.

The format is the JSON Trace Event Format of Chrome: a process per pool, a track per server, a slice
per task, arrows along the way of the data, counters for requests and KV. Times are in µs with the
ns behind the point.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from sim.decoding.run import Run, simulate
from sim.decoding.step_table import requests_of
from sim.deployments.course import passes
from sim.engines.controller import Record
from sim.engines.program import Program
from sim.foundation import json_text
from sim.foundation.units import NS_PER_US
from sim.inputs import cards
from sim.inputs.scenario import LEAST_STEPS, Scenario
from sim.results.files import replace_file
from sim.results.provenance import provenance, resolved, sha256

Event = dict[str, Any]

# The counters stand above the pools, as a process of their own.
_DECODER = 1
_FIRST_POOL = 2


class WindowError(ValueError):
    """The run has no such steps or layers; `option` names which."""

    def __init__(self, option: Literal["steps", "layers"], text: str) -> None:
        super().__init__(text)
        self.option = option


def record(scenario: Scenario, steps: range, layers: range | None = None) -> Run:
    """Simulate `scenario` to the end of `steps` and return the run with their tasks recorded.

    Without `layers` all are recorded, with the LM head, which counts as the layer after the last.
    Raises WindowError if the run has no such steps or layers, InfeasibleError if it cannot run.
    """
    lm_head = len(passes(cards.model(scenario.model), scenario.speculation))
    if layers is not None and layers[-1] > lm_head:
        known = f"{scenario.model} has layers 0:{lm_head - 1} and the LM head, {lm_head}"
        raise WindowError("layers", f"{known} (got {_written(layers)})")
    simulation, closed = scenario.simulation, scenario.workload.arrivals.kind == "closed"
    if closed and steps[-1] >= simulation.max_steps:
        least = f"simulation.max_steps={steps[-1] + 1}"
        raise WindowError("steps", f"the run ends sooner (got {_written(steps)}); set {least}")
    # The first steps of a run are the same however long it is. The margin of one step lets all
    # micro-batches come to the end of the last.
    enough = min(simulation.max_steps, max(steps[-1] + 2, LEAST_STEPS))
    fewest = min(simulation.min_steps, enough)
    shorter = simulation.replaced(min_steps=fewest, max_steps=enough)
    run = simulate(
        scenario.replaced(simulation=shorter),
        lambda node, step: step in steps and (layers is None or node.layer in layers),
    )
    whole = _whole_steps(run)
    if steps[-1] >= whole:
        raise WindowError("steps", f"the run has steps 0:{whole - 1} (got {_written(steps)})")
    return replace(run, scenario=scenario)


def _written(numbers: range) -> str:
    return f"{numbers[0]}:{numbers[-1]}"


def _whole_steps(run: Run) -> int:
    numbers, micro_batch = run.steps["step"], run.steps["micro_batch"]
    batches = range(run.program.micro_batches)
    return min(int(numbers[micro_batch == j].max(initial=-1)) for j in batches) + 1


def trace_events(run: Run) -> list[Event]:
    """Return the events of the recorded window: names first, then everything by time.

    Tasks that take no time, such as the dispatch of a dense layer, have no slice.
    """
    slices = {(r.node, r.step, r.server): r for r in run.records if r.end_ns > r.start_ns}
    timed = [*_slices(run.program, slices.values()), *_arrows(run.program, slices), *_counters(run)]
    # Of one instant the slice comes before the arrow that is bound to it; the sort is stable.
    return [*_names(run.program), *sorted(timed, key=lambda event: event["ts"])]


def write(run: Run, path: Path) -> None:
    """Write the recorded window of `run` as gzipped trace JSON, whole or not at all.

    The bytes depend on the run alone. Raises StoreError if the file cannot be written.
    """
    made_by = provenance()
    about = {
        "scenario": run.scenario.name,
        "scenario_sha256": sha256(resolved(run.scenario)),
        "afdsim": made_by["afdsim"],
    }
    events = ",\n".join(json_text.dumps(event, ensure_ascii=False) for event in trace_events(run))
    text = (
        f'{{"displayTimeUnit": "ns", "otherData": {json_text.dumps(about, ensure_ascii=False)},\n'
        f'"traceEvents": [\n{events}\n]}}\n'
    )
    packed = gzip.compress(text.encode(), mtime=0)
    replace_file(path, lambda part: part.write_bytes(packed))


def _us(ns: int) -> float:
    return ns / NS_PER_US


def _track(program: Program, record: Record) -> Event:
    pool = program.stages[program.nodes[record.node].stage].pool
    return {"pid": _FIRST_POOL + pool, "tid": _first_track(program, pool) + record.server}


def _first_track(program: Program, pool: int) -> int:
    """Return the track of server 0; every track of the trace has a number of its own."""
    return _FIRST_POOL + len(program.pools) + sum(p.servers for p in program.pools[:pool])


def _names(program: Program) -> Iterator[Event]:
    yield _name("process_name", _DECODER, 0, name="decoder")
    yield _name("process_sort_index", _DECODER, 0, sort_index=0)
    for index, pool in enumerate(program.pools):
        pid, first = _FIRST_POOL + index, _first_track(program, index)
        yield _name("process_name", pid, 0, name=pool.name)
        yield _name("process_sort_index", pid, 0, sort_index=index + 1)
        for server in range(pool.servers):
            yield _name("thread_name", pid, first + server, name=f"{pool.name} {server}")
            yield _name("thread_sort_index", pid, first + server, sort_index=server)


def _name(what: str, pid: int, tid: int, **args: object) -> Event:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": args}


def _slices(program: Program, records: Iterable[Record]) -> Iterator[Event]:
    for record in sorted(records, key=lambda r: (r.start_ns, r.node, r.server)):
        node = program.nodes[record.node]
        args = {"layer": node.layer, "micro_batch": node.micro_batch, "step": record.step}
        yield {
            "ph": "X",
            "name": program.stages[node.stage].name,
            "cat": "task",
            **_track(program, record),
            "ts": _us(record.start_ns),
            "dur": _us(record.end_ns - record.start_ns),
            "args": args,
        }


def ways(program: Program) -> list[list[int]]:
    """Return the way of the data through each layer of each micro-batch, as nodes.

    It leads from the layer's first stage to that of the next layer or to the LM head, and goes by
    the first input of each node: attention, transfer, FFN, transfer, attention.
    """
    stages = {program.nodes[node].stage for node in program.closing}
    stages |= {node.stage for node in program.nodes if node.gated}
    found = []
    for index, node in enumerate(program.nodes):
        if node.stage not in stages or not node.inputs:
            continue
        way = [index, node.inputs[0].node]
        while program.nodes[way[-1]].stage not in stages:
            way.append(program.nodes[way[-1]].inputs[0].node)
        found.append(way[::-1])
    return found


def _arrows(program: Program, slices: dict[tuple[int, int, int], Record]) -> Iterator[Event]:
    """Yield the arrows: one way for each server of its first stage.

    Where a pool on the way has fewer servers, neighbours share one. An event is bound to the slice
    that encloses it on its track: the last ns of the first, the first ns of the others.
    """
    steps = sorted({step for _node, step, _server in slices})
    number = 0
    for step in steps:
        for way in ways(program):
            widths = [program.pools[program.stages[program.nodes[n].stage].pool] for n in way]
            for first in range(widths[0].servers):
                servers = [first * pool.servers // widths[0].servers for pool in widths]
                places = [(node, step, at) for node, at in zip(way, servers, strict=True)]
                passed = [slices[place] for place in places if place in slices]
                if len(passed) < 2:
                    continue
                number += 1
                for place, record in enumerate(passed):
                    begins, ends = place == 0, place == len(passed) - 1
                    yield {
                        "ph": "s" if begins else "f" if ends else "t",
                        "name": "data",
                        "cat": "data",
                        "id": number,
                        **_track(program, record),
                        "ts": _us(record.end_ns - 1 if begins else record.start_ns),
                        **({"bp": "e"} if ends else {}),
                    }


def _counters(run: Run) -> Iterator[Event]:
    """Yield requests per micro-batch and KV in use at the boundaries of the recorded steps."""
    recorded = {record.step for record in run.records}
    names = ("micro_batch", "step", "start_ns", "kv_bytes_mean", "kv_bytes_max")
    columns = [run.steps[name] for name in names]
    columns.insert(3, requests_of(run.steps))
    rows = zip(*(column.tolist() for column in columns), strict=True)
    for micro_batch, step, start_ns, requests, kv_mean, kv_max in rows:
        if step not in recorded:
            continue
        at = {"ph": "C", "pid": _DECODER, "ts": _us(start_ns)}
        yield {**at, "name": f"requests, micro-batch {micro_batch}", "args": {"requests": requests}}
        if micro_batch == 0:
            for which, n_bytes in (("mean", kv_mean), ("max", kv_max)):
                name = f"KV bytes per attention GPU, {which}"
                yield {**at, "name": name, "args": {"bytes": n_bytes}}
