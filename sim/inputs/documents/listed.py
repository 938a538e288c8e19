"""Listed: the scenarios, sweeps and studies that can be run by name, each at a glance.

Files are read as plain YAML and not checked, so that a wrong file is listed as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sim.foundation.errors import ScenarioError
from sim.inputs import cards
from sim.inputs.documents.document import Document, read
from sim.inputs.documents.places import loc_of

_MODEL = "model"
_CARDS = tuple(f"deployment.{side}accelerator" for side in ("", "attention.", "ffn."))
_FOLDERS = (
    ("scenario", cards.SCENARIOS, "*.yaml"),
    ("sweep", cards.SWEEPS, "*.yaml"),
    ("study", cards.STUDIES, "*/study.yaml"),
)

Values = dict[str, list[str]]
"""Models and cards by dotted path."""


class Listed(NamedTuple):
    """A file that a command runs."""

    name: str
    """As commands take it."""
    kind: str
    """scenario, sweep or study."""
    models: tuple[str, ...]
    cards: tuple[str, ...]
    """Accelerators."""
    description: str
    """Of a file that cannot be read, why."""
    own: bool
    """Whether it stands in the working directory, and did not come with the package."""
    path: str


def listed() -> list[Listed]:
    """Return the files of the working directory, then those of the package with other names."""
    here = Path.cwd()
    told = list(_loose(here))
    found = set[tuple[str, str]]()
    for is_own in (True, False):
        for kind, folder, pattern in _FOLDERS:
            place = here / folder if is_own else cards.packaged(folder)
            if is_own and place.resolve() == cards.packaged(folder).resolve():
                continue  # a checkout: its files are the package's
            for path in sorted(place.glob(pattern)):
                name = path.parent.name if kind == "study" else path.stem
                if path.is_file() and (kind, name) not in found:
                    found.add((kind, name))
                    told.append(_listed(name, kind, path, is_own))
    return told


def _loose(here: Path) -> Iterator[Listed]:
    """Yield files beside the folders, which commands take by their path."""
    for path in sorted(here.glob("*.yaml")):
        try:
            data = read(path).data if path.is_file() else {}
        except ScenarioError:
            continue  # anything may lie there
        kind = data.get("kind", "scenario" if "deployment" in data else None)
        if kind in ("scenario", "sweep", "study"):
            yield _listed(path.name, kind, path, True)


def _listed(name: str, kind: str, path: Path, own: bool) -> Listed:
    try:
        document = read(path)
    except ScenarioError as error:
        return Listed(name, kind, (), (), f"cannot be read: {error.problems[0]}", own, str(path))
    values: Values = {}
    for found in _OF_KIND[kind](document):
        for at, several in found.items():
            values[at] = list(dict.fromkeys([*values.get(at, ()), *several]))
    used = dict.fromkeys(card for at in _CARDS for card in values.get(at, ()))
    about = document.get(("description",))
    return Listed(
        *(name, kind, tuple(values.get(_MODEL, ())), tuple(used)),
        *(about if isinstance(about, str) else "", own, str(path)),
    )


def _of_scenario(document: Document) -> Iterator[Values]:
    values = {path: document.get(loc_of(path)) for path in (_MODEL, *_CARDS)}
    yield {path: [value] for path, value in values.items() if isinstance(value, str)}


def _of_sweep(document: Document) -> Iterator[Values]:
    for family in _mappings(document.get(("families",))):
        base = _of_base(family.get("base"))
        yield base | _set(document.get(("set",))) | _set(family.get("set")) | _swept(family)


def _of_study(document: Document) -> Iterator[Values]:
    dimensions = _mapping(document.get(("dimensions",)))
    for name, side in _mapping(document.get(("sides",))).items():
        base, for_all = document.get(("sides", name, "base")), document.get(("set",))
        found = _of_base(base) | _set(for_all) | _on_side(side)
        for values in _mappings(dimensions.values()):
            told = [
                _set(value.get("set")) | _on_side(_mapping(value.get("sides")).get(name))
                for value in _mappings(values.values())
            ]
            for path in {path for each in told for path in each}:
                others = [] if all(path in each for each in told) else found.get(path, [])
                found[path] = [*others, *(text for each in told for text in each.get(path, ()))]
        yield found


_OF_KIND = {"scenario": _of_scenario, "sweep": _of_sweep, "study": _of_study}


def _on_side(side: Any) -> Values:
    return _set(_mapping(side).get("set")) | _swept(_mapping(side))


def _of_base(name: Any) -> Values:
    try:
        found = read(cards.find(cards.SCENARIOS, str(name), "scenario"))
    except ScenarioError:
        return {}
    return next(_of_scenario(found))


def _set(settings: Any) -> Values:
    """Return the models and cards that values by dotted path set, mappings among them."""
    found: Values = {}
    for path, value in _mapping(settings).items():
        for wanted in (_MODEL, *_CARDS):
            inner = Document("", value).get(loc_of(wanted.removeprefix(f"{path}.")))
            text = value if path == wanted else inner if wanted.startswith(f"{path}.") else None
            if isinstance(text, str):
                found[wanted] = [text]
    return found


def _swept(holder: Mapping[str, Any]) -> Values:
    return {
        path: [text for text in values if isinstance(text, str)]
        for axis in _mappings(holder.get("axes"))
        for path, values in axis.items()
        if path in (_MODEL, *_CARDS) and isinstance(values, list)
    }


def _mapping(value: Any) -> dict[str, Any]:
    """Return a mapping, empty for anything else; a wrong file may hold anything."""
    return value if isinstance(value, dict) else {}


def _mappings(several: Any) -> list[dict[str, Any]]:
    """Return the mappings among several values."""
    if isinstance(several, str) or not isinstance(several, Iterable):
        return []
    return [each for each in several if isinstance(each, dict)]
