"""Signals: Ctrl-C, SIGTERM and SIGHUP end a command in order, and a second one ends it at once.

The first raises Stopped wherever the command is. A verb that has something to save catches it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from sim.foundation.errors import EXIT_SIGNAL

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """A signal asked the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = EXIT_SIGNAL + number


_heard: list[Stopped] = []
_postponing = 0


@contextmanager
def heard() -> Iterator[None]:
    """Let the signals raise Stopped, except those that the caller ignores, as nohup does."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _hear)
    already = len(_heard)
    try:
        yield
    except Exception:
        # A library may make an error of its own of Stopped, as pydantic does within an import.
        if len(_heard) > already:
            raise _heard[-1] from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _hear(number: int, _frame: FrameType | None) -> None:
    for each in _SIGNALS:
        if signal.getsignal(each) is _hear:
            signal.signal(each, signal.SIG_DFL)
    _heard.append(Stopped(number))
    if not _postponing:
        raise _heard[0]


@contextmanager
def postponed() -> Iterator[None]:
    """Let the first signal wait until the block is through, which then raises Stopped."""
    global _postponing
    before = len(_heard)
    _postponing += 1
    try:
        yield
    finally:
        _postponing -= 1
    if len(_heard) > before and not _postponing:
        raise _heard[-1]
