"""The grid of a calibration curve: a kernel's residual at the coordinates where it was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product

import numpy as np

from sim.calibration import families
from sim.calibration.families import KernelFamily, MeasuredKernel
from sim.calibration.measurements import Measurement
from sim.calibration.regression import Constants, Residual, rising, roofline_us
from sim.inputs.hardware import Accelerator
from sim.kernels.curve import Curve, work_of
from sim.kernels.kernel_table import KernelTable
from sim.kernels.ops import Floats

_MOST_NODES = 26  # an axis with more distinct values gets nodes two to a doubling

_STOPS = 8  # points on the way between two nodes where time must not have fallen
_SAME_STOP = 1e-9  # log distance of coordinates that are one launch

LICENCES = {
    "aic": "Apache-2.0",
    "aic0.12": "Apache-2.0",
    "InferSim": "Apache-2.0",
    "vidur": "MIT",
    "DeepEP": "MIT",
    "DeepGEMM": "MIT",
    "afdsim": "Apache-2.0",
    "github": "figure",
}


def curve_on_grid(
    family: KernelFamily,
    accelerator: Accelerator,
    kernel: MeasuredKernel,
    rows: Sequence[Measurement],
    constants: Constants,
    residual: Residual,
) -> Curve:
    """Return the curve of one kernel: the group's residual on the grid of its own points."""
    measured = families.build(accelerator, kernel, families.coordinates(rows))
    after = family.breaks_of(kernel)
    nodes = [
        _broken(_nodes(np.unique(measured.axes[name])), after.get(name)) for name in family.axes
    ]
    shape = tuple(len(one) for one in nodes)
    mesh = np.array(list(product(*nodes)))
    at = {name: mesh[:, column] for column, name in enumerate(family.axes)}
    grid = families.build(accelerator, kernel, at)
    compute_us, memory_us = KernelTable(accelerator).work_us(grid)
    smooth_us = roofline_us(np.log(constants), compute_us, memory_us).reshape(shape)
    possible = {name: np.broadcast_to(grid.axes[name], len(mesh)) for name in family.axes}
    log_time = np.log(smooth_us) + residual(family.features(kernel, possible)).reshape(shape)

    def launched(at: Mapping[str, Floats], name: str) -> tuple[Floats, Floats]:
        op = families.build(accelerator, kernel, at)
        smooth = roofline_us(np.log(constants), *KernelTable(accelerator).work_us(op))
        return np.log(np.broadcast_to(op.axes[name], smooth.shape)), np.log(smooth)

    log_time = rising(
        log_time,
        {
            family.axes.index(name): _least_rise(launched, at, name, family, shape)
            for name in family.rising
        },
    )
    overhead_us, e_c, e_m, p = constants
    axes, values = thinned(family.axes, nodes, log_time - np.log(smooth_us), family.thin)
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
    launched: Callable[[Mapping[str, Floats], str], tuple[Floats, Floats]],
    at: Mapping[str, Floats],
    name: str,
    family: KernelFamily,
    shape: tuple[int, ...],
) -> Floats:
    """Return how much log time must rise to each node so that it never falls on the way there.

    Between two nodes the residual is linear in the log coordinate: time falls on the way if the
    residual falls faster than the roofline rises where it is flattest. `launched` gives the log
    coordinate (a whole tile, where the kernel launches those) and the log of the roofline.
    """
    axis = family.axes.index(name)
    here = at[name].reshape(shape)
    before = np.take(here, [0, *range(shape[axis] - 1)], axis)
    flattest = np.full(shape, np.inf)
    x, smooth = (part.reshape(shape) for part in launched({**at, name: before.ravel()}, name))
    first_x, first = x, smooth
    for share in np.linspace(0, 1, _STOPS + 1)[1:]:
        stop = {**at, name: (before ** (1 - share) * here**share).ravel()}
        next_x, following = (part.reshape(shape) for part in launched(stop, name))
        moved = next_x - x > _SAME_STOP
        slope = np.divide(following - smooth, next_x - x, out=np.full(shape, np.inf), where=moved)
        flattest = np.minimum(flattest, slope)
        x, smooth = np.where(moved, next_x, x), np.where(moved, following, smooth)
    climb = smooth - first
    least = np.where(np.isfinite(flattest), flattest, 0.0) * (x - first_x)
    return np.clip(climb - least, 0.0, np.maximum(climb, 0.0))


def _most_work(measured: Mapping[str, Floats], family: KernelFamily) -> float:
    work = work_of({name: measured[name] for name in family.axes})
    return float(f"{work.max() * (1 + 1e-5):.5g}")


def _nodes(values: Floats) -> Floats:
    if len(values) <= _MOST_NODES:
        return values
    steps = int(np.ceil(2 * np.log2(values[-1] / values[0])))
    return np.asarray(np.geomspace(values[0], values[-1], min(steps, _MOST_NODES) + 1))


def _broken(values: Floats, after: float | None) -> Floats:
    """Return nodes with those on either side of a break that lies between them."""
    if after is None or not values[0] <= after < values[-1]:
        return values
    return np.unique([*values, after, after + 1])


def thinned(
    names: Sequence[str], nodes: Sequence[Floats], residual: Floats, within: float
) -> tuple[tuple[tuple[str, Floats], ...], Floats]:
    """Return the grid without nodes that interpolation between their neighbours replaces."""
    kept = list(nodes)
    grid = residual
    for axis, at in enumerate(nodes):
        chosen = _spanning(np.log(at), np.moveaxis(grid, axis, 0), within)
        kept[axis] = at[chosen]
        grid = np.take(grid, chosen, axis)
    return tuple(zip(names, kept, strict=True)), np.round(grid, 3)


def _spanning(at: Floats, values: Floats, within: float) -> list[int]:
    """Return the nodes between which linear interpolation stays `within` all values."""
    chosen, last = [0], len(at) - 1
    while chosen[-1] < last:
        first = chosen[-1]
        end = first + 1
        while end < last and _is_line(at[first : end + 2], values[first : end + 2], within):
            end += 1
        chosen.append(end)
    return chosen


def _is_line(at: Floats, values: Floats, within: float) -> bool:
    share = (at - at[0]) / (at[-1] - at[0])
    share = share.reshape(-1, *(1,) * (values.ndim - 1))
    line = values[0] * (1 - share) + values[-1] * share
    return bool(np.abs(values - line).max() <= within)


def _sources(rows: Sequence[Measurement]) -> str:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.source] = counts.get(row.source, 0) + 1
    return "; ".join(f"{name} ({count})" for name, count in sorted(counts.items()))


def _licence(rows: Sequence[Measurement]) -> str:
    found = {LICENCES.get(row.source.replace(":", " ").split()[0], "unstated") for row in rows}
    return " and ".join(sorted(found))
