"""Finding files by name: model cards, hardware cards and scenarios, one's own before the packaged.

A name resolves to `<folder>/<name>.yaml` in the working directory, then among the files that
come with the package; a path with a suffix or a slash is taken as it stands.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeVar, cast

from pydantic import BaseModel

from sim.foundation.errors import ScenarioError, did_you_mean
from sim.foundation.printable import excerpt
from sim.foundation.reading import asked_once
from sim.inputs.documents.document import read
from sim.inputs.hardware import Accelerator, Fabric
from sim.inputs.model import ModelCard
from sim.inputs.software.card import SoftwareProfile

Card = TypeVar("Card", bound=BaseModel)

MODELS = "scenarios/models"
ACCELERATORS = "hardware"
FABRICS = "hardware/fabrics"
SOFTWARE = "hardware/software"
CALIBRATION = "hardware/calibration"
DOUBT = "hardware/doubt"
SCENARIOS = "scenarios"
SWEEPS = "scenarios/sweeps"
STUDIES = "scenarios/studies"

# Characters of a path in a message.
_LONGEST = 200

_PACKAGE = Path(__file__).resolve().parents[1]


@lru_cache
def packaged(folder: str) -> Path:
    """Return the packaged `folder`: beside the code in a wheel, the checkout's otherwise."""
    in_wheel = _PACKAGE / "_data" / folder
    return in_wheel if in_wheel.is_dir() else _PACKAGE.parent / folder


def names(folder: str) -> list[str]:
    places = (Path.cwd() / folder, packaged(folder))
    return sorted(
        {path.stem for place in places for path in place.glob("*.yaml") if _is_file(path)}
    )


@asked_once
def find(folder: str, name: str, what: str, suffix: str = ".yaml") -> Path:
    """Return the path that `name` stands for. Raises ScenarioError with the nearest name."""
    if "/" in name or name.endswith(suffix):
        if _is_file(Path(name)):
            return Path(name)
        raise ScenarioError(f"{excerpt(name, _LONGEST)}: no such file, or not a regular file")
    found = _first(folder, f"{name}{suffix}")
    if found is None:
        raise _unknown(what, name, names(folder))
    return found


@asked_once
def _first(folder: str, file: str) -> Path | None:
    """Return one's own file of a folder, else the packaged one, None if there is neither."""
    # Every point of a sweep asks ten times: as text this takes a fifth of what Path takes.
    for place in (f"{os.getcwd()}/{folder}", packaged(folder)):  # noqa: PTH109
        path = f"{place}/{file}"
        if os.path.isfile(path):  # noqa: PTH113
            return _path(path)
    return None


@lru_cache(maxsize=1024)
def _path(text: str) -> Path:
    return Path(text)


def _is_file(path: Path) -> bool:
    """Return whether a file can be there: no path may be longer than file systems take."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _unknown(what: str, name: str, known: Sequence[str]) -> ScenarioError:
    return ScenarioError(f"unknown {what} '{excerpt(name)}'; {did_you_mean(name, known)}")


def find_any(folders: Sequence[str], name: str, what: str) -> Path:
    """Return the path that `name` stands for in the first of `folders` that has it."""
    for folder in folders:
        if name in names(folder):
            return find(folder, name, what)
    if "/" in name or name.endswith(".yaml"):
        return find(folders[0], name, what)
    known = [known for folder in folders for known in names(folder)]
    raise _unknown(what, name, known)


def study(name: str) -> Path:
    """Return the study at a path, or of a name: `study.yaml` in a folder of that name.

    Raises ScenarioError with the nearest name.
    """
    if "/" in name or name.endswith(".yaml"):
        return find(STUDIES, name, "study")
    places = (Path.cwd() / STUDIES, packaged(STUDIES))
    for place in places:
        if _is_file(place / name / "study.yaml"):
            return place / name / "study.yaml"
    known = sorted({path.parent.name for place in places for path in place.glob("*/study.yaml")})
    raise _unknown("study", name, known)


def model(name: str) -> ModelCard:
    return _card(ModelCard, find(MODELS, name, "model"))


def accelerator(name: str) -> Accelerator:
    return _card(Accelerator, find(ACCELERATORS, name, "accelerator"))


def fabric(name: str) -> Fabric:
    return _card(Fabric, find(FABRICS, name, "fabric"))


def software(name: str) -> SoftwareProfile:
    return _card(SoftwareProfile, find(SOFTWARE, name, "software profile"))


def check(folder: str, name: str, what: str) -> None:
    """Raise ScenarioError unless `name` stands for a sound card of `folder`."""
    kinds: dict[str, type[BaseModel]] = {
        MODELS: ModelCard,
        ACCELERATORS: Accelerator,
        FABRICS: Fabric,
    }
    _card(kinds[folder], find(folder, name, what))


@asked_once
def _card(kind: type[Card], path: Path) -> Card:
    """Return the card in a file, which is read again only if the file has changed."""
    known = path.stat()
    return cast(Card, _parsed(kind, path, known.st_mtime_ns, known.st_size))


@lru_cache(maxsize=256)
def _parsed(kind: type[BaseModel], path: Path, _changed_ns: int, _size: int) -> BaseModel:
    return read(path).validate(kind)


def calibration(accelerator: str) -> Path | None:
    """Return the calibration table of an accelerator, None if there is none."""
    return _first(CALIBRATION, f"{accelerator}.csv")


def doubt(file: str) -> Path | None:
    """Return a table of errors, None if there is none."""
    return _first(DOUBT, file)
