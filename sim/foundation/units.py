"""Units: simulated time is integer nanoseconds, quantities carry their unit in the name."""

from __future__ import annotations

from typing import Literal

NS_PER_US = 1_000
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000

DType = Literal["fp32", "bf16", "fp8", "int8", "nvfp4", "mxfp4", "int4"]
WeightFormat = Literal[DType, "fp8_tensor", "mxfp4_bf16", "int4_fp8", "int4_group32"]
"""FP8 has a scale for each block of 128 × 128 weights, or one for a tensor; MXFP4 is multiplied by
FP8 or BF16 activations, INT4 by BF16 or FP8 ones. INT4 has a scale for 128 weights, or for 32."""

# NVFP4 stores one FP8 scale for every 16 values (NVIDIA, «Introducing NVFP4»): 4 + 8/16 bits a
# value. MXFP4 stores one scale of 8 bits for every 32 (OCP Microscaling Formats 1.0), INT4 one in
# BF16 for every 128 (AWQ, GPTQ) or 32 (Kimi-K2.5). The scales of FP8 blocks, 0.02 %, are left out.
DTYPE_BYTES: dict[str, float] = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "nvfp4": 0.5625,
    "mxfp4": 0.53125,
    "int4": 0.515625,
    "fp8_tensor": 1.0,
    "mxfp4_bf16": 0.53125,
    "int4_fp8": 0.515625,
    "int4_group32": 0.5625,
}


def gigabytes(n_bytes: float) -> str:
    """Return bytes as a decimal gigabyte text, the unit of data sheets."""
    return f"{n_bytes / 1e9:.1f} GB"
