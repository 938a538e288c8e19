"""What is finished is never run again; what runs, runs for a reason that can be told."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from sim.foundation.errors import StoreError
from sim.inputs import cards
from sim.parallel.processes import Failure, Item, Made, Result, Workers, make
from sim.results import provenance
from sim.sweeps import inputs, runner, sweep
from sim.sweeps.points import Outcome, Point, Row, failed, row
from sim.sweeps.runner import Runner
from sim.sweeps.store import FILE, Finished, Store

SWEEP = """
kind: sweep
name: small
families:
  - family: AFD
    base: step3-2a2f
    axes:
      - deployment.attention.instances: {from: 1, to: 3, step: 1}
"""


class Here:
    """An executor without processes, so that a test may change what a call does."""

    def room(self) -> int:
        return 1

    def batch(self) -> int:
        return 1

    def learn(self, calls: int, spent_s: float) -> None:
        pass

    def submit(self, call: Callable[[Item], Result], items: list[Item]) -> Future[Made[Result]]:
        future: Future[Made[Result]] = Future()
        future.set_result(make(call, items))
        return future

    def give_up(self, future: Future[Any]) -> None:
        pass

    def renew(self) -> bool:
        return True

    def failure(self, error: BaseException) -> Failure:
        return Failure(str(error))

    def close(self, *, now: bool) -> None:
        pass


class Bench:
    """A sweep in an empty directory whose points are not simulated but counted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ran: list[int] = []
        self.bad: set[int] = set()
        self.write(SWEEP)

    def write(self, text: str) -> None:
        path = self.folder / "small.yaml"
        path.write_text(text)
        self.points = sweep.load(path).points

    def outcome(self, point: Point) -> Outcome:
        self.ran.append(point.index)
        if point.index in self.bad:
            return failed("ValueError: bad luck")
        return {"status": "ok", "reason": "", "tgs": point.index / 3}

    def run(self, *, retry_failed: bool = False) -> tuple[list[Row], list[int], list[str]]:
        """Return the rows, the points that ran, and why."""
        self.ran = []
        with Store(self.folder / "out", "small") as kept:
            sitting = Runner(kept, retry_failed=retry_failed)
            missing = sitting.missing(self.points)
            reasons = [kept.why(point) for point in missing]
            sitting.run(self.points, Workers([Here()]))
            rows = [row(*done) for done in sitting.finished(self.points)]
        assert [point.index for point in missing] == self.ran
        return rows, self.ran, reasons


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.chdir(tmp_path)
    made = Bench(tmp_path)
    monkeypatch.setattr(Point, "outcome", lambda point: made.outcome(point))
    return made


def test_finished_points_are_taken_over(bench: Bench) -> None:
    first, ran, reasons = bench.run()
    assert (ran, reasons) == ([0, 1, 2], ["new"] * 3)
    assert [row["tgs"] for row in first] == [0, 1 / 3, 2 / 3]
    assert bench.run() == (first, [], [])


def test_tables_hold_the_points_of_the_present_file_only(bench: Bench) -> None:
    bench.run()
    bench.write(SWEEP.replace("{from: 1, to: 3, step: 1}", "[4, 3, 1]"))
    rows, ran, reasons = bench.run()
    assert (ran, reasons) == ([0], ["new"])
    assert [row["set.deployment.attention.instances"] for row in rows] == [4, 3, 1]
    assert [row["point"] for row in rows] == [0, 1, 2]
    assert [row["tgs"] for row in rows] == [0, 2 / 3, 0]


def test_points_with_the_same_scenario_run_once(bench: Bench) -> None:
    bench.write(SWEEP + SWEEP[SWEEP.index("  - family") :].replace("AFD", "again"))
    rows, ran, _reasons = bench.run()
    assert ran == [0, 1, 2]
    assert [row["family"] for row in rows] == ["AFD"] * 3 + ["again"] * 3
    assert [row["tgs"] for row in rows[:3]] == [row["tgs"] for row in rows[3:]]


def test_a_changed_scenario_runs_and_the_paths_are_told(bench: Bench) -> None:
    bench.run()
    bench.write(SWEEP.replace("families:", "set: {slo.tpot_ms: 60, simulation.seed: 7}\nfamilies:"))
    _rows, ran, reasons = bench.run()
    assert ran == [0, 1, 2]
    assert set(reasons) == {"slo.tpot_ms was 50.0, is 60.0, simulation.seed was 0, is 7"}
    # The nearest of the two that are kept is the one compared with.
    bench.write(SWEEP.replace("families:", "set: {slo.tpot_ms: 60, simulation.seed: 8}\nfamilies:"))
    assert set(bench.run()[2]) == {"simulation.seed was 7, is 8"}


