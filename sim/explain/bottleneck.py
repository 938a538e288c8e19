"""Bottleneck: the critical circuit of a steady state, told by server and stage.

A circuit of waits can close in two ways. It may stay on one server, which takes the micro-batches
in turns and never rests: that server is the bottleneck. Or it may follow a micro-batch from server
to server until it is back: then no server is full, and the latency of the loop decides. Real
circuits do both in places, so each of their tasks is counted as one or the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sim.engines.bound import Part
from sim.engines.program import Pool, Program
from sim.steady.state import SteadyState

LOOP = "loop"
TAIL = "tail"

_GPU_WORDS = {"attention": "attention", "ffn": "FFN", "gpu": "GPU"}
_WORDS = {"nic": "NIC", "nvlink": "NVLink", "network": "network"}


@dataclass(frozen=True)
class Leg:
    """What one stage on one server, or one delay, contributes to the critical circuit."""

    stage: str
    """Stage or delay."""
    server: str | None
    """Name of the server; None for a delay, which occupies none."""
    alike: int
    """Servers of the pool that work as long, this one included."""
    tasks: int
    """Tasks on the circuit."""
    time_ms: float
    """Time on the circuit per step."""
    share: float
    """Share of the step."""
    busy: float | None
    """Share of the step that the server works at all."""


@dataclass(frozen=True)
class Circuit:
    """The critical circuit: its time is the time per step."""

    kind: str
    """Where most of its time goes: attention-bound, FFN-bound, GPU-bound, NIC-bound, NVLink-bound
    or network-bound (one server's turns), loop-bound (the way of a micro-batch), tail-bound (LM
    head and host)."""
    steps: int
    """Steps that it spans."""
    spent: dict[str, float]
    """Share of its time in the turns of a kind of server, on the way (loop), or in the tail."""
    legs: tuple[Leg, ...]
    """In the order of the circuit, from its first stage on."""


def critical_circuit(state: SteadyState) -> Circuit:
    """Return the critical circuit of a steady state; one of them if there are several."""
    bound, program = state.bound, state.program
    parts = bound.circuit
    total_ns = float(bound.step_ns * bound.steps)
    spent = {
        word: ns / total_ns
        for word, ns in sorted(_spent(program, parts).items(), key=lambda pair: -pair[1])
    }
    kind = f"{next(iter(spent), LOOP)}-bound"
    return Circuit(kind, bound.steps, spent, _legs(state, _from_the_first(program, parts)))


def _spent(program: Program, parts: Sequence[Part]) -> dict[str, int]:
    """Return the ns of a circuit in turns by kind of server, on the way, and in the tail."""
    tail, closing = len(program.layer_kinds) - 1, program.delays[program.closing_delay]
    pools = {stage.name: stage.pool for stage in program.stages}
    turns = _turns([part for part in parts if part.stage in pools], pools)
    spent: dict[str, int] = {}
    for part in parts:
        in_turn = part.stage in pools and next(turns)
        word = pool_word(program.pools[pools[part.stage]]) if in_turn else LOOP
        if part.layer == tail or part.stage == closing:
            word = TAIL
        spent[word] = spent.get(word, 0) + part.time_ns
    return {word: ns for word, ns in spent.items() if ns}


def _turns(tasks: Sequence[Part], pools: Mapping[str, int]) -> Iterator[bool]:
    """Yield, by task of a circuit, whether its server then goes on with another micro-batch."""
    places = [(pools[task.stage], task.server, task.micro_batch) for task in tasks]
    turns = [False] * len(places)
    # What follows the last tasks of a micro-batch on a server is known after a whole round.
    for at in [*reversed(range(len(places)))] * 2:
        here, then = places[at], places[(at + 1) % len(places)]
        turns[at] = turns[(at + 1) % len(places)] if here == then else here[:2] == then[:2]
    return iter(turns)


def pool_word(pool: Pool) -> str:
    return _GPU_WORDS.get(pool.name, pool.name) if pool.kind == "gpu" else _WORDS[pool.kind]


def _from_the_first(program: Program, parts: Sequence[Part]) -> list[Part]:
    """Return a circuit turned so that it begins with its first stage and layer."""
    order = {stage.name: index for index, stage in enumerate(program.stages)}
    ranks = [(order.get(part.stage, len(order)), part.layer) for part in parts]
    begin = ranks.index(min(ranks)) if ranks else 0
    return [*parts[begin:], *parts[:begin]]


def _legs(state: SteadyState, parts: Sequence[Part]) -> tuple[Leg, ...]:
    program, bound = state.program, state.bound
    pools = {stage.name: stage.pool for stage in program.stages}
    found: dict[tuple[str, int], list[int]] = {}
    for part in parts:
        server = part.server if part.stage in pools else -1
        found.setdefault((part.stage, server), []).append(part.time_ns)
    legs = []
    for (stage, server), times_ns in found.items():
        if not any(times_ns):
            continue
        per_step = sum(times_ns) / bound.steps
        name, alike, busy = None, 0, None
        if server >= 0:
            work = state.work_of(pools[stage])
            name = state.deployment.server_name(pools[stage], server)
            alike = int(np.count_nonzero(work == work[server]))
            busy = float(state.micro_batches * int(work[server]) / bound.step_ns)
        share = per_step / float(bound.step_ns)
        legs.append(Leg(stage, name, alike, len(times_ns), per_step / 1e6, share, busy))
    return tuple(legs)
