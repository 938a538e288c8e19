"""What `afdsim measure` times: the shapes that scenarios ask one GPU for, and loads around them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from math import ceil, floor

from sim.calibration.measure import FORMS, Case, labels
from sim.experiments.kernel_demand import Demand, Kernel
from sim.kernels import served
from sim.kernels.ops import UNGATED

# Scenarios that stand for the shipped ones where none is named: Step-3, DeepSeek-V3 and Qwen3,
# masked and fused experts, caches in FP8 and BF16.
USUAL = ("step3-2a2f", "step3-3a2f-bf16", "dsv3-ep128", "dsv3-ep8-h200", "qwen3-ep16")

# Loads go this far past the largest one that the scenario met, and down to a single row or request.
_HEADROOM = 2.0
_ROWS = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256)
_LEAST_CONTEXT = 256
_ALIGNED, _PADDED = 8, 64


def cases(demands: Iterable[Demand], ops: Iterable[str] = FORMS) -> list[Case]:
    """Return the cases that cover what one GPU can serve of `demands`, each once."""
    wanted = set(ops)
    found = [
        case
        for demand in demands
        for kernel, ranges in demand.ranges.items()
        if kernel.op in wanted
        for case in _around(demand, kernel, ranges)
    ]
    return list(dict.fromkeys(found))


def left_to_the_table(demands: Iterable[Demand]) -> dict[str, int]:
    """Return the kernels of `demands` that no case measures, and the GPUs that each takes."""
    found = {
        f"{one.op} {one.kernel} {one.dtype}": served.SERVED[one.op][one.kernel].gpus
        for demand in demands
        for one in demand.ranges
        if one.op not in FORMS or one.dtype not in labels(one.op)
    }
    return dict(sorted(found.items()))


def _around(
    demand: Demand, kernel: Kernel, ranges: Mapping[str, tuple[float, float]]
) -> Iterator[Case]:
    label = labels(kernel.op).get(kernel.dtype)
    if label is None:
        return
    shapes = {
        "gemm": _gemm,
        "attention_gqa": _gqa,
        "attention_mla": _mla,
        "moe": _moe,
    }[kernel.op](demand, kernel, ranges)
    for shape in shapes:
        yield Case(kernel.op, kernel.kernel, label, tuple(shape.items()))


Shapes = Iterator[dict[str, int]]
Ranges = Mapping[str, tuple[float, float]]


def _gemm(_demand: Demand, kernel: Kernel, ranges: Ranges) -> Shapes:
    sizes = dict(kernel.sizes)
    for n, k in product(_whole(sizes["n"]), _whole(sizes["k"])):
        for m in _ladder(ranges["m"][1], _ROWS):
            yield {"m": m, "n": n, "k": k}


def _gqa(_demand: Demand, kernel: Kernel, ranges: Ranges) -> Shapes:
    heads, kv_heads, dim = (int(size) for size in re.findall(r"\d+", kernel.key))
    for load in _caches(ranges):
        yield {"n_q_heads": heads, "n_kv_heads": kv_heads, "head_dim": dim, **load}


def _mla(demand: Demand, kernel: Kernel, ranges: Ranges) -> Shapes:
    (heads,) = (int(size) for size in re.findall(r"\d+", kernel.key))
    latent = demand.mla()
    for load in _caches(ranges):
        yield {"n_q_heads": heads, "kv_lora": latent.kv_lora, "rope": latent.rope, **load}


def _caches(ranges: Ranges) -> Shapes:
    """Return batches and contexts up to the most context tokens at once, with headroom."""
    batch, context = ranges["batch"][1], ranges["kv_len"][1]
    most = _HEADROOM * _power(batch) * _power(context)
    shortest = min(_LEAST_CONTEXT, _power(ranges["kv_len"][0]) // 2)
    for requests in _doublings(1, _HEADROOM * batch):
        for kv_len in _doublings(max(1, shortest), _HEADROOM * context):
            if requests * kv_len <= most:
                yield {"batch": requests, "kv_len": kv_len}


def _moe(_demand: Demand, kernel: Kernel, ranges: Ranges) -> Shapes:
    if kernel.key.endswith(UNGATED):
        return  # what measures has a gate
    sizes = dict(kernel.sizes)
    hidden = int(re.findall(r"[\d.]+", kernel.key)[0])
    masked = kernel.kernel == served.MASKED
    width = float(re.findall(r"[\d.]+", kernel.key)[1]) if masked else sizes["intermediate"]
    experts = round(sizes["experts"])
    few = [pairs for pairs in _doublings(1, experts) if pairs < experts]
    each = _ladder(ranges["rows"][1], _ROWS)
    for pairs in (*few, *(experts * rows for rows in each)):
        yield {"hidden": hidden, "inter": round(width), "experts": experts, "pairs": pairs}


def _whole(size: float) -> list[int]:
    """Return the sizes around a share of another size that a tensor core takes at full speed.

    Engines pad an odd size (a shard of a vocabulary), which would take several times as long.
    """
    if size % _ALIGNED == 0:
        return [int(size)]
    return [max(1, floor(size / _PADDED)) * _PADDED, ceil(size / _PADDED) * _PADDED]


def _power(value: float) -> int:
    """Return the smallest power of two from `value`."""
    return 1 << max(0, ceil(value) - 1).bit_length()


def _doublings(first: int, last: float) -> list[int]:
    """Return powers of two from `first` until one is at least `last`."""
    found = [_power(first)]
    while found[-1] < last:
        found.append(2 * found[-1])
    return found


def _ladder(most: float, rungs: tuple[int, ...]) -> list[int]:
    """Return the rungs, and doublings of the last one until they reach `most` with headroom."""
    return [*rungs, *(rows for rows in _doublings(rungs[-1], _HEADROOM * most) if rows > rungs[-1])]


def tiny_cases(ops: Iterable[str] = FORMS) -> list[Case]:
    """Return one small case of every kernel and number format: a trial of the kernels."""
    cache = {"batch": 3, "kv_len": 40}
    shapes: dict[str, dict[str, int]] = {
        "gemm": {"m": 5, "n": 256, "k": 128},
        "attention_gqa": {"n_q_heads": 8, "n_kv_heads": 2, "head_dim": 32, **cache},
        "attention_mla": {"n_q_heads": 4, "kv_lora": 64, "rope": 16, **cache},
        "moe": {"hidden": 128, "inter": 128, "experts": 4, "pairs": 12},
    }
    wanted = set(ops)
    return [
        Case(op, kernel, label, tuple(shapes[op].items()))
        for op in FORMS
        if op in wanted
        for kernel, known in served.SERVED[op].items()
        for dtype, label in labels(op).items()
        if dtype in known.dtypes
    ]
