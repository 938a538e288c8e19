"""Kernel families: how the measurements of one operation are turned into an `Op` and a grid.

A family says which part of a shape selects a curve, along which axes a curve interpolates, how
far a measurement speaks for its neighbours along each, and along which axes time never falls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np

from sim.calibration.measurements import Fixed, Measurement
from sim.foundation.errors import CalibrationError
from sim.inputs.hardware import Accelerator
from sim.kernels import cores, mixing, ops, served
from sim.kernels.ops import Floats, Op

# Key heads for each value head, and tokens that the convolution sees, in Qwen3.5.
_KEYS_PER_VALUE = 0.25
_CONV = 4
# Pairs that reach a new expert, against pairs spread at random, under a power law near 1.
_SKEWED_HITS = 0.5
# GPUs of one server behind the RDMA measurements of DeepEP.
_RDMA_DOMAIN = 8
# GPUs of most measurements of dispatch, experts and combine in one.
_FUSED_EP_GPUS = 8.0
# Width of a scale-up domain that holds every all-to-all measured over NVLink (NVL72).
_NVLINK_DOMAIN = 72


@dataclass(frozen=True)
class MeasuredKernel:
    """What selects a curve: kernel, number format and the fixed part of the shape."""

    op: str
    kernel: str
    dtype: str
    fixed: Fixed


Build = Callable[[Accelerator, MeasuredKernel, Mapping[str, Floats]], Op]


@dataclass(frozen=True)
class KernelFamily:
    """How one operation is calibrated."""

    build: Build
    """Returns the Op of a kernel at coordinates."""
    reach: Mapping[str, float]
    """Doublings over which measurements are related, per axis and numeric fixed part."""
    axes: tuple[str, ...]
    """Axes of the residual grid; the first runs along a row of the table."""
    rising: tuple[str, ...]
    """Axes along which time never falls."""
    noise: float = 0.03
    """Log spread of repeated measurements."""
    thin: float = 0.003
    """Log error that dropping nodes of the grid may cause."""
    fewest: int = 6
    """Points below which a group stays uncalibrated."""
    block: tuple[str, ...] = ()
    """Coordinates held out together in validation; none: single rows."""
    pooled: bool = False
    """Whether a like card's rows are fitted together with the card's own."""
    scaled: bool = False
    """Whether these rows are first scaled by the median ratio at shapes that both measured."""
    across: tuple[str, ...] = ()
    """Text parts of the shape (and "dtype") whose kernels are fitted together."""
    breaks: Mapping[str, Callable[[Mapping[str, float]], float]] = field(default_factory=dict)
    """Axes beyond a point of which other kernels run: the last coordinate before, by sizes."""

    def group(self, kernel: MeasuredKernel) -> tuple[str, ...]:
        """Return what kernels must share to be fitted together."""
        dtype = "" if "dtype" in self.across else kernel.dtype
        texts = [
            f"{name}={_related(value)}" for name, value in kernel.fixed if isinstance(value, str)
        ]
        return (kernel.op, kernel.kernel, dtype, *texts)

    def features(self, kernel: MeasuredKernel, at: Mapping[str, Floats]) -> Floats:
        """Return coordinates (points × features) in units of each one's reach."""
        columns = [np.log2(at[name]) / self.reach[name] for name in self.axes]
        one = np.ones_like(columns[0])
        for name, value in kernel.fixed:
            if isinstance(value, float):
                columns.append(one * np.log2(max(value, 1.0)) / self.reach[name])
            else:
                columns.append(one * (value in _SECOND_OF_PAIR) / self.reach.get(name, 1.0))
        if "dtype" in self.across:
            columns.append(one * (kernel.dtype == "int8") / self.reach["dtype"])
        for name, after in self.breaks_of(kernel).items():
            columns.append(one * _APART * (at[name] > after))
        return np.stack(columns, axis=1)

    def breaks_of(self, kernel: MeasuredKernel) -> dict[str, float]:
        """Return by axis the last coordinate before a kernel's break."""
        sizes = {name: size for name, size in kernel.fixed if isinstance(size, float)}
        return {axis: last(sizes) for axis, last in self.breaks.items()}


# Gather and scatter are one algorithm run either way: their measurements speak for each other.
_SECOND_OF_PAIR = ("reduce_scatter",)


def _related(value: str) -> str:
    return "gather" if value in ("all_gather", "reduce_scatter") else value


def kernel_of(one: Measurement) -> MeasuredKernel:
    return MeasuredKernel(one.op, one.kernel, one.dtype, one.fixed)


def coordinates(rows: Sequence[Measurement]) -> dict[str, Floats]:
    """Return the coordinates of measurements of one kernel, an array per axis."""
    names = [name for name, _ in rows[0].at]
    return {name: np.array([dict(row.at)[name] for row in rows]) for name in names}


