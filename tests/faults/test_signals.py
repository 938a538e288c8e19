"""Ctrl-C, SIGTERM and SIGHUP: what is finished is in the tables, and nothing is left running."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sim.doubt.interval import COLUMNS
from sim.parallel import signals
from tests import small_study
from tests.faults import shaken

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SWEEP_ENDS = 10


def ended_in_order(process: subprocess.Popen[str], number: int, children: list[int]) -> None:
    """Wait for a process that was sent a signal and check that it and all it started are gone."""
    _out, told = process.communicate(timeout=120)
    assert process.returncode == 128 + number, told
    assert told.splitlines()[-1] == "interrupted"
    for word in ("Traceback", "resource_tracker", "leaked", "Exception"):
        assert word not in told, told
    shaken.until(lambda: not any(map(shaken.is_alive, children)))


@pytest.mark.parametrize(
    ("number", "group"),
    [
        (signal.SIGINT, True),  # as a terminal sends it
        (signal.SIGHUP, True),
        (signal.SIGTERM, True),  # as a batch system sends it
        (signal.SIGTERM, False),
    ],
)
def test_a_sweep_writes_the_tables_of_what_is_finished(
    number: signal.Signals, group: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "shaken"
    process = shaken.begin(folder, "--workers", "2")
    shaken.wait_for_points(folder, process)
    children = shaken.children(process.pid)
    assert len(children) >= 2
    shaken.send(process.pid, number, group=group)
    ended_in_order(process, number, children)
    some, everything = shaken.rows(shaken.tables(folder)), shaken.rows(shaken.undisturbed())
    assert 0 < len(some) < len(everything)
    assert all(found_alike(row, everything) for row in some)
    assert shaken.finished(folder) == len(some)


def found_alike(row: dict[str, str], everything: list[dict[str, str]]) -> bool:
    """Return whether a row is among others, its interval apart: that is found after all points."""
    return any(
        row == {name: cell for name, cell in each.items() if name in row or name not in COLUMNS}
        for each in everything
    )


def test_a_study_writes_what_is_finished(tmp_path: Path) -> None:
    study, folder = small_study.write(tmp_path), tmp_path / "out"
    process = begin("study", str(study), "--workers", "2", "--out", str(folder))
    shaken.until(lambda: process.poll() is not None or shaken.size(folder) > 0)
    shaken.until(lambda: process.poll() is not None or len(shaken.children(process.pid)) >= 2)
    children = shaken.children(process.pid)
    shaken.send(process.pid, signal.SIGTERM)
    ended_in_order(process, signal.SIGTERM, children)
    assert {"points.sqlite", "report.html", "run.json", "study.csv"} <= {
        path.name for path in folder.iterdir()
    }


CLOSED = ("--set", "workload.arrivals.concurrency=96")
EVENT = ("--set", "simulation.engine=event")  # which has nothing to compile
VERBS = {
    "run": ("run", "step3-2a2f", *CLOSED, "--set", "simulation.replications=9999", *EVENT),
    "compare": ("compare", "step3-2a2f", "step3-2a2f", *CLOSED, "--most", "9999", *EVENT),
    "capacity": ("capacity", "poisson-example", "--replications", "9999", *EVENT),
    "recommend": (
        *("recommend", "--model", "step3", "--gpus", "64xh800"),
        *("--context", "8192", "--tpot", "50"),
    ),
}


def begin(*words: str, folder: Path = shaken.ROOT) -> subprocess.Popen[str]:
    """Start a verb in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "sim.cli", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        start_new_session=True,
        preexec_fn=shaken.hear_signals,
    )


