"""The store of a sweep: every finished point, in one SQLite file of the sweep's directory.

SQLite, because a point is then there or not there, whenever the power of a process ends: each one
is a transaction, a half written one is undone at the next opening, and the file's own lock, which
dies with the process, keeps a second sweep out. One process writes; workers only compute. A
thousand points are a few megabytes, and `sqlite3 points.sqlite` reads them.

A job is found again by the hash of everything that its outcome depends on (its `inputs`). What is
kept of it has a checksum, so that a damaged outcome is told and never becomes a row.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol

from sim.foundation import json_text
from sim.foundation.errors import StoreError
from sim.results.provenance import sha256
from sim.sweeps.inputs import Inputs, changes
from sim.sweeps.points import Outcome

FILE = "points.sqlite"


class Job(Protocol):
    """Something that is done once and whose outcome is kept: a point of a sweep, a study's job."""

    @property
    def family(self) -> str:
        """What it belongs to."""

    @property
    def settings(self) -> dict[str, Any]:
        """What tells it from others there."""

    def inputs(self) -> Inputs:
        """Return what the outcome depends on, as plain data."""

    def outcome(self) -> Outcome:
        """Do the work and return what came out, as plain data with a `status`."""


class Finished(NamedTuple):
    """A job that is done."""

    job: Job
    key: str
    """Hash of its inputs."""
    inputs: Inputs
    outcome: Outcome


_FORMAT = 2
_APPLICATION = 0x61666473  # "afds"
_TABLES = """
CREATE TABLE sweep (name TEXT NOT NULL);
CREATE TABLE points
    (key TEXT PRIMARY KEY, inputs TEXT NOT NULL, outcome TEXT NOT NULL, checksum TEXT NOT NULL);
CREATE TABLE places (place TEXT, key TEXT REFERENCES points, PRIMARY KEY (place, key));
"""
_STATEMENTS = [statement.strip() for statement in _TABLES.split(";") if statement.strip()]
_PLACED = "INSERT OR IGNORE INTO places VALUES (?, ?)"
_SHOWN_CHANGES = 4
_DAMAGES = (
    *("SQLITE_NOTADB", "SQLITE_CORRUPT", "SQLITE_ERROR", "SQLITE_CONSTRAINT", "SQLITE_MISMATCH"),
    *("SQLITE_FORMAT", "SQLITE_SCHEMA"),
)


