"""The event engine: SimPy walks a Program one task at a time. It is the reference.

Read it beside Figure 7 of the Step-3 report. Every server is a SimPy process that walks its
static order: take the next task, wait until it has been served, tell those who wait for it. Every
micro-batch is a process too: begin a step, wait until the step is closed, begin the next.

One idiom keeps it fast: a server that must wait for its inputs does not poll and is not woken to
start. Whoever brings the last input puts the *end* of the task into the event queue, the latency
of its inputs included, so a task costs one event whether or not its server had to wait.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import chain, cycle
from typing import Protocol

import simpy
from simpy.events import NORMAL, EventPriority

from sim.engines.controller import Controller, Record, Wait
from sim.engines.program import Link, Node, Program, Times

# Boundaries come after all other events of their instant, in the order of the micro-batches, so
# that a tie is decided by rule.
BOUNDARY = NORMAL + 1


class Service(simpy.Event):
    """An event that fires when something that has just begun is over. It can be used again."""

    _ok = True
    _value = None


class Receiver(Protocol):
    """Whoever takes inputs: a task, or what stands between two tasks."""

    def arrive(self) -> None:
        """Take one input."""


class Work:
    """What the tasks of one node share."""

    __slots__ = ("durations_ns", "engine", "needs", "node")

    def __init__(self, engine: EventEngine, index: int) -> None:
        node = engine.program.nodes[index]
        self.engine = engine
        self.node = index
        self.needs = len(node.inputs) + node.gated
        self.durations_ns = engine.rows[node.micro_batch][node.slot]


class Task:
    """One node on one server, reused step after step."""

    __slots__ = ("at_end", "at_start", "missing", "ready_ns", "server", "service", "work")

    def __init__(self, work: Work, server: int) -> None:
        self.work = work
        self.server = server
        self.missing = work.needs
        self.ready_ns = 0
        self.service: Service | None = None
        self.at_start: Receiver | None = None
        self.at_end: Receiver | None = None

    def arrive(self) -> None:
        """Count one input; start if it was the last and the server waits."""
        self.missing -= 1
        if self.missing == 0 and self.service is not None:
            self._start(self.service)

    def arrive_at(self, ready_ns: int) -> None:
        """Count one input that can be used from `ready_ns` on."""
        if ready_ns > self.ready_ns:
            self.ready_ns = ready_ns
        self.arrive()

    def take(self, service: Service) -> None:
        """Note that the server has come to this task; start if all inputs are there."""
        if self.missing:
            self.service = service
        else:
            self._start(service)

    def _start(self, service: Service) -> None:
        """Occupy the server as soon as all inputs can be used, until `service` fires."""
        work = self.work
        engine = work.engine
        self.service = None
        self.missing = work.needs
        duration_ns = work.durations_ns[self.server]
        wait_ns = 0
        if self.ready_ns:
            wait_ns = max(0, self.ready_ns - engine.now_ns())
            self.ready_ns = 0
        engine.schedule(service, NORMAL, wait_ns + duration_ns)
        at_start = self.at_start
        if at_start is not None:
            if wait_ns:
                engine.env.timeout(wait_ns).callbacks.append(lambda _event: at_start.arrive())
            else:
                at_start.arrive()
        if engine.record is not None:
            engine.record(work.node, self.server, wait_ns, duration_ns)


class Several:
    """Passes one input on to each of several receivers."""

    __slots__ = ("receivers",)

    def __init__(self, receivers: Sequence[Receiver]) -> None:
        self.receivers = receivers

    def arrive(self) -> None:
        """Pass it on."""
        for receiver in self.receivers:
            receiver.arrive()


class Latency:
    """Passes one input on to tasks, to be used when a delay is over."""

    __slots__ = ("delay", "delays_ns", "engine", "targets")

    def __init__(
        self, engine: EventEngine, targets: Sequence[Task], micro_batch: int, delay: int
    ) -> None:
        self.engine = engine
        self.targets = targets
        self.delays_ns = engine.delays_ns[micro_batch]
        self.delay = delay

    def arrive(self) -> None:
        """Pass it on with the time from which it can be used."""
        ready_ns = self.engine.now_ns() + self.delays_ns[self.delay]
        for target in self.targets:
            target.arrive_at(ready_ns)


class Barrier:
    """Passes on one input when the last of several has come."""

    __slots__ = ("missing", "needs", "receiver")

    def __init__(self, needs: int, receiver: Receiver) -> None:
        self.needs = needs
        self.missing = needs
        self.receiver = receiver

    def arrive(self) -> None:
        """Count one input; after the last, pass one on."""
        self.missing -= 1
        if self.missing == 0:
            self.missing = self.needs
            self.receiver.arrive()


def both(one: Receiver | None, other: Receiver) -> Receiver:
    """Return a receiver that stands for one (if any) and other."""
    return other if one is None else Several((one, other))


class Closing:
    """Fires the boundary of a micro-batch's step when all servers have finished it."""

    __slots__ = ("engine", "micro_batch", "missing", "needs", "step_over")

    def __init__(self, engine: EventEngine, needs: int, micro_batch: int) -> None:
        self.engine = engine
        self.needs = needs
        self.missing = needs
        self.micro_batch = micro_batch
        self.step_over = Service(engine.env)

    def arrive(self) -> None:
        """Count one server; after the last, end the step when the host has caught up."""
        self.missing -= 1
        if not self.missing:
            self.missing = self.needs
            delays_ns = self.engine.delays_ns[self.micro_batch]
            self.fire_in(delays_ns[self.engine.program.closing_delay])

    def fire_in(self, delay_ns: int) -> None:
        """Let the micro-batch come to its boundary `delay_ns` from now."""
        priority = EventPriority(BOUNDARY + self.micro_batch)
        self.engine.schedule(self.step_over, priority, delay_ns)