@pytest.mark.parametrize(
    ("folder", "name", "said"),
    [
        (cards.MODELS, "step3.yaml", "model step3 changed"),
        (cards.ACCELERATORS, "h800.yaml", "accelerator h800 changed"),
        (cards.FABRICS, "rdma.yaml", "fabric rdma changed"),
        (cards.CALIBRATION, "h800.csv", "calibration of h800 changed"),
    ],
)
def test_a_changed_card_or_table_runs_its_points_again(
    bench: Bench, folder: str, name: str, said: str
) -> None:
    bench.run()
    own = Path(folder) / name
    own.parent.mkdir(parents=True)
    shutil.copy(cards.packaged(folder) / name, own)
    assert bench.run()[1] == []
    own.write_text(own.read_text() + "\n")
    _rows, ran, reasons = bench.run()
    assert (ran, set(reasons)) == ([0, 1, 2], {said})


def test_another_version_runs_all_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.run()
    now = provenance.code()
    monkeypatch.setattr(inputs, "code", lambda: now | {"sources": "0"})
    assert set(bench.run()[2]) == {f"the code of afdsim {now['version']} changed"}
    monkeypatch.setattr(inputs, "code", lambda: {"version": "9.9", "sources": "1"})
    # Two are kept and as near; which of them is told does not matter.
    assert set(bench.run()[2]) == {f"afdsim was {now['version']}, is 9.9"}


def test_a_failed_point_keeps_its_error_until_it_is_retried(bench: Bench) -> None:
    bench.bad = {1}
    rows, ran, _reasons = bench.run()
    assert [row["status"] for row in rows] == ["ok", "failed", "ok"]
    assert rows[1]["reason"] == "ValueError: bad luck"
    assert bench.run() == (rows, [], [])
    again, ran, reasons = bench.run(retry_failed=True)
    assert (again, ran) == (rows, [1])
    assert reasons == ["failed before: ValueError: bad luck"]
    bench.bad = set()
    assert [row["status"] for row in bench.run(retry_failed=True)[0]] == ["ok"] * 3


def test_rounds_of_one_sitting_share_what_is_finished(bench: Bench) -> None:
    with Store(bench.folder / "out", "small") as kept:
        sitting, pool = Runner(kept), Workers([Here()])
        for count in (2, 3):
            sitting.run(bench.points[:count], pool)
            assert len(sitting.finished(bench.points)) == count
    assert bench.ran == [0, 1, 2]


def test_a_worker_with_other_cards_refuses(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    known = bench.points[0].inputs()
    task = runner._SentJob(bench.points[0], known | {"calibration": {"h800": "another"}})
    (refused,) = runner._work([task])
    assert refused["status"] == "failed"
    assert "reads other files than the command: calibration of h800 changed" in refused["reason"]
    assert bench.ran == []


def test_a_second_sweep_in_the_same_directory_is_refused(bench: Bench) -> None:
    with Store(bench.folder / "out", "small"), pytest.raises(StoreError, match="another sweep is"):
        Store(bench.folder / "out", "small")
    with Store(bench.folder / "out", "small"):
        pass


def refused(folder: Path, said: str) -> None:
    def state() -> dict[Path, bytes | None]:
        return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}

    before = state()
    with pytest.raises(StoreError, match=said):
        Store(folder, "small")
    assert state() == before


def test_directories_that_are_not_the_sweeps_are_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    refused(other, "something other than a sweep's results")
    plain = tmp_path / "file"
    plain.write_text("")
    refused(plain, "something other than a sweep's results")
    Store(tmp_path / "large", "large").__exit__(None, None, None)
    refused(tmp_path / "large", "holds the sweep 'large', not 'small'")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / FILE).write_text("this is no database, " * 1000)
    refused(broken, "is damaged")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    with sqlite3.connect(foreign / FILE) as base:
        base.execute("CREATE TABLE mine (x)")
    base.close()
    with pytest.raises(StoreError, match="another version of afdsim"):
        Store(foreign, "small")


def test_outcomes_come_back_as_they_went_in(bench: Bench) -> None:
    result = {"status": "ok", "reason": "ein «Ü»", "x": 0.1 + 0.2, "n": None, "b": True, "i": 2**60}
    point = bench.points[0]
    made_of = point.inputs()
    with Store(bench.folder / "out", "small") as kept:
        key = provenance.sha256(made_of)
        kept.keep([Finished(point, key, made_of, result)])
        found = kept.outcome(key)
    assert found == result
    assert json.dumps(found) == json.dumps(result)
