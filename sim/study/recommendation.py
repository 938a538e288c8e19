"""Recommendations: what to run on given GPUs within a latency target, by the study's own search.

The shapes that people build (`sim/shapes`) are screened by the bound engine, on every card and pair
of cards; the best of each kind of deployment are simulated with noise and drawn expert loads, and
of the best of those the largest batch is searched. Deployments are repeated as often as the GPUs
hold them, and GPUs that are left over count as idle ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from sim.deployments import compile_deployment
from sim.doubt.interval import Doubt, doubt_of
from sim.doubt.margin import Margin, margin_of
from sim.experiments.largest_batch import max_batch_under_slo
from sim.experiments.replications import Figures, replicated
from sim.foundation.errors import InfeasibleError, SimError
from sim.inputs import cards
from sim.inputs.scenario import Scenario, TpotOf
from sim.inputs.variants import Variants
from sim.metrics.steady_summary import steady_summary
from sim.metrics.summary import usd_per_1m_tokens
from sim.parallel.processes import Failure, Workers
from sim.shapes import shapes, with_copies
from sim.steady.state import steady_states
from sim.study.best_shapes import Candidate, screened
from sim.study.paired_runs import limits
from sim.study.question import SCREEN, SCREEN_AGAIN, Question, Side, assumptions, sides
from sim.study.schema import Settings
from sim.study.verdicts import described_shape

KINDS = ("afd", "ep")

# Shapes of a kind of deployment: screened again, simulated once, and those whose batch is searched.
_SCREENED_AGAIN, _PROBED, _SEARCHED = 16, 8, 3

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Fill:
    """How often a deployment stands on the GPUs of a question."""

    times: int
    used: int
    """GPUs that are not idle."""
    total: int

    @property
    def share(self) -> float:
        return self.used / self.total


@dataclass(frozen=True)
class Found:
    """A shape with the batch that was found for it."""

    side: Side
    settings: Settings
    requests: int
    """In flight in one deployment."""
    figures: Figures
    fill: Fill
    worth: float
    """Output tokens/s over all GPUs of the question, idle ones too, or tokens per USD."""

    @property
    def scenario(self) -> Scenario:
        return self.side.first.with_settings(self.settings).with_batch(self.requests)

    @cached_property
    def doubt(self) -> Doubt:
        """How sure its figures are."""
        return doubt_of(self.scenario.with_settings(SCREEN_AGAIN), self.requests)

    @property
    def shape(self) -> str:
        """The shape in words."""
        name = self.scenario.deployment.shape_name()
        return described_shape({"shape": name, "settings": self.settings})

    @property
    def tokens_per_s(self) -> float:
        """Output tokens/s of all its deployments."""
        return float(self.figures["tgs"] * self.fill.used)

    def usd_per_1m_tokens(self, question: Question) -> float | None:
        """Return the rent of all GPUs of the question per million tokens; None without prices."""
        rents = []
        for each in question.gpus:
            card = cards.accelerator(each.card)
            rent = question.prices.get(each.card, card.usd_per_hour)
            if rent is None:
                return None
            rents.append(each.count * float(rent))
        return usd_per_1m_tokens(sum(rents), self.tokens_per_s)

    def written(self) -> Settings:
        """Return its scenario as a file holds it."""
        return self.side.written(self.settings, self.requests)

    def as_dict(self, question: Question) -> dict[str, Any]:
        """Return its figures as plain data; throughput is over all GPUs of the question."""
        share, doubt = self.fill.share, self.doubt.columns(self.figures)
        gpus = self.scenario.gpu_count()
        return {
            "deployment": self.side.kind,
            "shape": self.shape,
            "software": self.side.first.software.profile,
            "gpus": gpus,
            "times": self.fill.times,
            "idle_gpus": self.fill.total - self.fill.used,
            "requests": self.requests,
            "requests_per_gpu": self.requests / gpus,
            "tpot_ms": self.figures[f"tpot_ms_{question.tpot_of}"],
            "tpot_ms_p10": doubt["tpot_ms_p10"],
            "tpot_ms_p90": doubt["tpot_ms_p90"],
            "tgs": self.figures["tgs"] * share,
            "tgs_p10": (doubt["tgs_p10"] or 0.0) * share,
            "tgs_p90": (doubt["tgs_p90"] or 0.0) * share,
            "tokens_per_s": self.tokens_per_s,
            "usd_per_1m_tokens": self.usd_per_1m_tokens(question),
            "calibrated_share": self.figures["calibrated_share"],
            "settings": self.settings,
        }


@dataclass(frozen=True)
class Recommendation:
    """What to run, what else there is, and how sure that is."""

    question: Question
    answer: Found
    other_side: Found | None
    """The best of the other kind of deployment; None if none meets the target."""
    runner_up: Found | None
    """The second best of the same kind."""
    margin: Margin | None
    """Of the answer over the other side, in tokens/s."""
    limit: str
    """What limits the answer, in words."""
    counts: Mapping[str, int]
    """Shapes that were looked at, by how closely."""

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain data, ready for JSON."""
        others = {"other_side": self.other_side, "runner_up": self.runner_up}
        found = {"answer": self.answer} | others
        told = {
            name: None if each is None else each.as_dict(self.question)
            for name, each in found.items()
        }
        return {
            "question": asdict(self.question),
            **told,
            "margin": None if self.margin is None else self._margin(self.margin),
            "limit": self.limit,
            "counts": dict(self.counts),
            "assumptions": assumptions(self.question),
        }

    @staticmethod
    def _margin(margin: Margin) -> dict[str, Any]:
        low, high = margin.interval(80)
        return {
            "value": margin.value,
            "p10": low,
            "p90": high,
            "probability": margin.probability(0.0),
            "parts": [asdict(part) for part in margin.parts],
        }


