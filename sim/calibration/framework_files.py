"""Framework files: the forms of CSV that name the framework and version of each measurement.

A serving framework's kernel of routed experts is called by the framework and what it wraps:
`sglang_flashinfer_trtllm` is SGLang's call of FlashInfer's TensorRT-LLM kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sim.calibration.measurements import DTYPES, EVEN_LOADS, Measurement, MeasurementLine, columns
from sim.kernels import mixing, served

# Regime of kernels of several frameworks that serve one name.
ONE_OF_SEVERAL = "one of several"

# Kernels as files without a framework's column name them.
ENGINE_NAMES = {
    "deepgemm": "trtllm_deepgemm",
    "moe_torch_flow_cutlass": "trtllm_cutlass",
    "sglang_flashinfer_trtllm_moe": "sglang_flashinfer_trtllm",
    "sglang_fused_moe_triton": "sglang_triton",
}

# GEMMs by the number formats of files: FP8 is scaled by row or in blocks.
GEMM_KERNELS = {
    label: "rowwise" if label == "fp8" else served.gemm_kernel(DTYPES[label])
    for label in ("bfloat16", "fp8", "fp8_block", "nvfp4")
}

# What a framework's kernel wraps, by what its name in the files begins with; the first that fits.
_WRAPPED = {
    "fi_trtllm_fp8expertsmodular": "flashinfer_trtllm_modular",
    "fi_trtllm_nvfp4expertsmodular": "flashinfer_trtllm_modular",
    "fi_trtllm": "flashinfer_trtllm",
    "flashinfer_trtllm": "flashinfer_trtllm",
    "mxfp4_flashinfer_trtllm": "flashinfer_trtllm",
    "flashinfer_cutlass": "flashinfer_cutlass",
    "fused_moe_triton": "triton",
    "triton": "triton",
    "vllm_fused_moe": "triton",
    "marlin": "marlin",
    "deepgemm": "deepgemm",
    "trt_cutlass": "cutlass",
    "trt": "moe",
}


def _moe(row: MeasurementLine) -> Iterator[Measurement]:
    """Read routed experts; nothing where DeepSeek's groups decide how many experts are reached.

    With 4 of 8 groups the even load ties and a skewed one is a law of its own.
    """
    label, load = row.text("dtype"), row.text("distribution")
    framework, kernel = row.text("framework"), row.text("kernel")
    wrapped = next((name for start, name in _WRAPPED.items() if kernel.startswith(start)), None)
    if row.text("routing") == "group_limited" or label not in _MOE_DTYPES or wrapped is None:
        return
    counts = ("hidden", "inter", "topk", "num_experts", "tp", "ep", "global_tokens")
    hidden, inter, topk, experts, tp, ep, tokens = (row.count(name) for name in counts)
    local = experts / ep
    name = f"{framework}_{wrapped}{_MOE_DTYPES[label][1]}"
    shape = {"dtype": _MOE_DTYPES[label][0], "label": label, "regime": load}
    if load in EVEN_LOADS:
        pairs = max(tokens * topk / ep, 1.0)
        yield row.measurement(
            "moe",
            name,
            fixed=(("hidden", float(hidden)),),
            at=(("rows", pairs / local), ("experts", local), ("intermediate", inter / tp)),
            measured_kernel=name,
            **shape,
        )
        return
    yield row.measurement(
        "moe_hottest",
        name,
        fixed=(
            ("hidden", float(hidden)),
            ("intermediate", inter / tp),
            ("topk", float(topk)),
            ("load", load),
        ),
        at=(("tokens", float(tokens)), ("ep", float(ep)), ("experts", float(experts))),
        measured_kernel=name,
        **shape,
    )


# Number formats, and what tells kernels of one format apart. A scale of FP8 per tensor is none of
# those that runs ask for.
_MOE_DTYPES = {
    **{label: (dtype, "") for label, dtype in DTYPES.items() if label != "fp8"},
    "w4a8_mxfp4_mxfp8": ("mxfp4", ""),
    "w4a16_mxfp4": ("mxfp4", "_w4a16"),
    "int4_wo": ("int4", ""),
}

# Kernels that dispatch, compute and combine, with their number format. Variants that combine in a
# narrower format, and baselines of several kernels that some files hold beside them, are left out.
_FUSED_EP = {
    "deepgemm_mega fp8xfp4": ("deepgemm_mega", "mxfp4"),
    "deepgemm_mega fp8xfp4 (sglang module)": ("deepgemm_mega", "mxfp4"),
    "deepgemm_mega fp8 sm90 (#383)": ("deepgemm_mega", "fp8"),
    "deepgemm_mega fp8 sm90 (PR323)": ("deepgemm_mega", "fp8"),
    "deepgemm_mega fp8 sm90 (sgl #69)": ("sglang_deepgemm_mega", "fp8"),
    "flashinfer_mega nvfp4": ("flashinfer_mega", "nvfp4"),
    "flashinfer_mega mxfp8": ("flashinfer_mega", "fp8"),
}


def _moe_fused_ep(row: MeasurementLine) -> Iterator[Measurement]:
    """Read kernels that dispatch, compute and combine, under even loads."""
    load, implementation = row.text("distribution"), row.text("impl")
    if implementation not in _FUSED_EP or load not in EVEN_LOADS:
        return
    kernel, dtype = _FUSED_EP[implementation]
    counts = ("hidden", "inter", "topk", "num_experts", "ep", "tokens_per_rank")
    hidden, inter, topk, experts, ep, tokens = (row.count(name) for name in counts)
    local, pairs = experts / ep, float(tokens * topk)
    missed = (1 - topk / experts) ** (tokens * ep)
    active = min(local, pairs) if load == "balanced" else local * (1 - missed)
    yield row.measurement(
        "moe_fused_ep",
        kernel,
        dtype=dtype,
        label=implementation,
        fixed=(("hidden", float(hidden)),),
        at=(
            ("rows", pairs / local),
            ("experts", local),
            ("intermediate", float(inter)),
            ("active", active),
            ("ep", float(ep)),
        ),
        regime=f"{load} EP{ep}",
        measured_kernel=kernel,
    )


# All-to-alls that are timed as they run in a graph; others were timed around eager calls.
_EXCHANGES = ("deepep_ll", "trtllm_NVLinkTwoSided")
_PHASES = {
    "prepare": "a2a_prepare",
    "dispatch": "a2a_dispatch",
    "combine": "a2a_combine",
    "combine_low_precision": "a2a_combine",
}


def _a2a(row: MeasurementLine) -> Iterator[Measurement]:
    """Read a phase of an all-to-all. What prepares is the same in all formats: BF16's is read."""
    mode, phase = row.text("mode"), row.one_of("phase", _PHASES)
    label = row.text("comm_dtype")
    if mode not in _EXCHANGES or (phase == "prepare" and label != "bfloat16"):
        return
    yield row.measurement(
        _PHASES[phase],
        mode,
        dtype=DTYPES[label],
        label=label,
        fixed=tuple((name, float(row.count(name))) for name in ("hidden", "topk")),
        at=(
            ("tokens", float(row.count("tokens_per_rank"))),
            ("ep", float(row.count("ep"))),
            ("experts", float(row.count("num_experts"))),
        ),
        regime=phase,
        measured_kernel=mode,
    )


