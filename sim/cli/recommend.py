"""The verb recommend: what to run on given GPUs within a latency target."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.text import AsJson, Out, OwnWorkers, Table, number, pool_of, say, show, usd
from sim.foundation import json_text

if TYPE_CHECKING:
    from sim.foundation.errors import InfeasibleError
    from sim.study.question import Question
    from sim.study.recommendation import Recommendation
    from sim.study.recommendation_folder import Emitted
    from sim.study.rounds import RoundProgress
    from sim.study.shape_search import Found

# Lines of progress are at least as far apart, seconds.
_OFTEN_S = 1.0


def recommend(
    model: Annotated[str, typer.Option(help="Model card.")],
    gpus: Annotated[
        str,
        typer.Option(
            metavar="NxCARD",
            help="GPUs: 64xh200-sxm, or 32xh20+32xh800; with --rate or --trace at most so many, or "
            "a card alone.",
        ),
    ],
    tpot: Annotated[float, typer.Option(min=0.01, help="Target of the time per token, ms.")],
    context: Annotated[
        int | None,
        typer.Option(min=2, help="Mean context of a request in flight, tokens; a trace has it."),
    ] = None,
    output: Annotated[
        int | None, typer.Option(min=2, help="Tokens of an output; default: 1024, or the trace's.")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(min=1e-6, help="Requests/s to serve: find the fewest GPUs that do."),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Recorded requests to serve, at --rate if that is given."
        ),
    ] = None,
    most: Annotated[
        int | None,
        typer.Option(
            "--max-gpus", min=1, help="Most GPUs, where --gpus is a card alone; default: 512."
        ),
    ] = None,
    p99: Annotated[
        bool, typer.Option("--p99", help="Let 99 % of the requests meet the target, not the mean.")
    ] = False,
    software: Annotated[
        str | None, typer.Option(help="Software profile of both sides; default: by card.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Format of the experts; default: the checkpoint's.")
    ] = None,
    kv: Annotated[str | None, typer.Option(help="Format of KV; default: the model card's.")] = None,
    acceptance: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            help="Try drafts, too, by the model's own module (MTP): the probability that one is "
            "accepted if those before it are, of your requests.",
        ),
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option(metavar="CARD=USD", help="Rent of a GPU, USD per hour; may be repeated."),
    ] = None,
    emit: Annotated[
        str | None,
        typer.Option(
            metavar="ENGINE",
            help="Write its launch file too, for vllm, sglang, dynamo or afd-plugin.",
        ),
    ] = None,
    out: Out = None,
    workers: OwnWorkers = None,
    as_json: AsJson = False,
) -> None:
    """Say what to run: the best deployment of a model on GPUs, AFD or EP, and how sure that is.

    Takes under a minute on 2 cores.

    Example: afdsim recommend --model deepseek-v3 --gpus 64xh200-sxm --context 8192 --tpot 30
    """
    from sim.inputs import prices
    from sim.parallel import processes
    from sim.pictures import recommendation_page
    from sim.results import files
    from sim.study import recommendation_folder as folders
    from sim.study.question import asked
    from sim.study.recommendation import recommended

    _check(emit, most, sizing=rate is not None or trace is not None)
    _check_acceptance(model, acceptance)
    question = asked(
        model=model,
        gpus=gpus,
        tpot_ms=tpot,
        context=context,
        output=output,
        rate=rate,
        trace=None if trace is None else str(trace),
        max_gpus=most,
        tpot_of="p99" if p99 else "mean",
        software=software,
        precision=precision,
        kv=kv,
        acceptance=acceptance,
        prices={name: float(usd) for name, usd in prices.read_prices(price or ()).items()},
    )
    _check_prices(question)
    files.check_directory(out or files.RUNS)
    with pool_of(workers or processes.cores()) as pool:
        found = recommended(question, pool, _SearchProgress().tell)
    launch, refused = _emitted(found, emit)
    folder = folders.save(found, out, launch)
    page = recommendation_page.draw(found, folder, launch)
    if as_json:
        told = folders.with_files(found, folder, launch)
        print(json_text.dumps(told, indent=2, ensure_ascii=False))
    else:
        _show(found)
    if launch is not None:
        _say_launch(launch, found, folder)
    say(f"saved in {folder}; run it: afdsim run {folder / 'answer.yaml'}; page: {page}")
    if refused is not None:
        raise refused


def _check(engine: str | None, most: int | None, *, sizing: bool) -> None:
    """Refuse options that cannot be, before anything is searched."""
    from sim.foundation.errors import did_you_mean
    from sim.study.launch.launch_file import ENGINES

    if engine is not None and engine not in ENGINES:
        told = f"unknown {engine!r}; {did_you_mean(engine, ENGINES)}"
        raise typer.BadParameter(told, param_hint="--emit")
    if most is not None and not sizing:
        raise typer.BadParameter("goes with --rate or --trace", param_hint="--max-gpus")


def _check_acceptance(model: str, acceptance: float | None) -> None:
    from sim.foundation.errors import ScenarioError
    from sim.study.question import wrong_acceptance

    try:
        problems = () if acceptance is None else tuple(wrong_acceptance(model, acceptance))
    except ScenarioError:
        return  # an unknown model is told with what else is wrong
    for problem in problems:
        raise typer.BadParameter(problem, param_hint="--acceptance")


def _check_prices(question: Question) -> None:
    """Refuse the rent of a card that is not asked for: it would change nothing."""
    asked_for = [each.card for each in question.gpus]
    for name in question.prices:
        if name not in asked_for:
            told = f"no GPU of the question is a {name}; give the price of {', '.join(asked_for)}"
            raise typer.BadParameter(told, param_hint="--price")


def _emitted(
    found: Recommendation, engine: str | None
) -> tuple[Emitted | None, InfeasibleError | None]:
    """Return the launch file, or why there is none: what was found is shown all the same."""
    from sim.foundation.errors import InfeasibleError
    from sim.study.recommendation_folder import emitted

    if engine is None:
        return None, None
    try:
        return emitted(found, engine), None
    except InfeasibleError as error:
        return None, error


def _say_launch(launch: Emitted, found: Recommendation, folder: Path) -> None:
    from sim.study.recommendation_folder import roles
    from sim.study.recommendation_words import KIND

    of = roles(found)[launch.of]
    other = f", the best {KIND[of.side.kind]}" if launch.of == "other_side" else ""
    times = f"; start it {of.fill.times} times" if of.fill.times > 1 else ""
    say(f"launch file of {of.shape}{other}: {folder / launch.file.name}{times}")
    for sentence in launch.file.cannot:
        say(f"not in the file: {sentence}")
    if of.beside is not None:
        beside = folder / f"{launch.of}_beside.yaml"
        say(f"for {of.beside.shape} beside it: afdsim launch {beside} --engine {launch.engine}")


class _SearchProgress:
    """Lines on stderr: what is done, what came of it, and how long it will take."""

    def __init__(self) -> None:
        self.begun_s = self.round_s = self.told_s = time.monotonic()

    def tell(self, at: RoundProgress) -> None:
        """Tell a round when it begins, and what its calls found, at most every second."""
        now_s = time.monotonic()
        if at.made and (not at.found or now_s - self.told_s < _OFTEN_S):
            return
        if not at.made:
            self.round_s, what = now_s, at.what
        else:
            left_s = (now_s - self.round_s) / at.made * (at.of - at.made)
            to_go = f"; {at.of - at.made} to go, about {left_s:.0f} s" if at.made < at.of else ""
            what = f"{at.found}{to_go}"
        self.told_s = now_s
        say(f"{now_s - self.begun_s:3.0f} s: {what}")


def _show(found: Recommendation) -> None:
    from sim.metrics.cautions import SCOPE
    from sim.study.recommendation_folder import roles
    from sim.study.recommendation_words import assumed, headline, margin_words, next_words

    show(headline(found))
    shown = Table(
        [
            *("", "deployment", "software", "GPUs", "requests/GPU", "TPOT ms", "80 %"),
            *("tokens/s/GPU", "80 %", "tokens/s", "USD/1M", "calibrated"),
        ]
    )
    for role, each in roles(found).items():
        shown.add_row(*_row(role.replace("_", " "), each, found.question))
    shown.leave_out("USD/1M")
    show(shown, *margin_words(found), *next_words(found), assumed(found), SCOPE)


def _row(name: str, found: Found, question: Question) -> tuple[str, ...]:
    from sim.study.recommendation_words import idle_words, in_turn

    told = found.as_dict(question)
    gpus = f"{told['times']} × {told['gpus']}" if told["times"] > 1 else str(told["gpus"])
    if len(question.gpus) > 1:
        gpus = told["on"]
    if told["idle_gpus"]:
        gpus += f", {idle_words(told)}"
    return (
        *(name, told["shape"], in_turn(told, lambda part: part["software"] or "–"), gpus),
        in_turn(told, lambda part: number(part["requests_per_gpu"])),
        in_turn(told, "{tpot_ms:.2f}".format_map),
        in_turn(told, "{tpot_ms_p10:.1f} to {tpot_ms_p90:.1f}".format_map),
        f"{told['tgs']:,.0f}",
        f"{told['tgs_p10']:,.0f} to {told['tgs_p90']:,.0f}",
        f"{told['tokens_per_s']:,.0f}",
        usd(told["usd_per_1m_tokens"]),
        in_turn(told, "{calibrated_share:.0%}".format_map),
    )
