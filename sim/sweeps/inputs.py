"""Inputs: everything that an outcome depends on, as plain data; its hash is the outcome's key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from sim.foundation.reading import asked_once, file_sha256
from sim.inputs import cards
from sim.inputs.scenario import Scenario
from sim.results.provenance import code, resolved

Inputs = dict[str, Any]


def read_by(scenario: Scenario) -> Inputs:
    """Return what the run of a scenario depends on, as plain data."""
    return {"scenario": resolved(scenario), **beside(scenario)}


def beside(scenario: Scenario) -> Inputs:
    """Return what the run of a scenario depends on besides it: files by hash, and the code."""
    deployment, recording = scenario.deployment, scenario.workload.recording()
    named = {f"measured {path}": path for path in scenario.measured_files()}
    if recording is not None:
        named = {f"{recording.kind} {recording.path}": recording.path} | named
    cards_of = scenario.model, deployment.fabric, tuple(deployment.accelerators())
    tables, files = _of_files(*cards_of, tuple(named.items()))
    return {
        "calibration": tables,
        "files": files,
        "afdsim": code(),
    }


@asked_once
def _of_files(
    model: str, fabric: str, accelerators: tuple[str, ...], others: tuple[tuple[str, str], ...]
) -> tuple[dict[str, str | None], dict[str, str]]:
    """Return the hashes of calibration tables by accelerator, and of files by what they are."""
    named = {f"model {model}": cards.find(cards.MODELS, model, "model")}
    named[f"fabric {fabric}"] = cards.find(cards.FABRICS, fabric, "fabric")
    tables = {}
    for name in accelerators:
        path = named[f"accelerator {name}"] = cards.find(cards.ACCELERATORS, name, "accelerator")
        table = cards.calibration(_card_name(name, _state(path)))
        tables[name] = None if table is None else _file_sha256(table, _state(table))
    named |= {what: Path(path) for what, path in others}
    return tables, {what: _file_sha256(path, _state(path)) for what, path in named.items()}


def _state(path: Path) -> tuple[int, int, int]:
    """Return what changes with a file's content, so that thousands of points read it once."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


@lru_cache
def _file_sha256(path: Path, _state: tuple[int, int, int]) -> str:
    return file_sha256(path)


@lru_cache
def _card_name(accelerator: str, _state: tuple[int, int, int]) -> str:
    return cards.accelerator(accelerator).name


def changes(before: Inputs, now: Inputs) -> list[str]:
    """Return what differs between two inputs, in words."""
    old, new = (dict(_leaves(each.get("scenario", {}), "")) for each in (before, now))
    paths = [path for path in {**new, **old} if old.get(path) != new.get(path)]
    words = [f"{path} was {old.get(path)}, is {new.get(path)}" for path in paths]
    for kind, said in (("files", "{}"), ("calibration", "calibration of {}")):
        old_hashes, new_hashes = before.get(kind, {}), now.get(kind, {})
        words += [
            f"{said.format(name)} changed"
            for name in old_hashes
            if name in new_hashes and old_hashes[name] != new_hashes[name]
        ]
    if before["afdsim"] != now["afdsim"]:
        versions = before["afdsim"]["version"], now["afdsim"]["version"]
        words.append("afdsim was {}, is {}".format(*versions) if len(set(versions)) > 1 else
                     f"the code of afdsim {versions[0]} changed")  # fmt: skip
    return words


def _leaves(data: Mapping[str, Any], front: str) -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{front}{key}.")
        else:
            yield f"{front}{key}", value