def _gemm(row: MeasurementLine) -> Iterator[Measurement]:
    """Read a framework's GEMM; of the frameworks' at one shape, a fit takes the fastest."""
    label = row.one_of("dtype", GEMM_KERNELS)
    yield row.measurement(
        "gemm",
        GEMM_KERNELS[label],
        dtype=DTYPES[label],
        label=label,
        fixed=(),
        at=tuple((name, float(row.count(name))) for name in ("m", "n", "k")),
        regime=ONE_OF_SEVERAL,
        measured_kernel=row.text("framework"),
    )


# Streams that hyper-connections were measured with.
_STREAMS = 4.0


def _glue(row: MeasurementLine) -> Iterator[Measurement]:
    """Read the kernels of hyper-connections; absorption and quantisation are in other tables."""
    op = row.text("op")
    if op not in mixing.OPS:
        return
    yield row.measurement(
        op,
        row.text("framework"),
        dtype=DTYPES[row.one_of("dtype", DTYPES)],
        label=row.text("dtype"),
        fixed=(("hidden", float(row.count("width"))), ("streams", _STREAMS)),
        at=(("rows", float(row.count("rows"))),),
        measured_kernel=row.text("kernel"),
    )


FRAMEWORK_FORMS: dict[tuple[str, ...], Callable[[MeasurementLine], Iterator[Measurement]]] = {
    columns(
        "gpu dtype hidden inter topk num_experts tp ep global_tokens distribution latency_us"
        " framework kernel routing source"
    ): _moe,
    columns(
        "gpu impl hidden inter topk num_experts ep tokens_per_rank distribution latency_us"
        " includes framework source"
    ): _moe_fused_ep,
    columns("gpu op rows width dtype latency_us framework version kernel source"): _glue,
    columns("gpu dtype m n k latency_us framework version kernel source"): _gemm,
    columns(
        "gpu mode phase comm_dtype ep tokens_per_rank hidden topk num_experts latency_us framework"
        " source"
    ): _a2a,
}
