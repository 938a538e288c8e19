"""The grid of a calibration curve: a kernel's residual at the coordinates where it was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from sim import families
from sim.families import Family, Kernel
from sim.hardware import Accelerator
from sim.kernels import KernelTable
from sim.measurements import Measurement
from sim.ops import Floats
from sim.regression import Constants, Residual, rising, roofline_us
from sim.table import Curve, work_of

_MOST_NODES = 26  # an axis with more distinct values gets nodes two to a doubling
_THIN = 0.003  # log error that dropping nodes of the grid may cause

_AHEAD = 0.01  # step that tells the slope of the roofline, a fraction of the coordinate

LICENCES = {
    "aic": "Apache-2.0",
    "InferSim": "Apache-2.0",
    "vidur": "MIT",
    "DeepEP": "MIT",
    "DeepGEMM": "MIT",
    "afdsim": "Apache-2.0",
}


def curve_on_grid(
    family: Family,
    accelerator: Accelerator,
    kernel: Kernel,
    rows: Sequence[Measurement],
    constants: Constants,
    residual: Residual,
) -> Curve:
    """Return the curve of one kernel: the group's residual on the grid of its own points."""
    measured = families.build(accelerator, kernel, families.coordinates(rows))
    nodes = [_nodes(np.unique(measured.axes[name])) for name in family.axes]
    shape = tuple(len(one) for one in nodes)
    mesh = np.array(list(product(*nodes)))
    at = {name: mesh[:, column] for column, name in enumerate(family.axes)}
    grid = families.build(accelerator, kernel, at)
    compute_us, memory_us = KernelTable(accelerator).work_us(grid)
    smooth_us = roofline_us(np.log(constants), compute_us, memory_us).reshape(shape)
    possible = {name: np.broadcast_to(grid.axes[name], len(mesh)) for name in family.axes}
    log_time = np.log(smooth_us) + residual(family.features(kernel, possible)).reshape(shape)

    def log_smooth(at: Mapping[str, Floats]) -> Floats:
        op = families.build(accelerator, kernel, at)
        return np.log(roofline_us(np.log(constants), *KernelTable(accelerator).work_us(op)))

    def is_stepped(at: Mapping[str, Floats], name: str) -> NDArray[np.bool_]:
        launched = families.build(accelerator, kernel, at).axes[name]
        return ~np.isclose(launched, at[name], rtol=1e-9)

    log_time = rising(
        log_time,
        {
            family.axes.index(name): _least_rise(log_smooth, is_stepped, at, name, family, shape)
            for name in family.rising
        },
    )
    overhead_us, e_c, e_m, p = constants
    axes, values = thinned(family.axes, nodes, log_time - np.log(smooth_us))
    return Curve(
        op=grid.name,
        kernel=kernel.kernel,
        dtype=kernel.dtype,
        key=grid.key,
        overhead_us=float(f"{overhead_us:.5g}"),
        e_c=float(f"{e_c:.5g}"),
        e_m=float(f"{e_m:.5g}"),
        p=float(f"{p:.5g}"),
        source=_sources(rows),
        licence=_licence(rows),
        points=len(rows),
        mape=np.nan,
        p90=np.nan,
        most_work=_most_work(measured.axes, family),
        axes=axes,
        residual=values,
    )


def _least_rise(
    log_smooth: Callable[[Mapping[str, Floats]], Floats],
    is_stepped: Callable[[Mapping[str, Floats], str], NDArray[np.bool_]],
    at: Mapping[str, Floats],
    name: str,
    family: Family,
    shape: tuple[int, ...],
) -> Floats:
    """Return how much log time must rise to each node so that it never falls on the way there.

    Between two nodes the residual is linear in log coordinates: time falls on the way if the
    residual falls faster than the roofline rises at the flatter end. Where a kernel launches
    whole tiles there is no way between nodes, only a step.
    """
    axis = family.axes.index(name)
    here = log_smooth(at).reshape(shape)
    ahead, behind = ({**at, name: at[name] * factor} for factor in (1 + _AHEAD, 1 - _AHEAD))
    leaving = (log_smooth(ahead).reshape(shape) - here) / np.log1p(_AHEAD)
    arriving = (here - log_smooth(behind).reshape(shape)) / -np.log1p(-_AHEAD)
    first = np.take(leaving, range(shape[axis] - 1), axis)
    last = np.take(arriving, range(1, shape[axis]), axis)
    step = np.diff(np.log(at[name]).reshape(shape), axis=axis)
    climb = np.diff(here, axis=axis)
    need = np.clip(climb - np.minimum(first, last) * step, 0.0, np.maximum(climb, 0.0))
    jumps = np.take(is_stepped(ahead, name).reshape(shape), range(shape[axis] - 1), axis)
    start = np.zeros_like(np.take(here, [0], axis))
    return np.concatenate([start, np.where(jumps, 0.0, need)], axis=axis)


def _most_work(measured: Mapping[str, Floats], family: Family) -> float:
    work = work_of({name: measured[name] for name in family.axes})
    return float(f"{work.max() * (1 + 1e-5):.5g}")


def _nodes(values: Floats) -> Floats:
    if len(values) <= _MOST_NODES:
        return values
    steps = int(np.ceil(2 * np.log2(values[-1] / values[0])))
    return np.asarray(np.geomspace(values[0], values[-1], min(steps, _MOST_NODES) + 1))


def thinned(
    names: Sequence[str], nodes: Sequence[Floats], residual: Floats
) -> tuple[tuple[tuple[str, Floats], ...], Floats]:
    """Return the grid without nodes that interpolation between their neighbours replaces."""
    kept = list(nodes)
    grid = residual
    for axis, at in enumerate(nodes):
        chosen = _spanning(np.log(at), np.moveaxis(grid, axis, 0))
        kept[axis] = at[chosen]
        grid = np.take(grid, chosen, axis)
    return tuple(zip(names, kept, strict=True)), np.round(grid, 3)


def _spanning(at: Floats, values: Floats) -> list[int]:
    """Return the nodes between which linear interpolation keeps all values within `_THIN`."""
    chosen, last = [0], len(at) - 1
    while chosen[-1] < last:
        first = chosen[-1]
        end = first + 1
        while end < last and _is_line(at[first : end + 2], values[first : end + 2]):
            end += 1
        chosen.append(end)
    return chosen


def _is_line(at: Floats, values: Floats) -> bool:
    share = (at - at[0]) / (at[-1] - at[0])
    share = share.reshape(-1, *(1,) * (values.ndim - 1))
    line = values[0] * (1 - share) + values[-1] * share
    return bool(np.abs(values - line).max() <= _THIN)


def _sources(rows: Sequence[Measurement]) -> str:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.source] = counts.get(row.source, 0) + 1
    return "; ".join(f"{name} ({count})" for name, count in sorted(counts.items()))


def _licence(rows: Sequence[Measurement]) -> str:
    found = {LICENCES.get(row.source.replace(":", " ").split()[0], "unstated") for row in rows}
    return " and ".join(sorted(found))
