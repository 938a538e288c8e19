"""Overlap: what runs beside communication takes longer, by pair where a pair has its own figure."""

from __future__ import annotations

import numpy as np
import pytest

from sim.deployments import compile_deployment
from sim.foundation.errors import ScenarioError
from sim.foundation.nanoseconds import Ns
from sim.inputs import scenario
from sim.inputs.deployment import Afd, Ep
from sim.inputs.software import Compute

BESIDE = {"ep": Ep.beside, "afd": Afd.beside}
BASES = {"ep": "dsv3-ep128", "afd": "step3-4a2f-8k"}


def rows(kind: str, every: float, *pairs: tuple[str, str, float]) -> dict[str, Ns]:
    """Return the durations of the most frequent layer by stage."""
    named = ", ".join(
        f"{{compute: {one}, communication: {other}, slowdown: {{value: {by}, source: test}}}}"
        for one, other, by in pairs
    )
    settings = [
        f"software.overlap_slowdown={{value: {every}, source: test}}",
        f"software.overlap_pairs=[{named}]",
    ]
    if kind == "afd":
        settings.append("deployment.attention.o_proj_tp=4")
    site = compile_deployment(scenario.load(BASES[kind], settings))
    found = site.durations(site.expected.batch()).rows
    busiest = site.kinds.index(max(site.kinds, key=site.uses))
    return {stage: ns for (stage, of), ns in found.items() if of == busiest}


@pytest.mark.parametrize("kind", BESIDE)
def test_one_factor_slows_all_that_runs_beside_communication(kind: str) -> None:
    plain, slowed = rows(kind, 1), rows(kind, 1.25)
    for stage, ns in plain.items():
        factor = 1.25 if stage in BESIDE[kind] else 1
        assert slowed[stage].tolist() == np.rint(ns * factor).tolist(), stage


@pytest.mark.parametrize(
    ("kind", "compute"), [(k, c) for k, pairs in BESIDE.items() for c in pairs]
)
def test_a_pair_slows_its_own_stage_alone(kind: str, compute: Compute) -> None:
    beside = BESIDE[kind][compute]
    plain, slowed = rows(kind, 1.25), rows(kind, 1.25, (compute, beside, 2))
    unslowed = rows(kind, 1)
    for stage, ns in plain.items():
        expected = 2 * unslowed[stage] if stage == compute else ns
        assert slowed[stage].tolist() == expected.tolist(), stage


def told(kind: str, *pairs: tuple[str, str, float]) -> str:
    with pytest.raises(ScenarioError) as caught:
        rows(kind, 1, *pairs)
    return "\n".join(caught.value.problems)


def test_pairs_that_never_meet() -> None:
    problem = told("ep", ("attn0", "combine", 1.1))
    assert "attn0 never runs beside combine under ep; pairs are attn0 and dispatch" in problem
    assert "experts never runs beside transfers under ep" in told("ep", ("experts", "transfers", 2))
    assert "attn1 never runs beside combine under afd" in told("afd", ("attn1", "combine", 1.1))


def test_pairs_that_speed_up_or_come_twice() -> None:
    assert "0.9 times? Should be from 1 to 1000 times" in told("ep", ("attn0", "dispatch", 0.9))
    twice = ("attn0", "dispatch", 1.5), ("attn0", "dispatch", 1.1)
    assert "overlap_pairs names attn0 more than once" in told("ep", *twice)
