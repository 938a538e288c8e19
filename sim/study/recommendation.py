"""Recommendations: what to run on given GPUs within a latency target, by the study's own search.

The shapes that people build (`sim/shapes`) are screened by the bound engine, on every card and pair
of cards; the best of each kind of deployment are simulated with noise and drawn expert loads, and
of the best of those the largest batch is searched (`shape_search`). Deployments are repeated as
often as the GPUs hold them, and GPUs that are left over count as idle ones. With a rate, the fewest
GPUs are sought that serve it, and requests that arrive at it are simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sim.doubt.margin import Margin, margin_of
from sim.foundation.errors import InfeasibleError
from sim.parallel.processes import Workers
from sim.study.paired_runs import limits
from sim.study.question import SCREEN_AGAIN, Question, assumptions, sides
from sim.study.shape_search import (
    KINDS,
    Found,
    OfKind,
    Search,
    called,
    probe,
    screen,
    searched,
    served,
)

# Shapes of a kind of deployment that are simulated once, and of those whose batch is searched.
_PROBED, _SEARCHED = 8, 3

Tell = Callable[[str], None]


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
            "question": self.question.as_dict(),
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
    of = called(screen, [(question, side) for side in starts], workers)
    by_kind = {kind: OfKind.of([each for each in of if each.kind == kind]) for kind in KINDS}
    counts = {"shapes": sum(each.shapes for each in by_kind.values())}
    jobs = [one for each in by_kind.values() for one in each.candidates[:_PROBED]]
    tell(f"{counts['shapes']:,} shapes screened; simulating {len(jobs)}")
    probes = called(probe, jobs, workers)
    searches: list[Search] = []
    for kind in KINDS:
        ranked = sorted(
            (each for each in probes if each.candidate.side.kind == kind),
            key=lambda each: -each.worth,
        )
        searches += [Search(each, question) for each in ranked[:_SEARCHED]]
    counts |= {"simulated": len(jobs), "searched": len(searches)}
    tell(f"searching the largest batch of the {len(searches)} best")
    met = [each for each in called(searched, searches, workers) if each is not None]
    if question.rate is not None:
        tell(f"serving {question.rate:g} requests/s with {len(met)} of them")
        met = served(question, met, workers)
    met.sort(key=lambda each: -each.worth)
    if not met:
        raise InfeasibleError(_nothing(question, by_kind))
    answer = met[0]
    other = next((each for each in met if each.side.kind != answer.side.kind), None)
    return Recommendation(
        question,
        answer,
        other,
        _second(met),
        None if other is None else _margin(answer, other),
        str(limits(answer.closed, SCREEN_AGAIN)["kind"]),
        counts,
    )


def _second(met: Sequence[Found]) -> Found | None:
    """Return the second best of the answer's kind, of another shape than the answer."""
    answer = met[0]
    for each in met[1:]:
        if each.side.kind == answer.side.kind and each.shape != answer.shape:
            return each
    return None


def _margin(answer: Found, other: Found) -> Margin:
    """Return the margin of the answer over the other side, with its doubt."""
    first, second = (each.closed.with_settings(SCREEN_AGAIN) for each in (answer, other))
    in_flight = (float(answer.requests), float(other.requests))
    return margin_of(answer.worth / other.worth - 1, first, second, in_flight)


def _nothing(question: Question, by_kind: Mapping[str, OfKind]) -> str:
    least_ms = min(each.least_ms for each in by_kind.values())
    gpus = " + ".join(map(str, question.gpus))
    if least_ms == float("inf"):
        return (
            f"{question.model} does not fit on {gpus} in any shape: take more GPUs or other cards"
        )
    if question.rate is not None and least_ms <= question.tpot_ms:
        return (
            f"no shape of {question.model} serves {question.rate:g} requests/s within "
            f"{question.tpot_ms:g} ms on {gpus}: raise --max-gpus or loosen --tpot"
        )
    return (
        f"no shape of {question.model} on {gpus} meets a TPOT of {question.tpot_ms:g} ms at "
        f"{question.context:,} tokens: the least is {least_ms:.1f} ms; loosen --tpot or take other "
        "cards"
    )
