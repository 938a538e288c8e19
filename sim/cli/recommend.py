"""The verb recommend: what to run on given GPUs within a latency target."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli.text import AsJson, Out, OwnWorkers, Table, number, pool_of, say, show, usd
from sim.foundation import json_text

if TYPE_CHECKING:
    from sim.study.question import Question
    from sim.study.recommendation import Recommendation
    from sim.study.shape_search import Found


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
        int, typer.Option("--max-gpus", min=1, help="Most GPUs, where --gpus is a card alone.")
    ] = 512,
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
    price: Annotated[
        list[str] | None,
        typer.Option(metavar="CARD=USD", help="Rent of a GPU, USD per hour; may be repeated."),
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
    from sim.study import recommendation
    from sim.study.question import asked, parse_gpus

    sizing = rate is not None or trace is not None
    question = asked(
        model=model,
        gpus=parse_gpus(gpus, most if sizing else None),
        tpot_ms=tpot,
        context=context,
        output=output,
        rate=rate,
        trace=None if trace is None else str(trace),
        tpot_of="p99" if p99 else "mean",
        software=software,
        precision=precision,
        kv=kv,
        prices={name: float(usd) for name, usd in prices.read_prices(price or ()).items()},
    )
    begun_s = time.monotonic()

    def tell(text: str) -> None:
        say(f"{time.monotonic() - begun_s:3.0f} s: {text}")

    with pool_of(workers or processes.cores()) as pool:
        found = recommendation.recommend(question, pool, tell)
    folder = _save(found, out)
    if as_json:
        print(json_text.dumps(_with_files(found, folder), indent=2, ensure_ascii=False))
        return
    _show(question, found)
    say(f"saved in {folder}; run it: afdsim run {folder / 'answer.yaml'}")


def _save(found: Recommendation, out: Path | None) -> Path:
    from sim.study.recommendation_folder import save

    return save(found, out)


def _with_files(found: Recommendation, folder: Path) -> dict[str, Any]:
    from sim.study.recommendation_folder import with_files

    return with_files(found, folder)


def _show(question: Question, found: Recommendation) -> None:
    from sim.metrics.cautions import SCOPE
    from sim.study.recommendation_words import assumed, headline, margin_words

    show(headline(found))
    rows = [("answer", found.answer), ("other side", found.other_side)]
    rows.append(("runner-up", found.runner_up))
    shown = Table(
        [
            *("", "deployment", "software", "GPUs", "requests/GPU", "TPOT ms", "80 %"),
            *("tokens/s/GPU", "80 %", "tokens/s", "USD/1M", "calibrated"),
        ]
    )
    for name, each in rows:
        if each is not None:
            shown.add_row(*_row(name, each, question))
    shown.leave_out("USD/1M")
    show(shown, *margin_words(found), assumed(found), SCOPE)


def _row(name: str, found: Found, question: Question) -> tuple[str, ...]:
    told = found.as_dict(question)
    times = f"{told['times']} × {told['gpus']}" if told["times"] > 1 else str(told["gpus"])
    return (
        *(name, told["shape"], told["software"] or "–", times),
        number(told["requests_per_gpu"]),
        f"{told['tpot_ms']:.2f}",
        f"{told['tpot_ms_p10']:.1f} to {told['tpot_ms_p90']:.1f}",
        f"{told['tgs']:,.0f}",
        f"{told['tgs_p10']:,.0f} to {told['tgs_p90']:,.0f}",
        f"{told['tokens_per_s']:,.0f}",
        usd(told["usd_per_1m_tokens"]),
        f"{told['calibrated_share']:.0%}",
    )
