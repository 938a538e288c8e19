"""The TPOT of a whole scenario is the closed form of its stage times; the same every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim.decoding.run import Run, simulate
from sim.deployments import compile_deployment
from sim.deployments.batch import Batch
from sim.deployments.deployment import Deployment
from sim.engines.program import Program, Times
from sim.foundation.units import NS_PER_MS
from sim.metrics import summary
from tests import tiny
from tests.oracles import (
    EpTimes,
    Floats,
    RingTimes,
    eigenvalue,
    in_sequence_ns,
    ring_matrix,
    two_batch_matrix,
)

VARIED = (
    "workload.lengths.prompt={kind: lognormal, mean: 300, cv: 1.0, max_tokens: 4000}",
    "workload.lengths.output={kind: geometric, mean: 30, max_tokens: 200}",
)


class Stages:
    """The durations of a program by stage name, layer by layer."""

    def __init__(self, program: Program, times: Times) -> None:
        self.program, self.times = program, times
        self.index = {stage.name: i for i, stage in enumerate(program.stages)}
        self.delay = dict(zip(program.delays, times.delays_ns, strict=True))

    def layers(self, name: str) -> Floats:
        kinds = self.program.layer_kinds[:-1]
        return np.array([self._row(name, kind) for kind in kinds])

    def tail(self) -> Floats:
        return self._row("lm_head", self.program.layer_kinds[-1])

    def _row(self, name: str, kind: int) -> Floats:
        slot = self.program.slot(self.index[name], kind)
        return self.times.rows[slot].astype(np.float64)


def even_batch(site: Deployment, requests: int) -> Batch:
    each = np.full(site.attention_gpus, requests)
    return Batch(each, {None: 120 * each, tiny.WINDOW: tiny.WINDOW * each})


def heads_ahead(program: Program) -> int:
    """Return how many more LM heads than one a GPU runs before its next step: those it has run
    before the period of its attention ends."""
    tail = len(program.layer_kinds) - 1
    return sum(program.nodes[n].layer == tail and offset == 0 for n, offset in program.orders[0])


def expected_ns(site: Deployment, requests_per_gpu: int) -> float:
    program = site.program
    stages = Stages(program, site.times(even_batch(site, requests_per_gpu)))
    if "network" in [pool.name for pool in program.pools]:
        return _ep_ns(stages, program.micro_batches)
    ring = RingTimes(
        attention=stages.layers("attention"),
        a2f=stages.layers("a2f"),
        a2f_in=stages.layers("a2f_in"),
        all_gather=stages.layers("all_gather"),
        experts=stages.layers("experts"),
        reduce_scatter=stages.layers("reduce_scatter"),
        f2a=stages.layers("f2a"),
        f2a_in=stages.layers("f2a_in"),
        lm_head=stages.tail(),
        link=stages.delay["link"],
        host=stages.delay["host"],
    )
    return float(eigenvalue(ring_matrix(ring, program.micro_batches, heads_ahead(program))))


def _ep_ns(stages: Stages, micro_batches: int) -> float:
    t = EpTimes(
        attn0=stages.layers("attn0"),
        attn1=stages.layers("attn1"),
        shared=stages.layers("shared"),
        experts=stages.layers("experts"),
        dispatch=stages.layers("dispatch")[:, 0],
        combine=stages.layers("combine")[:, 0],
        lm_head=stages.tail(),
        host=stages.delay["host"],
    )
    return float(eigenvalue(two_batch_matrix(t))) if micro_batches == 2 else in_sequence_ns(t)


@pytest.mark.parametrize(
    ("base", "setting", "micro_batches"),
    [
        ("step3-2a2f", "deployment.micro_batches=1", 1),
        ("step3-2a2f", "deployment.micro_batches=2", 2),
        ("step3-2a2f", "deployment.micro_batches=3", 3),
        ("dsv3-ep128", "deployment.overlap=none", 1),
        ("dsv3-ep128", "deployment.overlap=two_batch", 2),
    ],
)
def test_tpot_is_the_closed_form(
    base: str, setting: str, micro_batches: int, tiny_model: Path
) -> None:
    scenario = tiny.load(tiny_model, base, setting)
    run = simulate(scenario)
    site = compile_deployment(scenario)
    step_ns = expected_ns(site, 24 // site.attention_gpus // micro_batches)
    figures = summary.summary(run)
    assert figures["tpot_ms_mean"] * NS_PER_MS == pytest.approx(step_ns, rel=1e-12)
    # All requests are in flight all the time, on all GPUs of the deployment.
    tgs = 24 / step_ns * 1e9 / scenario.gpu_count()
    assert figures["tgs"] == pytest.approx(tgs, rel=1e-9)
    assert figures["tokens_per_s_per_user"] == pytest.approx(1e9 / step_ns, rel=1e-9)


def everything(run: Run) -> dict[str, bytes]:
    """Return all tables of a run as bytes."""
    tables = {**run.steps, **run.requests, **run.layer_ns, "busy": run.busy_ns}
    return {name: np.asarray(column).tobytes() for name, column in tables.items()}


@pytest.mark.parametrize("base", ["step3-2a2f", "dsv3-ep128"])
@pytest.mark.parametrize(
    "arrivals",
    ["{kind: closed, concurrency: 24}", "{kind: poisson, requests_per_s: 800, requests: 60}"],
)
def test_the_same_scenario_and_seed_give_the_same_bytes(
    base: str, arrivals: str, tiny_model: Path
) -> None:
    setting = f"workload.arrivals={arrivals}"
    first, again, other = (
        simulate(tiny.load(tiny_model, base, *VARIED, setting, f"simulation.seed={seed}"))
        for seed in (5, 5, 6)
    )
    assert everything(first) == everything(again)
    assert summary.summary(first) == summary.summary(again)
    assert everything(first) != everything(other)
