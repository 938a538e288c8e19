"""State cores: attention whose state takes the place of the context, as the roofline sees it.

A layer's core is a short convolution and the recurrence behind it. Both pass once over what they
keep of each request: the last inputs of the convolution and the state, in its own format. Kernels
that verify several tokens read the state once and write it after every token, as any of them may
be the last that is accepted (measured on Hopper with 2, 4 and 8 tokens: 3, 5 and 9 passes).
"""

from __future__ import annotations

from numpy.typing import ArrayLike

from sim.foundation.units import DTYPE_BYTES
from sim.kernels import served
from sim.kernels.ops import Floats, Op, floats

# Decay (1), reading by key (2), update (2) and read-out (2) of every element of the state.
DELTA_FLOPS = 7
# Decay (1), update (2) and read-out (2).
MAMBA2_FLOPS = 5


def gdn(
    dtype: str,
    key_heads: Floats | float,
    value_heads: float,
    key_dim: int,
    value_dim: int,
    conv: int,
    positions: ArrayLike,
    batch: ArrayLike,
    _kv_tokens: ArrayLike = 0,
    _tile_rows: float = 1,
) -> Op:
    """Return a gated delta net: a decay for each head, a state of key × value for each."""
    return _delta(
        *("attention_gdn", dtype, key_heads, value_heads, key_dim, value_dim, conv, 1),
        *(positions, batch),
    )


def kda(
    dtype: str,
    key_heads: Floats | float,
    value_heads: float,
    key_dim: int,
    value_dim: int,
    conv: int,
    positions: ArrayLike,
    batch: ArrayLike,
    _kv_tokens: ArrayLike = 0,
    _tile_rows: float = 1,
) -> Op:
    """Return Kimi delta attention: a decay for each channel of a key."""
    return _delta(
        *("attention_kda", dtype, key_heads, value_heads, key_dim, value_dim, conv, key_dim),
        *(positions, batch),
    )


def _delta(
    name: str,
    dtype: str,
    key_heads: Floats | float,
    value_heads: float,
    key_dim: int,
    value_dim: int,
    conv: int,
    decays: int,
    positions: ArrayLike,
    batch: ArrayLike,
) -> Op:
    inputs = 2 * key_heads * key_dim + value_heads * value_dim
    # Decays and step sizes, and what the layer gives.
    others = value_heads * (decays + 1 + value_dim)
    return _recurrence(
        (name, dtype, f"d{key_dim}x{value_dim}"),
        value_heads,
        value_heads * key_dim * value_dim,
        (inputs, others, conv, DELTA_FLOPS),
        positions,
        batch,
    )


def mamba2(
    dtype: str,
    heads: int,
    head_dim: int,
    state: int,
    groups: int,
    conv: int,
    positions: ArrayLike,
    batch: ArrayLike,
    _kv_tokens: ArrayLike = 0,
    _tile_rows: float = 1,
) -> Op:
    """Return Mamba-2: a decay for each head, a state of `state` for each of its channels."""
    return _recurrence(
        ("attention_mamba2", dtype, f"d{head_dim}x{state}"),
        heads,
        heads * head_dim * state,
        (heads * head_dim + 2 * groups * state, heads * (1 + head_dim), conv, MAMBA2_FLOPS),
        positions,
        batch,
    )


def _recurrence(
    kind: tuple[str, str, str],
    heads: float,
    elements: float,
    around: tuple[Floats | float, float, int, int],
    positions: ArrayLike,
    batch: ArrayLike,
) -> Op:
    """Return a recurrence with its convolution.

    `kind` is operation, format and key; `elements` are those of a request's state. `around` are
    the channels of the convolution, other values of a token that are read or written, tokens that
    the convolution sees, and FLOPs for an element of the state.
    """
    name, dtype, key = kind
    channels, others, conv, flops = around
    requests, tokens = floats(batch), floats(positions)
    states = (1 + tokens) * elements * DTYPE_BYTES[dtype]
    # The convolution keeps its last inputs, and hands its outputs to the recurrence.
    values = channels * (2 * (conv - 1) + 3 * tokens) + others * tokens
    work: Floats = tokens * (flops * elements + 2 * conv * channels)
    return Op(
        name,
        dtype,
        key,
        work * requests,
        (states + values * DTYPE_BYTES["bf16"]) * requests,
        "hbm",
        {"states": requests * heads, "tokens_per_seq": tokens},
        served.FASTEST,
    )
