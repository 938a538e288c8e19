"""The directory of a run: its tables, and run.json with its figures, scenario and provenance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.decoding.run import Run, simulate
from sim.decoding.step_times import left_out
from sim.doubt.interval import doubt_of
from sim.engines.program import Node
from sim.experiments.replications import combined, replication, run_all
from sim.inputs.naming import folder_name
from sim.inputs.scenario import Scenario
from sim.metrics.cautions import SCOPE, cautions
from sim.metrics.steady_summary import steady_summary
from sim.metrics.summary import cut_steps, server_utilisation, summary
from sim.parallel.processes import Workers
from sim.results.files import RUNS, fresh_directory, write_json
from sim.results.provenance import calibration, provenance, resolved, sha256
from sim.results.tables import write_table
from sim.steady.state import SteadyState, steady_state


@dataclass(frozen=True)
class SavedRun:
    """A run of a scenario and its directory."""

    folder: Path
    figures: dict[str, Any]
    """Over all replications; names, units and definitions are in `sim.metrics.catalogue`."""
    run: Run | None
    """The first replication; None of the bound engine, which runs nothing."""


def run(
    scenario: Scenario,
    out: Path | None = None,
    workers: Workers | None = None,
    keep: Callable[[Node, int], bool] | None = None,
) -> SavedRun:
    """Simulate a scenario with its replications and save it; return figures and directory.

    The tables are those of the first replication, with the tasks that `keep` chooses (see
    `simulate`). Raises InfeasibleError if the shape cannot run, StoreError if the directory cannot
    be written. A run that fails on its way leaves run.json with scenario, error and simulated time.
    """
    try:
        if scenario.simulation.engine == "bound":
            state = steady_state(scenario)
            figures = _with_doubt(scenario, steady_summary(state))
            return SavedRun(save_steady(state, figures, out), figures, None)
        first = simulate(scenario, keep)
        others = [replication(scenario, n) for n in range(1, scenario.simulation.replications)]
        runs = [summary(first), *run_all(others, workers)]
        figures = _with_doubt(scenario, combined(scenario, runs))
    except Exception as error:
        if "clock_ns" in vars(error):  # of a run that had begun
            save_failure(scenario, error, out)
        raise
    return SavedRun(save_run(first, figures, out, runs), figures, first)


def _with_doubt(scenario: Scenario, figures: dict[str, Any]) -> dict[str, Any]:
    """Return figures with the interval of what is not known about them."""
    return figures | doubt_of(scenario, figures["requests_in_flight"]).columns(figures)


def save_failure(scenario: Scenario, error: Exception, out: Path | None = None) -> Path:
    """Write run.json of a run that failed, with its error and the time it had simulated."""
    plain = resolved(scenario)
    described = {
        **provenance(),
        "scenario_sha256": sha256(plain),
        "seed": scenario.simulation.seed,
        "error": f"{type(error).__name__}: {error}",
        "clock_ns": vars(error).get("clock_ns"),
        "scenario": plain,
    }
    return fresh_directory(
        out or run_directory(scenario), lambda folder: write_json(folder / "run.json", described)
    )


def save_run(
    run: Run, figures: dict[str, Any], out: Path | None = None, runs: Sequence[dict[str, Any]] = ()
) -> Path:
    """Write a run's tables and run.json with its figures and return the directory.

    `runs` are the figures of the replications of which `run` is the first: they are put beside
    their summary. The default directory is results/runs/NAME-HASH, the hash being the resolved
    scenario's.
    """

    def fill(folder: Path) -> None:
        write_table(folder / "requests", run.requests)
        write_table(folder / "steps", {**run.steps, **run.layer_ns})
        write_table(folder / "servers", server_columns(run))
        if run.preemptions is not None:
            write_table(folder / "preemptions", run.preemptions)
        if run.records:
            write_table(folder / "timeline", timeline_columns(run))
        made = {
            "engine": run.engine,
            "engine_note": run.engine_note,
            "wall_s": round(run.wall_s, 3),
        }
        described = described_run(run.scenario, run.tables, made, figures)
        if len(runs) > 1:
            described["replications"] = list(runs)
        write_json(folder / "run.json", described)

    return fresh_directory(out or run_directory(run.scenario), fill)


def save_steady(state: SteadyState, figures: dict[str, Any], out: Path | None = None) -> Path:
    """Write run.json of a steady state, which has no tables, and return the directory."""
    scenario, hashes = state.deployment.scenario, state.deployment.table_hashes()

    def fill(folder: Path) -> None:
        made = {"engine": "bound", "engine_note": left_out(scenario)}
        write_json(folder / "run.json", described_run(scenario, hashes, made, figures))

    return fresh_directory(out or run_directory(scenario), fill)


def run_directory(scenario: Scenario) -> Path:
    """Return the default directory of a run, NAME-HASH, the hash being the resolved scenario's."""
    return RUNS / f"{folder_name(scenario.name)}-{sha256(resolved(scenario))[:8]}"


def described_run(
    scenario: Scenario, tables: Mapping[str, str], made: dict[str, Any], figures: dict[str, Any]
) -> dict[str, Any]:
    """Return the content of run.json; `made` tells how the figures were made."""
    plain = resolved(scenario)
    return {
        **provenance(),
        "scenario_sha256": sha256(plain),
        "seed": scenario.simulation.seed,
        "calibration": calibration(tables),
        **made,
        "scope": SCOPE,
        "warnings": cautions(scenario, figures),
        "summary": figures,
        "scenario": plain,
    }


def server_columns(run: Run) -> dict[str, list[Any]]:
    """Return one row per server: its pool, how busy it was after the warm-up and its bubbles."""
    shares = server_utilisation(run, cut_steps(run))
    pools = [(p.name, p.kind, server) for p in run.program.pools for server in range(p.servers)]
    return {
        "pool": [name for name, _, _ in pools],
        "kind": [kind for _, kind, _ in pools],
        "server": [server for _, _, server in pools],
        "utilisation": [float(share) for share in shares],
        "bubble": [float(1 - share) for share in shares],
    }


def timeline_columns(run: Run) -> dict[str, list[Any]]:
    """Return one row per recorded task, by start time."""
    program = run.program
    rows = []
    for record in sorted(run.records, key=lambda r: (r.start_ns, r.node, r.server)):
        node = program.nodes[record.node]
        stage = program.stages[node.stage]
        place = (program.pools[stage.pool].name, record.server, stage.name)
        when = (record.step, node.layer, node.micro_batch, record.start_ns, record.end_ns)
        rows.append(place + when)
    names = ("pool", "server", "stage", "step", "layer", "micro_batch", "start_ns", "end_ns")
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}
