"""Next GPUs: what twice as many would bring, by the bound engine."""

from __future__ import annotations

from dataclasses import dataclass

from sim.inputs.deployment import MOST_GPUS
from sim.inputs.naming.settings import described
from sim.parallel.processes import Workers
from sim.study.question import Question
from sim.study.rounds import Tell, called
from sim.study.shape_search import Found, OfKind, Screened, screen


@dataclass(frozen=True)
class NextGpus:
    """The best shape of the answer's kind and engine on twice the GPUs, at twice any rate."""

    gpus: int
    """GPUs that there would be; with a rate, those that twice the rate would take."""
    now: int
    """GPUs now; with a rate, those that the bound takes, fewer than a simulation at times."""
    shape: str
    gain: float
    """In tokens/s/GPU over all GPUs, as a share of what the bound gives now."""


def next_gpus(
    question: Question, answer: Found, now: OfKind, workers: Workers | None, tell: Tell
) -> NextGpus | None:
    """Return what twice the GPUs would bring an answer; `now` are the shapes that were screened.

    Of one kind and engine alone: the bound sees neither jitter nor drawn loads, which cost kinds of
    deployment differently. None if there may not be so many.
    """
    more = question.doubled(answer.rented(question))
    if more.total > MOST_GPUS:
        return None
    side = answer.side
    what = f"looking at {more.total} GPUs"
    (then,) = called(screen, [(more, side)], workers, what, tell)
    before = [one for one in now.candidates if one.side.data == side.data]
    if not (then.candidates and before):
        return None
    best = then.candidates[0]
    shape = side.first.with_settings(best.candidate.settings).deployment.shape_name()
    return NextGpus(
        _taken(more, best),
        _taken(question, before[0]),
        described(shape, best.candidate.settings),
        best.worth / before[0].worth - 1,
    )


def _taken(question: Question, one: Screened) -> int:
    """Return all GPUs, or those that a rate takes."""
    if question.rate is None:
        return question.total
    fill = question.fill(one.side.first.with_settings(one.candidate.settings), one.candidate.worth)
    assert fill is not None
    return fill.used
