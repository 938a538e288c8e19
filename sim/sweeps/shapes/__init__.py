"""Shapes: the deployments that people build of a model on given cards, within a number of GPUs.

One definition for all who choose among shapes. A scenario gives the model, the cards, the formats
and the engine; every shape is settings by dotted path for this scenario. What a shape does not name
(formats of transfers, admission) stays as the scenario has it. Shapes that the memory, the experts
or a link refuse are among them: compiling them says why.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sim.inputs.scenario import Scenario
from sim.sweeps.shapes import afd, ep

Settings = dict[str, Any]
"""Values by dotted path."""

_BUILT = {"afd": afd.shapes, "ep": ep.shapes}
_COPIED = {
    "afd": ("deployment.ffn.redundant_experts", afd.more_copies),
    "ep": ("deployment.redundant_experts", ep.more_copies),
}


def shapes(scenario: Scenario, gpus: int) -> Iterator[Settings]:
    """Yield the shapes of the scenario's kind of deployment on at most `gpus` GPUs.

    Each has as few copies of experts as its ranks need; `with_copies` adds more.
    """
    return _BUILT[scenario.deployment.kind](scenario, gpus)


def with_copies(scenario: Scenario) -> Iterator[Settings]:
    """Yield the copies of experts that a scenario's shape may have, the fewest first."""
    path, more = _COPIED[scenario.deployment.kind]
    return ({path: count} for count in more(scenario))
