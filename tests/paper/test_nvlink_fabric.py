"""The fabric nvlink against the all-to-all that it was read from: TensorRT-LLM on 32 GB200."""

from __future__ import annotations

import pytest

from sim.deployments.links import payload_bytes_per_s
from sim.foundation.units import NS_PER_S, NS_PER_US
from sim.inputs import cards
from sim.kernels import kernel_table, ops
from sim.kernels.timed import by_status


@pytest.mark.parametrize(
    ("tokens", "within"), [(1, 0.01), (64, 0.03), (256, 0.01), (512, 0.01), (1024, 0.01)]
)
def test_there_and_back_take_as_long_as_dispatch_and_combine(tokens: int, within: float) -> None:
    card, fabric = cards.accelerator("gb200"), cards.fabric("nvlink")
    table = kernel_table.load(card, cards.calibration("gb200"))
    domain = card.node.scale_up_domain_gpus
    there = ops.a2a("dispatch", "fp8", 32, domain, tokens, 7168, 8)
    back = ops.a2a("combine", "bf16", 32, domain, tokens, 7168, 8)
    measured = table.timed(there) + table.timed(back)
    measured_ns = float(measured.ns)
    assert by_status(measured.usage_ns)["calibrated"] == measured_ns
    assert (there.kernel, there.medium) == ("trtllm_NVLinkTwoSided", fabric.medium)
    moved_ns = float(there.bytes + back.bytes) / payload_bytes_per_s(card, fabric) * NS_PER_S
    assert measured_ns == pytest.approx(2 * fabric.latency_us * NS_PER_US + moved_ns, rel=within)
