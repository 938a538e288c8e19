"""afdsim: a discrete-event simulator of LLM decoding, AFD against wide expert parallelism.

    import sim

    scenario = sim.load("step3-2a2f")
    figures = sim.summary(sim.simulate(scenario))

Names load on first use, so that importing the package stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.decoding.run import Run, simulate
    from sim.foundation.errors import CalibrationError, InfeasibleError, ScenarioError, SimError
    from sim.foundation.pareto import pareto_front
    from sim.inputs.scenario import Scenario, load
    from sim.metrics.summary import summary
    from sim.sweeps.sweep import sweep

__all__ = [
    "CalibrationError",
    "InfeasibleError",
    "Run",
    "Scenario",
    "ScenarioError",
    "SimError",
    "load",
    "pareto_front",
    "simulate",
    "summary",
    "sweep",
]

_HOMES = {
    "CalibrationError": "sim.foundation.errors",
    "InfeasibleError": "sim.foundation.errors",
    "ScenarioError": "sim.foundation.errors",
    "SimError": "sim.foundation.errors",
    "Run": "sim.decoding.run",
    "Scenario": "sim.inputs.scenario",
    "load": "sim.inputs.scenario",
    "pareto_front": "sim.foundation.pareto",
    "simulate": "sim.decoding.run",
    "summary": "sim.metrics.summary",
    "sweep": "sim.sweeps.sweep",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sim' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
