"""SIGKILL at random moments: no finished point is lost, none is half there, the bytes stay."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from sim.parallel import processes
from sim.sweeps import sweep
from sim.sweeps.points import Outcome, row
from sim.sweeps.runner import Runner
from sim.sweeps.store import Store
from tests.faults import shaken
from tests.faults.halving import halve

WORKER_KILLS = 12
SWEEP_KILLS = 4


def test_one_worker_is_eight_workers(tmp_path: Path) -> None:
    done = shaken.afdsim(tmp_path / "eight", "--workers", "8")
    assert done.returncode == 0, done.stderr
    assert shaken.tables(tmp_path / "eight") == shaken.undisturbed()


def test_killed_workers_cost_nothing(tmp_path: Path) -> None:
    rng, finished, killed = random.Random(3), 0, 0

    def kill_one(_outcome: Outcome) -> None:
        nonlocal finished, killed
        finished += 1
        if finished % 2 == 0 and killed < WORKER_KILLS:
            time.sleep(rng.uniform(0, 0.05))
            # The oldest, so that the point that died with the one before has time to end.
            shaken.kill(min(child.pid or 0 for child in multiprocessing.active_children()))
            killed += 1

    points = sweep.load(shaken.sweep_file()).points
    assert len(points) == shaken.POINTS
    folder = tmp_path / "shaken"
    with Store(folder, shaken.NAME) as store, processes.local(2) as pool:
        runner = Runner(store)
        runner.run(points, pool, kill_one)
        rows = [row(*done) for done in runner.finished(points)]
    assert killed == WORKER_KILLS
    assert [row["point"] for row in rows] == list(range(shaken.POINTS))
    # A point may be so unlucky that two workers are killed at it; it is told, and repeated.
    unlucky = [row for row in rows if row["status"] == "failed"]
    assert len(unlucky) <= 2
    assert all("died 2 times" in row["reason"] for row in unlucky)
    done = shaken.afdsim(folder, "--retry-failed")
    assert done.returncode == 0, done.stderr
    assert shaken.tables(folder) == shaken.undisturbed()


def test_a_killed_sweep_goes_on_where_it_was(tmp_path: Path) -> None:
    rng, kills, folder = random.Random(4), 0, tmp_path / "shaken"
    while kills < SWEEP_KILLS:
        before = shaken.size(folder)
        process = shaken.begin(folder, "--workers", "2")
        if kills % 3:
            shaken.wait_for_points(folder, process, before)
        try:
            process.wait(timeout=rng.uniform(0, 1))
        except subprocess.TimeoutExpired:
            # Every other time its workers are left to find out by themselves.
            children = shaken.children(process.pid)
            shaken.kill(process.pid, group=bool(kills % 2))
            kills += 1
            shaken.until(lambda: not any(map(shaken.is_alive, children)))  # noqa: B023
        else:
            assert process.returncode == 0
            assert shaken.tables(folder) == shaken.undisturbed()
            shutil.rmtree(folder)
        process.communicate()
    done = shaken.afdsim(folder, "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert shaken.tables(folder) == shaken.undisturbed()
    assert sorted(path.name for path in folder.iterdir()) == [
        *("pipelines.json", "points.sqlite", "report.html", "run.json"),
        *("sweep.csv", "sweep.parquet"),
    ]


def test_a_call_that_kills_its_workers_is_given_up_and_the_rest_goes_on() -> None:
    with processes.local(2) as pool:
        for start in (0, 100):  # a second round with the same workers
            numbers = [*range(start, start + 10), 13, *range(start + 20, start + 30)]
            results = dict(pool.run(halve, numbers))
            assert set(results) == set(numbers)
            for number, result in results.items():
                if number == 13:
                    assert isinstance(result, processes.Failure)
                    assert "died 2 times" in result.reason
                elif number % 2:
                    assert result == processes.Failure(f"ValueError: {number} is odd")
                else:
                    assert result == number // 2


def test_workers_killed_between_two_rounds_are_replaced() -> None:
    with processes.local(2) as pool:
        for _ in range(3):
            numbers = list(range(0, 20, 2))
            assert dict(pool.run(halve, numbers)) == {number: number // 2 for number in numbers}
            for child in multiprocessing.active_children():
                shaken.kill(child.pid or 0)
                child.join()


def test_items_wait_in_their_iterable_until_a_worker_is_near() -> None:
    taken = 0

    def numbers() -> Iterator[int]:
        nonlocal taken
        for number in range(0, 200, 2):
            taken += 1
            yield number

    with processes.local(1) as pool:
        for finished, _ in enumerate(pool.run(halve, numbers())):
            assert taken <= finished + 3
    assert taken == 100
