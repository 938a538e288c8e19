"""Provenance: what made a result, by versions and hashes."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from typing import Any

from sim.foundation import json_text
from sim.foundation.identity import kept_by_identity
from sim.foundation.json_text import Frozen
from sim.foundation.reading import file_sha256
from sim.inputs import cards
from sim.inputs.base import Strict
from sim.inputs.scenario import Scenario
from sim.results import sources

SCHEMA_VERSION = 1

_LIBRARIES = ("numba", "numpy", "pydantic", "pyarrow", "simpy")


def resolved(scenario: Scenario) -> dict[str, Any]:
    """Return the scenario as plain data, every default filled in."""
    return {name: _plain(part) for name, part in scenario}


def _plain(part: object) -> object:
    if isinstance(part, list):
        return [_plain(each) for each in part]
    return _dumped(part) if isinstance(part, Strict) else part


@kept_by_identity
def _dumped(part: Strict) -> Frozen:
    """Return a part of scenarios, which points of a sweep share, as plain data."""
    return Frozen(part.model_dump(mode="json"))


def sha256(data: object) -> str:
    """Return the SHA-256 of plain data in canonical JSON."""
    return hashlib.sha256(json_text.canonical(data).encode()).hexdigest()


def provenance() -> dict[str, Any]:
    """Return what made a result: schema, package version and commit, library versions."""
    return {
        "schema_version": SCHEMA_VERSION,
        "afdsim": _version(),
        "commit": _commit(),
        "python": platform.python_version(),
        "libraries": {name: metadata.version(name) for name in _LIBRARIES},
    }


def code() -> dict[str, str]:
    """Return which code simulates: the version, and the SHA-256 of what decides an outcome.

    In a checkout the code changes and the version does not.
    """
    return {"version": _version(), "sources": sources.digest()}


@cache
def _version() -> str:
    return metadata.version("afdsim")


def calibration(tables: Mapping[str, str]) -> dict[str, str | None]:
    """Return the calibration table of each accelerator by its SHA-256; None where it has none."""
    return {name: digest or None for name, digest in sorted(tables.items())}


def calibration_of(accelerators: Sequence[str]) -> dict[str, str | None]:
    """Return the calibration tables that the named accelerators have, by SHA-256."""
    paths = {name: cards.calibration(name) for name in accelerators}
    return {name: file_sha256(path) if path else None for name, path in paths.items()}


def _commit() -> str | None:
    """Return the commit of the checkout that the package runs from, None elsewhere."""
    checkout = cards.packaged("hardware").parent
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() or None
