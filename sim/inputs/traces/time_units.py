"""The unit of a trace's times: as stated, else as the form of the file tells and load bears out.

Read in another unit, a trace loads a deployment a thousand times too much or too little, and every
figure looks right. So a unit that nobody stated has to give a load that services see.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.foundation.errors import ScenarioError
from sim.foundation.units import NS_PER_MS, NS_PER_S
from sim.inputs.traces.formats import Format, Ints, TimeUnit

NS: dict[TimeUnit, int] = {"s": NS_PER_S, "ms": NS_PER_MS, "us": 1000, "ns": 1}
_ASKED: tuple[TimeUnit, ...] = ("s", "ms")

# The most requests per second, and the longest median gap, of a load that is not asked about.
MOST_PER_S, LONGEST_GAP_S = 1_000, 100
# Below this load, times that are written as in another unit are asked about.
USUAL_PER_S = 100

_MOST_NS = 9 * 10**18


def unit_of(path: str, form: Format, times: Ints, stated: TimeUnit | None) -> tuple[TimeUnit, str]:
    """Return the unit of times, and a note for the reader where neither file nor scenario says it.

    Raises ScenarioError if the unit is not stated and cannot be told.
    """
    if form.unit is not None and form.own_unit:
        if stated not in (None, form.unit):
            raise ScenarioError(f"{path}: {form.time} states its unit; leave time_unit out")
        return form.unit, ""
    if stated is not None:
        return stated, ""
    at = np.sort(times[0] - times[0].min() + times[1] / 1e9)
    at -= at[0]
    if not at[-1] or (form.unit is not None and not form.said):
        return form.unit or "ms", ""
    likely = [unit for unit in _ASKED if _is_likely(at, unit)]
    # Published times in ms are whole, those in s have parts: else they may be another's.
    unusual = bool(times[1].any()) == (form.unit == "ms")
    if form.unit in likely and not (unusual and _is_usual(at, "s" if form.unit == "ms" else "ms")):
        return form.unit, ""
    readings = "; ".join(_reading(at, unit) for unit in _ASKED)
    if form.unit is None and len(likely) == 1:
        unit = likely[0]
        return unit, f"{path}: no key tells the unit of times; they are read in {unit} ({readings})"
    why = f"{form.said} and means {form.unit}" if form.unit else "no key tells which"
    raise ScenarioError(
        f"{path}: the times may be in s or in ms ({readings}): {why};"
        " write time_unit: s or time_unit: ms"
    )


def _is_likely(at: NDArray[np.float64], unit: TimeUnit) -> bool:
    """Return whether sorted times in `unit` are a load that services see."""
    # Requests that came together, as where a recorder collects them for some seconds, have no gap.
    gaps = np.diff(np.unique(at))
    gap_s = float(np.quantile(gaps, 0.5, method="lower")) * NS[unit] / NS_PER_S
    return _rate_per_s(at, unit) <= MOST_PER_S and gap_s <= LONGEST_GAP_S


def _is_usual(at: NDArray[np.float64], unit: TimeUnit) -> bool:
    return _is_likely(at, unit) and _rate_per_s(at, unit) < USUAL_PER_S


def _rate_per_s(at: NDArray[np.float64], unit: TimeUnit) -> float:
    return (len(at) - 1) / (float(at[-1]) * NS[unit] / NS_PER_S)


def _reading(at: NDArray[np.float64], unit: TimeUnit) -> str:
    span_s = float(at[-1]) * NS[unit] / NS_PER_S
    rate = _rate_per_s(at, unit)
    return f"in {unit}: {len(at):,} requests in {span_s:,.3g} s, {rate:,.3g} requests/s"


def arrivals_ns(path: str, times: Ints, unit: TimeUnit) -> Ints:
    """Return times after the first in ns. Raises ScenarioError if they do not fit in 63 bits."""
    whole, part = times
    span = int(whole.max()) - int(whole.min())
    if span >= _MOST_NS // NS[unit]:
        raise ScenarioError(
            f"{path}: the times span {span:,} {unit}, more than {_MOST_NS / NS_PER_S:.1g} s;"
            " is their unit another (time_unit)?"
        )
    at_ns: Ints = (whole - whole.min()) * NS[unit]
    at_ns += np.rint(part * (NS[unit] / NS_PER_S)).astype(np.int64)
    at_ns -= at_ns.min()
    return at_ns
