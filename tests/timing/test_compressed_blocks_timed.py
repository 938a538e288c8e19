"""DeepSeek-V4 on calibrated cards: blocks of the profile's engine, as they were measured."""

from __future__ import annotations

import numpy as np
import pytest

from sim.deployments import compile_deployment
from sim.deployments.batch import GpuTokens
from sim.deployments.deployment import Deployment
from sim.inputs.scenario import load

ALONE = "workload.arrivals={kind: closed, concurrency: 8}"
MIXED = "precision={gemm: fp8, experts: mxfp4, kv: fp8, lm_head: bf16}"


def site(model: str, card: str, software: str, *more: str) -> Deployment:
    sets = [f"model={model}", f"deployment.accelerator={card}", f"software={software}"]
    return compile_deployment(load("dsv3-ep8-h200", [*sets, MIXED, ALONE, *more]))


def core_us(made: Deployment, name: str, requests: int, ctx: int) -> float:
    _, line = made.core_timer.core_line(name, 1)
    each = np.array([requests])
    return float(line.timed(each, each * ctx).ns[0]) / 1e3


def block_us(made: Deployment, name: str, requests: int, ctx: int) -> float:
    timer, tokens = made.core_timer, GpuTokens(np.array([requests]))
    around = timer.before_core(name, tokens) + timer.after_core(name, tokens)
    around += timer.output(name, tokens, 1)
    return core_us(made, name, requests, ctx) + float(around.ns[0]) / 1e3


# Whole blocks with FP8 weights and an FP8 cache (aiconfigurator 0.12.0).
@pytest.mark.parametrize(
    ("model", "card", "software", "name", "requests", "ctx", "measured_us"),
    [
        ("deepseek-v4-flash", "b200", "sglang", "csa", 32, 16_385, 181.2),
        ("deepseek-v4-flash", "b200", "sglang", "csa", 128, 1_025, 123.4),
        ("deepseek-v4-flash", "b200", "sglang", "hca", 1, 1_048_576, 107.2),
        ("deepseek-v4-flash", "b200", "trtllm", "csa", 8, 65_537, 148.1),
        ("deepseek-v4-flash", "b200", "vllm", "csa", 64, 8_193, 129.2),
        ("deepseek-v4-flash", "h200-sxm", "vllm", "csa", 32, 16_385, 136.8),
        ("deepseek-v4-pro", "gb200", "vllm", "csa", 256, 4_097, 334.3),
        ("deepseek-v4-pro", "gb300", "vllm", "hca", 256, 4_097, 200.2),
        ("deepseek-v4-pro", "gb300", "trtllm", "hca", 32, 16_385, 123.6),
    ],
)
def test_a_profile_takes_the_block_of_its_engine(
    model: str, card: str, software: str, name: str, requests: int, ctx: int, measured_us: float
) -> None:
    made = site(model, card, software)
    assert block_us(made, name, requests, ctx) == pytest.approx(measured_us, rel=0.06)


@pytest.mark.parametrize("name", ["csa", "hca", "window"])
@pytest.mark.parametrize("software", ["sglang", "trtllm", "vllm"])
def test_time_rises_with_context_and_requests(software: str, name: str) -> None:
    made = site("deepseek-v4-flash", "b200", software)
    for requests in (1, 8, 48, 256, 1024):
        times = [core_us(made, name, requests, round(c)) for c in np.geomspace(128, 1e6, 60)]
        assert (np.diff(times) >= -0.02 * np.array(times[1:])).all(), requests
    for ctx in (512, 2048, 4096, 32_768, 163_840):
        times = [core_us(made, name, requests, ctx) for requests in range(1, 400, 7)]
        assert (np.diff(times) >= -0.02 * np.array(times[1:])).all(), ctx


def test_mixing_is_that_of_the_engine() -> None:
    tokens = GpuTokens(np.full(8, 64))
    found = {
        engine: site("deepseek-v4-pro", "b200", engine).own_durations(tokens).rows
        for engine in ("sglang", "trtllm", "vllm")
    }
    assert len({repr(rows) for rows in found.values()}) == 3
