"""The event engine: SimPy walks a Program one task at a time. It is the reference.

Read it beside Figure 7 of the Step-3 report: `deployments/afd/ring.py` draws the figure's stages
and sets the order in which the servers run them. This module knows a stage by its number alone.

- A server is a process, `_serve`. It takes its tasks in static order: wait for the inputs of the
  next task, work, tell the tasks that wait for this one.
- A micro-batch is a process, `_decode`: ask the controller, begin a step, wait until it is closed.

A task costs one event, whether or not its server had to wait: a server is not woken to begin.
Whoever brings the last input puts the *end* of the task into the queue, and the server sleeps until
then. Each process has one event, which is put into the queue again whenever it has fired.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from functools import partial
from itertools import chain, cycle

import simpy
from simpy.events import NORMAL, EventPriority

from sim.engines.controller import Controller, Record, Wait
from sim.engines.program import Link, Node, Program, Times

Process = Generator[simpy.Event, None, None]
Tell = Callable[[], None]

# Boundaries come after all other events of their instant, in the order of the micro-batches, so
# that a tie is decided by rule.
BOUNDARY = NORMAL + 1


class EventEngine:
    """One run of a program under a controller. `keep(node, step)` chooses tasks to be recorded."""

    def __init__(
        self,
        program: Program,
        controller: Controller,
        keep: Callable[[Node, int], bool] | None = None,
    ) -> None:
        self.env = simpy.Environment()
        self.schedule = self.env.schedule
        self.program = program
        self.controller = controller
        self.keep = keep
        self.records: list[Record] = []
        self.steps = [-1] * program.micro_batches
        # The step that each micro-batch is in; tasks and links hold on to these lists.
        self.durations_ns = [[[0] for _ in range(program.slots)] for _ in program.closing]
        self.delays_ns = [[0 for _ in program.delays] for _ in program.closing]
        self._boundaries = [self.env.event().succeed() for _ in program.closing]
        self._tasks = [
            [Task(self, i, server) for server in range(program.pool_of(node).servers)]
            for i, node in enumerate(program.nodes)
        ]
        for tasks, node in zip(self._tasks, program.nodes, strict=True):
            for link in node.inputs:
                self._wire(link, tasks)
        for micro_batch, last in enumerate(program.closing):
            close = Barrier(len(self._tasks[last]), partial(self._close, micro_batch))
            for task in self._tasks[last]:
                task.at_end.append(close.arrive)

    def run(self) -> int:
        """Run until the controller ends it and return the simulated end, ns."""
        for index, pool in enumerate(self.program.pools):
            first, then = self.program.laps(index)
            for server in range(pool.servers):
                tasks = [[self._tasks[node][server] for node in lap] for lap in (first, then)]
                self.env.process(self._serve(chain(tasks[0], cycle(tasks[1]))))
        micro_batches = [self.env.process(self._decode(j)) for j in range(len(self.steps))]
        self.env.run(until=self.env.any_of(micro_batches))
        return self.now_ns()

    def now_ns(self) -> int:
        return int(self.env.now)

    def _serve(self, tasks: Iterable[Task]) -> Process:
        """Live as a server: one task after the other, for ever."""
        end = self.env.event().succeed()
        yield end
        for task in tasks:
            end.callbacks = []
            if task.missing:
                task.end = end
            else:
                task.begin(end)
            yield end
            for tell in task.at_end:
                tell()

    def _decode(self, micro_batch: int) -> Process:
        """Live as a micro-batch: one decode step after the other, until the controller ends it."""
        boundary = self._boundaries[micro_batch]
        while True:
            yield boundary
            boundary.callbacks = []
            answer = self.controller.boundary(micro_batch, self.now_ns())
            if answer is None:
                return
            if isinstance(answer, Wait):
                self._come_back(micro_batch, answer.until_ns - self.now_ns())
            else:
                self._begin_step(micro_batch, answer)

    def _begin_step(self, micro_batch: int, times: Times) -> None:
        self.steps[micro_batch] += 1
        self.delays_ns[micro_batch][:] = times.delays_ns
        for row, durations_ns in zip(self.durations_ns[micro_batch], times.rows, strict=True):
            row[:] = durations_ns.tolist()
        for node, tasks in zip(self.program.nodes, self._tasks, strict=True):
            if node.gated and node.micro_batch == micro_batch:
                for task in tasks:
                    task.arrive()

    def _close(self, micro_batch: int) -> None:
        """Let a step end, all servers being through with it, when the host has caught up."""
        self._come_back(micro_batch, self.delays_ns[micro_batch][self.program.closing_delay])

    def _come_back(self, micro_batch: int, delay_ns: int) -> None:
        priority = EventPriority(BOUNDARY + micro_batch)
        self.schedule(self._boundaries[micro_batch], priority, delay_ns)

    def _wire(self, link: Link, targets: list[Task]) -> None:
        """Let the tasks of a link's source tell its targets."""
        sources = self._tasks[link.node]
        for target in targets:
            target.missing -= link.steps_back
        blocks = 1 if link.wiring == "all" else min(len(sources), len(targets))
        fan_in, fan_out = len(sources) // blocks, len(targets) // blocks
        for i in range(blocks):
            tells = self._tells(link, fan_in, targets[i * fan_out : (i + 1) * fan_out])
            for source in sources[i * fan_in : (i + 1) * fan_in]:
                (source.at_start if link.when == "start" else source.at_end).extend(tells)

    def _tells(self, link: Link, fan_in: int, targets: list[Task]) -> list[Tell]:
        """Return what `fan_in` sources call, each of them, to bring their targets one input."""
        if fan_in == 1 and link.delay is None:
            return [target.arrive for target in targets]
        delays_ns = self.delays_ns[self.program.nodes[link.node].micro_batch]
        env, delay = self.env, link.delay

        def pass_on() -> None:
            ready_ns = 0 if delay is None else int(env.now) + delays_ns[delay]
            for target in targets:
                target.arrive(ready_ns)

        return [pass_on if fan_in == 1 else Barrier(fan_in, pass_on).arrive]

    def note(self, task: Task, wait_ns: int, duration_ns: int) -> None:
        """Record a task that begins in `wait_ns`, if it is to be kept."""
        node = self.program.nodes[task.node]
        step = self.steps[node.micro_batch]
        if self.keep is not None and self.keep(node, step):
            start_ns = self.now_ns() + wait_ns
            end_ns = start_ns + duration_ns
            self.records.append(Record(task.node, step, task.server, start_ns, end_ns))