def build(accelerator: Accelerator, kernel: MeasuredKernel, at: Mapping[str, Floats]) -> Op:
    """Return the Op of `kernel` at coordinates. Raises CalibrationError for an unknown op."""
    if kernel.op not in FAMILIES:
        raise CalibrationError(f"no calibration for op {kernel.op!r}")
    return FAMILIES[kernel.op].build(accelerator, kernel, at)


def _sizes(kernel: MeasuredKernel, *names: str) -> list[int]:
    fixed = dict(kernel.fixed)
    return [int(float(fixed[name])) for name in names]


def _gemm(card: Accelerator, kernel: MeasuredKernel, at: Mapping[str, Floats]) -> Op:
    tile = card.gemm_tile_rows
    return ops.gemm(kernel.dtype, at["m"], at["n"], at["k"], tile, kernel.kernel)


def _core(card: Accelerator, kernel: MeasuredKernel, at: Mapping[str, Floats]) -> Op:
    core, tokens = cores.CORES[kernel.op], at["batch"] * at["kv_len"]
    sizes = _sizes(kernel, *core.sizes)
    op = core.build(kernel.dtype, *sizes, at["batch"], tokens, card.query_tile_rows)
    return replace(op, kernel=kernel.kernel)


def _state(_card: Accelerator, kernel: MeasuredKernel, at: Mapping[str, Floats]) -> Op:
    """Return the core of one head for each state: heads of a request and requests are alike."""
    keys = at.get("keys_per_value", np.asarray(_KEYS_PER_VALUE))
    dims = _sizes(kernel, "head_k_dim", "head_v_dim")
    build = cores.CORES[kernel.op].build
    op = build(kernel.dtype, keys, 1, *dims, _CONV, at["tokens_per_seq"], at["states"])
    return replace(op, kernel=kernel.kernel)


def _mixing(_card: Accelerator, kernel: MeasuredKernel, at: Mapping[str, Floats]) -> Op:
    hidden, streams = _sizes(kernel, "hidden", "streams")
    return mixing.mixing(mixing.OPS[kernel.op], hidden, streams, at["rows"], kernel.kernel)


def _moe(card: Accelerator, kernel: MeasuredKernel, at: Mapping[str, Floats]) -> Op:
    (hidden,) = _sizes(kernel, "hidden")
    experts = at["experts"]
    if kernel.kernel == served.MASKED:
        columns: Floats = np.asarray(float(_sizes(kernel, "intermediate")[0]))
        active = np.minimum(at["active"], experts)
        pairs = at["rows"] * active
    else:
        pairs = at["rows"] * experts
        active = np.minimum(hit_experts(kernel.kernel, experts, pairs), np.maximum(pairs, 1.0))
        columns = at["intermediate"]
    tile = card.gemm_tile_rows
    return ops.moe(kernel.dtype, hidden, columns, active, pairs, tile, kernel.kernel, experts)


def _moe_fused_ep(card: Accelerator, kernel: MeasuredKernel, at: Mapping[str, Floats]) -> Op:
    (hidden,) = _sizes(kernel, "hidden")
    experts, pairs = at["experts"], at["rows"] * at["experts"]
    # Uniform routing where a measurement does not say how many experts it reached.
    active = at.get("active", np.maximum(experts * -np.expm1(-at["rows"]), 1.0))
    tile = card.gemm_tile_rows
    experts_op = ops.moe(
        kernel.dtype, hidden, at["intermediate"], active, pairs, tile, kernel.kernel, experts
    )
    ep = at.get("ep", np.asarray(_FUSED_EP_GPUS))
    return ops.moe_fused_ep(experts_op, hidden, pairs, ep, card.memory_per_link())


def hit_experts(kernel: str, experts: Floats, pairs: Floats) -> Floats:
    """Return how many experts the measured load reaches: all, or fewer under a skewed load."""
    reachable = experts / 2 if kernel.endswith("/grouped") else experts
    skewed = "/power_law" in kernel or kernel == served.TRTLLM_WIDE_EP
    if not skewed and not kernel.endswith("/grouped"):
        return experts
    spread = pairs / reachable * (_SKEWED_HITS if skewed else 1.0)
    return np.maximum(reachable * -np.expm1(-spread), 1.0)


def _a2a(card: Accelerator, kernel: MeasuredKernel, at: Mapping[str, Floats]) -> Op:
    hidden, top_k = _sizes(kernel, "hidden", "topk")
    domain = _RDMA_DOMAIN if kernel.kernel.endswith("_rdma") else _NVLINK_DOMAIN
    if kernel.kernel == served.MC2:
        domain = card.node.scale_up_domain_gpus
    return ops.a2a(
        _DIRECTIONS[kernel.op],
        kernel.dtype,
        at["ep"],
        domain,
        at["tokens"],
        hidden,
        top_k,
        at["experts"],
        kernel.kernel,
        kernel.kernel == served.TRTLLM_ONE_SIDED,  # published under a perfect router
    )


