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
    from sim.errors import CalibrationError, InfeasibleError, ScenarioError, SimError
    from sim.metrics import summary
    from sim.pareto import pareto_front
    from sim.run import Run, simulate
    from sim.scenario import Scenario, load
    from sim.sweeps import sweep

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
    "CalibrationError": "sim.errors",
    "InfeasibleError": "sim.errors",
    "ScenarioError": "sim.errors",
    "SimError": "sim.errors",
    "Run": "sim.run",
    "Scenario": "sim.scenario",
    "load": "sim.scenario",
    "pareto_front": "sim.pareto",
    "simulate": "sim.run",
    "summary": "sim.metrics",
    "sweep": "sim.sweeps",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sim' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
