"""Nodes: the launches at the nodes of a curve, whose times are taken as true."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from sim.calibration import families
from sim.calibration.families import MeasuredKernel
from sim.calibration.regression import fit_constants, roofline_us
from sim.inputs.hardware import Accelerator
from sim.kernels.curve import Curve, work_of
from sim.kernels.kernel_table import KernelTable
from sim.kernels.ops import Floats, Op

Flags = NDArray[np.bool_]

# Sizes that keys leave out, since all measured kernels have the same: those of DeepSeek-V3, V3.2
# and V4 and of MiniMax-M3 (`sim.calibration.attention.block_files`).
_LATENT = {"kv_lora": 512.0, "rope": 64.0}
_CHOICE = {"index_dim": 128.0, "top_k": 2048.0, "positions": 1.0}
_ENTRIES = {"head_dim": 512.0, "rope": 64.0, "window": 128.0}
_ALIKE: dict[str, dict[str, float]] = {
    "attention_mla": _LATENT,
    "attention_dsa": {**_LATENT, "index_heads": 0.0, **_CHOICE},
    "attention_block_sparse": _CHOICE,
    "attention_hca": {**_ENTRIES, "ratio": 128.0},
    "attention_csa": {**_ENTRIES, "ratio": 4.0, **_CHOICE},
}

# Sizes by the letters that stand before them in the keys of some ops.
_KEYS: dict[tuple[str, ...], dict[str, str]] = {
    ("attention_gqa", "attention_block_sparse"): {
        "q": "n_q_heads",
        "kv": "n_kv_heads",
        "d": "head_dim",
        "i": "index_heads",
    },
    ("attention_mla", "attention_dsa", "attention_hca", "attention_csa"): {
        "h": "n_q_heads",
        "i": "index_heads",
        "k": "top_k",
    },
    ("attention_gdn", "attention_kda"): {"d": "head_k_dim", "x": "head_v_dim"},
    ("mhc_pre", "mhc_post"): {"d": "hidden", "s": "streams"},
    ("moe", "moe_fused_ep"): {"h": "hidden", "i": "intermediate"},
    ("a2a_prepare", "a2a_dispatch", "a2a_combine"): {"h": "hidden", "k": "topk"},
}
_LETTERS = {op: letters for ops, letters in _KEYS.items() for op in ops}

# Launches that constants are fitted to.
_FITTED = 200


def kernel_of(curve: Curve) -> MeasuredKernel:
    """Return the kernel that a curve is of, as measurements have it."""
    if curve.op == "collective":
        return MeasuredKernel(curve.op, curve.kernel, curve.dtype, (("name", curve.key),))
    sizes = dict(_ALIKE.get(curve.op, {}))
    for letters, number in re.findall(r"([a-z]+)([\d.]+)", curve.key):
        sizes[_LETTERS[curve.op][letters]] = float(number)
    return MeasuredKernel(curve.op, curve.kernel, curve.dtype, tuple(sizes.items()))


@dataclass(frozen=True)
class Nodes:
    """The launches at all nodes of a curve, one after the other."""

    curve: Curve
    op: Op
    compute_us: Floats
    memory_us: Floats
    least_us: Floats
    """Work at the card's peak, µs, as `Curve.times_us` takes it."""
    true_us: Floats
    measured: Flags
    """Whether a launch lies in the measured range; corners of the grid may not."""

    @classmethod
    def of(cls, curve: Curve, card: Accelerator) -> Nodes:
        """Return the nodes of a curve of `card`."""
        mesh = np.array(list(product(*(at for _, at in curve.axes))))
        at = {name: mesh[:, column] for column, (name, _) in enumerate(curve.axes)}
        op = families.build(card, kernel_of(curve), at)
        axes = {name: np.broadcast_to(op.axes[name], len(mesh)) for name in at}
        op, table = replace(op, axes=axes), KernelTable(card)
        least_us, memory_us = table.peak_us(op)
        parts = table.work_us(op)[0], memory_us, least_us
        compute_us, memory_us, least_us = (np.broadcast_to(part, len(mesh)) for part in parts)
        true_us, measured = curve.times_us(compute_us, memory_us, least_us, axes)
        return cls(curve, op, compute_us, memory_us, least_us, true_us, measured)

    def log_error(self, curve: Curve) -> Floats:
        """Return the log errors of the same launches by another curve."""
        work = self.compute_us, self.memory_us, self.least_us
        return np.asarray(np.log(curve.times_us(*work, self.op.axes)[0] / self.true_us))

    def fitted_to(self, seen: Flags, kept: Mapping[str, Flags]) -> Curve:
        """Return the curve of the launches `seen`, with the `kept` nodes of some axes alone.

        Constants are fitted again, so that they know nothing of other launches.
        """
        some = np.flatnonzero(seen)
        some = some[np.unique(np.linspace(0, len(some) - 1, _FITTED).astype(np.int64))]
        constants = fit_constants(self.compute_us[some], self.memory_us[some], self.true_us[some])
        old = self.curve.overhead_us, self.curve.e_c, self.curve.e_m, self.curve.p
        smooth = [
            np.log(roofline_us(np.log(one), self.compute_us, self.memory_us))
            for one in (old, constants)
        ]
        residual = self.curve.residual + (smooth[0] - smooth[1]).reshape(self.curve.residual.shape)
        axes = list(self.curve.axes)
        for axis, (name, at) in enumerate(axes):
            if name in kept:
                axes[axis] = name, at[kept[name]]
                residual = np.compress(kept[name], residual, axis)
        overhead_us, e_c, e_m, p = constants
        most = float(work_of({name: at[seen] for name, at in self.op.axes.items()}).max())
        return replace(
            self.curve,
            overhead_us=overhead_us,
            e_c=e_c,
            e_m=e_m,
            p=p,
            most_work=most * (1 + 1e-5),
            axes=tuple(axes),
            residual=residual,
        )