def _collective(_card: Accelerator, kernel: MeasuredKernel, at: Mapping[str, Floats]) -> Op:
    name = cast(ops.Collective, dict(kernel.fixed)["name"])
    return ops.collective(name, kernel.dtype, at["gpus"], at["bytes"], kernel.kernel)


_DIRECTIONS: dict[str, ops.Direction] = {
    "a2a_prepare": "prepare",
    "a2a_dispatch": "dispatch",
    "a2a_combine": "combine",
}
_CACHE_AXES = ("kv_len", "batch")
_STATE_AXES = ("states", "tokens_per_seq")
# Cores of blocks that were measured whole; some cards have few, which those of a like card support.
_BLOCKS = ("attention_dsa", "attention_block_sparse", "attention_hca", "attention_csa")
# A context beyond which tokens are scored and chosen.
_BREAKS: dict[str, dict[str, Callable[[Mapping[str, float]], float]]] = {
    "attention_dsa": {"kv_len": lambda sizes: sizes["top_k"]},
    "attention_block_sparse": {"kv_len": lambda sizes: sizes["top_k"]},
    "attention_csa": {"kv_len": lambda sizes: (sizes["top_k"] + 1) * sizes["ratio"] - 1},
}
# Reaches that lie between measurements on either side of a break.
_APART = 2.0
_A2A_REACH = {"tokens": 4.0, "ep": 4.0, "experts": 4.0, "hidden": 4.0, "topk": 4.0}

FAMILIES: dict[str, KernelFamily] = {
    "gemm": KernelFamily(
        _gemm,
        {"m": 2.0, "n": 2.0, "k": 3.0},
        ("m", "n", "k"),
        ("m",),
        block=("n", "k"),
        pooled=True,
    ),
    **{
        op: KernelFamily(
            _core,
            dict.fromkeys((*_CACHE_AXES, *sizes), 4.0),
            _CACHE_AXES,
            _CACHE_AXES,
            thin=0.03 if op in _BLOCKS else 0.003,
            pooled=op in _BLOCKS,
            scaled=op == "attention_dsa",  # H100 takes 4 to 13 % longer than H200
            breaks=_BREAKS.get(op, {}),
        )
        for op, sizes in cores.MEASURED.items()
    },
    **{
        op: KernelFamily(
            _state,
            dict.fromkeys((*_STATE_AXES, "head_k_dim", "head_v_dim"), 4.0),
            _STATE_AXES,
            _STATE_AXES,
            fewest=4,
            block=("states", "value_heads", "keys_per_value"),
        )
        for op in ("attention_gdn", "attention_kda")
    },
    **{
        op: KernelFamily(
            _mixing,
            {"rows": 4.0, "hidden": 4.0, "streams": 4.0},
            ("rows",),
            ("rows",),
            thin=0.01,
            pooled=True,
        )
        for op in mixing.OPS
    },
    "moe": KernelFamily(
        _moe,
        {
            "rows": 8.0,
            "experts": 6.0,
            "hidden": 1.0,
            "intermediate": 6.0,
        },
        ("rows", "experts", "intermediate"),
        ("rows",),
        noise=0.02,
        thin=0.02,
        pooled=True,
    ),
    "moe_fused_ep": KernelFamily(
        _moe_fused_ep,
        {"rows": 8.0, "experts": 6.0, "hidden": 4.0, "intermediate": 6.0},
        ("rows", "experts", "intermediate"),
        ("rows",),
        noise=0.03,
        fewest=4,
    ),
    **{
        op: KernelFamily(
            _a2a, _A2A_REACH, ("tokens", "ep", "experts"), ("tokens",), noise=0.02, pooled=True
        )
        for op in _DIRECTIONS
    },
    "collective": KernelFamily(
        _collective,
        {"bytes": 4.0, "gpus": 4.0, "name": 8.0, "dtype": 20.0},
        ("bytes", "gpus"),
        ("bytes",),
        noise=0.02,
        across=("dtype",),
    ),
}

_MASKED_MOE = KernelFamily(
    _moe,
    {"rows": 6.0, "active": 4.0, "experts": 6.0, "hidden": 4.0, "intermediate": 4.0},
    ("rows", "active", "experts"),
    ("rows", "active"),
    noise=0.01,
)


def family(kernel: MeasuredKernel) -> KernelFamily:
    """Return the family of a kernel. Raises CalibrationError for an unknown op."""
    if kernel.op not in FAMILIES:
        raise CalibrationError(f"no calibration for op {kernel.op!r}")
    is_masked = (kernel.op, kernel.kernel) == ("moe", served.MASKED)
    return _MASKED_MOE if is_masked else FAMILIES[kernel.op]
