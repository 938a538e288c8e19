"""The verbs about a model before anything runs: what it costs by its shape, what is measured."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli.text import AsJson, Prices, Settings, Table, number, say, show, usd, warn
from sim.foundation import json_text
from sim.foundation.spreadsheets import inert, inert_value

if TYPE_CHECKING:
    from sim.explain.coverage import CoveredKernel


def theory(
    models: Annotated[list[str], typer.Argument(help="Model cards.")],
    context: Annotated[str, typer.Option(help="Context lengths, tokens.")] = "8192,32768",
    accelerator: Annotated[
        str, typer.Option(help="Accelerators, or 'priced': all with a price.")
    ] = "priced",
    price: Prices = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV on stdout.")] = False,
) -> None:
    """Print what a model costs by its shape alone: bytes, FLOPs and USD per 1M tokens.

    Example: afdsim theory step3 deepseek-v3 --context 8192,32768 --accelerator h800,h20
    """
    from sim.explain.theory import theory as tabulate
    from sim.inputs import cards
    from sim.inputs.prices import priced, read_prices

    prices = read_prices(price or ())
    contexts = []
    for text in context.split(","):
        if not re.fullmatch(r"[0-9]{1,10}", text.strip()) or int(text) < 1:
            raise typer.BadParameter(
                f"should be whole numbers from 1 on (got {text!r})", param_hint="--context"
            )
        contexts.append(int(text))
    every = accelerator == "priced"
    names = cards.names(cards.ACCELERATORS) if every else accelerator.split(",")
    chosen = [priced(cards.accelerator(name.strip()), prices) for name in names]
    if every:
        chosen = [card for card in chosen if card.usd_per_hour is not None]
    rows = [row.to_dict() for row in tabulate([cards.model(m) for m in models], contexts, chosen)]
    json_text.check(rows)
    if as_json:
        print(json_text.dumps(rows, indent=2, ensure_ascii=False))
    elif as_csv:
        _print_csv([_flat(row) for row in rows])
    else:
        _print_theory(rows)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat = {name: value for name, value in row.items() if name != "costs"}
    for cost in row["costs"]:
        name = cost["accelerator"]
        flat[f"attention_usd_per_1m.{name}"] = cost["attention_usd_per_1m"]
        flat[f"ffn_usd_per_1m.{name}"] = cost["ffn_usd_per_1m"]
    return flat


def _print_csv(rows: list[dict[str, Any]]) -> None:
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(inert(name) for name in rows[0])
    writer.writerows([inert_value(value) for value in row.values()] for row in rows)


def _print_theory(rows: list[dict[str, Any]]) -> None:
    shape = Table(
        [
            *("model", "context", "KV bytes", "attention FLOPs", "linear FLOPs", "FFN FLOPs"),
            *("params", "active", "FLOP/byte", "sparsity"),
        ],
        "per decoded token",
    )
    cost = Table(
        ["model", "context", "accelerator", "attention USD/1M", "FFN USD/1M", "AFD mix USD/1M"],
        "cost by FLOPs and bytes alone",
    )
    for row in rows:
        shape.add_row(
            row["model"],
            f"{row['context']:,}",
            *(f"{row[name]:.3g}" for name in ("kv_bytes", "attention_flops", "linear_flops")),
            f"{row['ffn_flops']:.3g}",
            f"{row['total_params'] / 1e9:.1f} B",
            f"{row['active_params'] / 1e9:.1f} B",
            f"{row['arithmetic_intensity']:.0f}",
            number(row["sparsity"]),
        )
        for card in row["costs"]:
            if card["attention_usd_per_1m"] is None:
                continue  # no price
            cost.add_row(
                row["model"],
                f"{row['context']:,}",
                card["accelerator"],
                usd(card["attention_usd_per_1m"]),
                usd(card["ffn_usd_per_1m"]),
            )
        mix = f"{row['afd_attention_accelerator']} + {row['afd_ffn_accelerator']}"
        if row["afd_usd_per_1m"] is not None:
            total = usd(row["afd_usd_per_1m"])
            cost.add_row(row["model"], f"{row['context']:,}", mix, "", "", total)
    show(shape)
    if cost.rows:
        show(cost)


def coverage(
    model: Annotated[
        str, typer.Argument(metavar="MODEL|SCENARIO", help="Model card; alone: a scenario.")
    ],
    card: Annotated[str | None, typer.Argument(help="Accelerator card.")] = None,
    software: Annotated[
        str | None, typer.Option(metavar="PROFILE", help="Software profile; default: ideal.")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Requests of a micro-batch on each attention GPU; default: 64."),
    ] = None,
    context: Annotated[
        int | None, typer.Option(min=1, help="Tokens of each request; default: 4096.")
    ] = None,
    ep: Annotated[
        int | None,
        typer.Option(min=1, help="GPUs of the EP group; default: the fewest servers that fit."),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(metavar="FORMAT", help="Format of weights; default: the checkpoint's."),
    ] = None,
    kv: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="Format of KV; default: the model card's.")
    ] = None,
    setting: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Print which kernels are measured, extrapolated or unknown at a load; nothing runs.

    Example: afdsim coverage deepseek-v3 h200-sxm --software sglang --batch 128 --context 8192
    """
    from sim.explain import coverage as known
    from sim.inputs import cards

    options = {"software": software, "ep": ep, "precision": precision, "kv": kv}
    given = {name: value for name, value in options.items() if value is not None}
    if card is None and model in cards.names(cards.MODELS):
        raise typer.BadParameter(f"{model} is a model: name a card, too", param_hint="CARD")
    if card is None and given:
        option = f"--{next(iter(given))}"
        raise typer.BadParameter("a scenario says so: give MODEL and CARD", param_hint=option)
    found = known.coverage(
        model, card, batch=batch, context=context, settings=setting or (), **given
    )
    if as_json:
        json_text.check(found.as_dict())
        told = found.as_dict() | {"sentence": found.sentence()}
        print(json_text.dumps(told, indent=2, ensure_ascii=False))
        return
    for text in found.assumed:
        say(f"taken: {text}")
    warn(found.cautions)
    columns = ["layers", "op", "kernel", "format", "shape", "µs", "status", "outside by", "curve"]
    title = (
        f"{found.model} on {', '.join(found.cards)}, {found.shape}: {found.requests_per_gpu} "
        f"requests of {found.context_tokens:,} tokens on each attention GPU"
    )
    shown = Table([*columns, "error"], title)
    for kernels in found.alike():
        first = kernels[0]
        shown.add_row(
            ", ".join(f"{each.layer} ×{each.layers}" for each in kernels),
            *(first.op, first.kernel, first.dtype, _shape(first)),
            f"{first.time_us:.1f}",
            first.status,
            ", ".join(f"{axis} {number(times)}×" for axis, times in first.beyond.items()),
            first.curve or "none",
            "–" if first.error is None else f"{first.error:.1%}".replace("%", " %"),
        )
    sources = Table(["curve", "points", "source"], "measurements")
    for row in found.sources():
        sources.add_row(*row)
    show(shown, *([sources] if sources.rows else []), found.sentence())


def _shape(kernel: CoveredKernel) -> str:
    """Return the coordinates of a kernel: 'm 64 n 2112', ranges as 'rows 16–21.9'."""
    sizes = (
        f"{name} {_size(low)}" if low == high else f"{name} {_size(low)}–{_size(high)}"
        for name, (low, high) in kernel.shape.items()
    )
    return " ".join(filter(None, (kernel.key, *sizes)))


def _size(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 or value == round(value) else f"{value:.3g}"
