"""Recommendations: what to run on given GPUs within a latency target, by the study's own search.

The shapes that people build (`sim/shapes`) are screened by the bound engine, on every card and pair
of cards; the best of each kind of deployment are simulated with noise and drawn expert loads, and
of the best of those the largest batch is searched (`shape_search`). Deployments are repeated as
often as the GPUs hold them, and GPUs that are left over count as idle ones. With a rate, the fewest
GPUs are sought that serve it, and requests that arrive at it are simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from sim.doubt.margin import Margin, margin_of
from sim.foundation.errors import InfeasibleError
from sim.inputs.scenario import TpotOf
from sim.parallel import processes
from sim.parallel.processes import Workers
from sim.study.next_gpus import NextGpus, next_gpus
from sim.study.paired_runs import limits
from sim.study.question import Question, asked
from sim.study.rounds import Tell, called, unheard
from sim.study.shape_search import (
    KINDS,
    Found,
    OfKind,
    Probed,
    Screened,
    Search,
    beside_each_other,
    probe,
    screen,
    searched,
    served,
)
from sim.study.starting_points import SCREEN_AGAIN, StartingPoint, assumptions, sides

# Shapes of a kind of deployment, without drafts and with them, that are simulated once, and of
# those whose batch is searched.
_PROBED, _SEARCHED = 8, 3

_Ranked = TypeVar("_Ranked", Screened, Probed)


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
    next_gpus: NextGpus | None
    """What twice the GPUs would bring; None if there are none so many."""
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
            "question": self.question.as_dict(),
            **told,
            "margin": None if self.margin is None else self._margin(self.margin),
            "limit": self.limit,
            "next_gpus": None if self.next_gpus is None else asdict(self.next_gpus),
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
    *,
    model: str,
    gpus: str,
    tpot_ms: float,
    context: int | None = None,
    output: int | None = None,
    rate: float | None = None,
    trace: str | None = None,
    max_gpus: int | None = None,
    tpot_of: TpotOf = "mean",
    software: str | None = None,
    precision: str | None = None,
    kv: str | None = None,
    acceptance: float | None = None,
    prices: Mapping[str, float] | None = None,
    seed: int = 0,
    workers: int = 1,
) -> Recommendation:
    """Return what to run of a model on GPUs (`64xh200-sxm`, `32xh20+32xh800`) within a TPOT.

    With `rate` (requests/s) or `trace`, the fewest GPUs that serve it. With `acceptance`, the
    probability that a draft is accepted if those before it are, drafts are tried. What is left open
    is as the command line takes it. Raises ScenarioError for a question that cannot be asked,
    InfeasibleError if no shape meets the target.
    """
    question = asked(
        model=model,
        gpus=gpus,
        tpot_ms=tpot_ms,
        context=context,
        output=output,
        rate=rate,
        trace=trace,
        max_gpus=max_gpus,
        tpot_of=tpot_of,
        software=software,
        precision=precision,
        kv=kv,
        acceptance=acceptance,
        prices=prices or {},
        seed=seed,
    )
    with processes.local(workers) if workers > 1 else nullcontext() as pool:
        return recommended(question, pool)


def recommended(
    question: Question, workers: Workers | None = None, tell: Tell = unheard
) -> Recommendation:
    """Return what to run. Raises InfeasibleError if no shape meets the target."""
    starts = sides(question)
    what = f"screening the shapes of {len(starts)} engines and kinds of deployment"
    of = called(screen, [(question, side) for side in starts], workers, what, tell)
    by_kind = {kind: OfKind.of([each for each in of if each.kind == kind]) for kind in KINDS}
    counts = {"shapes": sum(each.shapes for each in by_kind.values())}
    candidates = [one for each in by_kind.values() for one in each.candidates]
    jobs = _foremost(candidates, lambda one: one.side, _PROBED)
    if not jobs:
        raise InfeasibleError(_nothing(question, by_kind, []))
    what = f"{counts['shapes']:,} shapes screened; simulating {len(jobs)}"
    probes = called(probe, jobs, workers, what, tell)
    best = _foremost(probes, lambda one: one.candidate.side, _SEARCHED)
    searches = [Search(each, question) for each in best]
    counts |= {"simulated": len(jobs), "searched": len(searches)}
    what = f"searching the largest batch of the {len(searches)} best"
    bracket = _Bracket(question, _most_worth(jobs))
    every = called(searched, searches, workers, what, tell, bracket.words)
    met = [each for each in every if each is not None]
    if question.rate is not None and met:
        met = served(question, met, workers, tell)
    elif len(question.gpus) > 1:
        met = beside_each_other(met)
    met.sort(key=lambda each: -each.worth)
    if not met:
        raise InfeasibleError(_nothing(question, by_kind, probes))
    answer = met[0]
    other = next((each for each in met if each.side.kind != answer.side.kind), None)
    return Recommendation(
        question,
        answer,
        other,
        _second(met),
        None if other is None else _margin(answer, other),
        str(limits(answer.closed, SCREEN_AGAIN)["kind"]),
        next_gpus(question, answer, by_kind[answer.side.kind], workers, tell),
        counts,
    )


def _foremost(
    every: Iterable[_Ranked], side_of: Callable[[_Ranked], StartingPoint], most: int
) -> list[_Ranked]:
    """Return the best of each kind of deployment: `most` by cards, and as many with drafts.

    Apart, since drafts shall not displace a shape by its bound alone, and cards serve side by side.
    """
    of: dict[tuple[str, bool, frozenset[str]], list[_Ranked]] = {}
    for one in sorted(every, key=lambda one: -one.worth):
        side = side_of(one)
        of.setdefault((side.kind, side.drafts, side.cards), []).append(one)
    order = sorted(of, key=lambda key: (key[0], key[1], sorted(key[2])))
    return [one for key in order for one in of[key][:most]]


def _most_worth(jobs: Iterable[Screened]) -> float:
    """Return what shapes are worth by the bound, those on either card together."""
    best: dict[tuple[str, frozenset[str]], float] = {}
    for one in jobs:
        key = one.side.kind, one.side.cards
        best[key] = max(best.get(key, 0.0), one.worth)
    together: dict[tuple[str, int], float] = {}
    for (kind, names), worth in best.items():
        together[kind, len(names)] = together.get((kind, len(names)), 0.0) + worth
    return max(together.values())


class _Bracket:
    """Between which yields the answer lies: the best found so far, and the best bound."""

    def __init__(self, question: Question, most: float) -> None:
        self.question, self.most, self.best = question, most, 0.0

    def words(self, found: Found | None) -> str:
        if found is None:
            return "a shape that misses the target"
        self.best = max(self.best, found.worth)
        low, high = self.best, max(self.most, self.best)
        rate = self.question.rate
        if rate is None:
            within = f"{low:,.0f} to {high:,.0f} tokens/s/GPU"
        else:
            tokens_per_s = rate * self.question.output
            within = f"{tokens_per_s / high:.0f} to {tokens_per_s / low:.0f} GPUs"
        return f"{found.shape}; the answer lies within {within}"


def _second(met: Sequence[Found]) -> Found | None:
    """Return the second best of the answer's kind, of another shape than the answer."""
    answer = met[0]
    for each in met[1:]:
        if each.side.kind == answer.side.kind and _shapes(each) != _shapes(answer):
            return each
    return None


