"""The verb explain: what limits a scenario, and how much each part of it matters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.doubt import rest, sources
from sim.cli.text import (
    AsJson,
    Prices,
    Settings,
    Table,
    assignments,
    say,
    say_notes,
    show,
    usd,
)
from sim.foundation import json_text

if TYPE_CHECKING:
    from sim.explain.explanation import Explanation
    from sim.explain.ratio import StochasticRatio
    from sim.steady.state import SteadyState

GPU_POOLS = ("attention", "ffn", "gpu")


def explain(
    scenario: Annotated[str, typer.Argument(help="Scenario: a name in scenarios/ or a path.")],
    setting: Settings = None,
    price: Prices = None,
    as_json: AsJson = False,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw two layers of the pipeline on an HTML page."),
    ] = None,
    stochastic: Annotated[
        bool,
        typer.Option("--stochastic", help="Add the best ratio if contexts differ by chance (AFD)."),
    ] = False,
) -> None:
    """Explain what limits a scenario: critical circuit, slack, sensitivities, balance.

    Example: afdsim explain step3-2a2f --picture pipeline.html
    """
    from sim.decoding.step_times import left_out
    from sim.explain.explanation import explain_state, sentences
    from sim.explain.ratio import stochastic_ratio
    from sim.inputs.scenario import load
    from sim.metrics.cautions import SCOPE
    from sim.steady.state import SteadyState

    loaded = load(scenario, assignments(setting, price))
    say_notes([loaded.workload])
    if note := left_out(loaded):
        say(note)
    state = SteadyState.of(loaded)
    ratio = stochastic_ratio(state) if stochastic else None
    found = explain_state(state)
    text = sentences(found)
    json_text.check(found.as_dict())
    if picture is not None:
        _draw(picture, state, text)
    if as_json:
        added = {} if ratio is None else {"stochastic": ratio.as_dict()}
        print(
            json_text.dumps(
                found.as_dict() | added | {"scope": SCOPE}, indent=2, ensure_ascii=False
            )
        )
        return
    show(*text, SCOPE)
    for shown in (_circuit(found), _formats(found), _stages(found), _cards(found), _shapes(found)):
        show(shown)
    show(sources(found.how_sure), *rest(found.how_sure))
    if ratio is not None:
        for shown in (_lines(ratio), _ratios(ratio)):
            show(shown)


def _draw(path: Path, state: SteadyState, text: list[str]) -> None:
    from sim.pictures.explain_page import write_page

    write_page(path, state, text)
    say(f"wrote {path}")


def _circuit(found: Explanation) -> Table:
    shown = Table(
        ["stage", "server", "alike", "tasks", "ms a step", "share", "server busy"],
        f"critical circuit, {found.circuit.steps} step{'s' * (found.circuit.steps > 1)}",
    )
    for leg in found.circuit.legs:
        alike = str(leg.alike) if leg.server else ""
        busy = "" if leg.busy is None else f"{leg.busy:.1%}"
        where = leg.server or "(delay)"
        share = f"{leg.share:.1%}"
        shown.add_row(leg.stage, where, alike, str(leg.tasks), f"{leg.time_ms:.3f}", share, busy)
    return shown


def _formats(found: Explanation) -> Table:
    shown = Table(["KV format", "TPOT", "TGS"], "another format of the KV cache, the same load")
    for of in found.kv_formats:
        shown.add_row(of.kv, _change(of.effect.tpot), _change(of.effect.tgs))
    return shown


def _stages(found: Explanation) -> Table:
    shown = Table(
        [
            *("stage", "server", "µs a layer", "pool busy", "slack µs", "slack", "on circuit"),
            *("+10 % time: TPOT", "−10 %: TPOT", "−10 %: TGS"),
        ],
        "stages, and what 10 % more or less of their time does",
    )
    for stage in found.stages:
        shown.add_row(
            stage.stage,
            stage.server or "(delay)",
            f"{stage.time_us:,.1f}",
            _percent(stage.busy),
            "–" if stage.slack_us is None else f"{stage.slack_us:,.1f}",
            _percent(stage.slack),
            _percent(stage.circuit_share),
            _change(stage.sensitivity.larger.tpot),
            _change(stage.sensitivity.smaller.tpot),
            _change(stage.sensitivity.smaller.tgs),
        )
    return shown


def _cards(found: Explanation) -> Table:
    shown = Table(
        ["part of the cards", "+10 % speed: TPOT", "+10 %: TGS", "−10 %: TPOT", "−10 %: TGS"],
        "what 10 % more or less of a bandwidth or peak does",
    )
    for card in found.cards:
        effects = (card.larger.tpot, card.larger.tgs, card.smaller.tpot, card.smaller.tgs)
        shown.add_row(card.of, *map(_change, effects))
    return shown


def _shapes(found: Explanation) -> Table:
    shown = Table(
        [
            *("shape", "micro-batches", "GPUs", "in flight", "TPOT ms", "tokens/s/GPU", "USD/1M"),
            *("TPOT", "TGS", "bound", "GPUs busy"),
        ],
        "other numbers of micro-batches, and balanced shapes",
    )
    now = found.frozen.figures
    assert now is not None
    rows = (found.frozen, *found.micro_batches, *found.balance.shapes)
    for shape in {(row.shape, row.micro_batches): row for row in rows}.values():
        head = (shape.shape, str(shape.micro_batches), str(shape.gpus))
        figures = shape.figures
        if figures is None:
            shown.add_row(*head, *["–"] * 7, f"refused: {shape.refused}")
            continue
        busy = (f"{pool} {shape.busy[pool]:.0%}" for pool in GPU_POOLS if pool in shape.busy)
        shown.add_row(
            *head,
            f"{shape.requests_in_flight:,.0f}",
            f"{figures.tpot_ms:.2f}",
            f"{figures.tgs:,.0f}",
            usd(figures.usd_per_1m_tokens),
            _change(figures.tpot_ms / now.tpot_ms - 1),
            _change(figures.tgs / now.tgs - 1),
            shape.kind or "",
            ", ".join(busy),
        )
    shown.leave_out("USD/1M")
    return shown


def _lines(found: StochasticRatio) -> Table:
    load = found.load
    shown = Table(
        ["time", "over", "ns a token", "constant µs", "misfit"],
        f"θ = {load.mean_tokens:,.0f} tokens in a slot, ν = {load.variance**0.5:,.0f}; "
        f"T_A of {found.slots} slots: {found.attention_us:,.0f} ± {found.deviation_us:,.1f} µs",
    )
    for name, over, line in (
        ("T_A", "KV tokens of a GPU", found.attention),
        ("T_F", "tokens of a micro-batch", found.ffn),
        ("T_C", "tokens of a micro-batch", found.transfer),
    ):
        constant = f"{line.constant_ns / 1e3:,.1f}"
        shown.add_row(name, over, f"{line.ns_per_token:,.3f}", constant, f"{line.misfit:.1%}")
    return shown


def _ratios(found: StochasticRatio) -> Table:
    shown = Table(
        [
            *("", "instances", "ratio", "T_F µs", "T_C µs", "τ mean field", "tokens/s/GPU"),
            *("τ barrier", "tokens/s/GPU"),
        ],
        "attention instances to an FFN instance, with enough micro-batches in flight",
    )
    for name, row in (
        ("present", found.present),
        ("best, mean field", found.mean_field),
        ("best, barrier", found.barrier),
    ):
        shown.add_row(
            name,
            str(row.attention_instances),
            f"{row.ratio:.2f}",
            f"{row.ffn_us:,.0f}",
            f"{row.transfer_us:,.0f}",
            f"{row.mean_field_us:,.0f}",
            f"{row.mean_field_tgs:,.0f}",
            f"{row.barrier_us:,.0f}",
            f"{row.barrier_tgs:,.0f}",
        )
    return shown


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _change(relative: float) -> str:
    return "0" if abs(relative) < 5e-5 else f"{relative:+.2%}".replace("-", "−")
