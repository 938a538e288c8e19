"""Serving: which calibration curve times an operation, its own or that of its nearest relative."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from sim.kernels import served
from sim.kernels.curve import Curve, Identity
from sim.kernels.ops import UNGATED, Medium


def serving(
    curves: Mapping[Identity, Curve], identity: Identity, medium: Medium, computes: str = ""
) -> tuple[Curve | None, bool]:
    """Return the curve of `identity`, else of its nearest relative, and whether it is its own.

    The curve is None if there is no relative. Experts borrow another number format only where no
    kernel of any name was measured in their own: a kernel of other axes then lends its roofline.
    Of other formats, the one that is multiplied (`computes`) comes first.
    """
    op, kernel, dtype, key = identity
    best_first = (kernel, *served.engines(op, kernel))
    for name in best_first:
        if (op, name, dtype, key) in curves:
            return curves[op, name, dtype, key], True
    relatives = []
    for curve in curves.values():
        if curve.op != op or (medium != "hbm" and curve.kernel != kernel):
            continue
        if op == "moe_fused_ep" and curve.kernel not in best_first:
            continue  # what such a kernel waits for and hides is its own, whatever the format
        away = _key_distance(key, curve.key)
        # How many query heads share a KV head decides what limits attention, whatever the
        # format of the cache: there the shape comes before the format. What an engine runs around
        # a core is its own, whatever the shape.
        first = (0, 0.0)
        if op.startswith("attention"):
            first = (int(served.engine(curve.kernel) != served.engine(kernel)), away)
        strange = (
            _strangeness(curve.dtype, dtype, computes),
            away == np.inf,
            "/" in curve.kernel,
            best_first.index(curve.kernel) if curve.kernel in best_first else len(best_first),
        )
        if away < np.inf or (op == "moe" and curve.dtype == dtype):
            relatives.append((*first, *strange, away, curve.identity))
    return (curves[min(relatives)[-1]], False) if relatives else (None, False)


def _strangeness(dtype: str, own: str, computes: str) -> int:
    return 0 if dtype == own else 1 if dtype == computes else 2


def _key_distance(one: str, other: str) -> float:
    """Return how far two shape keys lie apart in doublings; ∞ if they are of different kinds.

    Experts without a gate are of the kind of those with one.
    """
    one, other = one.removesuffix(UNGATED), other.removesuffix(UNGATED)
    if one == other:
        return 0.0
    kind_one, kind_other = re.sub(r"[\d.]+", "#", one), re.sub(r"[\d.]+", "#", other)
    if kind_one != kind_other or "#" not in kind_one:
        return np.inf
    sizes = zip(re.findall(r"[\d.]+", one), re.findall(r"[\d.]+", other), strict=True)
    return sum(abs(float(np.log2(float(a) / float(b)))) for a, b in sizes)
