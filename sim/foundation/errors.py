"""The error tree and the exit codes that belong to it.

    SimError
    ├── ScenarioError      a scenario, sweep or card is wrong            exit 3
    ├── CalibrationError   a calibration table or measurement is wrong   exit 3
    ├── InfeasibleError    the shape cannot run, or no point meets SLO   exit 4
    ├── InexpressibleError a model has what a model card cannot say      exit 4
    ├── ImpossibleFigureError  no deployment can have this result; a bug    exit 1
    ├── SchedulerError     a cluster's scheduler cannot be reached       exit 2
    └── StoreError         results cannot be kept: disk full, read-only,
                           in use, damaged, or not the sweep's           exit 6

Everything else that escapes is a bug (exit 1). Usage errors exit 2, a sweep that
finished with failed points 5. Data that stdout has no room for exit 6. A signal exits
128 + its number: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP, and 141 where the
reader of stdout has closed it (`afdsim models | head -1`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sim.foundation.suggestions import nearest

# So many names are listed whole; of more, the nearest.
_FEW = 20
_NEAREST = 5

EXIT_OK = 0
EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_BAD_INPUT = 3
EXIT_INFEASIBLE = 4
EXIT_FAILED_POINTS = 5
EXIT_NOT_KEPT = 6
EXIT_SIGNAL = 128  # and the number of the signal


class SimError(Exception):
    """Root of all errors that afdsim raises on purpose."""

    exit_code = EXIT_BUG


class ScenarioError(SimError):
    """A scenario, sweep or card is wrong. `problems` holds every mistake found, one a line."""

    exit_code = EXIT_BAD_INPUT

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type, tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


class CalibrationError(SimError):
    """A calibration table or a measurement file is wrong."""

    exit_code = EXIT_BAD_INPUT


class ImpossibleFigureError(SimError):
    """A result is infinite, negative, or beyond what the hardware can do: a bug."""


class InfeasibleError(SimError):
    """The input is well formed, but this shape cannot run or cannot meet its target."""

    exit_code = EXIT_INFEASIBLE


class InexpressibleError(SimError):
    """A model's config is well formed, but a model card cannot express all of it."""

    exit_code = EXIT_INFEASIBLE


class SchedulerError(SimError):
    """The scheduler of a cluster cannot be reached, or what it takes is not installed."""

    exit_code = EXIT_USAGE


class StoreError(SimError):
    """Results cannot be kept where they should be."""

    exit_code = EXIT_NOT_KEPT


def together(*checks: Callable[[], object]) -> None:
    """Make all `checks`. Raises InfeasibleError with what every one of them found, a line each."""
    found: list[str] = []
    for check in checks:
        try:
            check()
        except InfeasibleError as error:
            found += str(error).splitlines()
    if found:
        raise InfeasibleError("\n".join(dict.fromkeys(found)))


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Return a remedy for an unknown name: the nearest known one, and what there is."""
    names = sorted(set(known))
    if not names:
        return "none are known here"
    near = nearest(str(word), names)
    meant = f"did you mean {near[0]!r}? " if near else ""
    if len(names) <= _FEW:
        return f"{meant}known: {', '.join(names)}"
    listed = near[1:_NEAREST] if near else names[:_FEW]
    more = f"{len(names) - len(listed) - bool(near)} more"
    return f"{meant}known: {', '.join([*listed, more])}"
