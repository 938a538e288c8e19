"""The verb that makes a model card of a Hugging Face config."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli.text import AsJson, Table, say, show
from sim.foundation import json_text
from sim.foundation.errors import InexpressibleError

if TYPE_CHECKING:
    from sim.explain.imported import ImportedModel


def import_model(
    path: Annotated[str, typer.Argument(help="A model's config.json, or its directory.")],
    name: Annotated[
        str | None, typer.Option(help="Name of the card; default: the repository's.")
    ] = None,
    as_json: AsJson = False,
    lossy: Annotated[
        bool, typer.Option("--lossy", help="Write the card without what it cannot express.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Card to write; default: scenarios/models/NAME.yaml."),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            min=1, max=10**9, help="Tokens over which windows are shared out; default: 32,768."
        ),
    ] = None,
) -> None:
    """Write a model card from the config.json of a Hugging Face repository.

    Reads local files alone. Exit code 4: the model has what a card cannot express; the verb names
    it, and writes no card without --lossy.

    Example: afdsim models import DeepSeek-V3.2/config.json
    """
    from sim.explain import imported

    tokens = imported.KV_CONTEXT if context is None else context
    try:
        found = imported.import_model(path, name, tokens, lossy)
    except InexpressibleError:
        if as_json:
            _print_json(imported.import_model(path, name, tokens, lossy=True), None)
        raise
    if out is None:
        found, file = _place(found, path, chosen=name is not None)
    else:
        file = out
    _write(file, found.text)
    if as_json:
        _print_json(found, file)
    else:
        _show(found.to_dict())
    for each in found.not_expressible:
        say(f"left out: {each}")
    for each in found.notes:
        say(f"note: {each}")
    if found.read.unread:
        say(f"keys that nothing reads: {', '.join(found.read.unread)}")
    say(f"wrote {file}; look at it: afdsim models show {file}")


def _place(found: ImportedModel, path: str, chosen: bool) -> tuple[ImportedModel, Path]:
    """Return the model and the file of its card: one that holds it already, or a new one.

    If another card has its name, the name gets a number, unless it was chosen.
    """
    from sim.explain.imported import import_model
    from sim.inputs import cards
    from sim.inputs.naming import folder_name

    name = found.card.name
    if folder_name(name) != name:
        raise typer.BadParameter(
            "write letters, digits and _ . + -, a letter or digit in front", param_hint="--name"
        )
    for number in count(2):
        file = Path(cards.MODELS) / f"{found.card.name}.yaml"
        if chosen or not file.exists() or _holds(file, found.text):
            break
        found = import_model(path, f"{name}-{number}", found.kv_context, lossy=True)
    return found, file


def _holds(file: Path, text: str) -> bool:
    from sim.foundation.reading import read_text
    from sim.inputs.documents.document import MOST_BYTES

    return file.is_file() and read_text(file, MOST_BYTES) == text


def _write(file: Path, text: str) -> None:
    from sim.results.files import replace_file

    if not file.exists():
        replace_file(file, lambda part: part.write_text(text, encoding="utf-8"))
    elif not _holds(file, text):
        raise typer.BadParameter(
            f"{file} is another card; give another name", param_hint="--name, --out"
        )


def _show(told: dict[str, Any]) -> None:
    stated, drafts = told["published"], told["draft_layers"]
    figures = Table(["figure", "value", "what it is"], f"{told['name']} ({told['model_type']})")

    def add(figure: str, count: float, what: str, deviation: float | None = None) -> None:
        told_by_name = "" if deviation is None else f"; {deviation:+.1%} of what the name says"
        figures.add_row(figure, f"{count / 1e9:.2f} B", what + told_by_name)

    kept = "embedding and LM head in, drafting layers out"
    add("parameters", told["parameters"], kept, stated["parameters_deviation"])
    how = told["active_convention"]
    add("active parameters", told["active_parameters"], how, stated["active_deviation"])
    for other, active in told["active_by_convention"].items():
        if other != how:
            add("", active, other)
    if drafts:
        add("draft parameters", told["draft_parameters"], f"{drafts} layer(s), not in the above")
    if told["ngram_parameters"]:
        add("n-gram embeddings", told["ngram_parameters"], "in the above, not on the card")
    if told["encoder_parameters"]:
        add("encoder parameters", told["encoder_parameters"], "of images and sound, likewise")
    shared = f"windows shared out over {told['kv_context']:,} tokens"
    rows = [
        ("KV bytes per token", told["kv_bytes_per_token"], f"{told['kv_format']}, {shared}"),
        *(("", each, kv) for kv, each in told["kv_bytes_per_token_by_format"].items()),
        ("state bytes", told["state_bytes_per_request"], "per request"),
        ("mixing bytes", told["mixing_bytes_per_token"], "residual streams, per token and step"),
        ("context", told["context"] or 0, "tokens at most"),
    ]
    for figure, value, what in rows:
        if value:
            figures.add_row(figure, f"{value:,.0f}", what)
    for part, dtype in told["formats"].items():
        figures.add_row(f"format of {part}", dtype, "as the checkpoint stores it")
    show(figures)


def _print_json(found: ImportedModel, file: Path | None) -> None:
    told = found.to_dict() | {"file": None if file is None else str(file)}
    print(json_text.dumps(told, indent=2, ensure_ascii=False))
