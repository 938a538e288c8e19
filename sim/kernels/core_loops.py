"""Core loops: attention cores as a part of the stages of a step, compiled (see `CoreLine`)."""

from __future__ import annotations

import numpy as np

from sim.engines.jit import compiled
from sim.foundation.nanoseconds import MOST_TASK_NS
from sim.kernels.curve_loops import CURVE, Floats, Ints, line_ns

IN_TIME = -1.0


@compiled("float64(int64[::1], int64[::1], float64[::1], int64[::1])")
def add_cores(core_ns: Ints, firsts: Ints, slowdowns: Floats, values: Ints) -> float:
    """Add cores to the values of some slots, then slow these, as `Deployment.slowed` does.

    Returns IN_TIME, or a time that no task may take.
    """
    for slot in range(len(firsts)):
        for gpu in range(len(core_ns)):
            place = firsts[slot] + gpu
            values[place] += core_ns[gpu]
            if slowdowns[slot] != 1.0:
                time_ns = values[place] * slowdowns[slot]
                if not 0.0 <= time_ns <= MOST_TASK_NS:
                    return float(time_ns)
                values[place] = round(time_ns)
    return IN_TIME


@compiled(f"float64(float64[:, :, ::1], int64[::1], int64[::1], int64[::1], {CURVE}, boolean, "
          "int64, int64[::1], float64[::1], int64, int64[::1], float64[::1])")  # fmt: skip
def add_line(
    work_us: Floats,
    at: Ints,
    requests: Ints,
    kv_tokens: Ints,
    constants: Floats,
    nodes: Floats,
    residual: Floats,
    layout: Ints,
    rates: Floats,
    context: int,
    batch: int,
    own: bool,
    foreign: int,
    firsts: Ints,
    slowdowns: Floats,
    uses: int,
    values: Ints,
    usage_ns: Floats,
) -> float:
    """Add the cores of `line_ns` to the values of some slots, and `uses` times to `usage_ns`.

    Usage counts `foreign` statuses further on. Returns what `add_cores` does, and ∞ for a core that
    cannot be simulated.
    """
    core_ns, by_status = np.empty(len(kv_tokens), np.int64), np.zeros((1, len(usage_ns)))
    if not line_ns(
        work_us, at, requests, np.empty(0, np.int64), kv_tokens,
        constants, nodes, residual, layout, rates, context, batch, own, core_ns, by_status,
    ):  # fmt: skip
        return np.inf
    for status in range(len(usage_ns) - foreign):
        usage_ns[status + foreign] += by_status[0, status] * uses
    return add_cores(core_ns, firsts, slowdowns, values)
