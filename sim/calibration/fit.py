"""Fitting a calibration table: measurements in, curves with known held-out error out.

Kernels that belong together are fitted together (`KernelFamily.group`): one set of roofline
constants and one smooth residual over the whole group, from which each kernel's curve takes a grid.
The error of a curve is measured by the same procedure on two thirds of the points; the curve itself
then uses all of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sim.calibration import families
from sim.calibration.families import KernelFamily, MeasuredKernel
from sim.calibration.grid import curve_on_grid, thinned
from sim.calibration.measurements import GPUS, Measurement
from sim.calibration.regression import Residual, fit_constants, roofline_us
from sim.foundation.errors import CalibrationError
from sim.inputs.hardware import Accelerator
from sim.kernels import served
from sim.kernels.curve import DERIVED, Curve, Identity
from sim.kernels.kernel_table import US_PER_S, KernelTable
from sim.kernels.ops import Floats

HELD_OUT_SHARE = 3  # one block in so many is held out
_STEPS_PER_DOUBLING = 4  # nodes of a collective where another link may begin to bound it
_MEASURED_FASTER = 1.0 + 1e-9


@dataclass(frozen=True)
class Group:
    """Measurements that are fitted together."""

    name: tuple[str, ...]
    family: KernelFamily
    members: tuple[tuple[MeasuredKernel, tuple[Measurement, ...]], ...]

    def rows(self) -> list[Measurement]:
        return [row for _, rows in self.members for row in rows]


def own(measurements: Iterable[Measurement], accelerator: str) -> list[Measurement]:
    """Return the measurements that calibrate the card called `accelerator`."""
    return [row for row in measurements if _is_of(row, accelerator) and _is_calibrated(row)]


def _is_of(row: Measurement, accelerator: str) -> bool:
    return accelerator in GPUS.get(row.gpu, (row.gpu,))


def _is_calibrated(row: Measurement) -> bool:
    names = {value for _, value in row.fixed if isinstance(value, str)}
    return row.op in families.FAMILIES and "all_reduce_internode" not in names


def impossible(rows: Sequence[Measurement], accelerator: Accelerator) -> list[tuple[float, int]]:
    """Return, for each row faster than the card's peak, how many times and its index."""
    table = KernelTable(accelerator)
    found = []
    by_kernel: dict[MeasuredKernel, list[int]] = {}
    for index, row in enumerate(rows):
        by_kernel.setdefault(families.kernel_of(row), []).append(index)
    for kernel, indices in by_kernel.items():
        members = [rows[index] for index in indices]
        op = families.build(accelerator, kernel, families.coordinates(members))
        floor = np.maximum(*table.peak_us(op))
        for index, row, least in zip(indices, members, floor, strict=True):
            if row.latency_us * _MEASURED_FASTER < least:
                found.append((float(least / row.latency_us), index))
    return sorted(found, key=lambda one: one[1])


def groups(measurements: Iterable[Measurement]) -> list[Group]:
    found: dict[tuple[str, ...], dict[MeasuredKernel, list[Measurement]]] = {}
    for row in measurements:
        kernel = families.kernel_of(row)
        name = families.family(kernel).group(kernel)
        found.setdefault(name, {}).setdefault(kernel, []).append(row)
    return [
        Group(
            name,
            families.family(next(iter(found[name]))),
            tuple(
                (kernel, tuple(rows)) for kernel, rows in sorted(found[name].items(), key=_order)
            ),
        )
        for name in sorted(found)
    ]


def _order(member: tuple[MeasuredKernel, list[Measurement]]) -> str:
    return repr(member[0])


@dataclass(frozen=True)
class HeldOut:
    """A held-out measurement and the error of a fit that had not seen it."""

    row: Measurement
    error: float
    """Modelled over measured, minus 1."""


@dataclass(frozen=True)
class Fit:
    """The curves of one accelerator and the trials that tell their error."""

    curves: tuple[Curve, ...]
    trials: tuple[HeldOut, ...]
    left_out: tuple[str, ...] = ()
    """What was measured of the card and gave no curve, and why."""


