"""The event engine: SimPy walks a Program one task at a time. It is the reference.

Read it beside Figure 7 of the Step-3 report. Every server is a SimPy process that walks its
static order: take the next task, wait until it has been served, tell those who wait for it. Every
micro-batch is a process too: begin a step, wait until the step is closed, begin the next.

One idiom keeps it fast: a server that must wait for its inputs does not poll and is not woken to
start. Whoever brings the last input puts the *end* of the task into the event queue, so a task
costs one event whether or not its server had to wait.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple, Protocol

import simpy
from simpy.events import NORMAL, EventPriority

from sim.program import Link, Node, Program, Times

# Boundaries come after all other events of their instant, in the order of the micro-batches, so
# that a tie is decided by rule.
BOUNDARY = NORMAL + 1


class Wait(NamedTuple):
    """A boundary's answer when no request is in flight: come back at `until_ns`."""

    until_ns: int


class Controller(Protocol):
    """Decides at each step boundary what the micro-batch does next."""

    def boundary(self, micro_batch: int, now_ns: int) -> Times | Wait | None:
        """Return the durations of the next step, when to come back, or None to end the run."""


class Record(NamedTuple):
    """One task that a server ran."""

    node: int
    step: int
    server: int
    start_ns: int
    end_ns: int


class Service(simpy.Event):
    """An event that fires when something that has just begun is over."""

    def over_in(self, duration_ns: int, priority: int = NORMAL) -> None:
        """Fire `duration_ns` from now."""
        self._ok = True
        self._value = None
        self.env.schedule(self, EventPriority(priority), duration_ns)


class Receiver(Protocol):
    """Whoever counts inputs: a task, a barrier."""

    def arrive(self) -> None:
        """Count one input."""


class Task:
    """One node on one server, reused step after step."""

    __slots__ = ("ends", "engine", "missing", "needs", "node", "server", "service", "starts")

    def __init__(self, engine: EventEngine, node: int, server: int) -> None:
        self.engine = engine
        self.node = node
        self.server = server
        self.needs = 0
        self.missing = 0
        self.service: Service | None = None
        self.starts: list[Receiver] = []
        self.ends: list[Receiver] = []

    def take(self) -> Service:
        """Return the event of this task's end, now that its server has come to it."""
        self.service = service = Service(self.engine.env)
        if self.missing == 0:
            self._start(service)
        return service

    def arrive(self) -> None:
        """Count one input; start if it was the last and the server waits."""
        self.missing -= 1
        if self.missing == 0 and self.service is not None:
            self._start(self.service)

    def _start(self, service: Service) -> None:
        self.service = None
        self.missing = self.needs
        for receiver in self.starts:
            receiver.arrive()
        duration_ns = self.engine.duration_ns(self.node, self.server)
        service.over_in(duration_ns)
        if self.engine.record is not None:
            self.engine.record(self.node, self.server, duration_ns)


class Barrier:
    """Passes on one input to each of its targets when the last of its own is there."""

    __slots__ = ("delay_ns", "env", "missing", "needs", "targets")

    def __init__(
        self, env: simpy.Environment, needs: int, targets: list[Task], delay_ns: Callable[[], int]
    ) -> None:
        self.env = env
        self.needs = needs
        self.missing = needs
        self.targets = targets
        self.delay_ns = delay_ns

    def arrive(self) -> None:
        """Count one input; after the last, release the targets when the delay is over."""
        self.missing -= 1
        if self.missing == 0:
            self.missing = self.needs
            delay_ns = self.delay_ns()
            if delay_ns == 0:
                self.release()
            else:
                self.env.timeout(delay_ns).callbacks.append(self.release)

    def release(self, _event: object = None) -> None:
        """Give each target its input."""
        for target in self.targets:
            target.arrive()


class Closing:
    """Counts the servers that finished a step of a micro-batch and then fires its boundary."""

    __slots__ = ("delay_ns", "micro_batch", "missing", "needs", "step_over")

    def __init__(self, needs: int, micro_batch: int, delay_ns: Callable[[], int]) -> None:
        self.needs = needs
        self.missing = needs
        self.micro_batch = micro_batch
        self.delay_ns = delay_ns
        self.step_over: Service | None = None

    def arrive(self) -> None:
        """Count one server."""
        self.missing -= 1
        if self.missing == 0:
            self.missing = self.needs
            assert self.step_over is not None
            self.step_over.over_in(self.delay_ns(), BOUNDARY + self.micro_batch)


