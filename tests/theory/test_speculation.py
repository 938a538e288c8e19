"""Speculation: acceptance laws in closed form, and what verifying and drafting cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.decoding.acceptance import emitted, law_of
from sim.decoding.run import simulate
from sim.deployments import compile_deployment
from sim.deployments.batch import Batch, GpuTokens
from sim.deployments.deployment import Deployment
from sim.explain import theory
from sim.inputs import cards, scenario
from sim.inputs.model import Layer
from sim.inputs.speculation import Speculation
from sim.metrics.summary import summary
from tests import tiny

probabilities = st.floats(0, 1)


def figure(value: float) -> dict[str, Any]:
    return {"value": float(value), "source": "test"}


def speculating(
    drafts: int, law: dict[str, Any], layer: dict[str, str] | None = None
) -> Speculation:
    described = {"drafts": drafts, "draft_layer": layer, "acceptance": law}
    return Speculation.model_validate(described)


def constant(drafts: int, p: float) -> Speculation:
    return speculating(drafts, {"kind": "constant", "p": figure(p)})


def emitted_by(speculation: Speculation, requests: int, steps: int, output: int) -> np.ndarray:
    tokens = np.empty(requests, dtype=np.int64)
    rest, last = np.full(requests, output), np.full(requests, steps)
    law = law_of(speculation, 0)
    emitted(np.arange(requests), rest, np.zeros_like(rest), last, law, tokens)
    return tokens


@given(st.integers(1, 16), probabilities)
def test_tokens_a_step_are_a_geometric_sum(drafts: int, p: float) -> None:
    expected = drafts + 1.0 if p == 1 else (1 - p ** (drafts + 1)) / (1 - p)
    assert constant(drafts, p).tokens_per_step() == pytest.approx(expected, rel=1e-9)


@given(st.lists(probabilities, min_size=1, max_size=16))
def test_tokens_a_step_by_position(p: list[float]) -> None:
    law = {"kind": "by_position", "p": [figure(each) for each in p]}
    expected = 1 + sum(np.prod(p[:count]) for count in range(1, len(p) + 1))
    assert speculating(len(p), law).tokens_per_step() == pytest.approx(expected, rel=1e-9)


def test_tokens_a_step_of_a_recording(tmp_path: Path) -> None:
    path = tmp_path / "accepted.csv"
    path.write_text("accepted\n0\n2\n2\n1\n")
    recorded = speculating(2, {"kind": "trace", "path": str(path), "source": "test"})
    assert recorded.tokens_per_step() == pytest.approx(1 + 5 / 4)
    # Whole rounds of the recording, wherever each request begins in it.
    assert (emitted_by(recorded, 50, 12, 1000) == 3 * (4 + 5)).all()
    assert len(set(emitted_by(recorded, 50, 2, 1000))) > 1


@pytest.mark.parametrize(("drafts", "p"), [(1, 0.6), (2, 0.8), (3, 0.5), (5, 0.9)])
def test_draws_follow_the_law(drafts: int, p: float) -> None:
    steps = 400_000
    each = emitted_by(constant(drafts, p), steps // 100, 100, 10**6)
    mean = constant(drafts, p).tokens_per_step()
    # The deviation of a step is below drafts / 2; four standard errors.
    assert each.sum() / steps == pytest.approx(mean, abs=4 * drafts / 2 / steps**0.5)


def test_no_output_is_exceeded() -> None:
    assert (emitted_by(constant(3, 1.0), 5, 9, 10) == 10).all()
    assert (emitted_by(constant(3, 1.0), 5, 2, 10) == 8).all()


def settings(drafts: int, p: float, layer: str = "null") -> str:
    law = f"{{kind: constant, p: {{value: {p}, source: test}}}}"
    return f"speculation={{drafts: {drafts}, draft_layer: {layer}, acceptance: {law}}}"


@pytest.mark.parametrize("base", ["step3-2a2f", "dsv3-ep128"])
@pytest.mark.parametrize("drafts", [1, 3])
def test_tpot_is_the_step_over_its_tokens(tiny_model: Path, base: str, drafts: int) -> None:
    # No output ends, and nothing else varies.
    endless = "workload.lengths.output={kind: fixed, tokens: 100000}"
    every, none = (
        summary(simulate(tiny.load(tiny_model, base, endless, settings(drafts, p)))) for p in (1, 0)
    )
    assert every["tokens_per_step"] == drafts + 1
    assert every["tpot_ms_mean"] == pytest.approx(every["t_step_ms"] / (drafts + 1), rel=0.02)
    assert every["t_step_ms"] == pytest.approx(none["t_step_ms"], rel=0.02)
    assert none["tokens_per_step"] == 1
    assert none["drafts_of_use_share"] == 0
    assert none["tpot_ms_mean"] == pytest.approx(none["t_step_ms"], rel=0.02)
    assert every["itl_ms_p50"] == 0
    assert every["tgs"] == pytest.approx((drafts + 1) * none["tgs"], rel=0.02)


def site(base: str, *overrides: str) -> Deployment:
    return compile_deployment(scenario.load(base, overrides))


@pytest.mark.parametrize(
    ("base", "stages"),
    [
        ("step3-2a2f", ("a2f", "a2f_in", "experts", "all_gather", "reduce_scatter", "f2a")),
        ("dsv3-ep128", ("dispatch", "experts", "combine", "shared")),
    ],
)
def test_the_ffn_sees_every_position(base: str, stages: tuple[str, ...]) -> None:
    drafting, plain = site(base, settings(1, 0.5)), site(base)
    requests = GpuTokens(np.full(plain.attention_gpus, 24))
    mine, other = drafting.around_core(requests).rows, plain.around_core(requests.times(2)).rows
    for kind in range(len(plain.kinds)):
        for stage in stages:
            if (stage, kind) in other:
                assert mine[stage, kind].tolist() == other[stage, kind].tolist(), stage
    tail = len(plain.kinds)
    assert mine["lm_head", tail].tolist() == other["lm_head", tail].tolist()


@pytest.mark.parametrize("base", ["step3-2a2f", "dsv3-ep128"])
def test_the_cache_is_read_once(base: str) -> None:
    timer, requests = site(base).core_timer, np.array([32])
    (name,) = timer.model.attention
    one, three = (timer._core_op(name, n, requests, np.array([131_072])) for n in (1, 3))
    assert three.least_flops() == 3 * one.least_flops()
    alone = timer._core_op(name, 1, requests, np.array([0])).bytes
    assert three.bytes == one.bytes + 2 * alone


def test_a_draft_takes_a_layer_an_lm_head_and_a_projection() -> None:
    layer = "{attention: mla, ffn: moe}"
    without = site("dsv3-ep128", settings(2, 0.5))
    drafting = site("dsv3-ep128", settings(2, 0.5, layer))
    batch = Batch.spread(128, 128 * 32, 4096.0, [])
    rows, plain = drafting.durations(batch).rows, without.durations(batch).rows
    verifying, second = 2, 3  # kinds after the dense and the MoE layers
    assert [kind.positions for kind in drafting.kinds] == [3, 3, 3, 1]
    assert [kind.drafts_after for kind in drafting.kinds] == [0, 0, 3, 1]
    timer, requests = drafting.core_timer, GpuTokens(batch.requests)
    # The first takes all verified tokens as a layer of the model does, and what comes before it.
    before = timer.lm_head(requests.times(3), 8, 8) + timer.draft_projection(requests.times(3))
    assert rows["attn0", verifying].tolist() == (plain["attn0", 1] + before.ns).tolist()
    for stage in ("attn1", "experts", "dispatch", "combine", "shared"):
        assert rows[stage, verifying].tolist() == plain[stage, 1].tolist()
    # The second takes one token of each request, as without drafts.
    single = site("dsv3-ep128").durations(batch).rows
    for stage in ("attn1", "experts", "dispatch", "combine", "shared"):
        assert rows[stage, second].tolist() == single[stage, 1].tolist()
    # A step ends with the LM head of the last draft, or of all that was verified.
    assert rows["lm_head", 4].tolist() == timer.lm_head(requests, 8, 8).ns.tolist()
    assert plain["lm_head", 2].tolist() == timer.lm_head(requests.times(3), 8, 8).ns.tolist()


# README_WEIGHTS of deepseek-ai/DeepSeek-V3: 11.5B parameters of the module are its own, beside
# the embedding and the output head that it shares.
MTP_PARAMETERS = 11.5e9


def test_the_module_of_deepseek_v3_has_its_published_size() -> None:
    card = cards.model("deepseek-v3")
    more = card.with_layer(Layer(attention="mla", ffn="moe"))
    own = theory.total_params(more) - theory.total_params(card) + 2 * card.hidden**2
    assert own == pytest.approx(MTP_PARAMETERS, rel=0.015)
    drafting, plain = (
        site("dsv3-ep128", settings(1, 1, "{attention: mla, ffn: moe}")),
        site("dsv3-ep128"),
    )
    held = drafting.kv_memory().weights_bytes - plain.kv_memory().weights_bytes
    layer = Layer(attention="mla", ffn="moe")
    experts = card.ffn_of(layer).weights(card.hidden) - 3 * card.hidden * 2048
    # Every GPU holds two of the 256 experts, and all else (the router in BF16).
    router = card.hidden * 256
    assert held == pytest.approx((own - experts - router) + experts / 128 + 2 * router, rel=1e-9)
    assert drafting.layout.bytes_per_token[None] == plain.layout.bytes_per_token[None] * 62 / 61
