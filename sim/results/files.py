"""Results: what a run or a sweep leaves on disk, whole or not at all, with its provenance."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from sim.decoding.run import Run
from sim.foundation import json_text
from sim.foundation.errors import StoreError
from sim.foundation.files import file_sha256
from sim.foundation.printable import excerpt
from sim.foundation.spreadsheets import inert, inert_value
from sim.inputs import cards
from sim.inputs.naming import folder_name
from sim.inputs.scenario import Scenario
from sim.metrics.cautions import SCOPE, cautions
from sim.metrics.summary import cut_steps, server_utilisation
from sim.results import sources
from sim.steady.state import Steady

SCHEMA_VERSION = 1
RUNS = Path("results/runs")

_LIBRARIES = ("numba", "numpy", "pydantic", "pyarrow", "simpy")


def resolved(scenario: Scenario) -> dict[str, Any]:
    """Return the scenario as plain data, every default filled in."""
    return scenario.model_dump(mode="json")


def sha256(data: object) -> str:
    """Return the SHA-256 of plain data in canonical JSON."""
    text = json_text.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def provenance() -> dict[str, Any]:
    """Return what made a result: schema, package version and commit, library versions."""
    return {
        "schema_version": SCHEMA_VERSION,
        "afdsim": metadata.version("afdsim"),
        "commit": _commit(),
        "python": platform.python_version(),
        "libraries": {name: metadata.version(name) for name in _LIBRARIES},
    }


def code() -> dict[str, str]:
    """Return which code simulates: the version, and the SHA-256 of what decides an outcome.

    In a checkout the code changes and the version does not.
    """
    return {"version": metadata.version("afdsim"), "sources": sources.digest()}


def calibration(tables: Mapping[str, str]) -> dict[str, str | None]:
    """Return the calibration table of each accelerator by its SHA-256; None where it has none."""
    return {name: digest or None for name, digest in sorted(tables.items())}


def calibration_of(accelerators: Sequence[str]) -> dict[str, str | None]:
    """Return the calibration tables that the named accelerators have, by SHA-256."""
    paths = {name: cards.calibration(name) for name in accelerators}
    return {name: file_sha256(path) if path else None for name, path in paths.items()}


def fresh_directory(wanted: Path, fill: Callable[[Path], None]) -> Path:
    """Create a directory with all of its files at once and return its path.

    `fill` writes into a temporary neighbour that is renamed when complete; an existing `wanted`
    is left alone and -2, -3, … is appended. Raises StoreError if the files cannot be written.
    """
    with _told(wanted):
        if wanted.is_file():
            raise StoreError(f"{wanted}: is a file; choose another --out")
        wanted.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{wanted.name}-", dir=wanted.parent))
        try:
            fill(temporary)
            temporary.chmod(0o755)
            return _rename_free(temporary, wanted)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Put at `path` the file that `write` writes, when it is complete.

    Raises StoreError if it cannot be written, which leaves an old file as it was.
    """
    with _told(path):
        if path.is_dir():
            raise StoreError(f"{path}: is a directory; name a file")
        temporary = path.with_name(f".{path.name}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def replace_files(folder: Path, fill: Callable[[Path], None]) -> None:
    """Replace files of `folder` by those that `fill` writes, once all of them are written.

    Only one process may do so at a time. Raises StoreError if they cannot be written, which
    leaves the old files as they were.
    """
    temporary = folder / ".part"
    with _told(folder):
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
        try:
            temporary.mkdir()
            fill(temporary)
            for path in sorted(temporary.iterdir()):
                path.replace(folder / path.name)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Turn what the file system refuses into a StoreError with its remedy."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else " ".join(str(error).split())
        place = excerpt(str(folder), 200)
        raise StoreError(
            f"{place}: cannot be written: {reason}; make room or choose another --out"
        ) from None


def _rename_free(temporary: Path, wanted: Path) -> Path:
    number = 1
    while True:
        target = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        if not target.exists():
            try:
                return temporary.rename(target)
            except OSError as error:
                # Another process may have taken the name since.
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                    raise
        number += 1


def write_json(path: Path, data: object) -> None:
    """Write plain data as readable JSON."""
    path.write_text(json_text.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_table(stem: Path, columns: Mapping[str, Sequence[Any] | np.ndarray[Any, Any]]) -> None:
    """Write one table as `stem`.csv, whose texts are inert in spreadsheets, and `stem`.parquet."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    shown = pa.table(
        {
            inert(name): [inert_value(value) for value in column.to_pylist()]
            if pa.types.is_string(column.type)
            else column
            for name, column in zip(table.column_names, table.columns, strict=True)
        }
    )
    pyarrow.csv.write_csv(shown, stem.with_suffix(".csv"))
    pyarrow.parquet.write_table(table, stem.with_suffix(".parquet"))


def save_run(
    run: Run, figures: dict[str, Any], out: Path | None = None, runs: Sequence[dict[str, Any]] = ()
) -> Path:
    """Write a run's tables and run.json with its figures and return the directory.

    `runs` are the figures of the replications of which `run` is the first: they are put beside
    their summary. The default directory is results/runs/NAME-HASH, the hash being the resolved
    scenario's.
    """

    def fill(folder: Path) -> None:
        write_table(folder / "requests", run.requests)
        write_table(folder / "steps", {**run.steps, **run.layer_ns})
        write_table(folder / "servers", server_columns(run))
        if run.preemptions is not None:
            write_table(folder / "preemptions", run.preemptions)
        if run.records:
            write_table(folder / "timeline", timeline_columns(run))
        made = {
            "engine": run.engine,
            "engine_note": run.engine_note,
            "wall_s": round(run.wall_s, 3),
        }
        described = described_run(run.scenario, run.tables, made, figures)
        if len(runs) > 1:
            described["replications"] = list(runs)
        write_json(folder / "run.json", described)

    return fresh_directory(out or run_directory(run.scenario), fill)


def save_steady(steady: Steady, out: Path | None = None) -> Path:
    """Write run.json of a steady state, which has no tables, and return the directory."""
    site = steady.site
    tables = {table.accelerator.name: table.sha256 for table in site.tables}

    def fill(folder: Path) -> None:
        made = {"engine": "bound", "engine_note": steady.engine_note}
        described = described_run(site.scenario, tables, made, steady.figures())
        write_json(folder / "run.json", described)

    return fresh_directory(out or run_directory(site.scenario), fill)


def run_directory(scenario: Scenario) -> Path:
    """Return the default directory of a run, NAME-HASH, the hash being the resolved scenario's."""
    return RUNS / f"{folder_name(scenario.name)}-{sha256(resolved(scenario))[:8]}"


def described_run(
    scenario: Scenario, tables: Mapping[str, str], made: dict[str, Any], figures: dict[str, Any]
) -> dict[str, Any]:
    """Return the content of run.json; `made` tells how the figures were made."""
    plain = resolved(scenario)
    return {
        **provenance(),
        "scenario_sha256": sha256(plain),
        "seed": scenario.simulation.seed,
        "calibration": calibration(tables),
        **made,
        "scope": SCOPE,
        "warnings": cautions(scenario, figures),
        "summary": figures,
        "scenario": plain,
    }


def server_columns(run: Run) -> dict[str, list[Any]]:
    """Return one row per server: its pool, how busy it was after the warm-up and its bubbles."""
    shares = server_utilisation(run, cut_steps(run))
    pools = [(p.name, p.kind, server) for p in run.program.pools for server in range(p.servers)]
    return {
        "pool": [name for name, _, _ in pools],
        "kind": [kind for _, kind, _ in pools],
        "server": [server for _, _, server in pools],
        "utilisation": [float(share) for share in shares],
        "bubble": [float(1 - share) for share in shares],
    }


def timeline_columns(run: Run) -> dict[str, list[Any]]:
    """Return one row per recorded task, by start time."""
    program = run.program
    rows = []
    for record in sorted(run.records, key=lambda r: (r.start_ns, r.node, r.server)):
        node = program.nodes[record.node]
        stage = program.stages[node.stage]
        place = (program.pools[stage.pool].name, record.server, stage.name)
        when = (record.step, node.layer, node.micro_batch, record.start_ns, record.end_ns)
        rows.append(place + when)
    names = ("pool", "server", "stage", "step", "layer", "micro_batch", "start_ns", "end_ns")
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


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
