"""Run: one scenario from its first step to its tables.

`Decoder` is the controller that both engines ask at every step boundary; `simulate` puts
deployment, scheduler and engine together and returns what happened as a `Run`.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from sim.decoding.step_times import DrawnTimes
from sim.decoding.work_log import WorkLog
from sim.deployments import compile_deployment
from sim.deployments.deployment import Deployment
from sim.engines import event
from sim.engines.program import Node, Program, Times
from sim.foundation.errors import InfeasibleError, ScenarioError
from sim.foundation.nanoseconds import MOST_RUN_NS, too_long
from sim.foundation.statistics import half_width
from sim.inputs.arrivals import ClosedLoop
from sim.inputs.scenario import Scenario
from sim.kernels.kernel_table import Status

if TYPE_CHECKING:
    from sim.decoding.scheduler import Emission

Columns = dict[str, NDArray[np.int64]]

# The first step fills the pipeline from empty and the second drains that disturbance.
FILL_STEPS = 2

# Columns that only runs with speculation have.
_SPECULATIVE = ("requests", "at_once")

# Half-widths are looked at this often, in steps.
_CHECK_EVERY = 5


@dataclass(frozen=True)
class Run:
    """What happened, as plain tables; `sim.metrics.summary` turns it into figures."""

    scenario: Scenario
    program: Program
    steps: Columns
    """One row per micro-batch and step, in the order in which the steps ended. With speculation
    also the `requests`, and `at_once`: accepted drafts of those that had a step before."""
    layer_ns: dict[str, NDArray[np.float64]]
    """Per-layer times of the same rows, by column of DESIGN §7."""
    requests: Columns
    """One row per request seen, by request number."""
    busy_ns: NDArray[np.int64]
    """Work begun, by (`busy_steps` steps, server); servers in the order of the pools."""
    usage_ns: dict[Status, float]
    """Kernel time by status of its look-up."""
    usd_per_hour: float | None
    kv_capacity_bytes: float
    tables: dict[str, str]
    """SHA-256 of the calibration table of each accelerator; empty where it has none."""
    wall_s: float
    busy_steps: int = 1
    """Steps that share a row of `busy_ns`: more than one in a run of very many steps."""
    engine: Literal["event", "recurrence"] = "event"
    engine_note: str = ""
    """Why another engine ran than the scenario asks for."""
    preemptions: Columns | None = None
    """One row per time that a request gave way; None where requests reserve their KV."""
    records: list[event.Record] = field(default_factory=list)
    """Tasks of the recorded window."""

    def is_closed(self) -> bool:
        """Return whether it was a closed loop, which starts full and is watched for a while."""
        return isinstance(self.scenario.workload.arrivals, ClosedLoop)


@dataclass
class _OpenStep:
    number: int
    start_ns: int
    note: int
    """Of the work log."""
    kv_bytes_mean: int
    kv_bytes_max: int
    """KV in use on the attention GPUs as the step begins; looked at by micro-batch 0 only."""


class Decoder:
    """Closes a step, admits requests, times the next step, and decides when it is enough."""

    def __init__(self, site: Deployment) -> None:
        # Numba takes most of a second to import.
        from sim.decoding.scheduler import Scheduler

        self.site = site
        self.drawn = DrawnTimes(site)
        scenario = site.scenario
        self.simulation = scenario.simulation
        self.closed = isinstance(scenario.workload.arrivals, ClosedLoop)
        self.scheduler = Scheduler(
            scenario.workload,
            scenario.simulation.seed,
            site.attention_gpus,
            site.program.micro_batches,
            site.layout,
            site.kv_memory().kv_capacity_bytes(),
            site.expected.in_flight(),
            scenario.admission,
            site.kv_transfer(),
            scenario.speculation,
            scenario.memory.max_running_requests,
        )
        m = site.program.micro_batches
        self._open: list[_OpenStep | None] = [None] * m
        self._count = [0] * m
        self._last_ns = [-1] * m
        self._rows = array("q")
        self._log = WorkLog(site, self.drawn.program)
        self._notes = array("q")

    def boundary(self, micro_batch: int, now_ns: int) -> Times | event.Wait | None:
        """Return the durations of the micro-batch's next step; None when the run is over."""
        if now_ns > MOST_RUN_NS:
            raise too_long("the run", now_ns, MOST_RUN_NS)
        scheduler = self.scheduler
        step = self._open[micro_batch]
        if step is not None:
            self._close(micro_batch, step, scheduler.emit(micro_batch, now_ns), now_ns)
            if self.closed and micro_batch == len(self._open) - 1 and self._enough():
                return None
        scheduler.admit(micro_batch, now_ns)
        # A request that waits although all is empty waits for another micro-batch, which this one
        # must not hold up: it keeps its place in the order.
        if not scheduler.in_flight() and not scheduler.waiting():
            self._open[micro_batch] = None
            arrival_ns = scheduler.next_arrival_ns()
            return None if arrival_ns is None else event.Wait(arrival_ns)
        batch, number = scheduler.batch(micro_batch), self._count[micro_batch]
        times = self.drawn.times(batch, micro_batch, number)
        self._begin(micro_batch, now_ns, times)
        return times

    def _begin(self, micro_batch: int, now_ns: int, times: Times) -> None:
        number = self._count[micro_batch]
        self._count[micro_batch] += 1
        note = self._log.note(number, times)
        kv_mean = kv_max = 0
        if micro_batch == 0:
            kv_bytes = self.scheduler.kv_bytes()
            kv_mean, kv_max = int(kv_bytes.mean()), int(kv_bytes.max())
        self._open[micro_batch] = _OpenStep(number, now_ns, note, kv_mean, kv_max)

    def _close(self, micro_batch: int, step: _OpenStep, emission: Emission, now_ns: int) -> None:
        row = (micro_batch, step.number, step.start_ns, now_ns, self._last_ns[micro_batch])
        load = (emission.tokens, emission.continuing, step.kv_bytes_mean, step.kv_bytes_max)
        self._rows.extend(row + load + (emission.requests, emission.at_once))
        self._notes.append(step.note)
        self._last_ns[micro_batch] = now_ns

    def _enough(self) -> bool:
        done = min(self._count)
        if done >= self.simulation.max_steps:
            return True
        measured = done - FILL_STEPS
        if measured < self.simulation.min_steps or measured % _CHECK_EVERY:
            return False
        numbers, gaps = step_gaps_ns(self.step_columns())
        gaps = gaps[numbers >= FILL_STEPS]
        return bool(len(gaps)) and half_width(gaps) <= self.simulation.precision * gaps.mean()

    def step_columns(self) -> Columns:
        """Return the table of the steps that have ended."""
        names = (
            *("micro_batch", "step", "start_ns", "end_ns", "previous_end_ns"),
            *("tokens", "continuing", "kv_bytes_mean", "kv_bytes_max", *_SPECULATIVE),
        )
        table = np.array(self._rows).reshape(-1, len(names))
        columns = dict(zip(names, table.T, strict=True))
        if self.site.scenario.speculation is None:
            for name in _SPECULATIVE:
                del columns[name]
        return columns

    def layer_columns(self) -> dict[str, NDArray[np.float64]]:
        """Return the per-layer times of the same steps."""
        return self._log.layer_ns(np.array(self._notes))

    def request_columns(self) -> Columns:
        """Return the table of all requests that emitted a token, finished or still in flight."""
        scheduler, flights = self.scheduler, self.scheduler.flights
        seen = np.flatnonzero(scheduler.column("first_token_ns") >= 0)
        columns = scheduler.columns(seen)
        ended = np.array([flight.steps for flight in flights])[columns["micro_batch"]]
        last_ns = np.array(self._last_ns)[columns["micro_batch"]]
        finished = columns["finished"] == 1
        # Since a request that is out last came in, it has emitted nothing.
        out = columns["entered"] < 0
        since = np.where(out, 0, ended - columns["entered"])
        tokens = np.where(finished, columns["output"] - columns["age"], columns["kept"] + since)
        return {
            "request": seen,
            "micro_batch": columns["micro_batch"],
            "gpu": columns["gpu"],
            "arrival_ns": columns["arrival_ns"],
            "admitted_ns": columns["admitted_ns"],
            "first_token_ns": columns["first_token_ns"],
            "last_token_ns": np.where(finished | out, columns["last_token_ns"], last_ns),
            "prompt_tokens": columns["prompt"],
            "output_tokens": columns["output"],
            "tokens_in_run": tokens,
            "finished": columns["finished"],
        }

    def preemption_columns(self) -> Columns | None:
        """Return the table of preemptions; None where requests reserve their KV."""
        reserves = self.site.scenario.admission.kv.kind == "reserve"
        return None if reserves else self.scheduler.preemptions()

    def busy_table(self) -> tuple[NDArray[np.int64], int]:
        """Return work begun by (some steps, server), and how many steps share a row."""
        return self._log.busy_ns(), self._log.steps_per_row