class Store:
    """The finished points of one sweep; a context manager that holds its lock."""

    def __init__(self, folder: Path, sweep: str) -> None:
        """Open the store in `folder`, which is created if need be.

        Raises StoreError if it cannot be written, is in use, or is not this sweep's.
        """
        self.folder = folder
        path = folder / FILE
        with self._told():
            if (
                folder.exists()
                and not path.exists()
                and (not folder.is_dir() or any(folder.iterdir()))
            ):
                raise StoreError(
                    f"{folder}: the directory holds something other than a sweep's results; "
                    "choose another --out or move the directory away"
                )
            folder.mkdir(parents=True, exist_ok=True)
            if path.exists():
                if not path.is_file():
                    raise _damaged(folder, "is no regular file")
                path.open("r+b").close()  # SQLite calls a read-only disk an I/O error
            self._base = sqlite3.connect(path, timeout=0, isolation_level=None)
            self._base.text_factory = partial(str, encoding="utf-8", errors="replace")
            try:
                self._open(sweep)
            except BaseException:
                self._base.close()
                raise

    def _open(self, sweep: str) -> None:
        ask = self._base.execute
        # Exclusive before WAL: no shared memory is needed then, which network file systems lack.
        ask("PRAGMA locking_mode = EXCLUSIVE")
        ask("PRAGMA journal_mode = WAL")
        ask("PRAGMA synchronous = NORMAL")
        ask("BEGIN IMMEDIATE")
        (application,) = ask("PRAGMA application_id").fetchone()
        (version,) = ask("PRAGMA user_version").fetchone()
        made = [sql for (sql,) in ask("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")]
        if not made:
            for statement in _STATEMENTS:
                ask(statement)
            ask("INSERT INTO sweep VALUES (?)", (sweep,))
            ask(f"PRAGMA application_id = {_APPLICATION}")
            ask(f"PRAGMA user_version = {_FORMAT}")
        elif (application, version) != (_APPLICATION, _FORMAT):
            raise StoreError(
                f"{self.folder / FILE}: written by another version of afdsim; choose another --out"
            )
        else:
            self._check(made, sweep)
        ask("COMMIT")

    def _check(self, made: list[str], sweep: str) -> None:
        """Raise StoreError if the store is damaged or another sweep's."""
        if sorted(made) != sorted(_STATEMENTS):
            raise _damaged(self.folder, "its tables are not a store's")
        (found,) = self._base.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise _damaged(self.folder, "its pages do not fit together")
        names = [name for (name,) in self._base.execute("SELECT name FROM sweep")]
        if len(names) != 1:
            raise _damaged(self.folder, "it does not name its sweep")
        if names != [sweep]:
            raise StoreError(
                f"{self.folder}: holds the sweep {names[0]!r:.100}, not {sweep!r}; "
                "choose another --out"
            )

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None
    ) -> None:
        # What is kept is kept; where there is no room to tidy up, the next opening does it.
        with suppress(sqlite3.Error):
            self._base.close()

    def outcome(self, key: str) -> Outcome | None:
        """Return the outcome that is kept under a key, None if there is none.

        Raises StoreError if it is damaged.
        """
        kept = self._kept("WHERE key = ?", key)
        return json.loads(kept[0][1]) if kept else None

    def _kept(self, which: str, value: str) -> list[tuple[str, str]]:
        """Return inputs and outcomes of the points that a clause chooses, in order of their keys.

        Both are JSON texts. Raises StoreError if one of them is not as it was written.
        """
        columns = "SELECT key, inputs, outcome, checksum FROM points"
        with self._told():
            found = self._base.execute(f"{columns} {which} ORDER BY key", (value,)).fetchall()
        for key, *texts, checksum in found:
            if checksum != _checksum(key, *texts):
                raise _damaged(self.folder, "an outcome has changed since it was written")
        return [(made_of, outcome) for _, made_of, outcome, _ in found]

    def keep(self, finished: Iterable[Finished]) -> None:
        """Keep outcomes, all or none; they are safe when this returns. Raises StoreError."""
        points, places = [], []
        for job, key, made_of, outcome in finished:
            texts = json_text.canonical(made_of), _text(outcome)
            points.append((key, *texts, _checksum(key, *texts)))
            places.append((_place(job), key))
        with self._told():
            self._base.execute("BEGIN")
            try:
                self._base.executemany("INSERT OR REPLACE INTO points VALUES (?, ?, ?, ?)", points)
                self._base.executemany(_PLACED, places)
                self._base.execute("COMMIT")
            except BaseException:
                if self._base.in_transaction:
                    self._base.execute("ROLLBACK")
                raise

    def place(self, job: Job, key: str) -> None:
        """Note that a kept outcome is also that of `job`."""
        with self._told():
            self._base.execute(_PLACED, (_place(job), key))

    def why(self, job: Job) -> str:
        """Return why a job has to run: what differs from the nearest one kept at its place."""
        made_of = job.inputs()
        same = self.outcome(sha256(made_of))
        if same is not None:
            return f"{same['status']} before: {same['reason']}"
        kept = self._kept("JOIN places USING (key) WHERE place = ?", _place(job))
        if not kept:
            return "new"
        least = min((changes(json.loads(before), made_of) for before, _ in kept), key=len)
        more = f", and {len(least) - _SHOWN_CHANGES} more" if len(least) > _SHOWN_CHANGES else ""
        return ", ".join(least[:_SHOWN_CHANGES]) + more

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what the file system refuses into a StoreError with its remedy."""
        try:
            yield
        except sqlite3.Error as error:
            raise _refusal(self.folder, error) from None
        except OSError as error:
            raise _unwritable(self.folder, error.strerror or str(error)) from None


def _refusal(folder: Path, error: sqlite3.Error) -> StoreError:
    """Return what an error of SQLite means, with its remedy."""
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith("SQLITE_BUSY"):
        return StoreError(
            f"{folder}: another sweep is writing here; wait for it or choose another --out"
        )
    # The statements are ours: where one does not suit the tables, the tables are to blame.
    if name.startswith(_DAMAGES):
        return _damaged(folder, str(error))
    return _unwritable(folder, str(error))


def _damaged(folder: Path, how: str) -> StoreError:
    told = f"{folder}: {FILE} is damaged ({how}); move the file away or choose another --out"
    return StoreError(told)


def _unwritable(folder: Path, reason: str) -> StoreError:
    return StoreError(
        f"{folder}: cannot be written: {reason}; make room or choose another --out. "
        "Finished points are kept"
    )


def _checksum(*kept: object) -> str:
    return sha256([str(each) for each in kept])  # a damaged store may hold bytes


def _text(data: object) -> str:
    return json_text.dumps(data, ensure_ascii=False)


def _place(job: Job) -> str:
    return _text([job.family, job.settings])
