"""Served: the kernels that runs ask for, by operation, name and number format.

Measuring, fitting and look-up share this list. A measurement under one of these names times the
runs on its card; a measurement under another name is at most borrowed, and counts as extrapolated.
"""

from __future__ import annotations

from dataclasses import dataclass

# Loads of experts whose hottest rank is in the measured times of exchanges.
EVEN = ("balanced", "uniform")
DENSE = "dense"
BLOCKWISE = "blockwise"
ROWWISE = "rowwise"
FASTEST = "fastest"
MASKED = "masked"
FUSED = "fused"
FUSED_EP = "fused_ep"
TRTLLM_WIDE_EP = "trtllm_wide_ep"
NCCL = "nccl"
NVLS = "nvls"
COPY_ENGINE = "copy_engine"
DEEPEP_NVLINK = "deepep_ll"
DEEPEP_RDMA = "deepep_ll_rdma"
TRTLLM_NVLINK = "trtllm_NVLinkTwoSided"
TRTLLM_ONE_SIDED = "trtllm_one_sided"
TRTLLM_ONE_SIDED_EARLY = "trtllm_NVLinkOneSided"
MC2 = "mc2"


@dataclass(frozen=True)
class Served:
    """What is asked for under one name."""

    dtypes: tuple[str, ...]
    engines: tuple[str, ...] = ()
    """Engines' kernels that stand in where nothing was measured under the name, best first."""
    gpus: int = 1
    """GPUs that it takes at least to measure it."""


_PEERS = ("fp32", "bf16", "fp8", "int8", "nvfp4")
_EXPERTS = (*_PEERS, "mxfp4", "int4")
_CACHES = ("bf16", "fp8", "int8")
_STATES = ("fp32", "bf16")
_ALL_TO_ALL = {
    DEEPEP_NVLINK: Served(_PEERS, gpus=2),
    DEEPEP_RDMA: Served(_PEERS, gpus=2),
    TRTLLM_NVLINK: Served(_PEERS, gpus=2),
    **{name: Served(_PEERS, gpus=2) for name in (TRTLLM_ONE_SIDED, TRTLLM_ONE_SIDED_EARLY, MC2)},
}
_FUSED_ENGINES = (
    "trtllm_deepgemm",
    "sglang_flashinfer_trtllm",
    "trtllm_cutlass",
    "moe_torch_flow_cutlass",  # the former, and
    "sglang_triton",
    "sglang_fused_moe_triton",  # this, as tables of cards before Blackwell name them
    "vllm_flashinfer_trtllm",
    "vllm_flashinfer_trtllm_modular",
    "vllm_flashinfer_cutlass",
    "vllm_triton",
    "trtllm_moe",
    TRTLLM_WIDE_EP,
    "sglang_marlin",
    "vllm_marlin",
    "sglang_flashinfer_trtllm_w4a16",
    "sglang_triton_w4a16",
    "vllm_triton_w4a16",
    "trtllm_moe_w4a16",
    "sglang_marlin_w4a16",
    "vllm_marlin_w4a16",
    "vllm_ascend",
)
_BLOCK_ENGINES = ("sglang", "trtllm", "vllm_unfused")
_MIXING_ENGINES = ("sglang", "vllm", "trtllm")
_FUSED_EP_ENGINES = ("deepgemm_mega", "sglang_deepgemm_mega", "flashinfer_mega")

SERVED: dict[str, dict[str, Served]] = {
    "gemm": {DENSE: Served(("fp32", "bf16", "int8", "nvfp4")), BLOCKWISE: Served(("fp8",))},
    "attention_gqa": {FASTEST: Served(_CACHES)},
    "attention_block_sparse": {FASTEST: Served(_CACHES, ("vllm", "sglang", "trtllm"))},
    "attention_mla": {FASTEST: Served(_CACHES)},
    "attention_dsa": {FASTEST: Served(_CACHES, _BLOCK_ENGINES)},
    "attention_hca": {FASTEST: Served(_CACHES, _BLOCK_ENGINES)},
    "attention_csa": {FASTEST: Served(_CACHES, _BLOCK_ENGINES)},
    "mhc_pre": {FASTEST: Served(("bf16",), _MIXING_ENGINES)},
    "mhc_post": {FASTEST: Served(("bf16",), _MIXING_ENGINES)},
    "attention_linear": {"": Served(_CACHES)},
    "attention_gdn": {FASTEST: Served(_STATES, ("vllm", "sglang", "trtllm"))},
    "attention_kda": {FASTEST: Served(_STATES, ("vllm", "sglang", "sglang_fused"))},
    "attention_mamba2": {FASTEST: Served(_STATES)},
    "moe": {MASKED: Served(_EXPERTS), FUSED: Served(_EXPERTS, _FUSED_ENGINES)},
    "moe_fused_ep": {FUSED_EP: Served(_EXPERTS, _FUSED_EP_ENGINES, gpus=2)},
    "a2a_prepare": {TRTLLM_NVLINK: Served(_PEERS, gpus=2)},
    "a2a_dispatch": _ALL_TO_ALL,
    "a2a_combine": _ALL_TO_ALL,
    "collective": {name: Served(_PEERS, gpus=2) for name in (NCCL, NVLS, COPY_ENGINE)},
}


def gemm_kernel(weights: str) -> str:
    """Return the GEMM of a format of weights: FP8 is scaled in blocks of 128, as DeepSeek-V3 does.

    One scale for a tensor takes the kernels that were measured with one for a row.
    """
    return {"fp8": BLOCKWISE, "fp8_tensor": ROWWISE}.get(weights, DENSE)


def measured_as(weights: str) -> str:
    """Return the number format under which experts of a format of weights were measured."""
    return {"mxfp4_bf16": "mxfp4", "int4_group32": "int4"}.get(weights, weights)


# Kernels of experts that multiply a format in another way than its name alone says, best first.
_OF_FORMAT = {
    "mxfp4_bf16": (
        "vllm_flashinfer_trtllm_w4a16",
        "sglang_flashinfer_trtllm_w4a16",
        "trtllm_moe_w4a16",
        "sglang_triton_w4a16",
        "sglang_marlin_w4a16",
        "vllm_marlin_w4a16",
        "vllm_triton_w4a16",
    ),
}


def kernels_of(weights: str) -> tuple[str, ...]:
    """Return the kernels of experts that are of this format of weights alone."""
    return _OF_FORMAT.get(weights, ())


def engines(op: str, kernel: str) -> tuple[str, ...]:
    """Return the engines' kernels that stand in for a served name, best first."""
    known = SERVED.get(op, {}).get(kernel)
    return () if known is None else known.engines


def engine(kernel: str) -> str:
    """Return a kernel's name without what it ran under: a load, or a format of the weights."""
    return kernel.partition("/")[0]


def is_served(op: str, kernel: str, dtype: str) -> bool:
    """Return whether runs ask for `kernel`; its name may end in "/" and what it ran under."""
    known = SERVED.get(op, {}).get(engine(kernel))
    return known is not None and dtype in known.dtypes


def is_looked_up(op: str, kernel: str, dtype: str) -> bool:
    """Return whether runs ask for `kernel`, or it is an engine's that may stand in."""
    name = engine(kernel)
    stands_in = any(name in known.engines for known in SERVED.get(op, {}).values())
    return stands_in or is_served(op, kernel, dtype)