def recommend(
    question: Question, workers: Workers | None = None, tell: Tell = lambda text: None
) -> Recommendation:
    """Return what to run. Raises InfeasibleError if no shape meets the target.

    `tell` hears what is done, in words.
    """
    starts = sides(question)
    tell(f"screening the shapes of {len(starts)} engines and kinds of deployment")
    by_kind = _candidates(question, starts, workers)
    counts = {"shapes": sum(each.shapes for each in by_kind.values())}
    counts["screened"] = sum(len(each.candidates) for each in by_kind.values())
    chosen = {kind: each.candidates[:_PROBED] for kind, each in by_kind.items()}
    jobs = [one for kind in KINDS for one in chosen[kind]]
    tell(f"{counts['shapes']:,} shapes screened; simulating {len(jobs)}")
    probes = _run(_probe, jobs, workers)
    ranked: dict[str, list[tuple[_Screened, Figures, float]]] = {kind: [] for kind in KINDS}
    for job, (figures, likely) in zip(jobs, probes, strict=True):
        ranked[job.side.kind].append((job, figures, likely))
    searches = []
    for found in ranked.values():
        found.sort(key=lambda each: -each[2])
        searches += [
            _Search(job, figures, question.tpot_of) for job, figures, _ in found[:_SEARCHED]
        ]
    counts |= {"simulated": len(jobs), "searched": len(searches)}
    tell(f"searching the largest batch of the {len(searches)} best")
    met = [each for each in _run(_searched, searches, workers) if each is not None]
    met.sort(key=lambda each: -each.worth)
    if not met:
        raise InfeasibleError(_nothing(question, by_kind))
    answer = met[0]
    others = [each for each in met if each.side.kind != answer.side.kind]
    alike = [each for each in met[1:] if each.side.kind == answer.side.kind]
    other = others[0] if others else None
    return Recommendation(
        question,
        answer,
        other,
        alike[0] if alike else None,
        None if other is None else _margin(answer, other),
        _limit(answer),
        counts,
    )


@dataclass(frozen=True)
class _Screened:
    """A shape as the bound engine sees it."""

    side: Side
    candidate: Candidate
    fill: Fill
    worth: float
    """On all GPUs of the question."""


@dataclass(frozen=True)
class _OfKind:
    shapes: int
    candidates: list[_Screened]
    least_ms: float
    """The least TPOT of any shape."""


