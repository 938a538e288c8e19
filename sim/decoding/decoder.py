"""Decoder: the decode loop. Both engines ask it at every step boundary what comes next."""

from __future__ import annotations

from array import array
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.decoding.micro_batch_loops import mean_and_most
from sim.decoding.scheduler import Emission, Scheduler
from sim.decoding.step_table import FILL_STEPS, Columns, StepTable, step_gaps_ns
from sim.decoding.step_times import DrawnTimes
from sim.decoding.work_log import WorkLog
from sim.deployments.deployment import Deployment
from sim.engines.controller import Wait
from sim.engines.program import Times
from sim.foundation.estimates import half_width
from sim.foundation.nanoseconds import MOST_RUN_NS, too_long
from sim.inputs.arrivals import ClosedLoop

# Half-widths are looked at this often, in steps.
_CHECK_EVERY = 5


class _OpenStep(NamedTuple):
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
        self.clock_ns = 0
        """Time of the last boundary."""
        self.usage_ns = site.ordering_usage_ns.copy()
        """Kernel time by status."""
        m = site.program.micro_batches
        self._open: list[_OpenStep | None] = [None] * m
        self._count = [0] * m
        self._last_ns = [-1] * m
        rests = scenario.admission.idle_step_share is not None
        self.steps = StepTable(scenario.speculation is not None, rests)
        self._log = WorkLog(site, self.drawn.program)
        self._notes = array("q")

    def boundary(self, micro_batch: int, now_ns: int) -> Times | Wait | None:
        """Return the durations of the micro-batch's next step; None when the run is over."""
        self.clock_ns = now_ns
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
            return None if arrival_ns is None else Wait(arrival_ns)
        batch, number = scheduler.batch(micro_batch), self._count[micro_batch]
        times, usage_ns = self.drawn.step(batch, micro_batch, number)
        self.usage_ns += usage_ns
        self._begin(micro_batch, now_ns, times)
        return times

    def _begin(self, micro_batch: int, now_ns: int, times: Times) -> None:
        number = self._count[micro_batch]
        self._count[micro_batch] += 1
        note = self._log.note(number, times)
        kv_mean = kv_max = 0
        if micro_batch == 0:
            kv_mean, kv_max = mean_and_most(self.scheduler.kv_bytes())
        self._open[micro_batch] = _OpenStep(number, now_ns, note, kv_mean, kv_max)

    def _close(self, micro_batch: int, step: _OpenStep, emission: Emission, now_ns: int) -> None:
        row = (micro_batch, step.number, step.start_ns, now_ns, self._last_ns[micro_batch])
        load = (emission.tokens, emission.continuing, step.kv_bytes_mean, step.kv_bytes_max)
        rests = emission.resting, emission.late, emission.late_ns
        self.steps.add(*row, *load, emission.requests, emission.at_once, *rests)
        self._notes.append(step.note)
        self._last_ns[micro_batch] = now_ns

    def _enough(self) -> bool:
        done = min(self._count)
        if done >= self.simulation.max_steps:
            return True
        measured = done - FILL_STEPS
        if measured < self.simulation.min_steps or measured % _CHECK_EVERY:
            return False
        numbers, gaps = step_gaps_ns(self.steps.columns())
        gaps = gaps[numbers >= FILL_STEPS]
        return bool(len(gaps)) and half_width(gaps) <= self.simulation.precision * gaps.mean()

    def layer_columns(self) -> dict[str, NDArray[np.float64]]:
        """Return the per-layer times of the same steps."""
        return self._log.layer_ns(np.array(self._notes))

    def request_columns(self) -> Columns:
        """Return the table of all requests that emitted a token, finished or still in flight."""
        scheduler, micro_batches = self.scheduler, self.scheduler.micro_batches
        seen = np.flatnonzero(scheduler.column("first_token_ns") >= 0)
        columns = scheduler.columns(seen)
        ended = np.array([batch.steps for batch in micro_batches])[columns["micro_batch"]]
        last_ns = scheduler.emitted_ns(self._last_ns)[columns["micro_batch"], columns["gpu"]]
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
