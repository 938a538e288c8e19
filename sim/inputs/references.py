"""References: the cards and files that a scenario names, each looked up before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from pydantic import ValidationError

from sim.foundation.errors import ScenarioError, SimError, did_you_mean
from sim.inputs import cards, prices
from sim.inputs.arrivals import Trace
from sim.inputs.documents.document import Document, Loc
from sim.inputs.lengths import CsvLengths
from sim.inputs.noise import read_factors
from sim.inputs.routing import read_profiles
from sim.inputs.speculation import read_accepted

_REFERENCES: dict[Loc, tuple[str, str]] = {
    ("model",): (cards.MODELS, "model"),
    ("software", "measured_on"): (cards.MODELS, "model"),
    ("deployment", "accelerator"): (cards.ACCELERATORS, "accelerator"),
    ("deployment", "attention", "accelerator"): (cards.ACCELERATORS, "accelerator"),
    ("deployment", "ffn", "accelerator"): (cards.ACCELERATORS, "accelerator"),
    ("deployment", "fabric"): (cards.FABRICS, "fabric"),
}


def bad_references(document: Document) -> list[str]:
    """Return a problem for every card or file that is named and missing or wrong."""
    problems = []
    for loc, (folder, what) in _REFERENCES.items():
        name = document.get(loc)
        if isinstance(name, str):
            try:
                cards.check(folder, name, what)
            except SimError as error:
                problems += [document.problem(loc, line) for line in str(error).splitlines()]
    used = [document.get(loc) for loc, of in _REFERENCES.items() if of[1] == "accelerator"]
    problems += prices.wrong_names(document, [name for name in used if isinstance(name, str)])
    tables: list[tuple[Loc, Callable[[str], object]]] = [(("routing", "path"), read_profiles)]
    tasks = document.get(("noise", "tasks"))
    for number in range(len(tasks) if isinstance(tasks, list) else 0):
        tables.append((("noise", "tasks", number, "law", "path"), read_factors))
    drafts = document.get(("speculation", "drafts"))
    if isinstance(drafts, int):
        recorded = partial(read_accepted, drafts=drafts)
        tables.append((("speculation", "acceptance", "path"), recorded))
    problems += _bad_tables(document, tables)
    problems += _bad_draft_layer(document)
    return problems + _bad_recordings(document)


def _bad_draft_layer(document: Document) -> list[str]:
    """Return a problem for each name of the drafting layer that the model card does not have."""
    if document.get(("speculation", "draft_layer")) is None:
        return []
    try:
        model = cards.model(str(document.get(("model",))))
    except SimError:
        return []  # told already
    known: dict[str, Iterable[str]] = {"attention": model.attention, "ffn": model.ffn}
    problems = []
    for part, names in known.items():
        loc = ("speculation", "draft_layer", part)
        name = document.get(loc)
        if isinstance(name, str) and name not in names:
            remedy = did_you_mean(name, names)
            problems.append(document.problem(loc, f"{model.name} has no such {part}: {remedy}"))
    return problems


def _bad_tables(
    document: Document, tables: Iterable[tuple[Loc, Callable[[str], object]]]
) -> list[str]:
    """Return a problem for every bad line of the files that are named, each with its reader."""
    problems = []
    for loc, read_table in tables:
        path = document.get(loc)
        if isinstance(path, str):
            try:
                read_table(path)
            except ScenarioError as error:
                problems += [document.problem(loc, problem) for problem in error.problems]
    return problems


def _bad_recordings(document: Document) -> list[str]:
    """Return a problem for every bad line of the lengths or trace that are named."""
    problems = []
    for loc, kind in (("workload", "lengths"), CsvLengths), (("workload", "arrivals"), Trace):
        described = document.get(loc)
        if isinstance(described, dict) and isinstance(described.get("path"), str):
            try:
                kind.model_validate(described).read()
            except ValidationError:
                continue  # told by the schema
            except ScenarioError as error:
                problems += [document.problem((*loc, "path"), p) for p in error.problems]
    return problems
