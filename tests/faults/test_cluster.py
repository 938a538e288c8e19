"""Points on a Dask cluster: the same bytes, also when workers are killed."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import small_study
from tests.faults import shaken

pytest.importorskip("distributed", reason="Dask is not installed: pip install 'afdsim[cluster]'")

KILLS = 4


class Cluster(NamedTuple):
    process: subprocess.Popen[str]
    address: str

    def workers(self) -> list[int]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return [int(pid) for pid in self.process.stdout.readline().split()]


def end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.wait(timeout=30)
    process.stdout.close()


def begin(workers: int) -> Cluster:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.cluster", str(workers)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=shaken.ROOT,
    )
    assert process.stdout is not None
    return Cluster(process, process.stdout.readline().strip())


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = begin(workers=2)
    yield made
    end(made.process)


def test_a_cluster_with_killed_workers_gives_the_same_bytes(
    cluster: Cluster, tmp_path: Path
) -> None:
    rng, folder = random.Random(5), tmp_path / "shaken"
    sweep = shaken.begin(folder, "--scheduler", cluster.address)
    shaken.wait_for_points(folder, sweep)
    for _ in range(KILLS):
        assert sweep.poll() is None, "the sweep was over before its workers were killed"
        shaken.kill(rng.choice(cluster.workers()))
        time.sleep(rng.uniform(0, 0.3))
    _out, told = sweep.communicate(timeout=120)
    assert sweep.returncode == 0, told
    assert shaken.tables(folder) == shaken.undisturbed()


def test_a_study_on_a_cluster_gives_the_same_bytes(cluster: Cluster, tmp_path: Path) -> None:
    study = small_study.write(tmp_path)
    made = {}
    for name, options in (
        ("here", ("--workers", "1")),
        ("there", ("--scheduler", cluster.address)),
    ):
        out = tmp_path / name
        words = [sys.executable, "-m", "sim.cli", "study", str(study), "--out", str(out), *options]
        subprocess.run(words, check=True, capture_output=True, cwd=shaken.ROOT)
        made[name] = {path.name: path.read_bytes() for path in out.glob("*.csv")}
    assert set(made["here"]) == {"study.csv", "mechanisms.csv"}
    assert made["here"] == made["there"]


def test_a_scheduler_that_ends_is_told_and_the_points_are_kept(
    cluster: Cluster, tmp_path: Path
) -> None:
    folder = tmp_path / "shaken"
    sweep = shaken.begin(folder, "--scheduler", cluster.address)
    shaken.wait_for_points(folder, sweep)
    end(cluster.process)
    _out, told = sweep.communicate(timeout=120)
    assert sweep.returncode == 2, told
    assert f"the scheduler at {cluster.address} was lost" in told
    assert "Traceback" not in told
    assert 0 < shaken.finished(folder) < shaken.POINTS


@pytest.mark.parametrize(
    ("address", "said"),
    [("localhost", "write tcp://HOST:PORT"), ("tcp://127.0.0.1:9", "start one: dask scheduler")],
)
def test_no_scheduler(address: str, said: str, tmp_path: Path) -> None:
    done = shaken.afdsim(tmp_path / "none", "--scheduler", address)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_no_workers(tmp_path: Path) -> None:
    made = begin(workers=0)
    done = shaken.afdsim(tmp_path / "none", "--scheduler", made.address)
    end(made.process)
    assert done.returncode == 2
    assert f"start some: dask worker {made.address} --nthreads 1" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
