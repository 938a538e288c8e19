"""Cores of layers with and without a window: each at the context that it reads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sim.deployments import compile_deployment
from sim.deployments.deployment import Deployment
from sim.inputs.scenario import load
from sim.kernels import cores
from sim.kernels.timed import Timed

# gpt-oss-120b: 64 query heads on 8 KV heads of 64, sinks, every other layer with a window of 128.
REQUESTS, CONTEXT, WINDOW = np.array([64, 7]), 5000, 128


def site(*sets: str) -> Deployment:
    return compile_deployment(load("gpt-oss-120b-ep4-gb200", sets))


def timed(deployment: Deployment, name: str, ctx: int) -> Timed:
    window, line = deployment.core_timer.core_line(name, 1)
    read = ctx if window is None else min(ctx, window)
    return line.timed(REQUESTS, REQUESTS * read)


@pytest.mark.parametrize(("name", "read"), [("sliding", WINDOW), ("full", CONTEXT)])
def test_a_core_takes_what_its_curve_says_of_the_context_it_reads(name: str, read: int) -> None:
    deployment = site()
    table = deployment.core_timer.table
    tile = table.accelerator.query_tile_rows
    op = cores.gqa("fp8", 64, 8, 64, REQUESTS, REQUESTS * read, tile)
    curve, own = table.serving(op)
    assert own
    assert curve is not None
    assert curve.key == "q64kv8d64"
    found = timed(deployment, name, CONTEXT)
    assert found.ns.tolist() == table.timed(op).ns.tolist()
    # Inside of what was measured: batches up to 1,024, contexts from 128.
    assert found.usage_ns[0] == found.ns.sum()


def test_a_batch_reads_windows_and_contexts_apart() -> None:
    deployment = site()
    batch = deployment.expected.batch_of(8)
    assert set(batch.kv_tokens) == {None, WINDOW}
    assert batch.kv_tokens[WINDOW].max() == 2 * WINDOW
    assert batch.kv_tokens[None].max() > 2 * WINDOW


@pytest.mark.parametrize(("kv_heads", "head_dim"), [(8, 512), (4, 256), (8, 160)])
def test_heads_that_no_one_measured_take_the_nearest_and_say_so(
    kv_heads: int, head_dim: int
) -> None:
    table = site().core_timer.table
    tile = table.accelerator.query_tile_rows
    op = cores.gqa("fp8", 64, kv_heads, head_dim, REQUESTS, REQUESTS * CONTEXT, tile)
    curve, own = table.serving(op)
    assert not own
    assert curve is not None
    near = replace(op, key=curve.key)
    assert table.serving(near) == (curve, True)
    found = table.timed(op)
    assert found.usage_ns[1] == found.ns.sum()
    # No look-up beats the memory of the card.
    assert (found.ns >= op.bytes / float(table.accelerator.hbm_bytes_per_s) * 1e9 - 1).all()


def test_half_the_layers_with_windows_take_less_than_all_without() -> None:
    deployment = site()
    mixed = [timed(deployment, name, CONTEXT).ns[0] for name in ("sliding", "full")]
    assert mixed[0] < mixed[1] / 2