class EventEngine:
    """One run of a program under a controller."""

    def __init__(self, program: Program, controller: Controller) -> None:
        self.env = simpy.Environment()
        self.program = program
        self.controller = controller
        self.steps = [-1] * program.micro_batches
        self.tasks_done = 0
        self.record: Callable[[int, int, int], None] | None = None
        self._rows: list[list[list[int]]] = [[] for _ in program.closing]
        self._delays: list[tuple[int, ...]] = [() for _ in program.closing]
        self._row_of = [(node.micro_batch, node.slot) for node in program.nodes]
        self._finished = self.env.event()
        self._tasks = self._make_tasks()
        self._gates = [
            [t for n, ts in zip(program.nodes, self._tasks, strict=True)
             if n.gated and n.micro_batch == j for t in ts]
            for j in range(program.micro_batches)
        ]  # fmt: skip
        self._closings = [self._close(j, node) for j, node in enumerate(program.closing)]

    def run(self) -> int:
        """Run until the controller ends it and return the simulated end, ns."""
        for pool_index, pool in enumerate(self.program.pools):
            for server in range(pool.servers):
                self.env.process(self._serve(pool_index, server))
        for micro_batch in range(self.program.micro_batches):
            self.env.process(self._decode(micro_batch))
        self.env.run(until=self._finished)
        return int(self.env.now)

    def duration_ns(self, node: int, server: int) -> int:
        """Return how long `node` takes on `server` in the step its micro-batch is in."""
        micro_batch, slot = self._row_of[node]
        return self._rows[micro_batch][slot][server]

    def _serve(self, pool: int, server: int) -> Generator[simpy.Event, None, None]:
        """Live as a server: one task after the other, in static order, for ever."""
        for task in self._tasks_of(pool, server):
            yield task.take()
            self.tasks_done += 1
            for receiver in task.ends:
                receiver.arrive()

    def _decode(self, micro_batch: int) -> Generator[simpy.Event, None, None]:
        """Live as a micro-batch: one decode step after the other."""
        closing = self._closings[micro_batch]
        while True:
            answer = self.controller.boundary(micro_batch, int(self.env.now))
            if answer is None:
                if not self._finished.triggered:
                    self._finished.succeed()
                return
            service = Service(self.env)
            if isinstance(answer, Wait):
                service.over_in(answer.until_ns - int(self.env.now), BOUNDARY + micro_batch)
                yield service
                continue
            self.steps[micro_batch] += 1
            self._rows[micro_batch] = [row.tolist() for row in answer.rows]
            self._delays[micro_batch] = answer.delays_ns
            closing.step_over = service
            for task in self._gates[micro_batch]:
                task.arrive()
            yield service

    def _tasks_of(self, pool: int, server: int) -> Iterator[Task]:
        return (self._tasks[node][server] for node, _step in self.program.walk(pool))

    def _make_tasks(self) -> list[list[Task]]:
        program = self.program
        tasks = [
            [Task(self, index, server) for server in range(self._width(node))]
            for index, node in enumerate(program.nodes)
        ]
        for index, node in enumerate(program.nodes):
            for link in node.inputs:
                self._wire(tasks, link, tasks[index])
            for task in tasks[index]:
                task.needs += node.gated
                task.missing += node.gated
        return tasks

    def _wire(self, tasks: list[list[Task]], link: Link, targets: list[Task]) -> None:
        """Connect the tasks of a link's source with its targets."""
        sources = tasks[link.node]
        micro_batch = self.program.nodes[link.node].micro_batch
        if link.wiring == "all":
            groups = [(sources, targets)]
        elif len(sources) >= len(targets):
            block = len(sources) // len(targets)
            groups = [(sources[i * block : (i + 1) * block], [t]) for i, t in enumerate(targets)]
        else:
            block = len(targets) // len(sources)
            groups = [([s], targets[i * block : (i + 1) * block]) for i, s in enumerate(sources)]
        for froms, tos in groups:
            for target in tos:
                target.needs += 1
                target.missing += 1 - link.steps_back
            receiver: Receiver
            if len(froms) == len(tos) == 1 and link.delay is None:
                receiver = tos[0]
            else:
                receiver = Barrier(self.env, len(froms), tos, self._delay(micro_batch, link.delay))
            for source in froms:
                (source.starts if link.when == "start" else source.ends).append(receiver)

    def _close(self, micro_batch: int, node: int) -> Closing:
        delay = self._delay(micro_batch, self.program.closing_delay)
        closing = Closing(len(self._tasks[node]), micro_batch, delay)
        for task in self._tasks[node]:
            task.ends.append(closing)
        return closing

    def _delay(self, micro_batch: int, delay: int | None) -> Callable[[], int]:
        if delay is None:
            return lambda: 0
        return lambda: self._delays[micro_batch][delay]

    def _width(self, node: Node) -> int:
        return self.program.pools[self.program.stages[node.stage].pool].servers


def run(program: Program, controller: Controller) -> int:
    """Run `program` under `controller` and return the simulated end, ns."""
    return EventEngine(program, controller).run()


def record(engine: EventEngine, keep: Callable[[Node, int], bool]) -> list[Record]:
    """Make `engine` record the tasks of the (node, step) that `keep` accepts; return the list."""
    records: list[Record] = []

    def note(node: int, server: int, duration_ns: int) -> None:
        described = engine.program.nodes[node]
        step = engine.steps[described.micro_batch]
        if keep(described, step):
            now = int(engine.env.now)
            records.append(Record(node, step, server, now, now + duration_ns))

    engine.record = note
    return records
