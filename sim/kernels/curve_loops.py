"""Look-ups: the compiled loop behind a calibration curve (see `sim.kernels.curve`).

Importing this module imports Numba (most of a second), so only a look-up that is made imports it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sim.engines.jit import compiled
from sim.foundation.nanoseconds import MOST_TASK_NS
from sim.foundation.units import NS_PER_US

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Fields of a curve's constants.
OVERHEAD_US, E_C, E_M, P, LOG_MOST_WORK, TYPICAL_CONTEXT = range(6)

# Rows of the description of the axes: place of the first node, nodes, stride in the residual.
FIRST, COUNT, STRIDE = range(3)

# Rows of the rates of the axes: how fast the residual fades past the last node, and whether the
# coordinate counts as work.
FADING, IS_WORK = range(2)

_MOST_US = MOST_TASK_NS / NS_PER_US
_TINY = float(np.finfo(np.float64).tiny)
_SAME = 1e-6  # log distance at which a coordinate still is the node

# A curve, as `Curve.arrays` has it.
CURVE = "float64[::1], float64[::1], float64[::1], int64[:, ::1], float64[:, ::1], int64, int64"


@compiled(
    f"Tuple((float64, boolean))(float64[::1], int64[::1], float64[::1], {CURVE})", inline=True
)
def _log_residual(
    x: Floats,
    low: Ints,
    share: Floats,
    constants: Floats,
    nodes: Floats,
    residual: Floats,
    layout: Ints,
    rates: Floats,
    context: int,
    batch: int,
) -> tuple[float, bool]:
    """Return the residual at log coordinates `x`, and whether they lie in the measured range.

    `low` and `share` are room for the cell. `x` is changed.
    """
    inside, work, fade = True, 0.0, 0.0
    for a in range(len(x)):
        first, last = layout[FIRST, a], layout[FIRST, a] + layout[COUNT, a] - 1
        inside &= nodes[first] - _SAME <= x[a] <= nodes[last] + _SAME
        work += rates[IS_WORK, a] * x[a]
        fade += rates[FADING, a] * max(x[a] - nodes[last], 0.0)
    inside &= work <= constants[LOG_MOST_WORK] + _SAME
    if context >= 0:
        last = layout[FIRST, context] + layout[COUNT, context] - 1
        beyond = max(x[context] - nodes[last], 0.0)
        x[batch] += beyond
        x[context] -= beyond
    for a in range(len(x)):
        first, count = layout[FIRST, a], layout[COUNT, a]
        cell = 0
        while cell < count - 2 and x[a] >= nodes[first + cell + 1]:
            cell += 1
        low[a], share[a] = cell, 0.0
        if count > 1:
            left, right = nodes[first + cell], nodes[first + cell + 1]
            share[a] = min(max((x[a] - left) / (right - left), 0.0), 1.0)
    value = 0.0
    for corner in range(1 << len(x)):
        weight, index = 1.0, 0
        for a in range(len(x)):
            upper = corner >> a & 1
            weight *= share[a] if upper else 1.0 - share[a]
            if layout[COUNT, a] > 1:
                index += (low[a] + upper) * layout[STRIDE, a]
        if weight > 0.0:
            value += weight * residual[index]
    return value * math.exp(-fade) if fade > 0.0 else value, inside


@compiled("float64(float64, float64, float64, float64, float64[::1])", inline=True)
def _time_us(
    compute_us: float, memory_us: float, least_us: float, residual: float, constants: Floats
) -> float:
    """Return the roofline times the residual, never below the peak; no work takes no time."""
    if compute_us <= 0.0 and memory_us <= 0.0:
        return 0.0
    one, other = compute_us / constants[E_C], memory_us / constants[E_M]
    larger, smaller = max(one, other), min(one, other)
    smooth = larger * (1.0 + (smaller / larger) ** constants[P]) ** (1.0 / constants[P])
    time = (constants[OVERHEAD_US] + smooth) * math.exp(residual)
    return float(max(time, least_us, memory_us))


@compiled(f"Tuple((float64, boolean))(float64, float64, float64, float64[::1], int64[::1], "
          f"float64[::1], {CURVE})", inline=True)  # fmt: skip
def _launch(
    compute_us: float,
    memory_us: float,
    least_us: float,
    x: Floats,
    low: Ints,
    share: Floats,
    constants: Floats,
    nodes: Floats,
    residual: Floats,
    layout: Ints,
    rates: Floats,
    context: int,
    batch: int,
) -> tuple[float, bool]:
    """Return the time of a launch at log coordinates `x`, µs, and whether it was measured.

    `x` is changed; `low` and `share` are room.
    """
    excess = 1.0
    if context >= 0:
        over = x[batch] + x[context] - constants[LOG_MOST_WORK]
        if over > _SAME:
            excess = math.exp(over)
            x[context] -= over
    value, within = _log_residual(
        x, low, share, constants, nodes, residual, layout, rates, context, batch
    )
    time = _time_us(compute_us / excess, memory_us / excess, least_us / excess, value, constants)
    if excess <= 1.0:
        return time, within
    # A straight line from here on, at the slope between half and most of the work.
    slope = 0.0
    for halves in range(1, 3):
        x[context] = constants[TYPICAL_CONTEXT]
        x[batch] = constants[LOG_MOST_WORK] - x[context] - math.log(halves)
        value, _within = _log_residual(
            x, low, share, constants, nodes, residual, layout, rates, context, batch
        )
        part = halves * excess
        spent = _time_us(compute_us / part, memory_us / part, least_us / part, value, constants)
        slope += 2.0 * spent if halves == 1 else -2.0 * spent
    return max(time + (excess - 1.0) * slope, least_us, memory_us), False


@compiled(f"void(float64[:, ::1], float64[:, ::1], {CURVE}, float64[::1], boolean[::1])")
def times_us(
    work_us: Floats,
    coordinates: Floats,
    constants: Floats,
    nodes: Floats,
    residual: Floats,
    layout: Ints,
    rates: Floats,
    context: int,
    batch: int,
    times: Floats,
    inside: NDArray[np.bool_],
) -> None:
    """Fill in the time of each launch, µs, and whether its shape was in the measured range.

    `work_us` are rows of compute, memory and least compute time at peak, one column a launch;
    `coordinates` rows of the axes. `context` and `batch` are the axes of attention's work, or −1.
    """
    axes = len(coordinates)
    x, low, share = np.empty(axes), np.empty(axes, dtype=np.int64), np.empty(axes)
    for i in range(len(times)):
        compute_us, memory_us, least_us = work_us[0, i], work_us[1, i], work_us[2, i]
        for a in range(axes):
            x[a] = math.log(max(coordinates[a, i], _TINY))
        times[i], inside[i] = _launch(
            compute_us, memory_us, least_us, x, low, share,
            constants, nodes, residual, layout, rates, context, batch,
        )  # fmt: skip


@compiled(f"boolean(float64[:, :, ::1], int64[::1], int64[::1], int64[::1], int64[::1], "
          f"{CURVE}, boolean, int64[::1], float64[:, ::1])")  # fmt: skip
def line_ns(
    work_us: Floats,
    at: Ints,
    requests: Ints,
    alike: Ints,
    kv_tokens: Ints,
    constants: Floats,
    nodes: Floats,
    residual: Floats,
    layout: Ints,
    rates: Floats,
    context: int,
    batch: int,
    own: bool,
    times_ns: Ints,
    usage_ns: Floats,
) -> bool:
    """Fill in the time of attention cores over `kv_tokens`, ns, and their usage by load.

    GPUs of a load follow each other; `alike` of them stand behind each, itself alone where it is
    empty. `at` is the place of a GPU in `work_us`: rows of work as in `times_us`, split into what
    the requests take and what each context token adds. A time counts as calibrated where the curve
    is its `own` and measured. False if a time is no time that can be simulated.
    """
    x, low, share = np.empty(2), np.empty(2, dtype=np.int64), np.empty(2)
    each = len(times_ns) // len(usage_ns)
    for load in range(len(usage_ns)):
        for i in range(load * each, (load + 1) * each):
            tokens, place = float(kv_tokens[i]), at[i]
            x[batch] = math.log(max(float(requests[i]), _TINY))
            x[context] = math.log(max(tokens, _TINY)) - x[batch]
            time, inside = _launch(
                work_us[0, 0, place] + tokens * work_us[1, 0, place],
                work_us[0, 1, place] + tokens * work_us[1, 1, place],
                work_us[0, 2, place] + tokens * work_us[1, 2, place],
                x, low, share, constants, nodes, residual, layout, rates, context, batch,
            )  # fmt: skip
            if not 0.0 <= time <= _MOST_US:
                return False
            times_ns[i] = round(time * 1000.0)
            behind = alike[i] if len(alike) else 1
            usage_ns[load, 0 if own and inside else 1] += times_ns[i] * behind
    return True
