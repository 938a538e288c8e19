"""Disks that are full or read-only: one clear line, and what was finished is kept."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import shaken


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return where a file system of 300 KB is mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    if mount("-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)):
        pytest.skip("mounting a small file system is not allowed here; needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def mount(*options: str) -> int:
    try:
        return subprocess.run(["mount", *options], capture_output=True, check=False).returncode
    except FileNotFoundError:
        return 1


def told_once(done: subprocess.CompletedProcess[str], said: str) -> None:
    assert done.returncode == 6, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert re.search(said, line), line
    assert "choose another --out" in line
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_full_disk_keeps_what_was_finished(small_disk: Path) -> None:
    folder = small_disk / "shaken"
    told_once(shaken.afdsim(folder, "--workers", "1"), "full|No space")
    assert mount("-o", "remount,size=64m", str(small_disk)) == 0
    done = shaken.afdsim(folder, "--workers", "1")
    assert done.returncode == 0, done.stderr
    taken = re.search(rf"(\d+) of {shaken.POINTS} points are taken over", done.stderr)
    assert taken
    assert 0 < int(taken[1]) < shaken.POINTS
    assert shaken.tables(folder) == shaken.undisturbed()


def test_tables_of_before_stay_when_new_ones_cannot_be_written(small_disk: Path) -> None:
    assert mount("-o", "remount,size=64m", str(small_disk)) == 0
    folder = small_disk / "shaken"
    assert shaken.afdsim(folder, "--workers", "1").returncode == 0
    # What is as it should be is not written again.
    (folder / "report.html").unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert mount("-o", "remount,ro", str(small_disk)) == 0
    told_once(shaken.afdsim(folder, "--workers", "1"), "Read-only file system")
    used = sum(map(len, before.values()))
    assert mount("-o", f"remount,rw,size={used + 100_000}", str(small_disk)) == 0
    told_once(shaken.afdsim(folder, "--workers", "1"), "No space")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_file_that_may_not_grow_keeps_what_was_finished(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))

    folder = tmp_path / "shaken"
    told_once(shaken.afdsim(folder, "--workers", "1", before=limit), "cannot be written")
    assert 0 < shaken.finished(folder) < shaken.POINTS


def test_a_read_only_disk_is_told_and_not_touched(small_disk: Path) -> None:
    assert mount("-o", "remount,ro", str(small_disk)) == 0
    told_once(shaken.afdsim(small_disk / "shaken"), "Read-only file system")
    run = [sys.executable, "-m", "sim.cli", "run", "step3-2a2f", "--out", f"{small_disk}/run"]
    run += ["--set", "workload.arrivals.concurrency=96"]
    told = subprocess.run(run, capture_output=True, text=True, check=False, cwd=shaken.ROOT)
    told_once(told, "Read-only file system")
    assert list(small_disk.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_directory_is_told_and_not_touched(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    told_once(shaken.afdsim(tmp_path / "shaken"), "Permission denied")
    tmp_path.chmod(0o755)
    assert list(tmp_path.iterdir()) == []
