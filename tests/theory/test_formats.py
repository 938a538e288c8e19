"""Formats by part: bytes of weights, KV and moves, and which kernels take them, in closed form."""

from __future__ import annotations

from typing import get_args

import pytest

from sim.deployments import compile_deployment
from sim.deployments.deployment import Deployment
from sim.deployments.ep import EpDeployment
from sim.deployments.weights import ffn_bytes
from sim.explain.explanation import explain_scenario, sentences
from sim.foundation.errors import ScenarioError
from sim.foundation.units import DTYPE_BYTES, WeightFormat
from sim.inputs import cards, scenario
from sim.inputs.scenario import Part, Precision
from sim.kernels import cores, kernel_table, ops
from sim.kernels.kernel_table import KernelTable
from sim.metrics.cautions import cautions

# Bits of a value, bits of a scale, values that share it.
LAYOUTS = {
    "fp32": (32, 0, 1),
    "bf16": (16, 0, 1),
    "fp8": (8, 0, 1),
    "fp8_tensor": (8, 0, 1),
    "int8": (8, 0, 1),
    "nvfp4": (4, 8, 16),
    "mxfp4": (4, 8, 32),
    "mxfp4_bf16": (4, 8, 32),
    "int4": (4, 16, 128),
    "int4_fp8": (4, 16, 128),
    "int4_group32": (4, 16, 32),
}
BASES = ("dsv3-ep144", "step3-2a2f", "dsv3-afd")


def table(card: str) -> KernelTable:
    return kernel_table.load(cards.accelerator(card), cards.calibration(card))


def site(base: str, *settings: str) -> Deployment:
    return compile_deployment(scenario.load(base, settings))


def rows(of: Deployment) -> dict[tuple[str, int], list[int]]:
    found = of.durations(of.expected.batch()).rows
    return {key: ns.tolist() for key, ns in found.items()}


@pytest.mark.parametrize("weights", get_args(WeightFormat))
def test_a_value_takes_its_bits_and_its_share_of_a_scale(weights: str) -> None:
    bits, scale, values = LAYOUTS[weights]
    assert DTYPE_BYTES[weights] == (bits + scale / values) / 8


def test_parts_have_their_own_format_or_the_common_one() -> None:
    given = Precision(gemm="fp8", kv="bf16", lm_head="bf16")
    assert {given.of(part) for part in get_args(Part)} == {"fp8"}
    given = Precision(gemm="fp8", attention="bf16", experts="nvfp4", kv="nvfp4", lm_head="bf16")
    assert [given.of(part) for part in get_args(Part)] == ["bf16", "bf16", "fp8", "nvfp4"]
    assert given.replaced(o_proj="nvfp4").of("o_proj") == "nvfp4"


@pytest.mark.parametrize("base", BASES)
def test_naming_every_part_changes_nothing(base: str) -> None:
    named = [f"precision.{part}=fp8" for part in get_args(Part)]
    one, other = site(base), site(base, *named)
    assert rows(one) == rows(other)
    assert one.kv_memory() == other.kv_memory()


@pytest.mark.parametrize("weights", ["nvfp4", "mxfp4", "int4", "int8", "fp8_tensor"])
@pytest.mark.parametrize("part", get_args(Part))
def test_weights_of_a_part_take_its_bytes(part: str, weights: str) -> None:
    model = cards.model("deepseek-v3")
    before = site("dsv3-ep144", "precision.gemm=bf16").kv_memory().weights_bytes
    after = site("dsv3-ep144", "precision.gemm=bf16", f"precision.{part}={weights}")
    elements = dict.fromkeys(get_args(Part), 0.0)
    for layer, count in model.layer_counts.items():
        attention, ffn = model.attention[layer.attention], model.ffn_of(layer)
        output = attention.after_core(model.hidden)[-1].weights()
        elements["attention"] += count * attention.weights(model.hidden)
        elements["o_proj"] += count * output
        if layer.ffn == "dense":
            elements["dense"] += count * ffn.weights(model.hidden)
            continue
        elements["dense"] += count * 3 * model.hidden * 2048
        elements["experts"] += count * 3 * model.hidden * 2048 * 288 / 144
    saved = elements[part] * (DTYPE_BYTES["bf16"] - DTYPE_BYTES[weights])
    assert before - after.kv_memory().weights_bytes == pytest.approx(saved, rel=1e-12)


@pytest.mark.parametrize(
    ("part", "stages"),
    [
        ("attention", {"attn0", "attn1"}),
        ("o_proj", {"attn1"}),
        ("dense", {"shared"}),
        ("experts", {"experts"}),
    ],
)
def test_a_format_times_its_own_stages_alone(part: str, stages: set[str]) -> None:
    one, other = rows(site("dsv3-ep144")), rows(site("dsv3-ep144", f"precision.{part}=bf16"))
    assert {stage for (stage, layer), ns in one.items() if other[stage, layer] != ns} == stages


def test_shared_experts_of_another_format_are_no_experts_of_the_same_kernel() -> None:
    apart, alike = site("step3-2a2f", "precision.dense=bf16"), site("step3-2a2f")
    last = len(alike.kinds) - 1
    assert max(rows(apart)["experts", last]) > max(rows(alike)["experts", last])


