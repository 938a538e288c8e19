"""Best shapes: those of one side of a study, and how surely the first of them is the best.

All shapes are screened by the bound engine, in milliseconds each. The best of them are simulated
once at the batch that the bound found; of the best of those the largest batch is searched. What is
drawn at random (noise, expert loads) thus decides among shapes that the bound cannot tell apart.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sim.deployments import compile_deployment
from sim.deployments.deployment import Deployment
from sim.experiments.largest_batch import max_batch_under_slo
from sim.experiments.replications import Figures, replicated
from sim.foundation.errors import InfeasibleError, ScenarioError
from sim.foundation.reading import held
from sim.inputs.scenario import Scenario
from sim.inputs.variants import Variants
from sim.metrics.steady_summary import steady_summary
from sim.steady.largest_load import fullest, fullest_of_each, most_fitting
from sim.steady.state import SteadyState
from sim.study.cells import SideShapes, meets
from sim.study.schema import Settings, Shortlist
from sim.sweeps.axes import crossed


def worth(figures: Figures, priced: bool) -> float:
    """Return what a deployment yields: output tokens per USD, or per second and GPU."""
    return 1e6 / figures["usd_per_1m_tokens"] if priced else float(figures["tgs"])


@dataclass(frozen=True)
class Candidate:
    """A shape that was screened."""

    number: int
    """Place among the shapes that the constraints leave."""
    settings: Settings
    requests: int
    """Requests in flight, as the bound finds them."""
    worth: float


@dataclass(frozen=True)
class Probe:
    """What one simulation says of a shape."""

    candidate: Candidate
    worth: float
    """What the shape is likely to be worth at its SLO; 0 if the batch of the bound does not fit."""
    figures: Figures
    """Of the simulation; empty if the batch does not fit."""

    def searched(
        self, first: Scenario, priced: bool, watch: Callable[[Figures], None] | None = None
    ) -> dict[str, Any]:
        """Return the entry of the shape; `watch` is that of `max_batch_under_slo`."""
        known = {self.candidate.requests: self.figures} if self.figures else {}
        return entry(first, self.candidate.settings, priced, known, watch)


def best_shapes(
    shapes: SideShapes, screen: Settings, shortlist: Shortlist, priced: bool
) -> dict[str, Any]:
    """Return the best shape of a side under its SLO, as plain data.

    `status` is ok, `slo` (some shapes fit in memory, none meets the SLO; `least_tpot_ms` is the
    least found) or `memory` (none fits); `counts` says how many shapes were looked at how closely,
    `searched` holds those whose batch was searched and met the SLO, the best first, and
    `reconsidered` the settings of those that a counterfactual chooses among.
    `beyond` is by how much a shape that was never simulated would beat the best if it lost no
    more to chance than the shape that lost least (−0.1: it would be 10 % worse); None if all were
    simulated.
    """
    counts = {"shapes": 0, "fit": 0, "screened": 0, "probed": 0, "searched": 0}
    every = admitted(shapes)
    found, counts["fit"], least_ms = screened(shapes.first, every, screen, priced)
    counts["shapes"], counts["screened"] = len(every), len(found)
    probed = found[: shortlist.probe]
    kept, searched = contended(shapes.first, probed, shortlist.search, priced)
    counts["probed"], counts["searched"] = len(probed), len(searched)
    met = [each for each in searched if each["slo_met"]]
    if not met:
        slowest = [each["figures"]["tpot_ms_mean"] for each in searched if each["figures"]]
        fastest = min(slowest, default=least_ms)
        status, least = ("slo", fastest) if counts["fit"] else ("memory", None)
        return {"status": status, "counts": counts, "least_tpot_ms": least, "searched": []}
    rest = found[shortlist.probe :]
    return {
        "status": "ok",
        "counts": counts,
        "searched": met,
        "reconsidered": [each.settings for each in found[: shortlist.reconsider]],
        "beyond": kept * rest[0].worth / met[0]["worth"] - 1 if rest else None,
    }


def contended(
    first: Scenario, candidates: Sequence[Candidate], search: int, priced: bool
) -> tuple[float, list[dict[str, Any]]]:
    """Simulate candidates once each and search the batches of the `search` best of them.

    Returns the largest share of its bound that a candidate kept, and the entries of those searched,
    the best first; of equal ones the first that was screened.
    """
    probes = probed(first, candidates, priced)
    searched = [each.searched(first, priced) for each in probes[:search]]
    searched.sort(key=lambda each: -each["worth"] * each["slo_met"])
    return max((each.worth / each.candidate.worth for each in probes), default=0.0), searched


def most_worth(
    first: Scenario, candidates: Sequence[Candidate], search: int, priced: bool
) -> float:
    """Return what the best entry of `contended` is worth; 0 if none meets the SLO.

    `candidates` are the best first by their bounds. Once `search` probes yield more than the next
    bound, no further shape is simulated: a bound leaves out what only makes a shape slower. Nor is
    a shape searched on that cannot be the best: output rises with the batch, so a shape that is too
    slow, and yields no more than the best even so, yields less within the SLO.
    """
    probes: list[Probe] = []
    for candidate in candidates:
        if len(probes) == search and candidate.worth < probes[-1].worth:
            break
        probes = _ranked([*probes, probe(first, candidate, priced)])[:search]
    most = 0.0

    def beaten(figures: Figures) -> bool:
        return figures["tpot_ms_mean"] > first.slo.tpot_ms and worth(figures, priced) <= most

    def watch(figures: Figures) -> None:
        if beaten(figures):
            raise InfeasibleError("another shape yields more")

    for each in probes:
        if each.figures and beaten(each.figures):
            continue
        found = each.searched(first, priced, watch)
        most = max(most, float(found["worth"]) * found["slo_met"])
    return most


def admitted(shapes: SideShapes) -> list[Settings]:
    """Return the settings of every shape that is a scenario and meets the constraints."""
    found = []
    variants = Variants(shapes.first.document())
    with held():
        for settings in crossed(shapes.axes):
            try:
                scenario = variants.with_settings(settings)
            except ScenarioError:
                continue
            if meets(scenario, shapes.constraints):
                found.append(settings)
    return found


def screened(
    first: Scenario, every: Iterable[Settings], screen: Settings, priced: bool
) -> tuple[list[Candidate], int, float]:
    """Return the shapes that meet the SLO by the bound, the best first.

    Also how many fit in memory at all, and the least TPOT found, ms.
    """
    found, least_ms = [], float("inf")
    variants = Variants(first.document())
    sites: list[tuple[int, Settings, Deployment]] = []
    with held():
        for number, settings in enumerate(every):
            with suppress(InfeasibleError):
                scenario = variants.with_settings(settings | screen)
                sites.append((number, settings, compile_deployment(scenario.with_batch(1))))
    every_site = [site for _number, _settings, site in sites]
    states = fullest_of_each(every_site, [site.scenario.slo.tpot_ms for site in every_site])
    for (number, settings, _site), state in zip(sites, states, strict=True):
        figures = steady_summary(state)
        least_ms = min(least_ms, figures["tpot_ms_mean"])
        if figures["tpot_ms_mean"] <= first.slo.tpot_ms:
            found.append(Candidate(number, settings, int(state.requests), worth(figures, priced)))
    found.sort(key=lambda each: (-each.worth, each.number))
    return found, len(sites), least_ms


def bound(scenario: Scenario, free: Collection[str] = ()) -> SteadyState:
    """Return the steady state of the largest batch under the SLO, some stages taking no time."""
    return fullest(compile_deployment(scenario.with_batch(1)), scenario.slo.tpot_ms, free)


def probed(first: Scenario, candidates: Iterable[Candidate], priced: bool) -> list[Probe]:
    """Return the candidates, simulated once each, the most promising first."""
    return _ranked(probe(first, each, priced) for each in candidates)


def _ranked(probes: Iterable[Probe]) -> list[Probe]:
    return sorted(probes, key=lambda each: (-each.worth, each.candidate.number))


def probe(first: Scenario, candidate: Candidate, priced: bool) -> Probe:
    """Simulate a shape once, at the batch that the bound found.

    Where the simulation is slower than the bound, the batch has to shrink: half of a TPOT is taken
    to be there without the batch, as in `sim.steady.largest_load.largest`.
    """
    scenario = first.with_settings(candidate.settings)
    try:
        figures = replicated(scenario.with_batch(candidate.requests))
    except InfeasibleError:
        return Probe(candidate, 0.0, {})
    over = figures["tpot_ms_mean"] / scenario.slo.tpot_ms
    return Probe(candidate, worth(figures, priced) * float(2 - max(over, 1.0)), figures)


def entry(
    first: Scenario,
    settings: Settings,
    priced: bool,
    known: Mapping[int, Figures] | None = None,
    watch: Callable[[Figures], None] | None = None,
) -> dict[str, Any]:
    """Return a shape at the largest batch that meets the SLO in simulation, as plain data.

    `known` are figures of its runs so far, by requests in flight; `watch` is that of
    `max_batch_under_slo`.
    """
    scenario = first.with_settings(settings)
    told = {
        "settings": settings,
        "shape": scenario.deployment.shape_name(),
        "accelerators": scenario.deployment.accelerators(),
    }
    try:
        figures = max_batch_under_slo(scenario, known=known, watch=watch)
    except InfeasibleError as error:
        return told | {"slo_met": False, "worth": 0.0, "figures": {}, "reason": str(error)}
    site = compile_deployment(scenario.with_batch(1))
    most = max(most_fitting(site), 1)
    stated = most == scenario.memory.max_running_requests
    full = figures["batch"] * site.lanes >= most * site.attention_gpus
    return told | {
        "slo_met": figures["slo_met"],
        "worth": worth(figures, priced),
        "limit": ("requests" if stated else "KV") if full else "SLO",
        "figures": figures,
    }
