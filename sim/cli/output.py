"""Output: stdout for data, stderr for talk, and what becomes of a command where one is lost.

Data that cannot be written end the command: with one line and exit code 6 on a full disk, without
a word where a reader such as `head` has read enough. Talk that cannot be written is dropped.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TextIO, cast

from sim.foundation.errors import EXIT_NOT_KEPT, EXIT_SIGNAL
from sim.foundation.printable import printable


class DataLost(Exception):  # noqa: N818  (no OSError, which other code may take for its own)
    """Something that was to be written to stdout could not be."""

    def __init__(self, error: OSError) -> None:
        self.is_unread = isinstance(error, BrokenPipeError)
        super().__init__(error.strerror)


class _Stream:
    """A text stream that does something about an error of the system."""

    def __init__(self, stream: TextIO, fail: Callable[[OSError], None]) -> None:
        self._stream = stream
        self._fail = fail

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError as error:
            self._fail(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._fail(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _drop(_error: OSError) -> None:
    """Go on without the talk."""


def _lose(error: OSError) -> NoReturn:
    raise DataLost(error) from None


@contextmanager
def prepared() -> Iterator[None]:
    """Make both streams safe to write to, whatever the caller has done to them."""
    before = sys.stdout, sys.stderr
    # A descriptor that is closed would be given to the next file that is opened.
    out = sys.stdout or _opened(1, os.O_RDONLY)  # so that writing to it is refused
    talk = sys.stderr or _opened(2, os.O_WRONLY)
    if isinstance(out, io.TextIOWrapper):
        out.reconfigure(errors="backslashreplace")  # names may hold what its encoding lacks
    sys.stdout = cast(TextIO, _Stream(out, _lose))
    sys.stderr = cast(TextIO, _Stream(talk, _drop))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _opened(number: int, how: int) -> TextIO:
    """Return a stream at a descriptor that was closed, which no file of ours should get."""
    null = os.open(os.devnull, how)
    if null != number:
        os.dup2(null, number)
        os.close(null)
    return open(number, "w", encoding="utf-8", closefd=False)


def say(text: str) -> None:
    """Print talk: stderr. What names and files hold cannot steer the terminal."""
    print(plain(text), file=sys.stderr)


def plain(text: str) -> str:
    """Return lines of text without anything that steers a terminal."""
    return "\n".join(printable(line) for line in text.split("\n"))


def delivered(run: Callable[[], int]) -> int:
    """Return the exit code of `run` once its data have left, or that of data that could not."""
    try:
        code = run()
        sys.stdout.flush()
    except DataLost as lost:
        # What is left in the buffer would be tried again at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if lost.is_unread:
            return EXIT_SIGNAL + signal.SIGPIPE
        say(f"error: stdout: cannot be written: {lost}; free some space or redirect the output")
        return EXIT_NOT_KEPT
    return code
