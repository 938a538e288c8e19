"""Coverage: what is measured, extrapolated and unknown at a load, and what is taken unasked."""

from __future__ import annotations

import pytest

from sim.deployments import compile_deployment
from sim.explain.coverage import WORK, Coverage, CoveredKernel, coverage
from sim.foundation.errors import InfeasibleError, ScenarioError
from sim.inputs import cards, scenario
from sim.kernels import kernel_table
from sim.kernels.curve import Curve
from sim.metrics.steady_summary import steady_summary
from sim.steady.state import under_load

QWEN = ("qwen3-235b-a22b", "h200-sxm")


def of_op(found: Coverage, op: str) -> CoveredKernel:
    return next(each for each in found.kernels if each.op == op)


def curve_of(card: str, op: str, kernel: str, dtype: str, key: str) -> Curve:
    table = kernel_table.load(cards.accelerator(card), cards.calibration(card))
    return next(curve for curve in table.curves if curve.identity == (op, kernel, dtype, key))


@pytest.mark.parametrize("name", cards.names(cards.SCENARIOS))
def test_shares_are_those_of_the_kernel_time_of_a_step(name: str) -> None:
    found = coverage(name)
    site = compile_deployment(scenario.load(name))
    usage_ns = site.step(site.expected.batch()).usage_ns
    assert list(found.shares.values()) == pytest.approx((usage_ns / usage_ns.sum()).tolist())
    for status, share in found.shares.items():
        assert (share > 0) == (found.count(status) > 0)


def test_it_agrees_with_what_a_run_says_afterwards() -> None:
    loaded = scenario.load("dsv3-ep8-h200", ["simulation.engine=bound"])
    site = compile_deployment(loaded)
    figures = steady_summary(under_load(site, round(site.expected.requests())))
    shares = coverage(loaded).shares
    assert figures["calibrated_share"] == pytest.approx(shares["measured"])
    assert figures["extrapolated_share"] == pytest.approx(shares["extrapolated"])


def test_a_kernel_is_measured_up_to_the_last_node_of_its_curve() -> None:
    key = "q64kv4d128"
    curve = curve_of("h200-sxm", "attention_gqa", "fastest", "fp8", key)
    nodes = dict(curve.axes)
    most, least = int(nodes["batch"][-1]), int(nodes["kv_len"][0])
    assert most * least <= curve.most_work
    settings = [f"memory.utilisation={1.0}"]

    def core(batch: int, context: int) -> CoveredKernel:
        found = coverage(
            *QWEN, batch=batch, context=context, ep=16, precision="fp8", kv="fp8", settings=settings
        )
        return of_op(found, "attention_gqa")

    inside = core(most, least)
    assert (inside.status, inside.beyond, inside.points) == ("measured", {}, curve.points)
    assert core(most + 1, least).beyond == pytest.approx({"batch": 1 + 1 / most})
    assert core(3 * most, least).status == "extrapolated"
    assert core(3 * most, least).beyond["batch"] == pytest.approx(3)
    short = core(1, least // 2)
    assert short.beyond == pytest.approx({"kv_len": 2})
    longest = int(nodes["kv_len"][-1])
    requests = 2 * int(curve.most_work) // longest
    assert core(requests, longest).beyond[WORK] == pytest.approx(
        requests * longest / curve.most_work
    )


def test_a_lent_curve_counts_as_extrapolated_and_is_named() -> None:
    experts = of_op(coverage("step3-2a2f"), "moe")
    assert experts.key == "h7168i640"
    assert experts.status == "extrapolated"
    assert experts.curve == "masked fp8 h7168i2048"


def test_a_kernel_in_another_format_is_unknown() -> None:
    found = coverage(*QWEN, batch=8, context=2048, precision="int4_fp8")
    experts = of_op(found, "moe")
    assert experts.dtype == "int4_fp8"
    assert experts.status == "unknown"


@pytest.mark.parametrize("card", ["mi300x", "mi355x", "rtx-pro-6000"])
def test_nothing_is_known_of_a_card_without_measurements(card: str) -> None:
    found = coverage("deepseek-v3", card)
    assert found.shares["unknown"] == 1
    assert {each.status for each in found.kernels} == {"unknown"}
    assert {each.curve for each in found.kernels} == {None}
    assert found.sentence() == (
        f"none of {len(found.alike())} kernels was measured on {card}: all run at its efficiency"
    )


def test_the_load_asked_for_is_the_load_looked_up() -> None:
    found = coverage("step3-2a2f", batch=24, context=3000)
    assert (found.requests_per_gpu, found.context_tokens) == (24, 3000)
    core = of_op(found, "attention_gqa")
    assert core.shape == {"batch": (24, 24), "kv_len": (3000, 3000)}
    assert sum(each.layers for each in found.kernels if each.op == "attention_gqa") == 61


def test_what_is_not_asked_for_is_told() -> None:
    found = coverage("deepseek-v3", "h800")
    gpus = int(found.shape.removeprefix("EP"))
    assert "64 requests a GPU" in found.assumed
    assert "4,096 tokens of context" in found.assumed
    assert any("gemm fp8" in text for text in found.assumed)
    # Weights of 671 GB in FP8 fit in two servers of 8 × 80 GB, not in one.
    assert gpus == 16
    assert any(text.startswith("EP 16, the fewest whole servers") for text in found.assumed)
    asked = coverage("deepseek-v3", "h800", batch=8, context=512, ep=32, software="sglang")
    assert asked.shape == "EP32"
    assert [text for text in asked.assumed if "EP" in text or "software" in text] == []


def test_a_model_with_a_checkpoint_takes_its_formats() -> None:
    found = coverage("gpt-oss-120b", "b200")
    assert of_op(found, "moe").dtype == "mxfp4"
    assert of_op(coverage("gpt-oss-120b", "b200", precision="bf16"), "moe").dtype == "bf16"


def test_a_load_that_does_not_fit_is_covered_with_the_reason() -> None:
    found = coverage("deepseek-v3", "l4")
    assert any("a run is refused: weights need" in text for text in found.assumed)
    alone = coverage("deepseek-v3", "h200-sxm", ep=1)
    assert any("run is refused: weights need" in text for text in alone.assumed)


def test_a_context_beyond_the_published_one_is_told() -> None:
    longest = cards.model("deepseek-v3").max_context_tokens
    assert longest is not None
    found = coverage("deepseek-v3", "h200-sxm", context=longest + 1)
    assert found.cautions == (
        f"{longest + 1:,} tokens of context are more than the {longest:,} of deepseek-v3",
    )
    assert coverage("deepseek-v3", "h200-sxm", context=longest).cautions == ()


def test_wrong_names_and_shapes_are_refused() -> None:
    with pytest.raises(ScenarioError, match="did you mean 'deepseek-v3'"):
        coverage("deepseek-v33", "h800")
    with pytest.raises(ScenarioError, match="did you mean 'mi300x'"):
        coverage("deepseek-v3", "mi300")
    with pytest.raises(ScenarioError, match="did you mean 'vllm'"):
        coverage("deepseek-v3", "h800", software="vlm")
    with pytest.raises(ScenarioError, match="give a model and a card"):
        coverage("step3-2a2f", ep=8)
    with pytest.raises(InfeasibleError, match="has no NICs"):
        coverage("deepseek-v3", "l4", ep=16)
