"""afdsim: a discrete-event simulator of LLM decoding, AFD against wide expert parallelism.

    import sim

    scenario = sim.load("step3-2a2f")
    figures = sim.summary(sim.simulate(scenario))

    result = sim.run_sweep("afd-ratio", workers=1)
    sim.draw(result)

What the command line does, these functions do: recommend, run (`run`, saved), run_sweep, run_study,
plot, compare, capacity, coverage, explain_scenario, launch_file, fit_table, check_tables,
judge_points, fit_software; load_results reads what they saved. Of a scenario, doubt_of gives its
prediction interval, how_sure what makes it up, reoptimised the same at the largest batch of each
draw, margin_of the doubt in the lead of one over another.
Names load on first use, so that importing the package stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.calibration.check import check_tables
    from sim.calibration.fit_table import fit_table
    from sim.decoding.run import Run, simulate
    from sim.doubt.interval import doubt_of
    from sim.doubt.margin import margin_of
    from sim.doubt.reoptimised import reoptimised
    from sim.experiments.accuracy.points import read_points
    from sim.experiments.accuracy.software_fit import fit_software
    from sim.experiments.accuracy.verdict import judge_points
    from sim.experiments.capacity import capacity
    from sim.experiments.comparison import compare
    from sim.experiments.largest_batch import max_batch_under_slo
    from sim.experiments.run_folder import run, save_run
    from sim.explain.coverage import coverage
    from sim.explain.explanation import explain_scenario
    from sim.explain.how_sure import how_sure
    from sim.explain.imported import import_model
    from sim.foundation.errors import (
        CalibrationError,
        InexpressibleError,
        InfeasibleError,
        ScenarioError,
        SimError,
        StoreError,
    )
    from sim.foundation.pareto import pareto_front
    from sim.inputs.scenario import Scenario, load
    from sim.metrics.summary import summary
    from sim.pictures.draw import draw, plot
    from sim.results.loading import load_results
    from sim.study.folder import run_study
    from sim.study.launch.launch_file import launch_file
    from sim.study.recommendation import recommend
    from sim.sweeps.folder import run_sweep
    from sim.sweeps.sweep import sweep

__all__ = [
    "CalibrationError",
    "InexpressibleError",
    "InfeasibleError",
    "Run",
    "Scenario",
    "ScenarioError",
    "SimError",
    "StoreError",
    "capacity",
    "check_tables",
    "compare",
    "coverage",
    "doubt_of",
    "draw",
    "explain_scenario",
    "fit_software",
    "fit_table",
    "how_sure",
    "import_model",
    "judge_points",
    "launch_file",
    "load",
    "load_results",
    "margin_of",
    "max_batch_under_slo",
    "pareto_front",
    "plot",
    "read_points",
    "recommend",
    "reoptimised",
    "run",
    "run_study",
    "run_sweep",
    "save_run",
    "simulate",
    "summary",
    "sweep",
]

_HOMES = {
    "check_tables": "sim.calibration.check",
    "fit_table": "sim.calibration.fit_table",
    "Run": "sim.decoding.run",
    "simulate": "sim.decoding.run",
    "doubt_of": "sim.doubt.interval",
    "margin_of": "sim.doubt.margin",
    "reoptimised": "sim.doubt.reoptimised",
    "read_points": "sim.experiments.accuracy.points",
    "fit_software": "sim.experiments.accuracy.software_fit",
    "judge_points": "sim.experiments.accuracy.verdict",
    "launch_file": "sim.study.launch.launch_file",
    "recommend": "sim.study.recommendation",
    "capacity": "sim.experiments.capacity",
    "compare": "sim.experiments.comparison",
    "max_batch_under_slo": "sim.experiments.largest_batch",
    "run": "sim.experiments.run_folder",
    "save_run": "sim.experiments.run_folder",
    "coverage": "sim.explain.coverage",
    "explain_scenario": "sim.explain.explanation",
    "how_sure": "sim.explain.how_sure",
    "import_model": "sim.explain.imported",
    "CalibrationError": "sim.foundation.errors",
    "InexpressibleError": "sim.foundation.errors",
    "InfeasibleError": "sim.foundation.errors",
    "ScenarioError": "sim.foundation.errors",
    "SimError": "sim.foundation.errors",
    "StoreError": "sim.foundation.errors",
    "pareto_front": "sim.foundation.pareto",
    "Scenario": "sim.inputs.scenario",
    "load": "sim.inputs.scenario",
    "summary": "sim.metrics.summary",
    "draw": "sim.pictures.draw",
    "plot": "sim.pictures.draw",
    "load_results": "sim.results.loading",
    "run_study": "sim.study.folder",
    "run_sweep": "sim.sweeps.folder",
    "sweep": "sim.sweeps.sweep",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sim' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
