"""Words of a recommendation: the answer in a sentence, the margin, what is assumed."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any

from sim.study.question import Question
from sim.study.recommendation import Recommendation
from sim.study.starting_points import assumptions
from sim.study.verdicts import percent

KIND = {"afd": "AFD", "ep": "EP"}

# A kind of critical circuit (`sim.explain.bottleneck`), where no server is full.
_LIMITS = {
    "loop-bound": "the way of a micro-batch through all layers",
    "tail-bound": "LM head and host",
}

# A probability from which a lead is called sure enough, as in the study.
_SURE = 0.8

# The bound is not known so closely.
_NO_GAIN = 0.005


def headline(found: Recommendation) -> str:
    """Return the answer in a sentence."""
    question, answer = found.question, found.answer
    told = answer.as_dict(question)
    times = f", {told['times']} deployments" if told["times"] > 1 else ""
    idle = f", {idle_words(told)}" if told["idle_gpus"] else ""
    cost = told["usd_per_1m_tokens"]
    money = "" if cost is None else f", {cost:.2f} USD per million tokens"
    requests = in_turn(told, lambda part: _few(part["requests_per_gpu"]))
    tpot = in_turn(
        told, "{tpot_ms:.1f} ms (80 %: {tpot_ms_p10:.1f} to {tpot_ms_p90:.1f})".format_map
    )
    return (
        f"Run {told['shape']} of {question.title} ({KIND[told['deployment']]}, "
        f"{in_turn(told, lambda part: str(part['software']))}) on {told['on']}{times}{idle}: "
        f"{requests} requests a GPU, TPOT {tpot}, {told['tgs']:,.0f} tokens/s/GPU, "
        f"{told['tokens_per_s']:,.0f} tokens/s in all{money}. {_limited(found.limit)}"
    )


def in_turn(told: Mapping[str, Any], words: Callable[[Mapping[str, Any]], str]) -> str:
    """Return words of a shape, as plain data, and of the one beside it if they differ."""
    parts = [told] if told["beside"] is None else [told, told["beside"]]
    return " and ".join(dict.fromkeys(map(words, parts)))


def idle_words(told: Mapping[str, Any]) -> str:
    """Return how many GPUs a shape, as plain data, leaves idle."""
    idle = told["idle_gpus"]
    return "1 GPU idle" if idle == 1 else f"{idle} GPUs idle"


def _limited(kind: str) -> str:
    by = _LIMITS.get(kind, kind.removesuffix("-bound"))
    return f"It is limited by {by} ({kind})."


def margin_words(found: Recommendation) -> list[str]:
    """Return what the answer leads by, how sure that is, and what would settle it."""
    margin, other = found.margin, found.other_side
    if margin is None or other is None:
        kind = {"afd": "ep", "ep": "afd"}[found.answer.side.kind]
        return [f"No shape of {KIND[kind]} meets the target."]
    low, high = margin.interval(80)
    likely = margin.probability(0.0)
    sure = "" if likely >= _SURE else ": open"
    best = f"the best of {KIND[other.side.kind]}"
    what = f"It yields {100 * margin.value:.1f} % more than {best}"
    if found.question.rate is not None:
        if other.fill.used == found.answer.fill.used:
            what = f"It yields as much as {best}"
        what += f", which takes {other.fill.used} GPUs"
    elif other.idle_gpus:
        what += f", which leaves {idle_words(other.as_dict(found.question))}"
    told = [
        f"{what} (80 %: {percent(low)} to {percent(high)}; it leads with a probability of "
        f"{likely:.0%}{sure})."
    ]
    named = [part for part in margin.parts if part.source][:2]
    if named:
        parts = ", ".join(f"{part.name} ({part.share:.0%} of the doubt)" for part in named)
        told.append(f"Settled by measuring: {parts}.")
    return told


def next_words(found: Recommendation) -> list[str]:
    """Return what twice the GPUs, or twice the rate, would bring."""
    more, rate = found.next_gpus, found.question.rate
    if more is None:
        return []
    gain = f"{percent(more.gain)} tokens/s/GPU"
    if abs(more.gain) < _NO_GAIN:
        gain = "no more tokens/s/GPU"
    if rate is not None:
        return [
            f"By the bound, twice the rate would take {more.gpus} GPUs where the rate takes "
            f"{more.now}: {gain}, with {more.shape}."
        ]
    return [f"Twice the GPUs ({more.gpus}) would bring {gain}, with {more.shape}, by the bound."]


def command(question: Question) -> str:
    """Return the command that asks a question."""
    gpus = "+".join(f"{each.count}x{each.card}" for each in question.gpus)
    options: dict[str, Any] = {
        "--model": question.model,
        "--gpus": gpus,
        "--context": question.context,
        "--output": question.output,
        "--tpot": f"{question.tpot_ms:g}",
        "--rate": None if question.rate is None else f"{question.rate:g}",
        "--trace": None if question.trace is None else question.trace.path,
        "--software": question.software,
        "--precision": question.precision,
        "--kv": question.kv,
        "--acceptance": None if question.acceptance is None else f"{question.acceptance:g}",
    }
    words = [str(word) for each in options.items() if each[1] is not None for word in each]
    words += ["--p99"] if question.tpot_of == "p99" else []
    for name, usd in question.prices.items():
        words += ["--price", f"{name}={usd:g}"]
    return shlex.join(["afdsim", "recommend", *words])


def assumed(found: Recommendation) -> str:
    """Return what was taken that the question left open."""
    return f"Taken: {'; '.join(assumptions(found.question))}."


def _few(requests: float) -> str:
    return f"{requests:,.0f}" if requests >= 10 else f"{requests:.2g}"
