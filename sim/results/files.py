"""Files: each is written whole or not at all, an old one stays until the new one is complete."""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sim.foundation import json_text
from sim.foundation.errors import StoreError
from sim.foundation.printable import excerpt

RUNS = Path("results/runs")


def fresh_directory(wanted: Path, fill: Callable[[Path], None]) -> Path:
    """Create a directory with all of its files at once and return its path.

    `fill` writes into a temporary neighbour that is renamed when complete; an existing `wanted`
    is left alone and -2, -3, … is appended. Raises StoreError if the files cannot be written.
    """
    with _told(wanted):
        if wanted.is_file():
            raise StoreError(f"{wanted}: is a file; choose another --out")
        wanted.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{wanted.name}-", dir=wanted.parent))
        try:
            fill(temporary)
            temporary.chmod(0o755)
            return _rename_free(temporary, wanted)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def check_directory(wanted: Path) -> None:
    """Raise StoreError if `fresh_directory` could not create it: for verbs that take a while."""
    with _told(wanted):
        if wanted.is_file():
            raise StoreError(f"{wanted}: is a file; choose another --out")
        there = next(folder for folder in wanted.absolute().parents if folder.exists())
        Path(tempfile.mkdtemp(prefix=f".{wanted.name}-", dir=there)).rmdir()


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Put at `path` the file that `write` writes, when it is complete.

    Raises StoreError if it cannot be written, which leaves an old file as it was.
    """
    with _told(path):
        if path.is_dir():
            raise StoreError(f"{path}: is a directory; name a file")
        temporary = path.with_name(f".{path.name}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def replace_files(folder: Path, fill: Callable[[Path], None]) -> None:
    """Replace files of `folder` by those that `fill` writes, once all of them are written.

    A file with the same content stays, with its time. Only one process may do so at a time. Raises
    StoreError if they cannot be written, which leaves the old files as they were.
    """
    temporary = folder / ".part"
    with _told(folder):
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
        try:
            temporary.mkdir()
            fill(temporary)
            for path in sorted(temporary.iterdir()):
                old = folder / path.name
                if not (old.is_file() and filecmp.cmp(old, path, shallow=False)):
                    path.replace(old)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Turn what the file system refuses into a StoreError with its remedy."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else " ".join(str(error).split())
        place = excerpt(str(folder), 200)
        raise StoreError(
            f"{place}: cannot be written: {reason}; make room or choose another --out"
        ) from None


def _rename_free(temporary: Path, wanted: Path) -> Path:
    number = 1
    while True:
        target = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        if not target.exists():
            try:
                return temporary.rename(target)
            except OSError as error:
                # Another process may have taken the name since.
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                    raise
        number += 1


def write_json(path: Path, data: object) -> None:
    """Write plain data as readable JSON."""
    path.write_text(json_text.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