class Task:
    """One node on one server, used again in every step."""

    __slots__ = (
        *("at_end", "at_start", "durations_ns", "end", "engine", "missing", "needs", "node"),
        *("ready_ns", "server"),
    )

    def __init__(self, engine: EventEngine, index: int, server: int) -> None:
        node = engine.program.nodes[index]
        self.engine = engine
        self.node = index
        self.server = server
        self.durations_ns = engine.durations_ns[node.micro_batch][node.slot]
        self.needs = self.missing = len(node.inputs) + node.gated
        self.ready_ns = 0
        """From when on the inputs can be used, if that is later than their arrival."""
        self.end: simpy.Event | None = None
        """What the server waits for, if it has come to this task before the last input."""
        self.at_start: list[Tell] = []
        self.at_end: list[Tell] = []

    def arrive(self, ready_ns: int = 0) -> None:
        """Take an input that can be used from `ready_ns` on."""
        self.missing -= 1
        if ready_ns > self.ready_ns:
            self.ready_ns = ready_ns
        if self.end is not None and not self.missing:
            self.begin(self.end)

    def begin(self, end: simpy.Event) -> None:
        """Occupy the server from when on the inputs can be used; `end` is when the task ends."""
        engine = self.engine
        self.end = None
        self.missing = self.needs
        duration_ns = self.durations_ns[self.server]
        wait_ns = 0
        if self.ready_ns:
            wait_ns = max(0, self.ready_ns - int(engine.env.now))
            self.ready_ns = 0
        if not wait_ns:
            for tell in self.at_start:
                tell()
        elif self.at_start:
            engine.env.timeout(wait_ns).callbacks.append(self._started)
        if engine.keep is not None:
            engine.note(self, wait_ns, duration_ns)
        engine.schedule(end, NORMAL, wait_ns + duration_ns)

    def _started(self, _event: simpy.Event) -> None:
        for tell in self.at_start:
            tell()


class Barrier:
    """Does something whenever `needs` more have arrived."""

    __slots__ = ("missing", "needs", "then")

    def __init__(self, needs: int, then: Tell) -> None:
        self.needs = self.missing = needs
        self.then = then

    def arrive(self) -> None:
        self.missing -= 1
        if not self.missing:
            self.missing = self.needs
            self.then()


def run(program: Program, controller: Controller) -> int:
    """Run `program` under `controller` and return the simulated end, ns."""
    return EventEngine(program, controller).run()
