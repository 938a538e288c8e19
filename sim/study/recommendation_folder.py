"""The directory of a recommendation: a scenario for each answer, its figures and provenance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from sim.inputs.naming import folder_name
from sim.results.files import RUNS, fresh_directory, write_json
from sim.results.provenance import provenance
from sim.study.recommendation import Recommendation
from sim.study.shape_search import Found


def save(found: Recommendation, out: Path | None = None) -> Path:
    """Write the scenarios, which `afdsim run` takes, and recommendation.json; return the directory.

    Raises StoreError if it cannot be written.
    """
    question = found.question
    gpus = "+".join(f"{each.count}x{each.card}" for each in question.gpus)
    name = folder_name(f"recommend-{question.model}-{gpus}")

    def fill(folder: Path) -> None:
        for role, each in _roles(found).items():
            if each is not None:
                text = yaml.safe_dump(each.written(), sort_keys=False, allow_unicode=True)
                (folder / f"{role}.yaml").write_text(text, encoding="utf-8")
        write_json(folder / "recommendation.json", provenance() | found.as_dict())

    return fresh_directory(out or RUNS / name, fill)


def with_files(found: Recommendation, folder: Path) -> dict[str, Any]:
    """Return the recommendation as plain data, with the path of each scenario."""
    told = found.as_dict()
    for role, each in _roles(found).items():
        if each is not None:
            told[role]["scenario"] = str(folder / f"{role}.yaml")
    return told


def _roles(found: Recommendation) -> dict[str, Found | None]:
    return {
        "answer": found.answer,
        "other_side": found.other_side,
        "runner_up": found.runner_up,
    }
