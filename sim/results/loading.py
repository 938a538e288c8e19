"""Loading: what a run, sweep or study left in its directory."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.foundation.errors import ScenarioError
from sim.foundation.reading import MOST_TABLE_BYTES, read_bytes

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class SavedResults:
    """The files of a directory of results."""

    folder: Path
    described: dict[str, Any]
    """Content of run.json."""
    tables: dict[str, pandas.DataFrame]
    """Tables by name: `requests`, `steps`, `servers` of a run, `sweep`, `study`."""


def load_results(folder: str | Path) -> SavedResults:
    """Return what a run, sweep or study left in `folder`.

    Raises ScenarioError that names the file if one is missing or damaged.
    """
    import pandas

    folder = Path(folder)
    described = _read(folder / "run.json", json.loads)
    if not isinstance(described, dict):
        raise ScenarioError(f"{folder / 'run.json'}: should be an object")
    tables = {
        path.stem: _read(path, lambda content: pandas.read_parquet(io.BytesIO(content)))
        for path in sorted(folder.glob("*.parquet"))
    }
    return SavedResults(folder, described, tables)


def _read(path: Path, parse: Any) -> Any:
    content = read_bytes(path, MOST_TABLE_BYTES)
    try:
        return parse(content)
    except (ValueError, OSError, RecursionError) as error:
        short = " ".join(str(error).split())[:300]
        raise ScenarioError(f"{path}: cannot be read: {short}; run it again") from None
