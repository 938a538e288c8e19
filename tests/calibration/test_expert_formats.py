"""Formats of experts: the kernels that serve models whose experts are 4 bits wide."""

from __future__ import annotations

import pytest

from sim.deployments import compile_deployment
from sim.inputs.scenario import load
from sim.kernels import ops


@pytest.mark.parametrize(
    ("scenario", "sets", "dtype", "engine"),
    [
        ("gpt-oss-120b-ep4-gb200", (), "mxfp4", "trtllm"),
        ("gpt-oss-120b-ep4-gb200", ("software=sglang",), "mxfp4", "sglang"),
        ("gpt-oss-120b-ep4-gb200", ("precision.experts=mxfp4_bf16",), "mxfp4", ""),
        ("kimi-k2.5-ep16-gb200", (), "nvfp4", "trtllm"),
        ("kimi-k2.5-ep16-gb200", ("precision.experts=int4_group32",), "int4", ""),
        (
            "kimi-k2.5-ep16-gb200",
            ("precision.experts=int4_group32", "software=vllm"),
            "int4",
            "vllm_marlin",
        ),
    ],
)
def test_experts_are_timed_by_a_kernel_of_their_format(
    scenario: str, sets: tuple[str, ...], dtype: str, engine: str
) -> None:
    site = compile_deployment(load(scenario, sets))
    timer = site.core_timer
    (ffn,) = (ffn for ffn in site.model.ffn.values() if ffn.kind == "moe")
    held = site.spread(ffn).copies // site.spread(ffn).ranks
    op = ops.moe(
        timer.precision.of("experts"),
        site.model.hidden,
        ffn.expert_intermediate,
        held,
        8 * held,
        timer.table.accelerator.gemm_tile_rows,
        timer.experts.kernel,
        held,
    )
    curve, own = timer.table.serving(op)
    assert own
    assert curve is not None
    assert (curve.dtype, curve.key) == (dtype, f"h{site.model.hidden}")
    assert curve.kernel.startswith(engine)
    assert timer.table.timed(op).usage_ns[2] == 0
