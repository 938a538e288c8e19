"""A kernel that dispatches, computes and combines: one busy time, and no exchange beside it."""

from __future__ import annotations

import numpy as np
import pytest

from sim.deployments import compile_deployment
from sim.deployments.deployment import Deployment
from sim.foundation.errors import InfeasibleError
from sim.inputs import cards
from sim.inputs.scenario import load
from sim.kernels import ops

ON_B200 = (
    "deployment.accelerator=b200",
    "deployment.gpus=8",
    "precision.gemm=nvfp4",
    "routing={kind: balanced}",
)


def compiled(kernel: str, *more: str) -> Deployment:
    return compile_deployment(
        load("dsv3-ep8-h200", [*ON_B200, f"deployment.moe_kernel={kernel}", *more])
    )


def moe_layer(deployment: Deployment) -> dict[str, int]:
    durations = deployment.durations(deployment.expected.batch())
    kind = len(deployment.kinds) - 1
    return {name: int(ns.max()) for (name, of), ns in durations.rows.items() if of == kind}


def test_the_stage_is_one_kernel_that_lasts_alike_on_all_ranks() -> None:
    deployment = compiled("fused_ep")
    kind = len(deployment.kinds) - 1
    rows = deployment.durations(deployment.expected.batch()).rows
    assert rows["dispatch", kind].max() == rows["combine", kind].max() == 0
    experts = rows["experts", kind]
    assert len(set(experts.tolist())) == 1
    apart = moe_layer(compiled("fused"))
    assert all(apart[name] > 0 for name in ("dispatch", "experts", "combine"))
    assert experts.max() < apart["dispatch"] + apart["experts"] + apart["combine"] + 100_000


def test_two_batches_have_nothing_to_hide() -> None:
    """Without an exchange beside it no stage is slowed, whatever the slow-down."""
    slow = "software.overlap_slowdown={value: 3, source: test}"
    one, two = (
        moe_layer(compiled("fused_ep", "deployment.overlap=two_batch", *more))
        for more in ((), (slow,))
    )
    assert one == two


def test_a_card_without_such_a_kernel_is_refused() -> None:
    with pytest.raises(InfeasibleError, match=r"no kernel that dispatches.*in fp8"):
        compiled("fused_ep", "deployment.accelerator=h100-sxm", "precision.gemm=fp8")


def test_its_bytes_are_those_of_the_memory_or_of_the_link() -> None:
    card = cards.accelerator("b200")
    pairs = np.array([64.0, 65536.0])
    experts = ops.moe("mxfp4", 4096, 1536, 16, pairs, 128.0, "fused_ep", 16)
    op = ops.moe_fused_ep(experts, 4096, pairs, 8, card.memory_per_link())
    wire = pairs * 7 / 8 * (4096 * (1 + 4 / 128) + 2 * 4096)
    ratio = 8.0e12 / 9.0e11
    assert op.bytes.tolist() == pytest.approx([float(experts.bytes[0]), wire[1] * ratio])
    assert op.bytes[0] > wire[0] * ratio
    alone = ops.moe_fused_ep(experts, 4096, pairs, 1, card.memory_per_link())
    assert alone.bytes.tolist() == experts.bytes.tolist()
