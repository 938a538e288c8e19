"""Uneven routing in exchanges: everyone waits for the rank with the hottest experts."""

from __future__ import annotations

import numpy as np
import pytest

from sim.deployments import compile_deployment
from sim.deployments.afd import AfdDeployment
from sim.deployments.deployment import Deployment
from sim.deployments.ep import EpDeployment
from sim.inputs import scenario
from sim.kernels import ops
from sim.kernels.hottest_rank import Held, hottest_factor
from sim.variation.expert_loads import visits

SKEWED = "routing={kind: power_law, alpha: 1.01}"
DIRECTIONS = ("dispatch", "combine")


def rows(deployment: Deployment) -> dict[str, int]:
    """Return the slowest time of each stage of a MoE layer, ns."""
    kind = len(deployment.kinds) - 1
    found = deployment.durations(deployment.expected.batch()).rows
    return {stage: int(ns.max()) for (stage, layer), ns in found.items() if layer == kind}


def ep(*overrides: str) -> EpDeployment:
    found = compile_deployment(scenario.load("dsv3-ep128", list(overrides)))
    assert isinstance(found, EpDeployment)
    return found


def exchanged(deployment: EpDeployment, tokens: float, kernel: str = "") -> list[int]:
    """Return dispatch and combine of ranks with `tokens` each, ns."""
    of, table = deployment.ep, deployment.layer_timer.table
    domain = table.accelerator.node.scale_up_domain_gpus
    copies = 256 + of.redundant_experts
    times = []
    for direction, dtype in zip(DIRECTIONS, (of.dispatch_dtype, of.combine_dtype), strict=True):
        shape = of.gpus, domain, tokens, 7168, 8, copies
        op = ops.a2a(direction, dtype, *shape, kernel)  # type: ignore[arg-type]
        times.append(int(table.timed(op).ns.max()))
    return times


@pytest.mark.parametrize("kind", ["balanced", "uniform"])
def test_even_routing_has_the_measured_times(kind: str) -> None:
    deployment = ep(f"routing={{kind: {kind}}}")
    tokens = int(deployment.expected.batch().requests.max())
    found = rows(deployment)
    if kind == "uniform":
        assert [found[direction] for direction in DIRECTIONS] == exchanged(deployment, tokens)
    assert deployment.layer_timer.load == kind


def test_deepep_sends_the_hottest_rank_every_pair() -> None:
    deployment = ep(SKEWED)
    tokens = int(deployment.expected.batch().requests.max())
    total, copies, ranks = tokens * 128, 256, 128
    hot = hottest_factor("power_law_1.01", total, Held(copies, ranks), 8)
    beyond = hot / hottest_factor("uniform", total, Held(copies, ranks), 8)
    assert beyond > 2
    found = rows(deployment)
    assert [found[direction] for direction in DIRECTIONS] == exchanged(deployment, tokens * beyond)


def test_a_kernel_that_sends_a_token_once_meets_fewer() -> None:
    """Of 16 ranks a token visits 6 or 7: the hottest cannot be visited more than by all."""
    wide = ("deployment.accelerator=gb200", "deployment.gpus=16", "slo.tpot_ms=99")
    deployment = ep(SKEWED, *wide, "software=ideal")
    tokens = int(deployment.expected.batch().requests.max())
    hot = hottest_factor("power_law_1.01", tokens * 16, Held(256, 16), 8)
    beyond = hot / hottest_factor("uniform", tokens * 16, Held(256, 16), 8)
    places = np.array([beyond, *[(16 - beyond) / 15] * 15])
    ratio = visits(places, 256, 8)[0] / visits(np.ones(16), 256, 8)[0]
    assert 1 < ratio < beyond
    found = rows(deployment)
    assert [found[direction] for direction in DIRECTIONS] == exchanged(deployment, tokens * ratio)


def test_an_engine_names_deepep_for_masked_experts() -> None:
    wide = ("deployment.accelerator=gb200", "deployment.gpus=16", "slo.tpot_ms=99")
    deployment = ep("routing={kind: uniform}", *wide, "software=vllm")
    tokens = int(deployment.expected.batch().requests.max())
    found = rows(deployment)
    times = [found[direction] for direction in DIRECTIONS]
    assert times == exchanged(deployment, tokens, "deepep_ll")
    assert times != exchanged(deployment, tokens)


def test_an_ffn_instance_with_the_hottest_experts_sets_the_links_of_afd() -> None:
    """The attention side sends as much as under even routing, to other places."""
    load = "workload.arrivals={kind: closed, requests_per_gpu: 32}"
    even, skewed = (
        compile_deployment(scenario.load("dsv3-afd-gb200", [load, *more]))
        for more in ((), (SKEWED,))
    )
    assert isinstance(skewed, AfdDeployment)
    total = int(skewed.expected.batch().requests.sum())
    hot = hottest_factor("power_law_1.01", total, Held(256, 32), 8)
    beyond = hot / hottest_factor("uniform", total, Held(256, 32), 8)
    places = np.array([beyond, *[(32 - beyond) / 31] * 31])
    ratio = visits(places, 256, 8)[0] / visits(np.ones(32), 256, 8)[0]
    before, after = rows(even), rows(skewed)
    for stage in ("a2f_in", "f2a"):
        assert after[stage] == pytest.approx(ratio * before[stage], rel=1e-4)
    for stage in ("a2f", "f2a_in"):
        assert after[stage] == before[stage]
