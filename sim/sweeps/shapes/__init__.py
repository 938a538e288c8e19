"""Shapes: the deployments that people build of a model on given cards, within a number of GPUs.

One definition for all who choose among shapes. A scenario gives the model, the cards, the formats
and the engine; every shape is settings by dotted path for this scenario. What a shape does not name
(formats of transfers, admission) stays as the scenario has it. Shapes that the memory, the experts
or a link refuse are among them: compiling them says why. A scenario that drafts leaves open how
many tokens, not whether.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sim.inputs.scenario import Scenario
from sim.inputs.speculation import ConstantAcceptance
from sim.sweeps.shapes import afd, ep

Settings = dict[str, Any]
"""Values by dotted path."""

_BUILT = {"afd": afd.shapes, "ep": ep.shapes}
_COPIED = {
    "afd": ("deployment.ffn.redundant_experts", afd.more_copies),
    "ep": ("deployment.redundant_experts", ep.more_copies),
}


# Tokens that engines are published to draft with a module: 1 (DeepSeek-V3's technical report,
# section 5.4.3), 2 and 3 (SGLang, lmsys.org/blog/2025-07-17-mtp).
_DRAFTS = (1, 2, 3)


def shapes(scenario: Scenario, gpus: int) -> Iterator[Settings]:
    """Yield the shapes of the scenario's kind of deployment on at most `gpus` GPUs.

    Each has as few copies of experts as its ranks need, and drafts as few tokens as may be:
    `with_copies` and `with_drafts` add more.
    """
    fewest = _drafting(_DRAFTS[0]) if _drafts_are_free(scenario) else {}
    for shape in _BUILT[scenario.deployment.kind](scenario, gpus):
        yield shape | fewest


def with_copies(scenario: Scenario) -> Iterator[Settings]:
    """Yield the copies of experts that a scenario's shape may have, the fewest first."""
    path, more = _COPIED[scenario.deployment.kind]
    return ({path: count} for count in more(scenario))


def with_drafts(scenario: Scenario) -> Iterator[Settings]:
    """Yield the drafts that a scenario's shape may have beyond the fewest."""
    if _drafts_are_free(scenario):
        yield from (_drafting(count) for count in _DRAFTS[1:])


def _drafting(count: int) -> Settings:
    return {"speculation.drafts": count}


def _drafts_are_free(scenario: Scenario) -> bool:
    """Return whether a layer drafts and one probability holds for every draft."""
    drafted = scenario.speculation
    return (
        drafted is not None
        and drafted.draft_layer is not None
        and isinstance(drafted.acceptance, ConstantAcceptance)
    )
