"""Nanoseconds: the one way from times in floats to the whole nanoseconds that are simulated.

64 bits hold 292 years. A figure in a wrong unit makes times beyond, which would wrap to negative
ones without a word.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim.foundation.errors import ScenarioError
from sim.foundation.units import NS_PER_S, NS_PER_US

Ns = NDArray[np.int64]

MOST_TASK_NS = 3_600 * NS_PER_S
"""An hour: no task of a decode step comes near."""
MOST_RUN_NS = 1 << 61
"""73 years, of which a sum of a few still is within 64 bits."""


def whole_ns(time_ns: ArrayLike, what: str, most_ns: int = MOST_TASK_NS) -> NDArray[np.int64]:
    """Return times rounded to whole ns.

    Raises ScenarioError naming `what` takes a time that is negative, no number, or too long.
    """
    times = np.rint(time_ns)
    if times.size and not (times.min() >= 0 and times.max() <= most_ns):
        wrong = np.ravel(times)[~(np.ravel(times) >= 0) | (np.ravel(times) > most_ns)]
        raise too_long(what, float(wrong[0]), most_ns)
    return np.asarray(times, dtype=np.int64)


def from_us(time_us: float, what: str) -> int:
    """Return a time in µs as whole ns. Raises as `whole_ns` does."""
    time_ns = time_us * NS_PER_US
    return round(time_ns) if 0 <= time_ns <= MOST_TASK_NS else int(whole_ns(time_ns, what))


def too_long(what: str, time_ns: float, most_ns: int = MOST_TASK_NS) -> ScenarioError:
    """Return the error of a time that cannot be simulated."""
    return ScenarioError(
        f"{what} takes {time_ns / NS_PER_S:.3g} s, which should be from 0 to "
        f"{most_ns / NS_PER_S:.3g} s: look for a figure in a wrong unit in the scenario, its "
        "cards or its calibration table"
    )
