"""The directory of a recommendation: a scenario for each answer, launch files, figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sim.foundation.errors import InfeasibleError
from sim.inputs.naming import folder_name
from sim.results.files import RUNS, fresh_directory, write_json
from sim.results.provenance import provenance
from sim.study.launch.launch_file import ENGINES, launch_file
from sim.study.launch.parts import LaunchFile
from sim.study.recommendation import Recommendation
from sim.study.shape_search import Found


@dataclass(frozen=True)
class Emitted:
    """A launch file of one of the answers."""

    engine: str
    of: str
    """Whose it is: answer, or other_side where the engine cannot run the answer's kind."""
    file: LaunchFile

    def as_dict(self) -> dict[str, Any]:
        file = {"file": self.file.name, "cannot": list(self.file.cannot)}
        return {"engine": self.engine, "of": self.of} | file


def roles(found: Recommendation) -> dict[str, Found]:
    """Return the shapes that were found, by the name of their scenario file."""
    every: Mapping[str, Found | None] = {
        "answer": found.answer,
        "other_side": found.other_side,
        "runner_up": found.runner_up,
    }
    return {role: each for role, each in every.items() if each is not None}


def _files(found: Recommendation) -> Iterator[tuple[str, Found]]:
    """Yield each shape under the name of its file, those beside another too."""
    for role, each in roles(found).items():
        yield role, each
        if each.beside is not None:
            yield f"{role}_beside", each.beside


def emitted(found: Recommendation, engine: str) -> Emitted:
    """Return the launch file of the answer, or of the other side if the engine runs that alone.

    Raises InfeasibleError if the engine runs neither.
    """
    reasons = []
    for role, each in roles(found).items():
        if role == "runner_up":
            continue
        try:
            return Emitted(engine, role, launch_file(each.closed, engine))
        except InfeasibleError as error:
            reasons.append(str(error))
    raise InfeasibleError(f"no launch file for {ENGINES[engine]}: {'; '.join(reasons)}")


def save(found: Recommendation, out: Path | None = None, launch: Emitted | None = None) -> Path:
    """Write the scenarios, which `afdsim run` takes, and recommendation.json; return the directory.

    Raises StoreError if it cannot be written.
    """
    question = found.question
    gpus = "+".join(f"{each.count}x{each.card}" for each in question.gpus)
    name = folder_name(f"recommend-{question.title}-{gpus}")

    def fill(folder: Path) -> None:
        for role, each in _files(found):
            text = yaml.safe_dump(each.written(), sort_keys=False, allow_unicode=True)
            (folder / f"{role}.yaml").write_text(text, encoding="utf-8")
        if launch is not None:
            (folder / launch.file.name).write_text(launch.file.text, encoding="utf-8")
        write_json(folder / "recommendation.json", provenance() | found.as_dict() | _of(launch))

    return fresh_directory(out or RUNS / name, fill)


def with_files(
    found: Recommendation, folder: Path, launch: Emitted | None = None
) -> dict[str, Any]:
    """Return the recommendation as plain data, with the path of each file."""
    told = found.as_dict() | _of(launch)
    for role, each in roles(found).items():
        told[role]["scenario"] = str(folder / f"{role}.yaml")
        if each.beside is not None:
            told[role]["beside"]["scenario"] = str(folder / f"{role}_beside.yaml")
    if launch is not None:
        told["launch"]["file"] = str(folder / launch.file.name)
    return told


def _of(launch: Emitted | None) -> dict[str, Any]:
    return {} if launch is None else {"launch": launch.as_dict()}
