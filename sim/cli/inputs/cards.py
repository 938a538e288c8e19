"""The verbs about cards of models and software profiles, and what all cards share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import typer

from sim.cli.output import plain
from sim.cli.text import AsJson, Table, number, show
from sim.foundation import json_text

Card = TypeVar("Card")

models_app = typer.Typer(help="Show the model cards.", rich_markup_mode=None)
software_app = typer.Typer(help="Show the software profiles.", rich_markup_mode=None)


@models_app.callback(invoke_without_command=True)
def models(context: typer.Context, as_json: AsJson = False) -> None:
    """List the model cards.

    Example: afdsim models show step3
    """
    if context.invoked_subcommand:
        return
    from sim.explain.theory import active_params, total_params
    from sim.inputs import cards

    rows = []
    for name, card in every(cards.MODELS, cards.model):
        rows.append(
            {
                "model": name,
                "title": card.title,
                "layers": len(card.layer_sequence),
                "hidden": card.hidden,
                "attention": "/".join(dict.fromkeys(a.kind for a in card.attention.values())),
                "total_params": total_params(card),
                "active_params": active_params(card),
            }
        )
    print_rows(rows, as_json, billions=("total_params", "active_params"))


@models_app.command("show")
def show_model(name: str) -> None:
    """Print a model card as it stands.

    Example: afdsim models show step3
    """
    from sim.foundation.reading import read_text
    from sim.inputs import cards
    from sim.inputs.documents.document import MOST_BYTES

    text = read_text(cards.find(cards.MODELS, name, "model"), MOST_BYTES)
    print(plain(text), end="")


@software_app.callback(invoke_without_command=True)
def software(context: typer.Context, as_json: AsJson = False) -> None:
    """List the software profiles.

    Example: afdsim software show sglang
    """
    if context.invoked_subcommand:
        return
    from sim.inputs import cards

    rows = []
    for name, card in every(cards.SOFTWARE, cards.software):
        figures = ("glue_us_per_layer", "host_gap_us_per_step", "overlap_slowdown")
        known = {figure: float(getattr(card, figure)) for figure in figures}
        rows.append({"profile": name} | known | {"description": card.description})
    print_rows(rows, as_json)


@software_app.command("show")
def show_software(name: str, as_json: AsJson = False) -> None:
    """Print a software profile's figures with their ranges and sources.

    Example: afdsim software show sglang
    """
    from sim.inputs import cards

    card = cards.software(name)
    if as_json:
        data = card.model_dump(mode="json")
        print(json_text.dumps(data, indent=2, ensure_ascii=False))
        return
    shown = Table(["figure", "value", "range", "source"], f"{name}: {card.description}")
    for path, figure in figures(card):
        ends = ["…" if end is None else f"{end:g}" for end in (figure.low, figure.high)]
        span = "" if ends == ["…", "…"] else "–".join(ends)
        shown.add_row(path, f"{float(figure):g}", span, figure.source)
    show(shown)


def figures(card: Any, prefix: str = "") -> list[tuple[str, Any]]:
    from sim.inputs.base import Strict
    from sim.inputs.sourced import Sourced

    found: list[tuple[str, Any]] = []
    for name, value in card:
        if isinstance(value, Sourced):
            found.append((prefix + name, value))
        elif isinstance(value, dict | list):
            parts = value.items() if isinstance(value, dict) else enumerate(value)
            found += figures(((str(key), part) for key, part in parts), f"{prefix}{name}.")
        elif isinstance(value, Strict):
            found += figures(value, f"{prefix}{name}.")
    return found


def every(folder: str, read: Callable[[str], Card]) -> list[tuple[str, Card]]:
    """Return the cards of a folder with their names.

    Raises ScenarioError with the mistakes of all of them.
    """
    from sim.foundation.errors import ScenarioError
    from sim.inputs import cards

    found, problems = [], list[str]()
    for name in cards.names(folder):
        try:
            found.append((name, read(name)))
        except ScenarioError as error:
            problems += error.problems
    if problems:
        raise ScenarioError(problems)
    return found


def print_rows(rows: list[dict[str, Any]], as_json: bool, billions: tuple[str, ...] = ()) -> None:
    if as_json:
        print(json_text.dumps(rows, indent=2, ensure_ascii=False))
        return
    shown = Table(list(rows[0]))
    for row in rows:
        shown.add_row(*(f"{v / 1e9:.1f} B" if k in billions else number(v) for k, v in row.items()))
    show(shown)