class EventEngine:
    """One run of a program under a controller."""

    def __init__(self, program: Program, controller: Controller) -> None:
        self.env = simpy.Environment()
        self.schedule = self.env.schedule
        self.program = program
        self.controller = controller
        self.steps = [-1] * program.micro_batches
        self.rows = [[[0] for _ in range(program.slots)] for _ in program.closing]
        """Durations of the step that each micro-batch is in; tasks hold on to these lists."""
        self.delays_ns = [[0 for _ in program.delays] for _ in program.closing]
        self.tasks_done = 0
        self.record: Callable[[int, int, int, int], None] | None = None
        self._finished = self.env.event()
        self._tasks = self._make_tasks()
        self._gates: list[list[Task]] = [[] for _ in program.closing]
        for node, tasks in zip(program.nodes, self._tasks, strict=True):
            if node.gated:
                self._gates[node.micro_batch] += tasks
        self._closings = [self._close(j, node) for j, node in enumerate(program.closing)]

    def run(self) -> int:
        """Run until the controller ends it and return the simulated end, ns."""
        for pool_index, pool in enumerate(self.program.pools):
            for server in range(pool.servers):
                self.env.process(self._serve(pool_index, server))
        for micro_batch in range(self.program.micro_batches):
            self.env.process(self._decode(micro_batch))
        self.env.run(until=self._finished)
        return self.now_ns()

    def now_ns(self) -> int:
        """Return the simulated time, ns."""
        return int(self.env.now)

    def _serve(self, pool: int, server: int) -> Generator[simpy.Event, None, None]:
        """Live as a server: one task after the other, in static order, for ever."""
        service = Service(self.env)
        for task in self._tasks_of(pool, server):
            service.callbacks = []
            task.take(service)
            yield service
            self.tasks_done += 1
            if task.at_end is not None:
                task.at_end.arrive()

    def _decode(self, micro_batch: int) -> Generator[simpy.Event, None, None]:
        """Live as a micro-batch: one decode step after the other."""
        closing = self._closings[micro_batch]
        while True:
            answer = self.controller.boundary(micro_batch, self.now_ns())
            if answer is None:
                if not self._finished.triggered:
                    self._finished.succeed()
                return
            closing.step_over.callbacks = []
            if isinstance(answer, Wait):
                closing.fire_in(answer.until_ns - self.now_ns())
            else:
                self._begin_step(micro_batch, answer)
            yield closing.step_over

    def _begin_step(self, micro_batch: int, times: Times) -> None:
        self.steps[micro_batch] += 1
        self.delays_ns[micro_batch][:] = times.delays_ns
        for row, durations_ns in zip(self.rows[micro_batch], times.rows, strict=True):
            row[:] = durations_ns.tolist()
        for task in self._gates[micro_batch]:
            task.arrive()

    def _tasks_of(self, pool: int, server: int) -> Iterator[Task]:
        first, then = self.program.laps(pool)
        return chain(
            [self._tasks[node][server] for node in first],
            cycle([self._tasks[node][server] for node in then]),
        )

    def _make_tasks(self) -> list[list[Task]]:
        tasks = []
        for index, node in enumerate(self.program.nodes):
            work = Work(self, index)
            tasks.append([Task(work, server) for server in range(self._width(node))])
        for index, node in enumerate(self.program.nodes):
            for link in node.inputs:
                self._wire(link, tasks[link.node], tasks[index])
        return tasks

    def _wire(self, link: Link, sources: list[Task], targets: list[Task]) -> None:
        """Connect the tasks of a link's source with its targets."""
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
                target.missing -= link.steps_back
            receiver: Receiver
            receiver = tos[0] if len(tos) == 1 else Several(tos)
            if link.delay is not None:
                micro_batch = self.program.nodes[link.node].micro_batch
                receiver = Latency(self, tos, micro_batch, link.delay)
            if len(froms) > 1:
                receiver = Barrier(len(froms), receiver)
            for source in froms:
                if link.when == "start":
                    source.at_start = both(source.at_start, receiver)
                else:
                    source.at_end = both(source.at_end, receiver)

    def _close(self, micro_batch: int, node: int) -> Closing:
        closing = Closing(self, len(self._tasks[node]), micro_batch)
        for task in self._tasks[node]:
            task.at_end = both(task.at_end, closing)
        return closing

    def _width(self, node: Node) -> int:
        return self.program.pools[self.program.stages[node.stage].pool].servers


def run(program: Program, controller: Controller) -> int:
    """Run `program` under `controller` and return the simulated end, ns."""
    return EventEngine(program, controller).run()


def record(engine: EventEngine, keep: Callable[[Node, int], bool]) -> list[Record]:
    """Make `engine` record the tasks of the (node, step) that `keep` accepts; return the list."""
    records: list[Record] = []

    def note(node: int, server: int, wait_ns: int, duration_ns: int) -> None:
        described = engine.program.nodes[node]
        step = engine.steps[described.micro_batch]
        if keep(described, step):
            start_ns = engine.now_ns() + wait_ns
            records.append(Record(node, step, server, start_ns, start_ns + duration_ns))

    engine.record = note
    return records
