"""The bound engine: the steady-state step time of a program, without simulating it.

Steady means that every step of a micro-batch has the same times. The program is then a max-plus
linear system, and its time per step is its eigenvalue: the largest mean time of a circuit in the
graph of its tasks, over the steps the circuit spans. That *critical circuit* is the bottleneck by
name. Every figure is exact: integers and fractions, no tolerance.

A circuit with a larger mean than the best one known is found as a circuit of positive cost
(weight − mean · steps) by longest paths, until there is none (Newton's iteration).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from sim.engines.maxplus.circuits import (
    TaskGraph,
    largest_mean,
    largest_means,
    positive_circuit,
    task_graph,
)
from sim.engines.maxplus.graph import Ints
from sim.engines.maxplus.plan import plan
from sim.engines.program import Program, Times


class Part(NamedTuple):
    """A task or a delay on the critical circuit."""

    stage: str
    """Name of the stage or of the delay."""
    layer: int
    micro_batch: int
    server: int
    """Server of the stage's pool; −1 for a delay after a barrier."""
    time_ns: int
    """What it adds to the circuit; 0 for a task of which only the start is waited for."""


@dataclass(frozen=True)
class Bound:
    """The steady state of a program whose times never change."""

    step_ns: Fraction
    """Time per step, ns."""
    circuit: tuple[Part, ...]
    """The critical circuit; its times add up to `step_ns` · `steps`."""
    steps: int
    """Steps that the critical circuit spans."""
    slack_ns: dict[str, Fraction | None]
    """By stage and delay: how much longer each of its tasks may get before the step does, ns; None
    where nothing depends on it."""


class _Start(NamedTuple):
    """Where a search for the critical circuit begins, and what it leaves."""

    circuit: Ints
    mean: Ints
    value: Ints

    @classmethod
    def of(cls, graph: TaskGraph) -> _Start:
        """Return the start that knows nothing."""
        zeros = np.zeros(len(graph.first) - 1, dtype=np.int64)
        return cls(np.empty(0, dtype=np.int64), np.array([0, 1]), zeros)


class BoundEngine:
    """Bounds of one program for any times. Raises InexactError as the recurrence does."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.plan = plan(program)
        self.graph: TaskGraph = task_graph(self.plan)
        self._latest = _Start.of(self.graph)

    def step_ns(self, times: Sequence[Times]) -> Fraction:
        """Return the time per step, ns, when micro-batch j always takes `times[j]`."""
        values = np.array([[each.values for each in times]])
        return self.steps_ns(values, np.array([[each.delays_ns for each in times]]))[0]

    def steps_ns(self, values: Ints, delays_ns: Ints) -> list[Fraction]:
        """Return the same of many loads: their times by micro-batch, loads × micro-batches × ….

        Each search begins with the critical circuit of the one before.
        """
        return [Fraction(*mean) for mean in self.means_ns(values, delays_ns).tolist()]

    def means_ns(self, values: Ints, delays_ns: Ints) -> Ints:
        """Return `steps_ns` as numerators and denominators, loads × 2."""
        loads = len(values)
        none = np.zeros((loads, 1), dtype=np.int64)
        delays = np.concatenate([delays_ns.reshape(loads, -1).astype(np.int64), none], axis=1)
        durations = np.ascontiguousarray(values.reshape(loads, -1))
        circuit, scaled, value = self._latest
        means, circuit = largest_means(*self.graph[:6], durations, delays, circuit, scaled, value)
        self._latest = self._latest._replace(circuit=circuit)
        return means

    def bound(self, times: Sequence[Times]) -> Bound:
        """Return the steady state when micro-batch j always takes `times[j]`."""
        weights = self._weights(times)
        mean, circuit = self._critical(weights, _Start.of(self.graph))
        slack = {name: self._slack(weights, mean, uses) for name, uses in self._uses().items()}
        steps = int(self.graph.back[circuit].sum())
        return Bound(mean, tuple(self._parts(circuit, times)), steps, slack)

    def _weights(self, times: Sequence[Times]) -> Ints:
        durations = np.concatenate([one.values for one in times])
        delays = np.array([*(ns for one in times for ns in one.delays_ns), 0], dtype=np.int64)
        return self.graph.weights(durations, delays)

    def _critical(self, weights: Ints, start: _Start) -> tuple[Fraction, Ints]:
        """Return the largest mean and the edges of its circuit."""
        graph = self.graph
        circuit = largest_mean(graph.first, graph.source, graph.back, weights, *start)
        return Fraction(int(start.mean[0]), int(start.mean[1])), circuit

    def _slack(self, weights: Ints, mean: Fraction, uses: Ints) -> Fraction | None:
        """Return how much `uses` may weigh before a circuit's mean exceeds `mean`."""
        graph, slack = self.graph, None
        trial = max(mean, Fraction(1)) * len(graph.first)
        while True:
            scale = mean.denominator * trial.denominator
            cost = scale * weights - mean.numerator * trial.denominator * graph.back
            cost += int(scale * trial) * uses
            value = np.zeros(len(graph.first) - 1, dtype=np.int64)
            found = positive_circuit(graph.first, graph.source, cost, value)
            if not len(found):
                return slack
            room = mean * int(graph.back[found].sum()) - int(weights[found].sum())
            slack = trial = room / int(uses[found].sum())

    def _uses(self) -> dict[str, Ints]:
        """Return, by stage and delay, how often an edge spends its time."""
        graph, program = self.graph, self.program
        stage_of_row = np.array([program.nodes[node].stage for node in self.plan.nodes])
        stage = np.where(graph.task >= 0, stage_of_row[graph.row], -1)
        targets = np.repeat(stage, np.diff(graph.first))
        begun = np.where(graph.of_start > 0, stage[graph.source], -1)
        uses: dict[str, Ints] = {}
        for index, each in enumerate(program.stages):
            uses[each.name] = (targets == index).astype(np.int64) - (begun == index)
        for index, name in enumerate(program.delays):
            of_delay = graph.delay % len(program.delays) == index
            uses[name] = (of_delay & (graph.delay < self.plan.delay_count)).astype(np.int64)
        return uses

    def _parts(self, circuit: Ints, times: Sequence[Times]) -> Iterator[Part]:
        """Yield what lies on a circuit of edges."""
        graph, program = self.graph, self.program
        targets = np.searchsorted(graph.first, circuit, side="right") - 1
        for place, (edge, vertex) in enumerate(zip(circuit, targets, strict=True)):
            node = program.nodes[self.plan.nodes[graph.row[vertex]]]
            server = int(graph.server[vertex])
            where = node.layer, node.micro_batch, server
            if graph.delay[edge] < self.plan.delay_count:
                of, delay = divmod(int(graph.delay[edge]), len(program.delays))
                if times[of].delays_ns[delay]:
                    yield Part(program.delays[delay], *where, times[of].delays_ns[delay])
            if graph.task[vertex] >= 0:
                only_start = graph.of_start[circuit[(place + 1) % len(circuit)]]
                duration_ns = (
                    0 if only_start else int(times[node.micro_batch].rows[node.slot][server])
                )
                yield Part(program.stages[node.stage].name, *where, duration_ns)
