"""Words of a recommendation: the answer in a sentence, the margin, what is assumed."""

from __future__ import annotations

from sim.study.question import assumptions
from sim.study.recommendation import Recommendation
from sim.study.shape_search import Found

_KIND = {"afd": "AFD", "ep": "EP"}

# A probability from which a lead is called sure enough, as in the study.
_SURE = 0.8


def headline(found: Recommendation) -> str:
    """Return the answer in a sentence."""
    question, answer = found.question, found.answer
    told = answer.as_dict(question)
    times = f", {told['times']} deployments" if told["times"] > 1 else ""
    idle = f", {told['idle_gpus']} GPUs idle" if told["idle_gpus"] else ""
    cost = told["usd_per_1m_tokens"]
    money = "" if cost is None else f", {cost:.2f} USD per million tokens"
    gpus = " + ".join(map(str, question.gpus))
    return (
        f"Run {told['shape']} of {question.model} ({_KIND[told['deployment']]}, "
        f"{told['software']}) on {gpus}{times}{idle}: "
        f"{told['requests_per_gpu']:.0f} requests a GPU, "
        f"TPOT {told['tpot_ms']:.1f} ms (80 %: {told['tpot_ms_p10']:.1f} to "
        f"{told['tpot_ms_p90']:.1f}), {told['tgs']:,.0f} tokens/s/GPU, "
        f"{told['tokens_per_s']:,.0f} tokens/s in all{money}. It is {found.limit}."
    )


def margin_words(found: Recommendation) -> list[str]:
    """Return what the answer leads by, how sure that is, and what would settle it."""
    margin, other = found.margin, found.other_side
    if margin is None or other is None:
        kind = {"afd": "ep", "ep": "afd"}[found.answer.side.kind]
        return [f"No shape of {_KIND[kind]} meets the target."]
    low, high = margin.interval(80)
    likely = margin.probability(0.0)
    sure = "" if likely >= _SURE else ": open"
    told = [
        f"It yields {_percent(margin.value)} more than the best of {_KIND[other.side.kind]} (80 %: "
        f"{_percent(low)} to {_percent(high)}; it leads with a probability of {likely:.0%}{sure})."
    ]
    named = [part for part in margin.parts if part.source][:2]
    if named:
        parts = ", ".join(f"{part.name} ({part.share:.0%} of the doubt)" for part in named)
        told.append(f"Settled by measuring: {parts}.")
    return told


def assumed(found: Recommendation) -> str:
    """Return what was taken that the question left open."""
    return f"Taken: {'; '.join(assumptions(found.question))}."


def described(found: Found) -> str:
    return f"{_KIND[found.side.kind]} {found.shape}"


def _percent(share: float) -> str:
    return f"{100 * share:+.1f} %".replace("-", "−")
