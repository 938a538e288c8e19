"""Speculation in the scheduler: tokens are conserved, KV is kept to, and draws follow requests."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.decoding.run import simulate
from sim.decoding.scheduler import Scheduler
from sim.decoding.step_table import at_once, requests_of
from sim.foundation.units import NS_PER_S
from sim.inputs.admission import Admission, Recompute, Watermark
from sim.inputs.speculation import Speculation
from sim.metrics import summary
from sim.metrics.requests import tokens_between
from tests import tiny
from tests.scripted_schedulers import open_loop
from tests.strategies.requests import Arrival, arrivals

few = settings(max_examples=80, deadline=None)
shapes = st.tuples(st.integers(1, 4), st.integers(1, 4))
AT_ONCE = Recompute.model_validate(
    {"kind": "recompute", "tokens_per_s": {"value": NS_PER_S, "source": "test"}}
)
POLICIES = {
    "reserve": Admission(),
    "watermark": Admission(kv=Watermark(kind="watermark", share=1.0, preemption=AT_ONCE)),
}


@st.composite
def speculations(draw: st.DrawFn) -> Speculation:
    p = draw(st.lists(st.sampled_from((0.0, 0.4, 0.9, 1.0)), min_size=1, max_size=4))
    law = {"kind": "by_position", "p": [{"value": each, "source": "test"} for each in p]}
    described = {"drafts": len(p), "draft_layer": None, "acceptance": law}
    return Speculation.model_validate(described)


def tokens_of(scheduler: Scheduler) -> dict[int, int]:
    """Return the tokens that requests in flight have emitted so far, by request."""
    found: dict[int, int] = {}
    for batch in scheduler.micro_batches:
        prompt = scheduler.columns(batch.request)["prompt"]
        found |= dict(zip(batch.request.tolist(), (batch.contexts - prompt).tolist(), strict=True))
    return found


@few
@given(arrivals(), shapes, st.integers(60, 120), speculations(), st.sampled_from(sorted(POLICIES)))
def test_every_token_is_emitted_once(
    script: list[Arrival],
    shape: tuple[int, int],
    capacity: int,
    speculation: Speculation,
    policy: str,
) -> None:
    scheduler = open_loop(
        script, *shape, capacity, admission=POLICIES[policy], speculation=speculation
    )
    now, left = 0, Counter[int]()
    emitted = 0
    for _ in range(400):
        for j in range(len(scheduler.micro_batches)):
            batch = scheduler.micro_batches[j]
            before, held = tokens_of(scheduler), len(batch)
            mine = batch.request.tolist()
            seen = scheduler.emit(j, now)
            assert seen.requests == held
            assert held <= seen.tokens <= held * speculation.positions
            assert 0 <= seen.at_once <= seen.continuing * speculation.drafts
            emitted += seen.tokens
            left.update(seen.finished.tolist())
            after = tokens_of(scheduler)
            for request in mine:
                if request in after:
                    assert 1 <= after[request] - before[request] <= speculation.positions
            scheduler.admit(j, now)
            assert (scheduler.used_bytes <= capacity).all()
            assert (scheduler.used_bytes >= scheduler.kv_bytes()).all()
            for each in scheduler.micro_batches:
                on_gpu = np.bincount(each.gpu, each.contexts, scheduler.gpus)
                assert each.ctx.tolist() == on_gpu.tolist()
            now += 10
        if sum(left.values()) == len(script):
            break
    assert left == Counter(range(len(script)))
    assert emitted == sum(one.output for one in script)
    assert (scheduler.used_bytes == 0).all()


@few
@given(arrivals(), shapes, speculations())
def test_what_is_accepted_does_not_depend_on_where(
    script: list[Arrival], shape: tuple[int, int], speculation: Speculation
) -> None:
    """The steps that a request takes are its own: deployments are compared on like draws."""

    def steps(gpus: int, m: int) -> dict[int, int]:
        scheduler = open_loop(script, gpus, m, speculation=speculation)
        taken, now = Counter[int](), 0
        for _ in range(400):
            for j in range(m):
                taken.update(scheduler.micro_batches[j].request.tolist())
                scheduler.emit(j, now)
                scheduler.admit(j, now)
                now += 10
        return taken

    assert steps(1, 1) == steps(*shape)


DRAFTED = (
    "speculation={drafts: 3, draft_layer: {attention: swa, ffn: moe}, "
    "acceptance: {kind: constant, p: {value: 0.7, source: test}}}"
)
VARIED = "workload.lengths.output={kind: geometric, mean: 30, max_tokens: 200}"
POISSON = "workload.arrivals={kind: poisson, requests_per_s: 2500, requests: 300}"


@pytest.mark.parametrize("base", ["step3-2a2f", "dsv3-ep128"])
@pytest.mark.parametrize("arrivals", [None, POISSON])
def test_repeated_draws_are_those_of_the_run(
    tiny_model: Path, base: str, arrivals: str | None
) -> None:
    run = simulate(tiny.load(tiny_model, base, DRAFTED, VARIED, *([arrivals] if arrivals else [])))
    for j in range(run.program.micro_batches):
        rows = run.steps["micro_batch"] == j
        mine, ends = run.requests["micro_batch"] == j, run.steps["end_ns"][rows]
        every = run.steps["tokens"][rows]
        for first, last in ((0, len(ends)), (0, 7), (5, 6), (9, 17)):
            steps = np.full(mine.sum(), first), np.full(mine.sum(), last)
            assert tokens_between(run, mine, ends, *steps).sum() == every[first:last].sum()


@pytest.mark.parametrize("base", ["step3-2a2f", "dsv3-ep128"])
def test_tpot_is_that_of_tokens(tiny_model: Path, base: str) -> None:
    run = simulate(tiny.load(tiny_model, base, DRAFTED, VARIED, POISSON))
    figures = summary.summary(run)
    tokens, requests = run.steps["tokens"], requests_of(run.steps)
    assert run.requests["tokens_in_run"].sum() == tokens.sum()
    assert run.requests["tokens_in_run"].tolist() == run.requests["output_tokens"].tolist()
    assert (at_once(run.steps) <= tokens - requests).all()
    gap_ns = run.steps["end_ns"] - run.steps["previous_end_ns"]
    after = run.steps["continuing"] + at_once(run.steps)
    mean_ns = (gap_ns * run.steps["continuing"])[after > 0].sum() / after.sum()
    spent_ns = run.requests["last_token_ns"] - run.requests["first_token_ns"]
    # All gaps between tokens, but those within the first step of a request.
    first = run.requests["tokens_in_run"].sum() - after.sum()
    assert spent_ns.sum() / (tokens.sum() - first) == pytest.approx(mean_ns)
    assert figures["itl_ms_p50"] == 0
    assert 1 < figures["tokens_per_step"] < 4


def test_outputs_of_one_step_have_no_tpot_to_miss(tiny_model: Path) -> None:
    law = "{kind: constant, p: {value: 1, source: test}}"
    drafted = f"speculation={{drafts: 3, draft_layer: null, acceptance: {law}}}"
    short = "workload.lengths.output={kind: fixed, tokens: 4}"
    run = simulate(
        tiny.load(tiny_model, "step3-2a2f", drafted, short, POISSON, "slo.tpot_ms=0.000001")
    )
    figures = summary.summary(run)
    assert figures["tpot_ms_mean"] is None
    assert figures["slo_attainment"] == 1
    assert figures["slo_met"]
    assert figures["goodput_tgs"] == pytest.approx(figures["tgs"])