def requests_of(steps: Columns) -> NDArray[np.int64]:
    """Return the requests in each step."""
    return steps.get("requests", steps["tokens"])


def at_once(steps: Columns) -> NDArray[np.int64]:
    """Return the tokens of each step that came with another of their request, without a gap.

    Those of a request's first step are its first token and what comes with it: they do not count.
    """
    return steps.get("at_once", np.zeros_like(steps["tokens"]))


def step_gaps_ns(steps: Columns) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return step numbers and the mean time between tokens in each, over micro-batches, ns.

    Each gap weighs as many times as requests saw it; tokens that came at once have gaps of 0. Steps
    in which no request saw one (the first of a run, idle ones) are left out.
    """
    gap = (steps["end_ns"] - steps["previous_end_ns"]) * steps["continuing"]
    weight = np.bincount(steps["step"], steps["continuing"] + at_once(steps))
    numbers = np.flatnonzero(weight)
    return numbers, np.bincount(steps["step"], gap)[numbers] / weight[numbers]


def simulate(scenario: Scenario, keep: Callable[[Node, int], bool] | None = None) -> Run:
    """Simulate `scenario` and return its tables.

    `keep(node, step)` chooses the tasks that are recorded for a timeline. Raises InfeasibleError
    if the shape cannot run, ScenarioError for the bound engine, which simulates nothing (see
    `sim.steady.state`).
    """
    if scenario.simulation.engine == "bound":
        raise ScenarioError("simulation.engine: bound simulates nothing; use event or recurrence")
    begun = time.perf_counter()
    site = compile_deployment(scenario)
    decoder = Decoder(site)
    engine, note, records = _decode(decoder, keep)
    steps = decoder.step_columns()
    if not len(steps["step"]):
        raise InfeasibleError("no request was served: the workload is empty")
    busy_ns, busy_steps = decoder.busy_table()
    usage: dict[Status, float] = {"calibrated": 0.0, "extrapolated": 0.0, "uncalibrated": 0.0}
    for table in site.tables:
        for status, spent in table.usage_ns.items():
            usage[status] += spent
    return Run(
        scenario=scenario,
        program=decoder.drawn.program,
        steps=steps,
        layer_ns=decoder.layer_columns(),
        requests=decoder.request_columns(),
        busy_ns=busy_ns,
        busy_steps=busy_steps,
        usage_ns=usage,
        usd_per_hour=site.usd_per_hour(),
        kv_capacity_bytes=site.kv_memory().kv_capacity_bytes(),
        tables={table.accelerator.name: table.sha256 for table in site.tables},
        wall_s=time.perf_counter() - begun,
        engine=engine,
        engine_note=note,
        preemptions=decoder.preemption_columns(),
        records=records,
    )


def _decode(
    decoder: Decoder, keep: Callable[[Node, int], bool] | None
) -> tuple[Literal["event", "recurrence"], str, list[event.Record]]:
    """Run the engine; return which it was, why not the one asked for, and its records."""
    program, note = decoder.drawn.program, ""
    if decoder.simulation.engine == "recurrence":
        if keep is None:
            from sim.engines import recurrence

            try:
                recurrence.run(program, decoder)
                return "recurrence", "", []
            except recurrence.InexactError as reason:
                note = f"the event engine ran: {reason}"
        else:
            note = "the event engine ran: it alone records a timeline"
    engine = event.EventEngine(program, decoder)
    records = event.record(engine, keep) if keep is not None else []
    engine.run()
    return "event", note, records
