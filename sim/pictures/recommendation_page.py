"""Recommendation page: what to run, how sure that is, and the commands to go on with."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sim.metrics.cautions import SCOPE
from sim.pictures import page as pages
from sim.pictures.sections import Section
from sim.results.files import replace_file
from sim.study.recommendation import Recommendation
from sim.study.recommendation_folder import Emitted, roles
from sim.study.recommendation_words import command, headline, in_turn, margin_words, next_words
from sim.study.starting_points import assumptions

# Per cent of the picture; the rest is for figures behind the bars.
_WIDEST = 80


def draw(found: Recommendation, folder: Path, launch: Emitted | None = None) -> Path:
    """Write report.html into the directory of a recommendation and return its path.

    Raises StoreError if it cannot be written.
    """
    page = folder / "report.html"
    text = _page(found, folder, launch)
    replace_file(page, lambda part: part.write_text(text, encoding="utf-8"))
    return page


def _page(found: Recommendation, folder: Path, launch: Emitted | None) -> str:
    question = found.question
    told = {role.replace("_", " "): each.as_dict(question) for role, each in roles(found).items()}
    counts = found.counts
    gpus = " + ".join(map(str, question.gpus))
    rate = "" if question.rate is None else f", {question.rate:g} requests/s"
    which = "" if question.tpot_of == "mean" else f" ({question.tpot_of})"
    return pages.rendered(
        "recommendation.html",
        bundle="none",
        title=f"{question.title} on {gpus}",
        summary=(
            f"{question.context:,} tokens of context, outputs of {question.output:,}, TPOT{which} "
            f"within {question.tpot_ms:g} ms{rate}. {counts['shapes']:,} shapes screened, "
            f"{counts['simulated']} simulated, {counts['searched']} searched. {SCOPE.capitalize()}."
        ),
        answer=headline(found),
        margin=[*margin_words(found), *next_words(found)],
        bars=list(_bars(told)),
        sections=list(_sections(found, told)),
        commands=list(_commands(found, folder, launch)),
    )


def _bars(told: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    most = max(each["tgs_p90"] for each in told.values())
    for name, each in told.items():
        ends = {"width": "tgs", "low": "tgs_p10", "high": "tgs_p90"}
        places = {to: round(_WIDEST * each[of] / most, 1) for to, of in ends.items()}
        yield {"name": name, "shape": each["shape"], "told": f"{each['tgs']:,.0f}"} | places


def _sections(found: Recommendation, told: dict[str, dict[str, Any]]) -> Iterator[Section]:
    yield Section(
        "Answer, other side, runner-up",
        "Each at its largest batch that meets the target in simulation. In brackets: 80 %.",
        ["", *told],
        [[name, *(_cell(each, name) for each in told.values())] for name in _ROWS],
    )
    if found.margin is not None:
        yield Section(
            "What the margin rests on",
            "Sources of doubt in the answer's lead over the other side, by their share of it.",
            ["not known", "share of the doubt", "the lead turns at", "source"],
            [
                [part.name, f"{part.share:.0%}", part.turns_at or "–", part.source or "–"]
                for part in found.margin.parts
            ],
        )
    taken = [[each] for each in assumptions(found.question)]
    yield Section("Assumed", "What the question left open.", ["taken"], taken)


_ROWS = {
    "deployment": "{deployment}",
    "shape": "{shape}",
    "software": "{software}",
    "on": "{on}",
    "GPUs of a deployment": "{gpus}",
    "deployments": "{times}",
    "idle GPUs": "{idle_gpus}",
    "requests a GPU": "{requests_per_gpu:,.1f}",
    "TPOT, ms": "{tpot_ms:.2f} ({tpot_ms_p10:.1f} to {tpot_ms_p90:.1f})",
    "tokens/s/GPU": "{tgs:,.0f} ({tgs_p10:,.0f} to {tgs_p90:,.0f})",
    "tokens/s in all": "{tokens_per_s:,.0f}",
    "USD per million tokens": "{usd_per_1m_tokens:.3f}",
    "kernel time from inside measured ranges": "{calibrated_share:.0%}",
}
# What the shapes on two cards have together; of the rest each has its own.
_TOGETHER = (
    "shape",
    "on",
    "idle GPUs",
    "tokens/s/GPU",
    "tokens/s in all",
    "USD per million tokens",
)


def _cell(told: dict[str, Any], name: str) -> str:
    priced = name.startswith("USD")
    if priced and told["usd_per_1m_tokens"] is None:
        return "–"
    if priced or name in _TOGETHER:
        return _ROWS[name].format(**told)
    return in_turn(told, lambda part: _ROWS[name].format(**_spelt(part)))


def _spelt(told: Mapping[str, Any]) -> dict[str, Any]:
    deployment, software = told["deployment"].upper(), told["software"] or "–"
    return {**told, "deployment": deployment, "software": software}


def _commands(
    found: Recommendation, folder: Path, launch: Emitted | None
) -> Iterator[tuple[str, str]]:
    """Yield commands with what they do."""
    answer = shlex.quote(str(folder / "answer.yaml"))
    yield "Simulate the answer", f"afdsim run {answer}"
    yield "See what limits it", f"afdsim explain {answer}"
    alone = found.other_side is not None and found.other_side.beside is None
    if alone and found.answer.beside is None and found.question.rate is None:
        other = shlex.quote(str(folder / "other_side.yaml"))
        yield "Compare it with the other side", f"afdsim compare {answer} {other}"
    if launch is not None:
        file = shlex.quote(str(folder / launch.file.name))
        yield f"The launch file of the {launch.of.replace('_', ' ')}", f"less {file}"
    else:
        engine = "afd-plugin" if found.answer.side.kind == "afd" else "vllm"
        yield "Write a launch file", f"afdsim launch {answer} --engine {engine}"
    yield "Ask again", command(found.question)
