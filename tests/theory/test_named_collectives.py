"""Collectives by name: at the rate of the link, or as the same chip was measured to take."""

from __future__ import annotations

import numpy as np
import pytest

from sim.deployments import compile_deployment
from sim.foundation.errors import InfeasibleError
from sim.inputs import cards
from sim.inputs.scenario import load
from sim.kernels import kernel_table, ops
from sim.kernels.kernel_table import KernelTable

BYTES = np.geomspace(1e5, 1e9, 40)


def table(name: str) -> KernelTable:
    return kernel_table.load(cards.accelerator(name), cards.calibration(name))


@pytest.mark.parametrize("name", ["all_gather", "reduce_scatter"])
def test_a_slower_link_bounds_what_the_same_chip_was_measured_to_take(name: str) -> None:
    op = ops.collective(name, "bf16", 8, BYTES)  # type: ignore[arg-type]
    fast, slow = table("h100-sxm").timed(op).ns, table("h800").timed(op).ns
    link_ns = BYTES * 7 / 8 / 2.0e11 * 1e9
    assert slow == pytest.approx(np.maximum(fast, link_ns), rel=0.02)


@pytest.mark.parametrize("name", ["all_gather", "reduce_scatter"])
def test_nvls_moves_bytes_at_the_rate_of_the_link_from_its_launch_on(name: str) -> None:
    op = ops.collective(name, "bf16", 8, BYTES, "nvls")  # type: ignore[arg-type]
    for card, rate in (("h800", 2.0e11), ("h100-sxm", 4.5e11), ("b200", 9.0e11)):
        expected = np.maximum(10_000, BYTES * 7 / 8 / rate * 1e9)
        assert table(card).timed(op).ns == pytest.approx(expected, rel=0.02)


def test_the_ffn_side_names_its_collectives() -> None:
    def stages(kind: str, *more: str) -> tuple[int, int]:
        overrides = [f"deployment.ffn.collectives={kind}", *more]
        deployment = compile_deployment(load("step3-2a2f", overrides))
        rows = deployment.durations(deployment.expected.batch()).rows
        kinds = len(deployment.kinds) - 1
        return int(rows["all_gather", kinds].max()), int(rows["reduce_scatter", kinds].max())

    nccl, nvls, copies = stages("nccl"), stages("nvls"), stages("copy_engine")
    assert copies[1] == nccl[1]
    assert copies[0] == pytest.approx(nvls[0], rel=1e-3)
    # H800's link is the bound of NCCL as well, and H100's is not.
    assert nccl == pytest.approx(nvls, rel=0.05)
    fast = stages("nccl", "deployment.ffn.accelerator=h100-sxm")
    assert min(fast) > 1.5 * min(stages("nvls", "deployment.ffn.accelerator=h100-sxm"))


def test_nvls_needs_a_switch_that_multicasts() -> None:
    on_a800 = [
        "deployment.ffn.accelerator=a800",
        "deployment.ffn.collectives=nvls",
        "precision.gemm=int8",
        "precision.kv=int8",
    ]
    with pytest.raises(InfeasibleError, match="neither multicasts nor reduces"):
        compile_deployment(load("step3-2a2f", on_a800))
