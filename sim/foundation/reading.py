"""Files that users name: regular ones of bounded size, read as UTF-8 text, and told by line."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import update_wrapper
from pathlib import Path
from typing import Any, TypeVar, cast

from sim.foundation.errors import ScenarioError, SimError

Function = TypeVar("Function", bound=Callable[..., object])

MOST_LINE_BYTES = 1 << 20
MOST_TABLE_BYTES = 64_000_000


_held: ContextVar[dict[Any, object] | None] = ContextVar("held", default=None)


@contextmanager
def held() -> Iterator[None]:
    """Take files as they are found first, for as long as this lasts.

    The points of a sweep name the same few, ten times each.
    """
    if _held.get() is not None:
        yield
        return
    token = _held.set({})
    try:
        yield
    finally:
        _held.reset(token)


def asked_once(function: Function) -> Function:
    """Ask a function about files once for the same arguments while they are `held`."""

    def asked(*arguments: Any) -> object:
        known = _held.get()
        if known is None:
            return function(*arguments)
        key = function, arguments
        if key not in known:
            known[key] = function(*arguments)
        return known[key]

    return cast(Function, update_wrapper(asked, function))


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_regular(path: str | Path, error: type[SimError] = ScenarioError) -> os.stat_result:
    """Return the state of the regular file at `path`. Raises `error` if there is none."""
    try:
        state = Path(path).stat()
    except (OSError, ValueError) as problem:
        raise error(f"{path}: cannot be read: {_reason(problem)}") from None
    if not stat.S_ISREG(state.st_mode):
        raise error(f"{path}: cannot be read: it is not a regular file")
    return state


def lines(
    path: str | Path,
    most_bytes: int = MOST_TABLE_BYTES,
    error: type[SimError] = ScenarioError,
    remedy: str = "shorten it",
) -> Iterator[str]:
    """Yield the lines of a text file without their ends; the last is empty behind a line end.

    Takes little more memory than a long line. Raises `error` for what is no regular file, longer
    than `most_bytes` (`remedy` says what to do then) or no UTF-8 text.
    """
    rest, number = b"", 1
    for block in _blocks(path, most_bytes, error, remedy):
        rest += block
        end = rest.rfind(b"\n") + 1 or rest.rfind(b"\r", 0, -1) + 1
        whole, rest = rest[:end], rest[end:]
        if whole:
            found = lines_of(whole, path, number, error)[:-1]
            number += len(found)
            yield from found
        if len(rest) > MOST_LINE_BYTES:
            raise error(_too_long(path, number))
    yield from lines_of(rest, path, number, error)


def read_text(path: str | Path, most_bytes: int, error: type[SimError] = ScenarioError) -> str:
    """Return the text of a file, lines ending with a line feed. Raises `error` as `lines` does."""
    return "\n".join(lines(path, most_bytes, error))


def read_bytes(path: str | Path, most_bytes: int, error: type[SimError] = ScenarioError) -> bytes:
    """Return the content of a regular file. Raises `error` if it has more than `most_bytes`."""
    return b"".join(_blocks(path, most_bytes, error, "shorten it"))


def lines_of(
    content: bytes, path: str | Path, number: int = 1, error: type[SimError] = ScenarioError
) -> list[str]:
    """Return the lines in a part of the file at `path` that begins at line `number`.

    Raises `error` for a long line and for what is no UTF-8 text.
    """
    if number == 1:
        content = content.removeprefix(b"\xef\xbb\xbf")
    content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    wrong = content.find(b"\0")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as problem:
        wrong = problem.start
    if wrong >= 0:
        line = number + content.count(b"\n", 0, wrong)
        byte = f"0x{content[wrong]:02x}"
        raise error(
            f"{path}:{line}: cannot be read: byte {byte} is not UTF-8 text; save the file as UTF-8"
        )
    found = text.split("\n")
    lengths = list(map(len, found))
    if max(lengths) > MOST_LINE_BYTES:
        raise error(_too_long(path, number + lengths.index(max(lengths))))
    return found


def _blocks(
    path: str | Path, most_bytes: int, error: type[SimError], remedy: str
) -> Iterator[bytes]:
    too_long = error(f"{path}: has more than {most_bytes:,} bytes; {remedy}")
    if check_regular(path, error).st_size > most_bytes:
        raise too_long
    try:
        # What may have taken the file's place since it was looked at is not waited for.
        with open(path, "rb", opener=_without_waiting) as file:
            while block := file.read(MOST_LINE_BYTES):
                most_bytes -= len(block)
                if most_bytes < 0:
                    raise too_long
                yield block
    except OSError as problem:
        raise error(f"{path}: cannot be read: {_reason(problem)}") from None


def _too_long(path: str | Path, number: int) -> str:
    return f"{path}:{number}: a line should have at most {MOST_LINE_BYTES:,} bytes; break it up"


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _reason(problem: Exception) -> str:
    return getattr(problem, "strerror", None) or str(problem)
