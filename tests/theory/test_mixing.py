"""Hyper-connections: bytes of residual streams, and where a layer's mixing runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.deployments import compile_deployment
from sim.deployments.batch import GpuTokens
from sim.deployments.layers import Attended
from sim.deployments.streams import mixed
from sim.explain import theory
from sim.inputs import cards
from sim.inputs.model import ModelCard
from sim.inputs.scenario import load
from sim.kernels import served
from sim.kernels.mixing import OPS, mixing

LAYERS, HIDDEN, STREAMS = 61, 7168, 4


def test_bytes_of_streams_for_a_token() -> None:
    plain = cards.model("deepseek-v3")
    fields = {name: getattr(plain, name) for name in ModelCard.model_fields}
    streams = ModelCard.model_construct(**fields | {"hyper_connections": STREAMS})
    assert theory.mixing_bytes(plain) == 0
    # Around attention and FFN: 4 streams in, 1 out; then 4 and the result in, 4 out. BF16.
    assert theory.mixing_bytes(streams) == LAYERS * 2 * ((4 + 1) + (4 + 1 + 4)) * HIDDEN * 2


@given(st.integers(1, 8192), st.integers(2, 8))
def test_the_kernels_in_closed_form(rows: int, streams: int) -> None:
    pre, post = (mixing(side, HIDDEN, streams, rows) for side in OPS.values())
    weights = 2 * (streams**2 + 2 * streams) * streams * HIDDEN
    assert pre.bytes == rows * 2 * (streams + 1) * HIDDEN * 2 + 4 * weights
    assert post.bytes == rows * 2 * (2 * streams + 1) * HIDDEN * 2
    assert pre.flops == 2 * rows * (weights + 2 * streams * HIDDEN)
    assert post.flops == 2 * rows * 2 * (streams + 1) * streams * HIDDEN
    assert mixing("pre", HIDDEN, streams, 0).bytes == mixing("post", HIDDEN, streams, 0).bytes == 0


def streams_card(folder: Path) -> Path:
    text = (cards.packaged(cards.MODELS) / "deepseek-v3.yaml").read_text()
    path = folder / "streams.yaml"
    path.write_text(text.replace("vocab:", f"hyper_connections: {STREAMS}\nvocab:", 1))
    return path


@pytest.mark.parametrize(
    ("base", "stages"), [("dsv3-ep8-h200", ["attn0", "attn1"]), ("dsv3-afd", ["attention"])]
)
def test_streams_are_mixed_on_attention_gpus(tmp_path: Path, base: str, stages: list[str]) -> None:
    with_streams = compile_deployment(load(base, [f"model={streams_card(tmp_path)}"]))
    without = compile_deployment(load(base))
    tokens = GpuTokens(np.array([0, 1, 64]))
    parts = mixed(with_streams.core_timer, tokens)
    latent = Attended("mla", 1, crowded=False)
    attended = [site.attended(latent, tokens) for site in (with_streams, without)]
    halves = [part.ns for part in parts]
    added = halves if len(stages) == 2 else [halves[0] + halves[1]]
    for stage, more in zip(stages, added, strict=True):
        assert (attended[0][stage].ns == attended[1][stage].ns + more).all()
    assert (halves[0][0], halves[1][0]) == (0, 0)
    assert 0 < halves[0][1] <= halves[0][2]
    assert (halves[1] - halves[0] <= 1).all()
    timer, whole = with_streams.core_timer, np.zeros(3, dtype=np.int64)
    for name, side in OPS.items():
        (kernel,) = timer.kernels.get(name, {}).get("bf16", [served.FASTEST])
        whole += timer.table.timed(mixing(side, HIDDEN, STREAMS, tokens.each, kernel)).ns
    assert (halves[0] + halves[1] == whole).all()
    used = sum(part.usage_ns.sum() for part in parts)
    assert used == np.sum(whole)


def test_without_streams_nothing_is_mixed() -> None:
    site = compile_deployment(load("dsv3-ep8-h200"))
    for part in mixed(site.core_timer, GpuTokens(np.array([1, 64]))):
        assert part.ns.tolist() == [0, 0]
