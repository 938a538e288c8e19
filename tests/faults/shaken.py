"""A sweep of small points to be shaken, and its bytes when it is left alone."""

from __future__ import annotations

import atexit
import csv
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

from sim.sweeps import sweep as sweeps
from sim.sweeps.runner import Runner
from sim.sweeps.store import Store
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
NAME = "shaken"
TABLES = ("sweep.csv", "sweep.parquet")
POINTS = 31

# What makes a point quick: no Numba to import, the smallest of the calibration tables to read.
_SWEEP = """
kind: sweep
name: shaken
set:
  model: {model}
  simulation.engine: event
  routing: {{kind: balanced}}
  workload.arrivals: {{kind: closed, concurrency: 24}}
  workload.lengths.prompt: {{kind: fixed, tokens: 100}}
  workload.lengths.output: {{kind: fixed, tokens: 40}}
families:
  - family: AFD
    base: step3-2a2f
    set:
      deployment.attention.accelerator: h20
      deployment.ffn.accelerator: h20
      deployment.attention.gpus_per_instance: 2
      deployment.attention.lm_head_tp: 1
      deployment.ffn.gpus_per_instance: 2
    axes:
      - workload.arrivals.concurrency: {{from: 8, to: 104, step: 4}}
  - family: EP
    base: dsv3-ep128
    set: {{deployment.accelerator: h20, deployment.gpus: 4, deployment.lm_head_tp: 1}}
    axes:
      - workload.arrivals.concurrency: [8, 16, 24, 32, 40]
  - family: too big
    base: dsv3-ep128
    set: {{workload.arrivals.concurrency: 9000000}}
"""


def write_sweep(folder: Path) -> Path:
    """Write the sweep and its model card into `folder` and return the sweep's path."""
    folder.mkdir(exist_ok=True)
    path = folder / "shaken.yaml"
    path.write_text(_SWEEP.format(model=tiny.write_model(folder)))
    return path


@cache
def sweep_file() -> Path:
    """Return the path of the sweep; the same one for all tests, as its path is in its points."""
    folder = Path(tempfile.mkdtemp(prefix="afdsim-shaken-"))
    atexit.register(shutil.rmtree, folder)
    return write_sweep(folder)


@cache
def undisturbed() -> dict[str, bytes]:
    """Return the tables of the sweep, run by one worker without any trouble."""
    folder = sweep_file().parent / "undisturbed"
    done = afdsim(folder, "--workers", "1")
    assert done.returncode == 0, done.stderr
    return tables(folder)


def tables(folder: Path) -> dict[str, bytes]:
    """Return the bytes of the tables of a sweep's directory."""
    return {name: (folder / name).read_bytes() for name in TABLES}


def finished(folder: Path) -> int:
    """Return how many points of the sweep its store holds."""
    with Store(folder, NAME) as store:
        return len(Runner(store).finished(sweeps.load(sweep_file()).points))


def command(folder: Path, *options: str) -> list[str]:
    """Return the command that runs the sweep into `folder`."""
    sweep = ("sweep", str(sweep_file()), "--out", str(folder))
    return [sys.executable, "-m", "sim.cli", *sweep, *options]


def afdsim(
    folder: Path, *options: str, before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the sweep to its end, `before` having been called in its process."""
    return subprocess.run(
        command(folder, *options),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=ROOT,
        preexec_fn=before,
    )


def begin(folder: Path, *options: str) -> subprocess.Popen[str]:
    """Start the sweep in a process group of its own."""
    return subprocess.Popen(
        command(folder, *options),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        preexec_fn=hear_signals,
    )


def hear_signals() -> None:
    """Undo what the tests' own caller ignores, which a child would ignore as well."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def size(folder: Path) -> int:
    """Return the bytes of the store, its log included."""
    found = 0
    for path in folder.glob("points.sqlite*"):
        with suppress(FileNotFoundError):  # a journal goes when its transaction ends
            found += path.stat().st_size
    return found


def wait_for_points(folder: Path, process: subprocess.Popen[str], before: int = 0) -> None:
    """Return once a sweep has put a few points into its store, or has ended."""
    until(lambda: process.poll() is not None or size(folder) > before + 60_000)


def until(true: Callable[[], bool], limit_s: float = 60) -> None:
    """Wait until something is true; fail after `limit_s`."""
    end = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def kill(pid: int, *, group: bool = False) -> None:
    """SIGKILL a process of ours, unless it has ended by itself."""
    send(pid, signal.SIGKILL, group=group)


def send(pid: int, number: int, *, group: bool = False) -> None:
    """Send a process of ours a signal, unless it has ended by itself."""
    with suppress(ProcessLookupError):
        (os.killpg if group else os.kill)(pid, number)


def rows(tables: dict[str, bytes]) -> list[dict[str, str]]:
    """Return the rows of a table by column, without the empty ones."""
    lines = tables["sweep.csv"].decode().splitlines()
    return [{name: cell for name, cell in row.items() if cell} for row in csv.DictReader(lines)]


def children(pid: int) -> list[int]:
    """Return the processes that a process of ours has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that only waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
