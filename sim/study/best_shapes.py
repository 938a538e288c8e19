"""Best shapes: those of one side of a study, and how surely the first of them is the best.

All shapes are screened by the bound engine, in milliseconds each; the best of them once more, with
the copies of experts that they may have, with what a steady state sees of skew, and between whole
loads. The best of those are simulated once at the batch that the bound found; of the best of these
the largest batch is searched. What is drawn at random (noise, expert loads) thus decides among
shapes that the bound cannot tell apart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
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
from sim.steady.between_loads import between_loads
from sim.steady.largest_load import fullest, fullest_of_each, most_fitting
from sim.study.cells import SideShapes, meets
from sim.study.schema import Settings, Study
from sim.sweeps.axes import crossed
from sim.sweeps.shapes import shapes as built_shapes
from sim.sweeps.shapes import with_copies, with_drafts


def worth(figures: Figures, priced: bool) -> float:
    """Return what a deployment yields: output tokens per USD, or per second and GPU."""
    return 1e6 / figures["usd_per_1m_tokens"] if priced else float(figures["tgs"])


@dataclass(frozen=True)
class Candidate:
    """A shape that was screened."""

    number: int
    """Place among the shapes of the screen."""
    settings: Settings
    requests: int
    """Requests in flight, as the bound finds them."""
    worth: float
    gain: float = 1.0
    """Its part that is between whole loads (`BetweenLoads.gain`)."""


@dataclass(frozen=True)
class Probe:
    """What one simulation says of a shape."""

    candidate: Candidate
    worth: float
    """What the shape is likely to be worth at its SLO; 0 if the batch of the bound does not fit."""
    figures: Figures
    """Of the simulation; empty if the batch does not fit."""

    def searched(self, first: Scenario, screen: Settings, priced: bool) -> dict[str, Any]:
        """Return the entry of the shape, with what its bound is `worth`."""
        known = {self.candidate.requests: self.figures} if self.figures else {}
        found = entry(first, self.candidate.settings, screen, priced, known)
        return found | {"bound": self.candidate.worth}


def best_shapes(shapes: SideShapes, study: Study, priced: bool) -> dict[str, Any]:
    """Return the best shape of a side under its SLO, as plain data.

    `status` is ok, `slo` (some shapes fit in memory, none meets the SLO; `least_tpot_ms` is the
    least found) or `memory` (none fits); `counts` says how many shapes were looked at how closely,
    `searched` holds those whose batch was searched and met the SLO, the best first, and
    `reconsidered` those that a counterfactual chooses among, with what their bounds are worth.
    `beyond` is by how much a shape that was never simulated would beat the best if it lost no
    more to chance than the shape that lost least (−0.1: it would be 10 % worse); None if all were
    simulated.
    """
    counts = {"shapes": 0, "fit": 0, "screened": 0, "probed": 0, "searched": 0}
    every, shortlist, screen = admitted(shapes), study.shortlist, study.fine_screen
    rough, counts["fit"], least_ms = screened(shapes.first, every, study.screen, priced)
    counts["shapes"], counts["screened"] = len(every), len(rough)
    best = [each.settings for each in rough[: shortlist.reconsider]]
    if shapes.built is not None:
        best = [*_with_more(shapes.first, best)]
    found, *_ = screened(shapes.first, best, screen, priced, between=True)
    probed = found[: shortlist.probe]
    kept, searched = contended(shapes.first, probed, shortlist.search, screen, priced)
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
        "reconsidered": [
            {"settings": each.settings, "bound": each.worth}
            for each in found[: shortlist.reconsider]
        ],
        "beyond": kept * rest[0].worth / met[0]["worth"] - 1 if rest else None,
    }


def contended(
    first: Scenario, candidates: Sequence[Candidate], search: int, screen: Settings, priced: bool
) -> tuple[float, list[dict[str, Any]]]:
    """Simulate candidates once each and search the batches of the `search` best of them.

    Returns the largest share of its bound that a candidate kept, and the entries of those searched,
    the best first; of equal ones the first that was screened.
    """
    probes = [probe(first, each, priced) for each in candidates]
    probes.sort(key=lambda each: (-each.worth, each.candidate.number))
    searched = [each.searched(first, screen, priced) for each in probes[:search]]
    searched.sort(key=lambda each: -each["worth"] * each["slo_met"])
    return max((each.worth / each.candidate.worth for each in probes), default=0.0), searched


def admitted(shapes: SideShapes) -> list[Settings]:
    """Return the settings of every shape that is a scenario and meets the constraints."""
    found = []
    variants = Variants(shapes.first.document())
    with held():
        for settings in _all(shapes, variants):
            try:
                scenario = variants.with_settings(settings)
            except ScenarioError:
                continue
            if meets(scenario, shapes.constraints):
                found.append(settings)
    return found


def _all(shapes: SideShapes, variants: Variants) -> Iterator[Settings]:
    for settings in crossed(shapes.axes):
        if shapes.built is None:
            yield settings
            continue
        for shape in built_shapes(variants.with_settings(settings), shapes.built.gpus):
            yield settings | shape


def _with_more(first: Scenario, every: Iterable[Settings]) -> Iterator[Settings]:
    """Yield shapes with each number of copies of experts and of drafts that they may have."""
    variants = Variants(first.document())
    for settings in every:
        scenario = variants.with_settings(settings)
        for copies, drafts in product(with_copies(scenario), [{}, *with_drafts(scenario)]):
            yield settings | copies | drafts


def screened(
    first: Scenario,
    every: Iterable[Settings],
    screen: Settings,
    priced: bool,
    *,
    between: bool = False,
) -> tuple[list[Candidate], int, float]:
    """Return the shapes that meet the SLO by the bound, the best first.

    What they are worth is at the largest whole load, or `between` whole loads. Also returns how
    many fit in memory at all, and the least TPOT found, ms.
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
    for (number, settings, site), state in zip(sites, states, strict=True):
        figures = steady_summary(state)
        least_ms = min(least_ms, figures["tpot_ms_mean"])
        if figures["tpot_ms_mean"] <= site.scenario.slo.tpot_ms:
            requests, gain = int(state.requests), 1.0
            if between:
                gain = between_loads(site, requests // site.attention_gpus).gain
            told = worth(figures, priced) * gain
            found.append(Candidate(number, settings, requests, told, gain))
    found.sort(key=lambda each: (-each.worth, each.number))
    return found, len(sites), least_ms


def bound_worth(scenario: Scenario, *, priced: bool, free: Collection[str] = ()) -> float:
    """Return what a shape is worth in its steady state, some stages taking no time."""
    site = compile_deployment(scenario.with_batch(1))
    state = fullest(site, scenario.slo.tpot_ms, free)
    gain = between_loads(site, int(state.requests) // site.attention_gpus, free=free).gain
    return worth(steady_summary(state), priced) * gain


def probe(first: Scenario, candidate: Candidate, priced: bool) -> Probe:
    """Simulate a shape once, at the batch that the bound found."""
    scenario = first.with_settings(candidate.settings)
    try:
        figures = replicated(scenario.with_batch(candidate.requests))
    except InfeasibleError:
        return Probe(candidate, 0.0, {})
    likely = worth(figures, priced) * candidate.gain * kept_within(scenario.slo.tpot_ms, figures)
    return Probe(candidate, likely, figures)


def kept_within(limit_ms: float, figures: Figures) -> float:
    """Return the share of its yield that a shape keeps when its batch shrinks to meet a TPOT.

    The guess assumes that half of TPOT does not depend on the batch, as
    `sim.steady.largest_load.largest` does.
    """
    return float(2 - max(figures["tpot_ms_mean"] / limit_ms, 1.0))


def entry(
    first: Scenario,
    settings: Settings,
    screen: Settings,
    priced: bool,
    known: Mapping[int, Figures] | None = None,
) -> dict[str, Any]:
    """Return a shape at the largest batch that meets the SLO in simulation, as plain data.

    `known` are figures of its runs so far, by requests in flight. `figures` are those of a whole
    load; `load` and `gain` (`BetweenLoads`) lead to what it is `worth`, by its steady states under
    `screen`.
    """
    scenario = first.with_settings(settings)
    told = {
        "settings": settings,
        "shape": scenario.deployment.shape_name(),
        "accelerators": scenario.deployment.accelerators(),
    }
    try:
        figures = max_batch_under_slo(scenario, known=known)
    except InfeasibleError as error:
        return told | {"slo_met": False, "worth": 0.0, "figures": {}, "reason": str(error)}
    site = compile_deployment(first.with_settings(settings | screen).with_batch(1))
    most = max(most_fitting(site), 1)
    stated = most == scenario.memory.max_running_requests
    each = round(figures["batch"] * site.micro_batches)
    spread = between_loads(site, each, figures["tpot_ms_mean"])
    return told | {
        "slo_met": figures["slo_met"],
        "worth": worth(figures, priced) * spread.gain,
        "limit": ("requests" if stated else "KV") if each >= most else "SLO",
        "load": spread.load,
        "gain": spread.gain,
        "figures": figures,
    }
