"""Stores that are damaged in any way: told at once with the remedy, and never written over."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from sim.foundation.errors import EXIT_NOT_KEPT, StoreError
from sim.results.provenance import sha256
from sim.sweeps.inputs import Inputs
from sim.sweeps.points import Outcome
from sim.sweeps.store import FILE, Finished, Store

POINTS = 40
Damage = Callable[[Path], None]


class Counted:
    family = "AFD"

    def __init__(self, number: int) -> None:
        self.settings = {"number": number}

    def inputs(self) -> Inputs:
        return made_of(self.settings["number"])

    def outcome(self) -> Outcome:
        return outcome(self.settings["number"])


def made_of(number: int) -> Inputs:
    return {"scenario": {"number": number}, "files": {}, "calibration": {}, "afdsim": {}}


def outcome(number: int) -> Outcome:
    return {"status": "ok", "reason": "", "tgs": number / 3, "long": "x" * 500}


def finished(number: int) -> Finished:
    made = made_of(number)
    return Finished(Counted(number), sha256(made), made, outcome(number))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the directory of a store with a few pages of points."""
    made = tmp_path / "out"
    with Store(made, "small") as store:
        for number in range(POINTS):
            store.keep([finished(number)])
    return made


def read(folder: Path) -> list[Outcome | None]:
    """Open a store and read all of it, as a sweep does that goes on."""
    with Store(folder, "small") as store:
        found = [store.outcome(sha256(made_of(number))) for number in range(POINTS)]
        store.keep([finished(POINTS)])
    return found


def sql(*statements: str) -> Damage:
    """Return a damage that somebody does with SQLite."""

    def damage(path: Path) -> None:
        base = sqlite3.connect(path, isolation_level=None)
        for statement in statements:
            base.execute(statement)
        base.close()

    return damage


def cut(size: int) -> Damage:
    return lambda path: os.truncate(path, size)


def overwritten(begin: int, end: int) -> Damage:
    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[begin:end] = b"\xa5" * (end - begin)
        path.write_bytes(content)

    return damage


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES = {
    "a list for an outcome": sql("UPDATE points SET outcome = '[1]'"),
    "an empty outcome": sql("UPDATE points SET outcome = '{}'"),
    "an outcome that is no JSON": sql("UPDATE points SET outcome = '{not json'"),
    "an outcome that is no text": sql("UPDATE points SET outcome = x'ff00fe'"),
    "a deep outcome": sql(f"UPDATE points SET outcome = '{'[' * 100_000}'"),
    "another figure": sql("UPDATE points SET outcome = replace(outcome, '0.33', '0.34')"),
    "outcomes of one another": sql("UPDATE points SET outcome = (SELECT max(outcome) FROM points)"),
    "other inputs": sql("UPDATE points SET inputs = '{}'"),
    "another checksum": sql("UPDATE points SET checksum = 7"),
    "no name": sql("DELETE FROM sweep"),
    "two names": sql("INSERT INTO sweep VALUES ('other')"),
    "another name": sql("UPDATE sweep SET name = x'00ff'"),
    "no points": sql("DROP TABLE places", "DROP TABLE points"),
    "no places": sql("DROP TABLE places"),
    "a column less": sql("ALTER TABLE points DROP COLUMN inputs"),
    "a column more": sql("ALTER TABLE points ADD COLUMN more TEXT"),
    "a table more": sql("CREATE TABLE more (x)"),
    "a trigger": sql("CREATE TRIGGER t AFTER INSERT ON points BEGIN DELETE FROM points; END"),
    "an older format": sql("PRAGMA user_version = 1"),
    "a newer format": sql("PRAGMA user_version = 99"),
    "another application": sql("PRAGMA application_id = 1"),
    "cut in the header": cut(50),
    "cut to the header": cut(100),
    "cut to a page": cut(4096),
    "cut in the middle": cut(20_000),
    "no database": lambda path: path.write_text("this is no database, " * 1000) and None,
    "a header overwritten": overwritten(0, 16),
    "a first page overwritten": overwritten(100, 4096),
    "later pages overwritten": overwritten(8192, 24_000),
    "a directory": directory,
    "a FIFO": fifo,
    "a directory for a log": lambda path: path.with_name(f"{FILE}-wal").mkdir(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_a_damaged_store_is_told_with_its_remedy(folder: Path, damage: Damage) -> None:
    damage(folder / FILE)
    with pytest.raises(StoreError) as told:
        read(folder)
    assert told.value.exit_code == EXIT_NOT_KEPT
    assert str(folder) in str(told.value)
    assert "choose another --out" in str(told.value)
    assert len(str(told.value).splitlines()) == 1
    assert len(str(told.value)) < len(str(folder)) + 400


def test_a_store_that_was_just_begun_is_begun_again(tmp_path: Path) -> None:
    """A process may be killed between making the file and its first transaction."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / FILE).touch()
    assert read(folder) == [None] * POINTS


def test_a_log_of_a_process_that_died_is_read(folder: Path) -> None:
    content = (folder / FILE).read_bytes()
    (folder / f"{FILE}-wal").write_bytes(b"left by something else" * 100)
    assert read(folder) == [outcome(number) for number in range(POINTS)]
    (folder / FILE).write_bytes(content)


def test_a_store_that_somebody_reads_is_told_as_in_use(folder: Path) -> None:
    reader = sqlite3.connect(folder / FILE, isolation_level=None)
    reader.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="wait for it"):
        read(folder)
    reader.close()
    assert len(json.dumps(read(folder))) > POINTS
