"""Shape search: screening, simulating and loading the shapes of a question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from sim.deployments import compile_deployment
from sim.doubt.interval import Doubt, doubt_of
from sim.experiments.largest_batch import max_batch_under_slo
from sim.experiments.replications import Figures, replicated
from sim.foundation.errors import InfeasibleError, SimError
from sim.inputs import cards
from sim.inputs.naming.settings import described
from sim.inputs.scenario import Scenario
from sim.inputs.variants import Variants
from sim.metrics.steady_summary import steady_summary
from sim.metrics.summary import usd_per_1m_tokens
from sim.parallel.processes import Workers
from sim.steady.state import steady_state, steady_states
from sim.study import best_shapes
from sim.study.best_shapes import Candidate, kept_within, screened
from sim.study.question import Fill, Gpus, Question, needed
from sim.study.rounds import Tell, called
from sim.study.schema import Settings
from sim.study.starting_points import SCREEN, SCREEN_AGAIN, StartingPoint
from sim.sweeps.shapes import shapes, with_copies, with_drafts

KINDS = ("afd", "ep")

# Shapes of a side that are screened again, with copies of experts.
_SCREENED_AGAIN = 16

# Deployments that are added, one by one, where a rate is not served.
_MORE_DEPLOYMENTS = 4


@dataclass(frozen=True)
class Found:
    """A shape with the batch that was found for it."""

    side: StartingPoint
    settings: Settings
    requests: int
    """In flight in one deployment."""
    figures: Figures
    fill: Fill
    worth: float
    """Output tokens/s/GPU over all GPUs of the question, idle ones too."""
    arrivals: Settings | None = None
    """Arrivals at one of its deployments, where a rate was asked for."""
    beside: Found | None = None
    """The shape of its kind on the other of two cards; `worth` holds both."""

    @property
    def closed(self) -> Scenario:
        """Its scenario with a closed loop of its largest batch."""
        return self.side.first.with_settings(self.settings).with_batch(self.requests)

    @cached_property
    def doubt(self) -> Doubt:
        """How sure its figures are."""
        return doubt_of(self.closed.with_settings(SCREEN_AGAIN), self.in_flight)

    @property
    def shape(self) -> str:
        """The shape in words."""
        return described(self.closed.deployment.shape_name(), self.settings)

    @property
    def in_flight(self) -> float:
        """Requests in flight in one of its deployments."""
        return float(self.requests if self.arrivals is None else self.figures["requests_in_flight"])

    @property
    def tokens_per_s(self) -> float:
        """Output tokens/s of all its deployments, those beside it too."""
        of_others = 0.0 if self.beside is None else self.beside.tokens_per_s
        return float(self.figures["tgs"] * self.fill.used) + of_others

    @property
    def idle_gpus(self) -> int:
        return self.fill.total - self.fill.used - (self.beside.fill.used if self.beside else 0)

    def stands_apart_from(self, other: Found) -> bool:
        """Return whether the two are of one kind and share no card."""
        return self.side.kind == other.side.kind and not self.side.cards & other.side.cards

    def usd_per_1m_tokens(self, question: Question) -> float | None:
        """Return the rent of all GPUs of the question per million tokens; None without prices."""
        rents = []
        for name, gpus in self.rented(question):
            rent = question.prices.get(name, cards.accelerator(name).usd_per_hour)
            if rent is None:
                return None
            rents.append(gpus * float(rent))
        return usd_per_1m_tokens(sum(rents), self.tokens_per_s)

    def rented(self, question: Question) -> list[tuple[str, int]]:
        """Return the GPUs by card that are paid: all that there are, or those a rate takes."""
        if question.rate is None:
            return [(each.card, each.count) for each in question.gpus]
        return [(card, gpus * self.fill.times) for card, gpus in needed(self.closed).items()]

    @property
    def where(self) -> str:
        """The GPUs that it stands on, in words; of two cards, which side has which."""
        by_card = self.closed.deployment.gpus_by_card()
        sides = [Gpus(gpus * self.fill.times, card) for card, gpus in by_card]
        if len({each.card for each in sides}) == 1:
            return str(replace(sides[0], count=self.fill.used))
        attention, ffn = sides
        return f"{attention} for attention and {ffn} for FFN"

    @property
    def scenario(self) -> Scenario:
        """Its scenario under the load that was simulated: what `afdsim run` gets."""
        return self.side.with_arrivals(self.settings, self._load)

    def written(self) -> Settings:
        """Return the same as a file holds it."""
        return self.side.written(self.settings, self._load)

    @property
    def _load(self) -> Settings:
        return self.arrivals or {"kind": "closed", "concurrency": self.requests}

    def as_dict(self, question: Question) -> dict[str, Any]:
        """Return its figures as plain data; throughput is over all GPUs of the question."""
        share, doubt = self.fill.share, self.doubt.columns(self.figures)
        gpus, of = self.closed.gpu_count(), f"tpot_ms_{question.tpot_of}"
        to_target = self.figures[of] / self.figures["tpot_ms_mean"]
        beside = None if self.beside is None else self.beside.as_dict(question)
        more = dict.fromkeys(("tgs", "tgs_p10", "tgs_p90"), 0.0) if beside is None else beside
        return {
            "deployment": self.side.kind,
            "shape": self.shape if beside is None else f"{self.shape} and {beside['shape']}",
            "software": self.side.first.software.profile,
            "on": self.where if beside is None else f"{self.where} and {beside['on']}",
            "gpus": gpus,
            "times": self.fill.times,
            "idle_gpus": self.idle_gpus,
            "requests_in_flight": self.in_flight,
            "requests_per_gpu": self.in_flight / gpus,
            "tpot_ms": self.figures[of],
            "tpot_ms_p10": (doubt["tpot_ms_p10"] or 0.0) * to_target,
            "tpot_ms_p90": (doubt["tpot_ms_p90"] or 0.0) * to_target,
            "tgs": self.figures["tgs"] * share + more["tgs"],
            "tgs_p10": (doubt["tgs_p10"] or 0.0) * share + more["tgs_p10"],
            "tgs_p90": (doubt["tgs_p90"] or 0.0) * share + more["tgs_p90"],
            "tokens_per_s": self.tokens_per_s,
            "usd_per_1m_tokens": self.usd_per_1m_tokens(question),
            "calibrated_share": self.figures["calibrated_share"],
            "settings": self.settings,
            "beside": beside,
        }


def beside_each_other(met: Sequence[Found]) -> list[Found]:
    """Return shapes, each with the best one of its kind on a card that it leaves idle.

    The one that yields more stands first, and no two are the same pair.
    """
    found: dict[frozenset[int], Found] = {}
    for each in met:
        apart = [other for other in met if each.stands_apart_from(other)]
        best = max(apart, key=lambda other: other.worth, default=None)
        if best is None:
            found[frozenset((id(each),))] = each
            continue
        first, second = sorted((each, best), key=lambda one: -one.worth)
        pair = replace(first, beside=second, worth=first.worth + second.worth)
        found.setdefault(frozenset((id(each), id(best))), pair)
    return [*found.values()]


@dataclass(frozen=True)
class Screened:
    """A shape as the bound engine sees it."""

    side: StartingPoint
    candidate: Candidate
    worth: float
    """On all GPUs of the question."""


@dataclass(frozen=True)
class OfKind:
    """The shapes of a side, or of all sides of a kind of deployment, the best first."""

    kind: str
    shapes: int
    candidates: list[Screened]
    least_ms: float
    """The least TPOT of any shape."""

    @classmethod
    def of(cls, several: Sequence[OfKind]) -> OfKind:
        """Return the shapes of several sides together."""
        every = [one for each in several for one in each.candidates]
        every.sort(key=lambda one: -one.worth)
        least_ms = min((each.least_ms for each in several), default=float("inf"))
        kind = several[0].kind if several else ""
        return cls(kind, sum(each.shapes for each in several), every, least_ms)


def screen(job: tuple[Question, StartingPoint]) -> OfKind:
    """Return the shapes of a side, screened.

    All at their largest batch under an even load, the best of them with more drafts, too; then with
    more copies of experts, under the skew that EPLB leaves.
    """
    question, side = job
    variants = Variants(side.first.document())
    every = [*shapes(side.first, question.total)]
    rough, _fit, least_ms = screened(side.first, every, SCREEN, False)
    best = _ranked(question, side, variants, rough)[:_SCREENED_AGAIN]
    more = [one.candidate.settings | drafts for one in best for drafts in with_drafts(side.first)]
    if more:
        further, _fit, least_drafting_ms = screened(side.first, more, SCREEN, False)
        best = _once([*best, *_ranked(question, side, variants, further)])
        least_ms = min(least_ms, least_drafting_ms)
    copied = [
        replace(one.candidate, settings={**one.candidate.settings, **copies})
        for one in best
        for copies in with_copies(variants.with_settings(one.candidate.settings))
    ]
    fine = _ranked(question, side, variants, _under_skew(side, copied))
    return OfKind(side.kind, len(every) + len(more), fine, least_ms)


def _once(every: Sequence[Screened]) -> list[Screened]:
    """Return each shape once, with the drafts that are best for it; the best shape first."""
    kept: dict[str, Screened] = {}
    for one in sorted(every, key=lambda one: -one.worth):
        kept.setdefault(str(one.candidate.settings | {"speculation.drafts": None}), one)
    return [*kept.values()]


def _under_skew(side: StartingPoint, every: Sequence[Candidate]) -> list[Candidate]:
    """Return candidates with what they may yield where EPLB's replicas do not even out all."""
    variants = Variants(side.first.document())
    skewed = [variants.with_settings({**each.settings, **SCREEN_AGAIN}) for each in every]
    states = steady_states(
        [scenario.with_batch(each.requests) for scenario, each in zip(skewed, every, strict=True)]
    )
    found = []
    for each, state in zip(every, states, strict=True):
        if not isinstance(state, SimError):
            figures = steady_summary(state)
            tgs = figures["tgs"] * kept_within(side.first.slo.tpot_ms, figures)
            found.append(replace(each, worth=tgs))
    return found


