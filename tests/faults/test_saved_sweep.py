"""Directories of sweeps that are damaged, or that someone else made: told, and never followed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from sim.foundation.errors import EXIT_BAD_INPUT, ScenarioError
from sim.pictures import sweep_page
from tests.faults import shaken

Damage = Callable[[Path], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a copy of the directory of a finished sweep."""
    shaken.undisturbed()
    return shutil.copytree(shaken.sweep_file().parent / "undisturbed", tmp_path / "sweep")


def test_a_page_is_made_again_as_it_was(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "again.html"
    source = sweep_page.read(folder)
    sweep_page.write(page, [source._replace(name=shaken.NAME)])
    assert page.read_bytes() == (folder / "report.html").read_bytes()


def text(content: str) -> Damage:
    return lambda path: path.write_text(content)


def changed(change: Callable[[Any], object]) -> Damage:
    def damage(path: Path) -> None:
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))

    return damage


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


ANY_FILE: dict[str, Damage] = {
    "missing": Path.unlink,
    "empty": text(""),
    "no UTF-8": lambda path: path.write_bytes(b'{"sweep": "\xff\xfe"}'),
    "huge": lambda path: os.truncate(path, 10**12),
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "a FIFO": fifo,
    "a directory": directory,
    "deep": text("[" * 100_000),
}
RUN_JSON: dict[str, Damage] = {
    "a list": text("[1]"),
    "nothing": text("{}"),
    "NaN": changed(lambda data: data.update(wall_s=float("nan"))),
    "a figure without end": lambda path: path.write_text(
        path.read_text().replace('"points": ', '"points": 1e999, "more": ')
    ),
    "no sweep": changed(lambda data: data.pop("sweep")),
    "a sweep of text": changed(lambda data: data.update(sweep="x")),
    "a description of numbers": changed(lambda data: data["sweep"].update(description=[1])),
    "no published": changed(lambda data: data["sweep"].pop("published")),
    "published text": changed(lambda data: data["sweep"].update(published=["x"])),
    "a published 0": changed(
        lambda data: data["sweep"].update(
            published=[{"label": "x", "source": "x", "tpot_ms": 0, "tgs": 1}]
        )
    ),
}
PIPELINES: dict[str, Damage] = {
    "a list": text("[1]"),
    "text": changed(lambda data: data.update(AFD="x")),
    "no picture": changed(lambda data: data["AFD"].pop("picture")),
    "a share above 1": changed(lambda data: data["AFD"].update(doubt=[["glue", 1.5]])),
    "no rows": changed(lambda data: data["AFD"]["picture"].update(rows=[])),
    "no such row": changed(lambda data: data["AFD"]["picture"]["tasks"][0].__setitem__(0, 99)),
    "no tasks": changed(lambda data: data["AFD"]["picture"].update(tasks=[])),
    "time of text": changed(lambda data: data["AFD"]["picture"]["tasks"][0].__setitem__(5, "x")),
    "time without end": changed(
        lambda data: data["AFD"]["picture"]["tasks"][0].__setitem__(6, 10**400)
    ),
    "many micro-batches": changed(lambda data: data["AFD"]["picture"].update(micro_batches=10**12)),
}


def column(name: str, values: list[Any] | None) -> Damage:
    """Return a damage that replaces a column of the table, or drops it."""

    def damage(path: Path) -> None:
        table = pyarrow.parquet.read_table(path)
        place = table.column_names.index(name)
        table = table.remove_column(place)
        if values is not None:
            table = table.add_column(place, name, pa.array(values * shaken.POINTS))
        pyarrow.parquet.write_table(table, path)

    return damage


TABLE: dict[str, Damage] = {
    **{f"no {name}": column(name, None) for name in ("family", "status", "tgs", "slo_met")},
    "families of numbers": column("family", [1]),
    "no family": column("family", [None]),
    "throughput of text": column("tgs", ["x"]),
    "throughput without end": column("tgs", [float("inf")]),
    "throughput that is none": column("tgs", [float("nan")]),
    "throughput below zero": column("tgs", [-1.0]),
    "an end of text": column("tgs_p10", ["x"]),
    "an end of zero": column("tpot_ms_p90", [0.0]),
    "an SLO of zero": column("slo_tpot_ms", [0.0]),
    "lists": column("gpus", [[1, 2]]),
    "bytes": column("base", [b"\xff"]),
    "many cells": lambda path: pyarrow.parquet.write_table(
        pa.table({"family": pa.nulls(30_000_000)}), path
    ),
}
DAMAGES = [
    *(("run.json", *each) for each in (ANY_FILE | RUN_JSON).items()),
    *(("sweep.parquet", *each) for each in (ANY_FILE | TABLE).items()),
    *(("pipelines.json", *each) for each in (ANY_FILE | PIPELINES).items() if each[0] != "missing"),
]


@pytest.mark.parametrize(
    ("name", "damage"),
    [(name, damage) for name, _what, damage in DAMAGES],
    ids=[f"{name}: {what}" for name, what, _damage in DAMAGES],
)
def test_a_damaged_directory_is_told_with_the_file(name: str, damage: Damage, folder: Path) -> None:
    damage(folder / name)
    with pytest.raises(ScenarioError) as told:
        sweep_page.read(folder)
    assert told.value.exit_code == EXIT_BAD_INPUT
    (problem,) = told.value.problems
    assert problem.startswith(f"{folder / name}: ")
    assert len(problem.splitlines()) == 1
    assert len(problem) < len(str(folder)) + 500


# Prints what a verb opens, and what it starts or connects to.
_WATCHED = """
import sys
def watch(event, details):
    if event == "open" and isinstance(details[0], (str, bytes)):
        print(details[0] if isinstance(details[0], str) else details[0].decode(), file=log)
    elif event in ("subprocess.Popen", "os.exec", "socket.connect"):
        print(event, file=log)
log = open(sys.argv.pop(1), "w", buffering=1)
sys.addaudithook(watch)
from sim.cli import main
main()
"""


def test_plot_opens_nothing_that_the_directory_only_names(folder: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary.yaml"
    canary.write_text("the canary sings\n")

    def name_it(data: Any) -> Any:
        """Put the path of the canary in the place of every text of run.json."""
        if isinstance(data, dict):
            return {key: name_it(each) for key, each in data.items()}
        if isinstance(data, list):
            return [name_it(each) for each in data]
        return str(canary) if isinstance(data, str) else data

    run_json = folder / "run.json"
    described = json.loads(run_json.read_text())
    described["best"] = name_it(described["best"])
    described["sweep"] = name_it(described["sweep"])
    run_json.write_text(json.dumps(described))
    log, page = tmp_path / "opened", tmp_path / "page.html"
    command = [sys.executable, "-c", _WATCHED, str(log), "plot", str(folder), "--out", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=shaken.ROOT)
    assert done.returncode == 0, done.stderr
    opened = log.read_text().splitlines()
    assert str(run_json) in opened
    assert str(canary) not in opened
    assert "subprocess.Popen" not in opened
    assert "socket.connect" not in opened
    made = page.read_text()
    assert "the canary sings" not in made
    assert 'id="pipeline-1"' in made
