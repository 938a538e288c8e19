"""Glue: kernels around the measured ones, each on the GPU where it runs.

The rest of an attention block (norms of queries and latents, rope, KV write) is measured for some
engines and cards. The norms of a layer, its router and quantisation are one figure a layer.
"""

from __future__ import annotations

import numpy as np

from sim.foundation.nanoseconds import Ns, from_us, whole_ns
from sim.foundation.units import DTYPE_BYTES, NS_PER_S, NS_PER_US, DType
from sim.inputs.attention import Attention
from sim.inputs.hardware import Accelerator
from sim.inputs.software import Software
from sim.inputs.software.figures import ExchangeKernels
from sim.kernels.ops import Floats


def layer_ns(software: Software, tokens: Ns, share: float = 1.0) -> Ns:
    """Return a share of what a layer takes besides its attention block, by the `tokens` of GPUs.

    A half is the norm before attention and what else stands there; the other half is norm,
    quantisation and routing before the FFN, which a layer without one does not have.
    """
    return us(software.glue_us_per_layer * share, tokens)


def router_ns(software: Software, tokens: Ns) -> Ns:
    """Return what of a layer's share comes after attention, by the `tokens` of GPUs."""
    return us(float(software.router_us_per_layer or 0), tokens)


def attention_ns(
    software: Software, accelerator: Accelerator, attention: Attention, tokens: Ns
) -> Ns:
    """Return the rest of an attention block around its projections and core.

    A block that was measured whole has it in its core.
    """
    glue = software.glue_of(accelerator.name, attention.kind)
    if glue is None or attention.measured_whole:
        return np.zeros_like(tokens)
    slope_us = float(glue.us_per_request or 0)
    if glue.us_per_request_and_head is not None:
        slope_us += glue.us_per_request_and_head * attention.core_heads
    ns = whole_ns((glue.floor_us + slope_us * tokens) * NS_PER_US, "glue of attention")
    return np.where(tokens > 0, ns, 0)


def exchange_ns(kernels: ExchangeKernels, tokens: Ns) -> Ns:
    """Return how long a GPU sends and receives its `tokens` in one way of an all-to-all."""
    ns = whole_ns((kernels.floor_us + kernels.us_per_token * tokens) * NS_PER_US, "an exchange")
    return np.where(tokens > 0, ns, 0)


def sum_ns(
    software: Software,
    accelerator: Accelerator,
    row: tuple[int, DType],
    results: Floats,
    tokens: Ns,
) -> Ns:
    """Return how long an attention GPU sums partial results of its tokens, read and written once.

    `row` is the width of a result and its format; `results` are those that each GPU gets. A single
    result of a token needs no sum.
    """
    kernel = software.partial_sum
    if kernel is None:
        return np.zeros_like(tokens)
    hidden, dtype = row
    n_bytes = (results + tokens) * hidden * DTYPE_BYTES[dtype]
    busy = n_bytes / (accelerator.hbm_bytes_per_s * kernel.hbm_share) * NS_PER_S
    ns = whole_ns(busy + kernel.launch_us * NS_PER_US, "a sum of partial results")
    return np.where(results > tokens, ns, 0)


def us(value: float, requests: Ns) -> Ns:
    """Return `value` µs as ns on every GPU that has requests, 0 elsewhere."""
    return np.where(requests > 0, from_us(value, "glue of a layer"), 0)
