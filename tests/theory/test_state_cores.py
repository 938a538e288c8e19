"""Attention with a state: bytes and FLOPs of its core, and what memory a request takes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.deployments import compile_deployment
from sim.deployments.kvcache import kv_layout
from sim.foundation.errors import InfeasibleError
from sim.inputs import cards
from sim.inputs.attention.recurrent import GatedDelta, KimiDelta, Mamba2
from sim.inputs.scenario import load
from sim.kernels import cores
from sim.kernels.ops import Op

# Of Qwen3.5-397B, Kimi Linear and Nemotron 3 Super.
GDN = GatedDelta(
    kind="gdn",
    key_heads=16,
    value_heads=64,
    key_dim=128,
    value_dim=128,
    conv=4,
    state_dtype="fp32",
    source="test",
)
KDA = KimiDelta.model_validate(
    {**GDN.model_dump(), "kind": "kda", "key_heads": 32, "value_heads": 32}
)
MAMBA2 = Mamba2(
    kind="mamba2",
    heads=128,
    head_dim=64,
    state=128,
    groups=8,
    conv=4,
    state_dtype="bf16",
    source="test",
)
KINDS = {"gdn": GDN, "kda": KDA, "mamba2": MAMBA2}
# Elements of state, channels of the convolution, decays, step sizes and results of a token.
SHAPES = {
    "gdn": (64 * 128 * 128, 2 * 16 * 128 + 64 * 128, 64 * (1 + 1 + 128)),
    "kda": (32 * 128 * 128, 3 * 32 * 128, 32 * (128 + 1 + 128)),
    "mamba2": (128 * 64 * 128, 128 * 64 + 2 * 8 * 128, 128 * (1 + 64)),
}


def core(kind: str, requests: float, positions: int = 1, context: float = 0) -> Op:
    attention = KINDS[kind]
    named = attention.core(positions)
    build = cores.core_op(named.op).build
    return build(attention.state_dtype, *named.sizes, requests, requests * context, 16)


@pytest.mark.parametrize("positions", [1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_reads_each_state_once_and_writes_it_after_every_token(
    kind: str, positions: int
) -> None:
    elements, channels, others = SHAPES[kind]
    width = {"fp32": 4, "bf16": 2}[KINDS[kind].state_dtype]
    op = core(kind, 3, positions)
    around = channels * (2 * 3 + 3 * positions) + others * positions
    assert op.bytes == 3 * ((1 + positions) * elements * width + 2 * around)
    a_token = {"gdn": 7, "kda": 7, "mamba2": 5}[kind] * elements
    assert op.flops == 3 * positions * (a_token + 2 * 4 * channels)
    assert KINDS[kind].core_flops(10_000) == a_token


@pytest.mark.parametrize("kind", KINDS)
def test_the_context_does_not_matter(kind: str) -> None:
    short, long = core(kind, 8, context=1), core(kind, 8, context=1e6)
    assert (short.flops, short.bytes, short.axes) == (long.flops, long.bytes, long.axes)


@pytest.mark.parametrize("kind", KINDS)
@given(requests=st.integers(1, 4096), positions=st.integers(1, 16))
def test_more_requests_or_drafts_are_never_less_work(
    kind: str, requests: int, positions: int
) -> None:
    op = core(kind, requests, positions)
    for more in (core(kind, requests + 1, positions), core(kind, requests, positions + 1)):
        assert more.flops > op.flops
        assert more.bytes > op.bytes


@pytest.mark.parametrize("kind", KINDS)
def test_no_requests_are_no_work(kind: str) -> None:
    op = core(kind, 0)
    assert np.all(op.flops == 0)
    assert np.all(op.bytes == 0)


@pytest.mark.parametrize("kind", KINDS)
def test_heads_cut_over_gpus_are_work_cut_over_gpus(kind: str) -> None:
    whole, part = core(kind, 5), KINDS[kind].cut(4)
    named = part.core(1)
    op = cores.core_op(named.op).build(part.state_dtype, *named.sizes, 5, 0, 16)
    assert 4 * op.bytes == whole.bytes
    assert 4 * op.flops == whole.flops
    assert 4 * part.state_bytes() == KINDS[kind].state_bytes()


def test_qwen3_5_keeps_kv_in_a_quarter_of_its_layers() -> None:
    """45 states of 64 × 128 × 128 in FP32 with 3 inputs of the convolution, and 15 layers of KV."""
    layout = kv_layout(cards.model("qwen3.5-397b-a17b"), "bf16", 1)
    state = 45 * (64 * 128 * 128 * 4 + 3 * (2 * 16 * 128 + 64 * 128) * 2)
    kv = 15 * 2 * 2 * 256 * 2
    assert layout.state_bytes == state
    assert layout.request_bytes([1, 1000]).tolist() == [state + kv, state + 1000 * kv]


def test_verifying_drafts_takes_a_state_for_each_token() -> None:
    one, three = (kv_layout(cards.model("qwen3.5-397b-a17b"), "bf16", 1, n) for n in (1, 3))
    assert three.request_bytes(7) - one.request_bytes(7) == 2 * one.state_bytes
    assert three.moved_bytes(7) == one.moved_bytes(7), "prefill sends a single state"


def test_states_count_against_the_memory() -> None:
    """Requests of Qwen3.5 with hardly any context fill the memory with their states."""
    lengths = "prompt: {kind: fixed, tokens: 1}, output: {kind: fixed, tokens: 64}"
    short = f"workload.lengths={{kind: drawn, {lengths}}}"
    site = compile_deployment(load("qwen3.5-ep8-b200", [short]))
    each = site.layout.state_bytes + 2 * 64 * 15 * 2 * 2 * 256 * 2
    assert site.layout.request_bytes(65) == each
    most = int(site.kv_memory().kv_capacity_bytes() // each)
    arrivals = "workload.arrivals={kind: closed, requests_per_gpu: %d}"
    compile_deployment(load("qwen3.5-ep8-b200", [short, arrivals % most]))
    with pytest.raises(InfeasibleError, match="KV cache needs"):
        compile_deployment(load("qwen3.5-ep8-b200", [short, arrivals % (most + 1)]))
