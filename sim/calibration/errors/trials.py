"""Trials: what curves say of launches that they have not seen, and relatives of a kernel of it.

The nodes of a curve are taken as true. What is tried is what a look-up would do in their place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from sim.calibration.errors.nodes import Flags, Nodes
from sim.inputs.hardware import Accelerator
from sim.kernels import cores
from sim.kernels.curve import Curve, Identity, work_of
from sim.kernels.doubt.kernel_error import BEYOND, WORK, relation
from sim.kernels.ops import Floats
from sim.kernels.serving import serving

# Octaves that are cut off an end of an axis, and of the most work.
_CUTS = (1, 3)
# Octaves beyond an end from which on a distance tells of a slope.
_LEAST_AWAY = 1.0
# Axes of the load, which are measured from one token or request on; nobody asks for less.
_LOADS = frozenset({"m", "batch", "kv_len", "rows", "active", "states", "tokens", "bytes"})
# Launches, and nodes of an axis, that have to be left.
_FEWEST, _FEWEST_NODES = 4, 2
# Curves of an op whose ends are cut, evenly among all.
_MOST_CURVES = 64
# Default times of launches that tell of the efficiency, and of those that tell of what a launch
# takes besides, µs.
_LONG_US, _SHORT_US = 100.0, 20.0

# Cards with one chip and tables that were fitted apart, with the ops that were not, and the only
# ones that were.
_BLOCKS = ("attention_dsa", "attention_csa", "attention_hca", "attention_block_sparse")
TWINS = {
    ("h100-sxm", "h200-sxm"): frozenset(("attention_dsa",)),
    ("b200", "gb200"): frozenset((*_BLOCKS, "moe", "moe_fused_ep", "mhc_pre", "mhc_post")),
}


class Tried(NamedTuple):
    """What one curve gives for the error of an op."""

    op: str
    kind: str
    axis: str
    errors: Floats
    """Log errors; of kind beyond for an octave; of kind launch µs."""


@dataclass(frozen=True)
class ShippedTable:
    """The curves of a card."""

    card: Accelerator
    curves: Mapping[Identity, Curve]

    @cached_property
    def own(self) -> list[Nodes]:
        """The nodes of the curves that were measured on the card itself."""
        return [Nodes.of(one, self.card) for one in self.curves.values() if not one.is_derived]

    def stand_in(self, one: Nodes, without_format: bool) -> Curve | None:
        """Return the curve that would serve if this one, or its whole format, were missing."""
        op, kernel, dtype, key = one.curve.identity
        left = {
            of: curve
            for of, curve in self.curves.items()
            if of != one.curve.identity and not (without_format and (of[0], of[2]) == (op, dtype))
        }
        return serving(left, (op, kernel, dtype, key), one.op.medium, one.op.computes)[0]


def beyond(nodes: list[Nodes]) -> Iterator[Tried]:
    """Yield errors for an octave outside of what is left of curves whose ends are cut."""
    step = -(-len(nodes) // _MOST_CURVES)
    for one in nodes[::step]:
        for name, at in one.curve.axes:
            for octaves in _CUTS:
                ends = [at <= at[-1] / 2**octaves, at >= at[0] * 2**octaves]
                for kept in ends[:1] if name in _LOADS else ends:
                    if kept.sum() >= _FEWEST_NODES:
                        x, end = one.op.axes[name], at[kept]
                        away = np.abs(np.log2(x / np.clip(x, end[0], end[-1])))
                        yield from _outside(one, name, away, {name: kept})
        if one.curve.is_of_attention() and cores.is_linear(one.curve.op):
            work = work_of(one.op.axes)
            for octaves in _CUTS:
                most = work[one.measured].max() / 2**octaves
                yield from _outside(one, WORK, np.log2(np.maximum(work / most, 1.0)), {})


def _outside(one: Nodes, axis: str, away: Floats, kept: Mapping[str, Flags]) -> Iterator[Tried]:
    seen, tried = one.measured & (away == 0), one.measured & (away > _LEAST_AWAY - 1e-6)
    if seen.sum() >= _FEWEST and tried.any():
        errors = one.log_error(one.fitted_to(seen, kept))[tried]
        yield Tried(one.curve.op, BEYOND, axis, errors / away[tried])


def borrowed(table: ShippedTable) -> Iterator[Tried]:
    """Yield errors of the curves that stand in for one that is missing, by what they differ in."""
    for one in table.own:
        asked = (one.curve.op, one.curve.kernel, one.curve.dtype)
        for without_format in (False, True):
            curve = table.stand_in(one, without_format)
            # Curves of another format stand in where no curve is of the own one.
            kind = None if curve is None else relation(curve, *asked)
            if curve is not None and kind and (kind == "format") == without_format:
                yield Tried(one.curve.op, kind, "", one.log_error(curve)[one.measured])


def uncalibrated(table: ShippedTable) -> Iterator[Tried]:
    """Yield errors of the card's default efficiency, and what short launches take besides, µs."""
    for one in table.own:
        us = np.maximum(one.least_us, one.memory_us) / float(table.card.default_efficiency)
        long, short = one.measured & (us >= _LONG_US), one.measured & (us <= _SHORT_US)
        if long.any():
            errors = np.log(us[long] / one.true_us[long])
            yield Tried(one.curve.op, "uncalibrated", "", errors)
        if short.any():
            besides_us = np.median(one.true_us[short] - us[short])
            yield Tried(one.curve.op, "launch", "", np.array([besides_us]))


def common(tables: Mapping[str, ShippedTable]) -> Iterator[Tried]:
    """Yield by how much curves of one kernel differ in the mean that were measured twice.

    What they differ by is the error of both: √2 of one.
    """
    for (name, other), together in TWINS.items():
        twin = tables[other].curves
        for one in tables[name].own:
            curve = twin.get(one.curve.identity)
            if curve is None or curve.is_derived or curve.op in together:
                continue
            work = one.compute_us, one.memory_us, one.least_us
            _us, inside = curve.times_us(*work, one.op.axes)
            both = one.measured & inside
            if both.any():
                mean = one.log_error(curve)[both].mean() / np.sqrt(2)
                yield Tried(one.curve.op, "common", "", np.array([mean]))
