"""Doubts of a sweep's points: those of the points alone, found once, empty where nothing ran."""

from __future__ import annotations

from pathlib import Path

import pytest

import sim
from sim.doubt.interval import COLUMNS, doubt_of
from sim.parallel import processes
from sim.sweeps import folder
from sim.sweeps import sweep as sweeps
from sim.sweeps.runner import unwatched

SWEEP = """
kind: sweep
name: sure
set: {simulation.min_steps: 20, simulation.max_steps: 20}
families:
  - family: AFD
    base: step3-2a2f
    axes:
      - deployment.attention.instances: [1, 2]
      - workload.arrivals.concurrency: [1000, 1500, 9000000]
  - family: bound
    base: dsv3-ep128
    set: {simulation.engine: bound}
    max_batch_under_slo: mean
    axes:
      - slo.tpot_ms: [40, 60]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "sure.yaml").write_text(SWEEP)
    return tmp_path / "sure.yaml"


def run(path: Path, workers: int, titles: list[str] | None = None) -> folder.SweepResult:
    def watch(title: str, total: int, taken: int):  # type: ignore[no-untyped-def]
        if titles is not None:
            titles.append(f"{title} {total} {taken}")
        return unwatched(title, total, taken)

    with processes.local(workers) as pool:
        return folder.run(sweeps.load(path), path.parent / f"out-{workers}", pool, watch=watch)


def test_a_point_is_as_sure_as_alone(path: Path) -> None:
    result = run(path, 1)
    scenarios = result.scenarios()
    sure = [row for row in result.rows if row["status"] == "ok"]
    assert len(sure) == 6
    for row in sure:
        alone = doubt_of(scenarios[row["point"]], row["requests_in_flight"])
        found = [row[name] for name in COLUMNS]
        assert list(alone.columns(row).values()) == found
        assert row["tgs_p10"] < row["tgs"] < row["tgs_p90"]
    refused = [row for row in result.rows if row["status"] == "refused"]
    assert refused
    assert not any(set(COLUMNS) & set(row) for row in refused)


def test_workers_change_no_byte_and_a_sitting_takes_doubts_over(path: Path) -> None:
    told: list[str] = []
    run(path, 1)
    run(path, 2, told)
    assert told == ["points 8 0", "doubt 6 0"]
    for name in ("sweep.csv", "sweep.parquet"):
        made = [(path.parent / f"out-{count}" / name).read_bytes() for count in (1, 2)]
        assert made[0] == made[1]
    told.clear()
    run(path, 2, told)
    assert told == []


def test_nothing_saved_is_as_sure(path: Path) -> None:
    saved = run(path, 1).table()
    assert sim.sweep(path)[list(COLUMNS)].equals(saved[list(COLUMNS)])


def test_a_doubt_that_fails_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    broken = path.parent / "hardware" / "doubt" / "residuals.csv"
    broken.parent.mkdir(parents=True)
    broken.write_text("group,rows\n")
    result = run(path, 1)
    (told,) = (each for each in result.warnings if "no prediction interval" in each)
    assert told.startswith("6 points: no prediction interval: ")
    assert all(row["tgs_p10"] is None for row in result.rows if row["status"] == "ok")