@pytest.mark.parametrize(("kv", "width"), [("bf16", 2), ("fp8", 1), ("int8", 1), ("nvfp4", 9 / 16)])
def test_a_token_of_the_cache_takes_its_bytes(kv: str, width: float) -> None:
    assert site("dsv3-ep144", f"precision.kv={kv}").layout.bytes_per_token == {
        None: 61 * (512 + 64) * width
    }
    gqa = site("qwen3-ep16", f"precision.kv={kv}")
    assert gqa.layout.bytes_per_token == {None: 94 * 2 * 4 * 128 * width}


@pytest.mark.parametrize("weights", ["bf16", "nvfp4", "int4"])
def test_moved_experts_take_the_bytes_of_their_format(weights: str) -> None:
    found = site("dsv3-ep144", "precision.gemm=bf16", f"precision.experts={weights}")
    assert isinstance(found, EpDeployment)
    moe = {"fp8": 1.0, weights: DTYPE_BYTES[weights]}
    precision = found.scenario.precision
    one = ffn_bytes(found.model, precision, lambda _ffn: 1, 1, 1)
    none = ffn_bytes(found.model, precision, lambda _ffn: 0, 1, 1)
    assert one - none == 58 * 3 * 7168 * 2048 * moe[weights]


def test_nvfp4_caches_are_read_narrow_and_multiplied_in_fp8() -> None:
    card = table("b200")
    narrow = cores.gqa("nvfp4", 32, 8, 128, 64, 64 * 8192, 64)
    wide = cores.gqa("fp8", 32, 8, 128, 64, 64 * 8192, 64)
    queries = 64 * 2 * 32 * 128 * 2
    assert (narrow.bytes - queries) == (wide.bytes - queries) * 9 / 16
    assert card.peak_us(narrow)[0] == card.peak_us(wide)[0]
    assert card.timed(narrow).usage_ns[2] > 0
    assert not card.timed(narrow).usage_ns[:2].any()
    assert card.timed(narrow).ns < card.timed(wide).ns


@pytest.mark.parametrize(
    ("weights", "multiplied"),
    [
        *(("int4", "bf16"), ("int4_group32", "bf16"), ("int4_fp8", "fp8")),
        *(("mxfp4_bf16", "bf16"), ("fp8_tensor", "fp8")),
    ],
)
def test_weights_are_widened_to_what_is_multiplied(weights: str, multiplied: str) -> None:
    card = table("b200")
    op, wide = (ops.gemm(dtype, 4096, 8192, 8192, 1.0) for dtype in (weights, multiplied))
    assert card.peak_us(op)[0] == card.peak_us(wide)[0]
    taken = DTYPE_BYTES[multiplied]
    both = 4096 * 8192 * (taken + DTYPE_BYTES["bf16"])
    assert op.bytes == 8192 * 8192 * DTYPE_BYTES[weights] + both


def test_what_no_one_measured_counts_as_uncalibrated_where_it_is_computed_wider() -> None:
    card = table("b200")
    assert card.timed(ops.gemm("int4", 64, 8192, 8192, 1.0)).usage_ns[2] > 0
    assert card.timed(ops.gemm("fp8_tensor", 64, 8192, 8192, 1.0)).usage_ns[0] > 0
    assert card.timed(ops.moe("fp8_tensor", 7168, 2048, 32, 256, 1.0, "fused")).usage_ns[2] > 0
    own = ops.moe("int4", 7168, 2048, 32, 256, 1.0, "vllm_marlin")
    curve, _own = card.serving(own)
    assert curve is not None
    assert curve.dtype == "int4"
    assert not card.timed(own).usage_ns[2]


def test_a_format_of_weights_alone_takes_its_own_kernel() -> None:
    def kernel(weights: str) -> str:
        settings = [f"precision.experts={weights}", "deployment.moe_kernel=fused"]
        found = site("dsv3-ep8-h200", "deployment.accelerator=b200", *settings)
        assert isinstance(found, EpDeployment)
        return found.layer_timer.experts.kernel

    assert kernel("mxfp4_bf16").endswith("_w4a16")
    assert not kernel("mxfp4").endswith("_w4a16")


def test_a_run_names_the_format_that_is_multiplied() -> None:
    figures = {"stable": None, "tpot_ms_mean": 1.0, "tpot_ms_p99": None, "engine": "bound"}
    figures |= {"extrapolated_share": 0.0, "uncalibrated_share": 0.0, "requests_in_flight": 1.0}
    narrow = ["precision.experts=int4", "precision.kv=nvfp4"]
    told = cautions(scenario.load("dsv3-ep144", narrow), figures)
    assert any(text.startswith("experts in int4 is multiplied in bf16") for text in told)
    assert any(text.startswith("kv in nvfp4 is multiplied in fp8") for text in told)
    assert not any("multiplied" in t for t in cautions(scenario.load("dsv3-ep144"), figures))


def test_an_unknown_format_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ScenarioError, match=r"precision\.experts.*nvfp4"):
        scenario.load("dsv3-ep144", ["precision.experts=fp3"])


def test_explain_names_the_format_of_the_cache_first() -> None:
    found = explain_scenario(scenario.load("qwen3-ep16"))
    assert [of.kv for of in found.kv_formats] == ["fp8"]
    other = explain_scenario(scenario.load("qwen3-ep16", ["precision.kv=fp8"]))
    now, then = found.frozen.figures, other.frozen.figures
    assert now is not None
    assert then is not None
    told = 1 + found.kv_formats[0].effect.tpot
    assert told == pytest.approx(then.tpot_ms / now.tpot_ms, rel=1e-6)
    assert "What changes TPOT most: KV in fp8" in " ".join(sentences(found))
