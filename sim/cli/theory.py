"""The verb theory: what a model costs by its shape alone."""

from __future__ import annotations

import re
import sys
from typing import Annotated, Any

import typer

from sim.cli.text import AsJson, Prices, Table, number, show, usd
from sim.foundation import json_text
from sim.foundation.spreadsheets import inert, inert_value


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