def fit(
    measurements: Sequence[Measurement],
    accelerator: Accelerator,
    like: Accelerator | None = None,
    like_ops: frozenset[str] = frozenset(),
) -> Fit:
    """Return the curves of `accelerator`, each with its held-out error.

    `like` names a card whose kernels stand in where this one was not measured (`like_ops`: only
    for these operations; none: for all): compute kernels carry over, and transfers with the
    efficiency of their link. Raises CalibrationError if no measurement is of the card.
    """
    mine = {group.name: group for group in groups(own(measurements, accelerator.name))}
    donors = [] if like is None else own(measurements, like.name)
    donors = [row for row in donors if not like_ops or row.op in like_ops]
    # A skew was drawn once, on the card that was measured: its times tell of that draw.
    donors = [
        row
        for row in donors
        if "/power_law" not in row.kernel and served.is_looked_up(row.op, row.kernel, row.dtype)
    ]
    if not mine and not donors:
        known = ", ".join(sorted({row.gpu for row in measurements}))
        raise CalibrationError(f"no measurement is of {accelerator.name}; GPUs: {known}")
    curves: dict[Identity, Curve] = {}
    trials: list[HeldOut] = []
    for group in groups(donors):
        assert like is not None
        if group.name in mine and group.family.pooled:
            own_rows, lent = mine[group.name].rows(), group.rows()
            lent = _as_fast(lent, own_rows) if group.family.scaled else lent
            mine[group.name] = groups([*own_rows, *lent])[0]
            continue
        for curve in fit_group(group, like)[0]:
            source = f"{DERIVED}{like.name}: {curve.source}"
            curves[curve.identity] = _at_link_rate(replace(curve, source=source), accelerator, like)
    measured = {families.kernel_of(row) for row in own(measurements, accelerator.name)}
    for group in mine.values():
        fitted, tried = fit_group(group, accelerator)
        for (kernel, _), curve in zip(group.members, fitted, strict=False):
            source = curve.source
            if like is not None and kernel not in measured:
                source = f"{DERIVED}{like.name}: {source}"
            curves[curve.identity] = replace(curve, source=source)
        trials += tried
    ordered = tuple(sorted(curves.values(), key=lambda curve: curve.identity))
    return Fit(ordered, tuple(trials), _left_out(measurements, accelerator, mine.values()))


def _as_fast(lent: Sequence[Measurement], own_rows: Sequence[Measurement]) -> list[Measurement]:
    """Return a like card's measurements as this card would take: by the median ratio of both."""
    times: dict[object, list[float]] = {}
    for row in own_rows:
        times.setdefault((families.kernel_of(row), row.at), []).append(row.latency_us)
    shared = ((times.get((families.kernel_of(row), row.at)), row.latency_us) for row in lent)
    ratios = [float(np.median(of)) / us for of, us in shared if of is not None]
    ratio = float(np.median(ratios)) if ratios else 1.0
    return [replace(row, latency_us=row.latency_us * ratio) for row in lent]


def _left_out(
    measurements: Iterable[Measurement], accelerator: Accelerator, mine: Iterable[Group]
) -> tuple[str, ...]:
    """Return what gave no curve, or one that no run asks for by name."""
    unasked: dict[str, int] = {}
    for row in measurements:
        if _is_of(row, accelerator.name) and row.op not in families.FAMILIES:
            unasked[row.op] = unasked.get(row.op, 0) + 1
    unasked.pop("moe_hottest", None)  # held against the even kernel by `calibrate check`
    found = [f"{op}: {rows} points, but no run asks for this op" for op, rows in unasked.items()]
    for group in mine:
        name, points = " ".join(filter(None, group.name)), len(group.rows())
        kernels = {(kernel.op, kernel.kernel, kernel.dtype) for kernel, _ in group.members}
        if points < group.family.fewest:
            found.append(
                f"{name}: {points} points are too few to fit; measure {group.family.fewest}"
            )
        elif not any(served.is_looked_up(*kernel) for kernel in kernels):
            found.append(f"{name}: no run looks up this kernel; other kernels may borrow from it")
    return tuple(found)


def _at_link_rate(curve: Curve, accelerator: Accelerator, like: Accelerator) -> Curve:
    """Return a collective's curve for a link of another rate.

    The chip takes as long as it was measured to on the other card, unless its own link takes
    longer: both wait for the same launches, copies and signals, whatever the link could carry.
    """
    same_link = accelerator.node.scale_up_bytes_per_s == like.node.scale_up_bytes_per_s
    if curve.op != "collective" or same_link:
        return curve
    coordinates = dict(curve.axes)
    least, most = float(coordinates["bytes"][0]), float(coordinates["bytes"][-1])
    steps = int(np.ceil(_STEPS_PER_DOUBLING * np.log2(most / least)))
    n_bytes = np.unique([*coordinates["bytes"], *np.geomspace(least, most, steps + 1)])
    gpus = coordinates["gpus"]
    at = {"bytes": n_bytes[:, np.newaxis], "gpus": gpus[np.newaxis, :]}
    moved = at["bytes"] * (at["gpus"] - 1) / at["gpus"]
    there_us = moved / like.node.scale_up_bytes_per_s * US_PER_S
    here_us = moved / accelerator.node.scale_up_bytes_per_s * US_PER_S
    nothing = np.zeros(())
    measured_us, _ = curve.times_us(nothing, there_us, nothing, at)
    time_us = np.maximum(measured_us, here_us)
    smooth_us = curve.overhead_us + here_us / curve.e_m
    names = [name for name, _ in curve.axes]
    log_residual = np.log(time_us / smooth_us)
    if names == ["gpus", "bytes"]:
        log_residual = log_residual.T
    nodes = [n_bytes if name == "bytes" else gpus for name in names]
    axes, residual = thinned(names, nodes, log_residual, families.FAMILIES[curve.op].thin)
    return replace(curve, axes=axes, residual=residual)


