"""Run: one scenario from its first step to its tables.

`simulate` puts deployment, `Decoder` and engine together and returns what happened as a `Run`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sim.decoding.decoder import Decoder
from sim.decoding.step_table import Columns
from sim.deployments import compile_deployment
from sim.engines.controller import Record
from sim.engines.program import Node, Program
from sim.foundation.errors import InfeasibleError, ScenarioError
from sim.inputs.arrivals import ClosedLoop
from sim.inputs.scenario import Scenario
from sim.kernels.timed import Status, by_status

Engine = Literal["event", "recurrence"]


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
    usage_ns: Mapping[Status, float]
    """Kernel time by status of its look-up."""
    usd_per_hour: float | None
    kv_capacity_bytes: float
    tables: dict[str, str]
    """SHA-256 of the calibration table of each accelerator; empty where it has none."""
    wall_s: float
    busy_steps: int = 1
    """Steps that share a row of `busy_ns`: more than one in a run of very many steps."""
    engine: Engine = "event"
    engine_note: str = ""
    """Why another engine ran than the scenario asks for."""
    preemptions: Columns | None = None
    """One row per time that a request gave way; None where requests reserve their KV."""
    records: list[Record] = field(default_factory=list)
    """Tasks of the recorded window."""

    def is_closed(self) -> bool:
        """Return whether it was a closed loop, which starts full and is watched for a while."""
        return isinstance(self.scenario.workload.arrivals, ClosedLoop)


def simulate(scenario: Scenario, keep: Callable[[Node, int], bool] | None = None) -> Run:
    """Simulate `scenario` and return its tables.

    `keep(node, step)` chooses the tasks that are recorded for a timeline. Raises InfeasibleError
    if the shape cannot run, ScenarioError for the bound engine, which simulates nothing (see
    `sim.steady.state`). What a run raises has the attribute `clock_ns`: how far the run had come.
    """
    if scenario.simulation.engine == "bound":
        raise ScenarioError("simulation.engine: bound simulates nothing; use event or recurrence")
    begun = time.perf_counter()
    site = compile_deployment(scenario)
    decoder = Decoder(site)
    engine, note, records = decode(decoder, keep)
    steps = decoder.steps.columns()
    if not len(steps["step"]):
        raise InfeasibleError("no request was served: the workload is empty")
    busy_ns, busy_steps = decoder.busy_table()
    return Run(
        scenario=scenario,
        program=decoder.drawn.program,
        steps=steps,
        layer_ns=decoder.layer_columns(),
        requests=decoder.request_columns(),
        busy_ns=busy_ns,
        busy_steps=busy_steps,
        usage_ns=by_status(decoder.usage_ns),
        usd_per_hour=site.usd_per_hour(),
        kv_capacity_bytes=site.kv_memory().kv_capacity_bytes(),
        tables=site.table_hashes(),
        wall_s=time.perf_counter() - begun,
        engine=engine,
        engine_note=note,
        preemptions=decoder.preemption_columns(),
        records=records,
    )


def decode(
    decoder: Decoder, keep: Callable[[Node, int], bool] | None = None
) -> tuple[Engine, str, list[Record]]:
    """Run the engine; return which it was, why not the one asked for, and its records."""
    try:
        return _engine_run(decoder, keep)
    except BaseException as error:
        vars(error)["clock_ns"] = decoder.clock_ns
        raise


def _engine_run(
    decoder: Decoder, keep: Callable[[Node, int], bool] | None
) -> tuple[Engine, str, list[Record]]:
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
    from sim.engines import event

    engine = event.EventEngine(program, decoder, keep)
    engine.run()
    return "event", note, engine.records