def fill_of(question: Question, scenario: Scenario) -> Fill:
    """Return how often a deployment stands on the GPUs that there are."""
    needed: dict[str, int] = {}
    for card, gpus in scenario.deployment.gpus_by_card():
        needed[card] = needed.get(card, 0) + gpus
    times = min(question.have(card) // gpus for card, gpus in needed.items())
    return Fill(times, times * scenario.gpu_count(), question.total)


def _candidates(
    question: Question, starts: Sequence[Side], workers: Workers | None
) -> dict[str, _OfKind]:
    jobs = [(question, side) for side in starts]
    found = _run(_screen, jobs, workers)
    by_kind = {}
    for kind in KINDS:
        of = [each for side, each in zip(starts, found, strict=True) if side.kind == kind]
        every = [one for each in of for one in each.candidates]
        every.sort(key=lambda one: -one.worth)
        least_ms = min((each.least_ms for each in of), default=float("inf"))
        by_kind[kind] = _OfKind(sum(each.shapes for each in of), every, least_ms)
    return by_kind


def _screen(job: tuple[Question, Side]) -> _OfKind:
    """Return the shapes of a side, screened.

    All at their largest batch under an even load; the best of them with more copies of experts,
    under the skew that EPLB leaves.
    """
    question, side = job
    variants = Variants(side.first.document())
    every = [
        settings
        for settings in shapes(side.first, question.total)
        if fill_of(question, variants.with_settings(settings)).times
    ]
    rough, _fit, least_ms = screened(side.first, every, SCREEN, False)
    best = _filled(question, side, variants, rough)[:_SCREENED_AGAIN]
    copied = [
        replace(one.candidate, settings={**one.candidate.settings, **copies})
        for one in best
        for copies in with_copies(variants.with_settings(one.candidate.settings))
    ]
    return _OfKind(
        len(every), _filled(question, side, variants, _under_skew(side, copied)), least_ms
    )


def _under_skew(side: Side, every: Sequence[Candidate]) -> list[Candidate]:
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
            found.append(replace(each, worth=_likely(figures, side.first.slo.tpot_ms)))
    return found


def _likely(figures: Figures, limit_ms: float) -> float:
    """Return what a shape yields at its target, from figures near it.

    Half of a TPOT is taken not to depend on the batch, as in `sim.steady.largest_load`.
    """
    return float(figures["tgs"] * (2 - max(figures["tpot_ms_mean"] / limit_ms, 1.0)))


def _filled(
    question: Question, side: Side, variants: Variants, found: Sequence[Candidate]
) -> list[_Screened]:
    """Return candidates by what they yield on all GPUs, the best first."""
    every = []
    for each in found:
        fill = fill_of(question, variants.with_settings(each.settings))
        every.append(_Screened(side, each, fill, each.worth * fill.share))
    return sorted(every, key=lambda one: -one.worth)


def _probe(job: _Screened) -> tuple[Figures, float]:
    """Return the figures of one simulation at the bound's batch, and what the shape may yield."""
    scenario = job.side.first.with_settings(job.candidate.settings)
    try:
        figures = replicated(scenario.with_batch(job.candidate.requests))
    except InfeasibleError:
        return {}, 0.0
    return figures, _likely(figures, scenario.slo.tpot_ms) * job.fill.share


@dataclass(frozen=True)
class _Search:
    screened: _Screened
    figures: Figures
    tpot_of: TpotOf


def _searched(job: _Search) -> Found | None:
    """Return a shape at its largest batch; None if it does not meet the target."""
    side, settings = job.screened.side, job.screened.candidate.settings
    scenario = side.first.with_settings(settings)
    known = {job.screened.candidate.requests: job.figures} if job.figures else {}
    try:
        figures = max_batch_under_slo(scenario, job.tpot_of, known)
    except InfeasibleError:
        return None
    if not figures[f"tpot_ms_{job.tpot_of}"] <= scenario.slo.tpot_ms:
        return None
    lanes = compile_deployment(scenario.with_batch(1)).lanes
    requests = round(figures["batch"] * lanes)
    fill = job.screened.fill
    return Found(side, settings, requests, figures, fill, figures["tgs"] * fill.share)


def _margin(answer: Found, other: Found) -> Margin:
    """Return the margin of the answer over the other side, with its doubt."""
    both = [each.scenario.with_settings(SCREEN_AGAIN) for each in (answer, other)]
    in_flight = (float(answer.requests), float(other.requests))
    return margin_of(answer.worth / other.worth - 1, both[0], both[1], in_flight)


def _limit(answer: Found) -> str:
    found = limits(answer.scenario, SCREEN_AGAIN)
    return str(found["kind"])


def _nothing(question: Question, by_kind: Mapping[str, _OfKind]) -> str:
    least_ms = min(each.least_ms for each in by_kind.values())
    gpus = " + ".join(map(str, question.gpus))
    if least_ms == float("inf"):
        return (
            f"{question.model} does not fit on {gpus} in any shape: take more GPUs or other cards"
        )
    return (
        f"no shape of {question.model} on {gpus} meets a TPOT of {question.tpot_ms:g} ms at "
        f"{question.context:,} tokens: the least is {least_ms:.1f} ms; loosen --tpot or take other "
        "cards"
    )


def _run(call: Callable[[Any], Any], items: Sequence[Any], workers: Workers | None) -> list[Any]:
    """Return the results of a call in the order of its items. Raises what a call raises."""
    if workers is None:
        return [call(item) for item in items]
    found: dict[int, Any] = {}
    for (place, _item), result in workers.run(_Attempt(call), list(enumerate(items))):
        if isinstance(result, Failure):
            raise SimError(result.reason)
        if isinstance(result, SimError):
            raise result
        found[place] = result
    return [found[place] for place in range(len(items))]


@dataclass(frozen=True)
class _Attempt:
    """A call that gives back a refusal as what it is, on a worker."""

    call: Callable[[Any], Any]

    def __call__(self, item: tuple[int, Any]) -> Any:
        try:
            return self.call(item[1])
        except SimError as error:
            return error
