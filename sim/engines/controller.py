"""Controller: whom an engine asks what comes next, and what both say to each other."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from sim.engines.program import Times


class Wait(NamedTuple):
    """A boundary's answer when no request is in flight: come back at `until_ns`."""

    until_ns: int


class Controller(Protocol):
    """Decides at each step boundary what the micro-batch does next."""

    def boundary(self, micro_batch: int, now_ns: int) -> Times | Wait | None:
        """Return the durations of the next step, when to come back, or None to end the run."""


class Record(NamedTuple):
    """One task that a server ran."""

    node: int
    step: int
    server: int
    start_ns: int
    end_ns: int