def _ranked(
    question: Question, side: StartingPoint, variants: Variants, found: Sequence[Candidate]
) -> list[Screened]:
    """Return candidates by what they yield on all GPUs, the best first."""
    every = []
    for each in found:
        worth = question.worth(variants.with_settings(each.settings), each.worth)
        every += [Screened(side, each, worth)] if worth else []
    return sorted(every, key=lambda one: -one.worth)


@dataclass(frozen=True)
class Probed:
    """A shape that was simulated once, at the bound's batch."""

    candidate: Screened
    figures: Figures
    """Empty if the batch does not fit."""
    worth: float


def probe(job: Screened) -> Probed:
    """Return what one simulation says of a shape."""
    found = best_shapes.probe(job.side.first, job.candidate, priced=False)
    return Probed(job, found.figures, job.worth * (found.worth / job.candidate.worth))


@dataclass(frozen=True)
class Search:
    """A shape whose largest batch is searched."""

    probed: Probed
    question: Question


def searched(job: Search) -> Found | None:
    """Return a shape at its largest batch; None if it does not meet the target."""
    side, candidate = job.probed.candidate.side, job.probed.candidate.candidate
    scenario, tpot_of = side.first.with_settings(candidate.settings), job.question.tpot_of
    known = {candidate.requests: job.probed.figures} if job.probed.figures else {}
    try:
        figures = max_batch_under_slo(scenario, tpot_of, known)
    except InfeasibleError:
        return None
    fill = job.question.fill(scenario, figures["tgs"])
    if fill is None or not figures[f"tpot_ms_{tpot_of}"] <= scenario.slo.tpot_ms:
        return None
    requests = round(figures["batch"] * compile_deployment(scenario.with_batch(1)).lanes)
    worth = job.question.worth(scenario, figures["tgs"])
    return Found(side, candidate.settings, requests, figures, fill, worth)