@pytest.mark.parametrize("verb", VERBS)
def test_workers_of_other_verbs_end_as_well(verb: str, tmp_path: Path) -> None:
    process = begin(*VERBS[verb], "--workers", "2", folder=tmp_path)
    shaken.until(lambda: process.poll() is not None or len(shaken.children(process.pid)) >= 3)
    children = shaken.children(process.pid)
    shaken.send(process.pid, signal.SIGTERM)
    ended_in_order(process, signal.SIGTERM, children)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_second_signal_ends_at_once_and_leaves_no_table_half_written(tmp_path: Path) -> None:
    folder = tmp_path / "shaken"
    process = shaken.begin(folder, "--workers", "2")
    shaken.wait_for_points(folder, process)
    children = shaken.children(process.pid)
    process.send_signal(signal.SIGTERM)
    # Its handler has run once it no longer catches the signal.
    shaken.until(lambda: process.poll() is not None or not catches(process.pid, signal.SIGTERM))
    process.send_signal(signal.SIGTERM)
    _out, told = process.communicate(timeout=120)
    assert process.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)
    assert "resource_tracker" not in told
    shaken.until(lambda: not any(map(shaken.is_alive, children)))
    if (folder / "sweep.csv").exists():
        assert shaken.rows(shaken.tables(folder))


def catches(pid: int, number: int) -> bool:
    """Return whether a process has a handler for a signal."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def test_a_signal_that_the_caller_ignores_is_ignored(tmp_path: Path) -> None:
    """As under nohup, whose terminal may go."""
    folder = tmp_path / "shaken"
    ignoring = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh"]
    process = subprocess.Popen(
        [*ignoring, *shaken.command(folder, "--workers", "2")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=shaken.ROOT,
        start_new_session=True,
    )
    shaken.wait_for_points(folder, process)
    shaken.send(process.pid, signal.SIGHUP, group=True)
    shaken.wait_for_points(folder, process, shaken.size(folder))
    assert process.poll() is None
    children = shaken.children(process.pid)
    process.send_signal(signal.SIGTERM)
    ended_in_order(process, signal.SIGTERM, children)


def go_on_after(ends: int, number: int, folder: Path, rng: random.Random) -> None:
    """Send a sweep a signal at random moments, `ends` times, and check its tables at the end."""
    while ends:
        process = shaken.begin(folder, "--workers", "2")
        try:
            process.wait(timeout=rng.uniform(0.1, 2))
        except subprocess.TimeoutExpired:
            children = shaken.children(process.pid)
            shaken.send(process.pid, number)
            ends -= 1
            process.wait(timeout=120)
            shaken.until(lambda: not any(map(shaken.is_alive, children)))  # noqa: B023 (called at once)
        else:
            assert shaken.tables(folder) == shaken.undisturbed()
            for path in folder.iterdir():
                path.unlink()
        told = process.communicate()[1]
        assert "Traceback" not in told, told
        assert "resource_tracker" not in told, told
    done = shaken.afdsim(folder, "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert shaken.tables(folder) == shaken.undisturbed()


def test_a_sweep_that_is_ended_at_random_moments_has_the_same_bytes(tmp_path: Path) -> None:
    go_on_after(SWEEP_ENDS, signal.SIGTERM, tmp_path / "shaken", random.Random(7))


@pytest.mark.nightly
@pytest.mark.parametrize(("number", "times"), [(signal.SIGKILL, 20), (signal.SIGTERM, 10)])
def test_many_ends_of_a_sweep_leave_the_same_bytes(
    number: signal.Signals, times: int, tmp_path: Path
) -> None:
    go_on_after(times, number, tmp_path / "shaken", random.Random(8))


def test_a_signal_that_a_library_wraps_is_heard_all_the_same() -> None:
    """Pydantic makes an error of its own of what is raised while it builds a schema."""

    def build() -> None:
        with signals.heard():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                signal.sigtimedwait([], 0)
            except signals.Stopped as stopped:
                raise ValueError("no schema") from stopped

    with pytest.raises(signals.Stopped):
        build()


def test_no_worker_hears_what_a_terminal_sends() -> None:
    """Anew, since the first worker of a process was born while Python let Ctrl-C through."""
    code = """
import signal
from functools import partial
from sim.parallel import processes

with processes.local(2) as workers:
    call = partial(signal.pthread_sigmask, signal.SIG_BLOCK)
    for _item, blocked in workers.run(call, [()] * 40):
        assert {signal.SIGINT, signal.SIGHUP} <= blocked, blocked
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=shaken.ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")
