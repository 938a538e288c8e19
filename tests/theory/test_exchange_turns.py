"""Turns: an exchange that takes so many tokens of a rank at once, as vLLM's behind DeepEP."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from sim.deployments import compile_deployment
from sim.deployments.batch import Batch
from sim.deployments.ep import EpDeployment
from sim.deployments.exchange import between
from sim.foundation.nanoseconds import Ns
from sim.inputs import scenario
from sim.inputs.model import MoeFfn
from sim.variation.expert_loads import Loads

TURNS = "software.tokens_per_exchange={value: 64, source: test}"
STAGES = ("dispatch", "experts", "combine")


def ep(*settings: str) -> EpDeployment:
    found = compile_deployment(scenario.load("dsv3-ep128", settings))
    assert isinstance(found, EpDeployment)
    return found


def stages(site: EpDeployment, each: Ns) -> dict[str, Ns]:
    """Return the stages of a MoE layer with `each` requests on the GPUs."""
    windows = {None, *site.layout.bytes_per_token}
    rows = site.durations(Batch(each, dict.fromkeys(windows, each * 1000))).rows
    return {stage: rows[stage, len(site.kinds) - 1] for stage in STAGES}


def test_without_a_limit_all_tokens_go_at_once() -> None:
    each = np.full(128, 200)
    plain, unlimited = stages(ep(), each), stages(ep(TURNS.replace("64", "200")), each)
    assert {name: ns.tolist() for name, ns in plain.items()} == {
        name: ns.tolist() for name, ns in unlimited.items()
    }


def test_more_tokens_go_in_turns() -> None:
    each = np.full(128, 96)
    found = stages(ep(TURNS), each)
    first, second = (stages(ep(), np.full(128, tokens)) for tokens in (64, 32))
    for stage in STAGES:
        assert found[stage].tolist() == (first[stage] + second[stage]).tolist()


def test_kernels_that_gather_or_exchange_themselves_have_no_turns() -> None:
    fused = "deployment.moe_kernel=fused"
    each = np.full(128, 96)
    with_limit, without = stages(ep(TURNS, fused), each), stages(ep(fused), each)
    assert with_limit["experts"].tolist() == without["experts"].tolist()


def test_turns_hold_all_tokens() -> None:
    rng = np.random.default_rng(0)
    loads = rng.integers(0, 500, (3, 8, 4))
    most = np.array([loads.sum(axis=-1).max()])
    edges = [np.minimum(most, 64 * turn) for turn in range(int(most[0]) // 64 + 2)]
    parts = [between(loads, most, *turn) for turn in pairwise(edges)]
    assert np.sum(parts, axis=0).tolist() == loads.tolist()
    assert min(part.min() for part in parts) >= 0


def test_drawn_loads_go_in_turns_as_well() -> None:
    site = ep(TURNS, "routing={kind: uniform, per_step: {placement: {kind: contiguous}}}")
    ffn = site.model.ffn["moe"]
    assert isinstance(ffn, MoeFfn)
    even = 96 * 8 * 128 // 256
    loads = Loads(np.full((2, 128, 2), even), np.zeros(128, dtype=np.int64))
    found = site.routed(ffn, np.full(128, 96), loads)
    plain = ep("routing={kind: uniform, per_step: {placement: {kind: contiguous}}}")
    for stage in STAGES:
        whole = plain.routed(ffn, np.full(128, 96), loads)[stage].ns
        assert (found[stage].ns > whole).all()