def _shapes(found: Found) -> list[str]:
    return [each.shape for each in (found, found.beside) if each is not None]


def _margin(answer: Found, other: Found) -> Margin:
    """Return the margin of the answer over the other side, with its doubt."""
    first, second = (each.closed.with_settings(SCREEN_AGAIN) for each in (answer, other))
    in_flight = (float(answer.requests), float(other.requests))
    return margin_of(answer.worth / other.worth - 1, first, second, in_flight)


def _nothing(question: Question, by_kind: Mapping[str, OfKind], probes: Sequence[Probed]) -> str:
    least_ms = min(each.least_ms for each in by_kind.values())
    gpus, target = " + ".join(map(str, question.gpus)), f"{question.tpot_ms:g} ms"
    if least_ms == float("inf"):
        return (
            f"{question.title} does not fit on {gpus} in any shape: take more GPUs or other cards"
        )
    if question.rate is not None and least_ms <= question.tpot_ms:
        return (
            f"no shape of {question.title} serves {question.rate:g} requests/s within "
            f"{target} on {gpus}: raise --max-gpus or loosen --tpot"
        )
    of = f"tpot_ms_{question.tpot_of}"
    simulated = [each.figures[of] for each in probes if each.figures]
    if least_ms <= question.tpot_ms and simulated:
        least_ms = min(simulated)
    which = "" if question.tpot_of == "mean" else f" ({question.tpot_of})"
    return (
        f"no shape of {question.title} on {gpus} meets a TPOT{which} of {target} at "
        f"{question.context:,} tokens: the least is {least_ms:.1f} ms; loosen --tpot or take other "
        "cards"
    )