def fit_group(group: Group, accelerator: Accelerator) -> tuple[list[Curve], list[HeldOut]]:
    """Return the curves of a group and its trials; none if it is too small."""
    if len(group.rows()) < group.family.fewest:
        return [], []
    tried = held_out(group, accelerator)
    curves = []
    for (kernel, _), curve in zip(group.members, curves_of(group, accelerator), strict=True):
        error = np.abs([trial.error for trial in tried[kernel]] or [np.nan])
        mape, p90 = float(error.mean()), float(np.quantile(error, 0.9))
        curves.append(replace(curve, mape=mape, p90=p90))
    return curves, [trial for kernel, _ in group.members for trial in tried[kernel]]


def curves_of(group: Group, accelerator: Accelerator) -> list[Curve]:
    """Return one curve per kernel of the group, fitted to all its measurements."""
    family = group.family
    table = KernelTable(accelerator)
    features, compute, memory, measured = [], [], [], []
    for kernel, rows in group.members:
        at = families.coordinates(rows)
        op = families.build(accelerator, kernel, at)
        work_us, moved_us = table.work_us(op)
        axes = {name: np.broadcast_to(op.axes[name], len(rows)) for name in family.axes}
        features.append(family.features(kernel, axes))
        compute.append(work_us)
        memory.append(np.broadcast_to(moved_us, len(rows)))
        measured.append(np.array([row.latency_us for row in rows]))
    time_us = np.concatenate(measured)
    constants = fit_constants(np.concatenate(compute), np.concatenate(memory), time_us)
    smooth_us = roofline_us(np.log(constants), np.concatenate(compute), np.concatenate(memory))
    residual = Residual(
        np.concatenate(features), np.log(time_us / smooth_us), family.noise, _blocks(group)
    )
    return [
        curve_on_grid(family, accelerator, kernel, rows, constants, residual)
        for kernel, rows in group.members
    ]


def held_out(group: Group, accelerator: Accelerator) -> dict[MeasuredKernel, list[HeldOut]]:
    """Return the trials of each kernel: fitted on two thirds of its group, tried on the rest.

    None where nothing was held out, or too little was left to fit.
    """
    members = [
        (kernel, tuple(row for row in rows if not is_held(group.family, row)))
        for kernel, rows in group.members
    ]
    training = replace(group, members=tuple((kernel, rows) for kernel, rows in members if rows))
    found: dict[MeasuredKernel, list[HeldOut]] = {kernel: [] for kernel, _ in members}
    if len(training.rows()) < group.family.fewest:
        return found
    table = KernelTable(accelerator, curves_of(training, accelerator))
    for kernel, rows in group.members:
        tried = [row for row in rows if is_held(group.family, row)]
        if tried:
            errors = relative_errors(table, kernel, tried)
            pairs = zip(tried, errors, strict=True)
            found[kernel] = [HeldOut(row, float(error)) for row, error in pairs if error == error]
    return found


def relative_errors(
    table: KernelTable, kernel: MeasuredKernel, rows: Sequence[Measurement]
) -> Floats:
    """Return modelled/measured − 1 of measurements of one kernel; NaN where it has no curve.

    Of a block that was measured whole, that is the error of all of it.
    """
    op = families.build(table.accelerator, kernel, families.coordinates(rows))
    curve, _ = table.serving(op)
    if curve is None:
        return np.full(len(rows), np.nan)
    time_us, _ = table.time_us(op, curve)
    beside_us = np.array([row.beside_us for row in rows])
    measured_us = beside_us + [row.latency_us for row in rows]
    return np.asarray((beside_us + time_us) / measured_us - 1)


def is_held(family: KernelFamily, row: Measurement) -> bool:
    """Return whether a measurement belongs to the third that validation holds out."""
    names = family.block or [name for name, _ in row.at]
    block = [value for name, value in row.at if name in names]
    fixed = () if family.block else (row.fixed, row.dtype)
    return zlib.crc32(repr((block, fixed)).encode()) % HELD_OUT_SHARE == 0


def _blocks(group: Group) -> NDArray[np.int64]:
    rows = group.rows()
    if not group.family.block:
        return np.arange(len(rows))
    shapes = [tuple(dict(row.at)[name] for name in group.family.block) for row in rows]
    index = {shape: number for number, shape in enumerate(sorted(set(shapes)))}
    return np.array([index[shape] for shape in shapes])
