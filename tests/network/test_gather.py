"""EP that gathers tokens: bytes of both collectives by hand, and groups that cannot."""

from __future__ import annotations

import pytest

from sim.decoding.step_times import DrawnTimes
from sim.deployments import compile_deployment
from sim.deployments.ep import EpDeployment
from sim.engines.bound import BoundEngine
from sim.foundation.errors import InfeasibleError
from sim.inputs import scenario
from sim.kernels import ops

GATHER = ("deployment.exchange=gather", "deployment.dispatch_dtype=bf16")
HIDDEN, RANKS = 7168, 8


def made(*overrides: str) -> EpDeployment:
    found = compile_deployment(scenario.load("dsv3-ep8-h200", [*GATHER, *overrides]))
    assert isinstance(found, EpDeployment)
    return found


@pytest.mark.parametrize("dtype", ["bf16", "fp8", "nvfp4"])
def test_both_collectives_move_all_tokens(dtype: str) -> None:
    deployment = made(f"deployment.dispatch_dtype={dtype}")
    batch = deployment.expected.batch()
    tokens = int(batch.requests.max())
    each = {
        "bf16": 2 * HIDDEN,
        "fp8": HIDDEN + 4 * HIDDEN // 128,
        "nvfp4": HIDDEN * 9 // 16,
    }[dtype]
    moved = "bf16" if dtype == "bf16" else "int8"
    table = deployment.layer_timer.table
    there = table.timed(ops.collective("all_gather", moved, RANKS, RANKS * tokens * each))
    back = table.timed(ops.collective("reduce_scatter", "bf16", RANKS, RANKS * tokens * 2 * HIDDEN))
    rows = deployment.durations(batch).rows
    moe = len(deployment.kinds) - 1
    assert rows["dispatch", moe].ravel().tolist() == there.ns.ravel().tolist()
    assert rows["combine", moe].ravel().tolist() == back.ns.ravel().tolist()


def test_the_step_differs_by_the_exchange_alone() -> None:
    """Without overlap a step is the sum of its stages."""
    steps, sums = [], []
    for exchange in ("gather", "all_to_all"):
        deployment = made(f"deployment.exchange={exchange}")
        step = deployment.step(deployment.expected.batch())
        steps.append(float(BoundEngine(deployment.program).step_ns([step.times])))
        rows = deployment.durations(deployment.expected.batch()).rows
        sums.append(sum(int(rows[stage, 1].max()) for stage in ("dispatch", "combine")))
    moe_layers = 58
    assert steps[0] - steps[1] == moe_layers * (sums[0] - sums[1])


def test_where_tokens_go_does_not_matter() -> None:
    loads = "routing={kind: power_law, alpha: 1.01, per_step: {placement: {kind: contiguous}}}"
    site = made(loads)
    batch = site.expected.batch()
    drawn = DrawnTimes(site)
    drawn.step(batch, 1, 3)
    assert drawn._experts is not None
    ((ffn, _positions, _layers, experts),) = drawn._experts._loads
    timed = site.routed(ffn, batch.requests, experts.drawn(8 * 64, 1, 3))
    even = made().durations(batch).rows
    for stage in ("dispatch", "combine"):
        assert set(timed[stage].ns.ravel().tolist()) == {int(even[stage, 1].max())}
    assert len(set(timed["experts"].ns.ravel().tolist())) > 1


def test_a_group_beyond_the_scale_up_link_is_refused() -> None:
    with pytest.raises(InfeasibleError, match="exchange to all_to_all"):
        made("deployment.gpus=16")
