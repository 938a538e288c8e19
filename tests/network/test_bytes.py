"""Bytes on the wire, and nothing for nothing."""

from __future__ import annotations

from math import comb
from pathlib import Path

import numpy as np
import pytest

from sim.deployments import compile_deployment
from sim.deployments.afd import AfdDeployment
from sim.deployments.batch import Batch
from sim.foundation.units import NS_PER_S
from sim.inputs import scenario
from sim.kernels import ops
from tests import tiny

# 400 Gbit/s per GPU of which 80 % carry payload (hardware/h800.yaml, hardware/fabrics/rdma.yaml).
GOODPUT_BYTES_PER_S = 50e9 * 0.8
HIDDEN = 7168


def wire_bytes(instances: int, gpus: int, requests: int, a2f: str) -> dict[str, float]:
    """Return the bytes of a MoE layer's transfers by stage, all servers together."""
    overrides = [
        f"deployment.ffn.instances={instances}",
        f"deployment.attention.instances={gpus // 8}",
        f"deployment.a2f={a2f}",
        "memory.utilisation=1.0",
    ]
    site = compile_deployment(scenario.load("step3-2a2f", overrides))
    assert isinstance(site, AfdDeployment)
    each = np.full(gpus, requests)
    times = site.times(Batch(each, {None: each * 4096}))
    program = site.program
    kind = program.layer_kinds[10]
    found = {}
    for index, stage in enumerate(program.stages):
        if stage.name in ("a2f", "a2f_in", "f2a", "f2a_in"):
            row = times.rows[program.slot(index, kind)]
            found[stage.name] = float(row.sum()) * GOODPUT_BYTES_PER_S / NS_PER_S
    return found


@pytest.mark.parametrize("instances", [1, 2, 4])
@pytest.mark.parametrize(("scale_bytes", "per_element"), [(4, 1 + 4 / 128 + 2), (0, 3)])
def test_a_token_costs_its_activations_there_and_its_sums_back(
    instances: int, scale_bytes: int, per_element: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "SCALE_BYTES", scale_bytes)
    gpus, requests = 16, 128
    found = wire_bytes(instances, gpus, requests, "broadcast")
    tokens = gpus * requests
    assert found["a2f"] + found["f2a_in"] == pytest.approx(
        per_element * HIDDEN * instances * tokens, rel=1e-4
    )
    # What one side sends, the other receives. An instance shows one of its 8 equal NICs.
    assert 8 * found["a2f_in"] == pytest.approx(found["a2f"], rel=1e-4)
    assert 8 * found["f2a"] == pytest.approx(found["f2a_in"], rel=1e-4)


@pytest.mark.parametrize("instances", [1, 2, 4])
def test_routed_tokens_go_where_one_of_their_experts_is(instances: int) -> None:
    # A token misses an instance if all 3 of its 48 experts are among the others'.
    elsewhere = 48 - 48 // instances
    visits = instances * (1 - comb(elsewhere, 3) / comb(48, 3))
    found = wire_bytes(instances, 16, 128, "routed")
    expected = 16 * 128 * visits * HIDDEN
    assert found["a2f"] == pytest.approx(expected * (1 + 4 / 128), rel=1e-4)
    assert found["f2a_in"] == pytest.approx(expected * 2, rel=1e-4)


@pytest.mark.parametrize("base", ["step3-2a2f", "dsv3-ep128"])
def test_no_requests_take_no_time(base: str, tiny_model: Path) -> None:
    site = compile_deployment(tiny.load(tiny_model, base))
    none = np.zeros(site.attention_gpus, dtype=np.int64)
    times = site.times(Batch(none, {None: none, tiny.WINDOW: none}))
    assert not times.values.any()
    assert not any(times.delays_ns)


@pytest.mark.parametrize(
    ("base", "stages"),
    [
        ("step3-2a2f", ("attention", "a2f", "f2a_in", "lm_head")),
        ("dsv3-ep128", ("attn0", "attn1", "shared", "lm_head")),
    ],
)
def test_a_gpu_without_requests_has_nothing_to_do(
    base: str, stages: tuple[str, ...], tiny_model: Path
) -> None:
    site = compile_deployment(tiny.load(tiny_model, base))
    some = np.full(site.attention_gpus, 3)
    some[1] = 0
    times = site.times(Batch(some, {None: some * 100, tiny.WINDOW: some * tiny.WINDOW}))
    program = site.program
    for index, stage in enumerate(program.stages):
        if stage.name not in stages:
            continue
        kinds = {node.slot for node in program.nodes if node.stage == index}
        for slot in kinds:
            row = times.rows[slot]
            assert row[1] == 0
            # Dense layers have no shared expert beside them; what runs, runs on all others.
            assert (row[[0, 2, 3]] > 0).all()


@pytest.mark.parametrize(
    ("dtype", "expected"), [("fp8", 7168 + 56 * 4), ("int8", 7168 + 56 * 4), ("bf16", 2 * 7168)]
)
def test_a_row_of_8_bit_activations_carries_a_scale_per_block(dtype: str, expected: int) -> None:
    assert ops.activation_bytes(HIDDEN, dtype) == expected
