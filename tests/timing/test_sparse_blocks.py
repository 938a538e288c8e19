"""Sparse attention on calibrated cards: blocks of the profile's engine, as they were measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim.deployments import compile_deployment
from sim.deployments.batch import GpuTokens
from sim.deployments.deployment import Deployment
from sim.inputs import cards
from sim.inputs.scenario import load

ALONE = "workload.arrivals={kind: closed, concurrency: 8}"


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write DeepSeek-V3 with V3.2's indexer."""
    path = tmp_path_factory.mktemp("sparse") / "sparse.yaml"
    text = (cards.packaged(cards.MODELS) / "deepseek-v3.yaml").read_text()
    index = "kind: dsa\n    index_heads: 64\n    index_dim: 128\n    top_k: 2048"
    path.write_text(text.replace("kind: mla", index, 1))
    return path


def site(model: Path, software: str, kv: str, *more: str) -> Deployment:
    sets = [f"model={model}", f"software={software}", f"precision.kv={kv}", ALONE]
    return compile_deployment(load("dsv3-ep8-h200", [*sets, *more]))


def core_us(made: Deployment, requests: int, ctx: int) -> float:
    _, line = made.core_timer.core_line("mla", 1)
    each = np.array([requests])
    return float(line.timed(each, each * ctx).ns[0]) / 1e3


def block_us(made: Deployment, requests: int, ctx: int) -> float:
    timer, tokens = made.core_timer, GpuTokens(np.array([requests]))
    around = timer.before_core("mla", tokens) + timer.after_core("mla", tokens)
    around += timer.output("mla", tokens, 1)
    return core_us(made, requests, ctx) + float(around.ns[0]) / 1e3


# Whole blocks of DeepSeek-V3.2 on H200 with a BF16 cache and FP8 weights (aiconfigurator 0.12.0).
@pytest.mark.parametrize(
    ("software", "requests", "ctx", "measured_us"),
    [
        ("trtllm", 32, 32_769, 405.9),
        ("trtllm", 8, 131_073, 388.5),
        ("vllm", 32, 32_769, 341.5),
        ("vllm", 8, 131_073, 334.9),
        ("sglang", 8, 32_769, 172.6),
        ("sglang", 1, 131_073, 197.0),
        ("sglang", 128, 1_025, 251.5),
    ],
)
def test_a_profile_takes_the_block_of_its_engine(
    sparse: Path, software: str, requests: int, ctx: int, measured_us: float
) -> None:
    assert block_us(site(sparse, software, "bf16"), requests, ctx) == pytest.approx(
        measured_us, rel=0.04
    )


# Figures that issue 14 asks for within 10 %; of the blocks measured, those of vLLM come near.
@pytest.mark.parametrize(("requests", "ctx", "us"), [(32, 32_768, 372.0), (8, 131_072, 316.0)])
def test_two_points_on_h200(sparse: Path, requests: int, ctx: int, us: float) -> None:
    assert block_us(site(sparse, "vllm", "bf16"), requests, ctx) == pytest.approx(us, rel=0.10)


@pytest.mark.parametrize("kv", ["bf16", "fp8"])
@pytest.mark.parametrize("software", ["sglang", "trtllm", "vllm"])
def test_time_rises_with_context_and_requests(sparse: Path, software: str, kv: str) -> None:
    made = site(sparse, software, kv)
    for requests in (1, 8, 48, 256, 1024):
        times = [core_us(made, requests, round(ctx)) for ctx in np.geomspace(256, 262_144, 60)]
        assert (np.diff(times) >= -0.02 * np.array(times[1:])).all(), requests
    for ctx in (512, 2048, 4096, 32_768, 163_840):
        times = [core_us(made, requests, ctx) for requests in range(1, 400, 7)]
        assert (np.diff(times) >= -0.02 * np.array(times[1:])).all(), ctx


def test_a_block_measured_whole_has_no_glue(sparse: Path) -> None:
    glue = "software.attention_glue=[{floor_us: {value: 9, source: test}}]"
    tokens = GpuTokens(np.full(8, 10))
    plain, glued = (
        site(sparse, "sglang", "fp8", *more).own_durations(tokens).rows for more in ((), (glue,))
    )
    assert {key: ns.tolist() for key, ns in plain.items()} == {
        key: ns.tolist() for key, ns in glued.items()
    }