def serving(job: tuple[Question, Found]) -> Found | None:
    """Return a shape on as many GPUs as serve the rate; None if too few are there.

    Requests arrive at one of its deployments, each of which serves a like share. These runs leave
    out jitter and drawn loads, which the search has counted: TPOT is taken to be slower by as much
    as the search was slower than the steady state.
    """
    question, found = job
    gpus, side = found.closed.gpu_count(), found.side
    quick = {**found.settings, **SCREEN_AGAIN, "noise": None}
    steady = steady_summary(
        steady_state(side.first.with_settings(quick).with_batch(found.requests))
    )
    slower = found.figures["tpot_ms_mean"] / steady["tpot_ms_mean"]
    most = min(found.fill.times + _MORE_DEPLOYMENTS - 1, question.most(found.closed))
    for times in range(found.fill.times, most + 1):
        arrivals = question.arrivals(times)
        figures = replicated(side.with_arrivals(quick, arrivals))
        tpot_ms = figures[f"tpot_ms_{question.tpot_of}"]
        if figures["stable"] and tpot_ms is not None and tpot_ms * slower <= question.tpot_ms:
            fill = Fill(times, times * gpus, times * gpus)
            # What arrives is emitted, by chance more or less; what it could emit tells them apart.
            worth = question.served_worth(fill, found.figures["tgs"])
            figures = figures | {
                name: figures[name] * slower for name in ("tpot_ms_mean", "tpot_ms_p99")
            }
            return replace(found, fill=fill, worth=worth, figures=figures, arrivals=arrivals)
    return None


def served(
    question: Question, met: Sequence[Found], workers: Workers | None, tell: Tell
) -> list[Found]:
    """Return shapes that serve the rate: the best two of each kind of deployment that do."""
    ranked = sorted(met, key=lambda each: -each.worth)
    first = [one for kind in KINDS for one in [f for f in ranked if f.side.kind == kind][:2]]
    what = f"serving {question.rate:g} requests/s with {len(first)} of them"
    jobs = [(question, one) for one in first]
    return [each for each in called(serving, jobs, workers, what, tell, _serves) if each]


def _serves(found: Found | None) -> str:
    if found is None:
        return "a shape that does not serve it"
    return f"{found.shape} serves it on {found.fill.used} GPUs"
