"""What goes in comes out: tokens, requests in flight, work, KV; and the same again every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.decoding.run import Run, simulate
from sim.engines.program import Program
from sim.metrics import summary
from tests import tiny
from tests.scripted_runs import play, ring
from tests.strategies.deployments import programs, scripts

few = settings(max_examples=40, deadline=None)
BASES = ("step3-2a2f", "dsv3-ep128")
POISSON = "workload.arrivals={kind: poisson, requests_per_s: 800, requests: 200}"
VARIED = (
    "workload.lengths.prompt={kind: lognormal, mean: 300, cv: 1.0, max_tokens: 4000}",
    "workload.lengths.output={kind: geometric, mean: 30, max_tokens: 200}",
)


@pytest.fixture(scope="module", params=[(base, arrivals) for base in BASES for arrivals in (0, 1)])
def run(request: pytest.FixtureRequest, tiny_model: Path) -> Run:
    """Closed and open loops of both deployments with varied lengths."""
    base, is_open = request.param
    overrides = [*VARIED, POISSON] if is_open else [*VARIED, "simulation.min_steps=60"]
    return simulate(tiny.load(tiny_model, base, *overrides))


def is_open(run: Run) -> bool:
    return run.scenario.workload.arrivals.kind == "poisson"


def test_tokens_in_are_tokens_out(run: Run) -> None:
    requests = run.requests
    assert run.steps["tokens"].sum() == requests["tokens_in_run"].sum()
    finished = requests["finished"] == 1
    assert finished.any()
    assert (requests["tokens_in_run"] <= requests["output_tokens"]).all()
    fresh = finished & (requests["arrival_ns"] > 0)
    assert (requests["tokens_in_run"][fresh] == requests["output_tokens"][fresh]).all()
    if is_open(run):
        assert len(requests["request"]) == 200
        assert finished.all()


def test_every_gap_is_seen_by_those_who_had_a_token_before(run: Run) -> None:
    first_tokens = len(run.requests["request"])
    assert run.steps["tokens"].sum() - run.steps["continuing"].sum() == first_tokens


def test_requests_in_flight_are_those_between_admission_and_last_token(run: Run) -> None:
    # Little's law without a tolerance: request·ns by steps are request·ns by requests.
    steps, requests = run.steps, run.requests
    by_steps = (steps["tokens"] * (steps["end_ns"] - steps["start_ns"])).sum()
    by_requests = (requests["last_token_ns"] - requests["admitted_ns"]).sum()
    assert by_steps == by_requests


def test_kv_is_never_over_capacity(run: Run) -> None:
    assert (run.steps["kv_bytes_max"] <= run.kv_capacity_bytes).all()
    assert (run.steps["kv_bytes_mean"] <= run.steps["kv_bytes_max"]).all()


def test_no_server_works_more_than_the_time_there_is(run: Run) -> None:
    # Work that a server began in a step lies between the step's first start and the last end.
    steps = run.steps
    span = steps["end_ns"].max() - steps["start_ns"].min()
    assert (run.busy_ns.sum(axis=0) <= span).all()


def test_littles_law_of_a_closed_loop(tiny_model: Path) -> None:
    for base in BASES:
        figures = summary.summary(simulate(tiny.load(tiny_model, base)))
        rate_per_ms = figures["tgs"] * figures["gpus"] / 1e3
        assert figures["requests_in_flight"] == 24
        assert rate_per_ms * figures["tpot_ms_mean"] == pytest.approx(24, rel=1e-9)


def test_littles_law_of_poisson_arrivals(tiny_model: Path) -> None:
    arrivals = "workload.arrivals={kind: poisson, requests_per_s: 1500, requests: 600}"
    answers = "workload.lengths.output={kind: fixed, tokens: 12}"
    for base in BASES:
        run = simulate(tiny.load(tiny_model, base, arrivals, answers))
        requests, steps = run.requests, run.steps
        # The rate of arrivals times the mean residence is the mean number in the system, over
        # the time from the first arrival to the last token.
        begun, ended = requests["arrival_ns"].min(), requests["last_token_ns"].max()
        rate = len(requests["request"]) / (ended - begun)
        residence_ns = (requests["last_token_ns"] - requests["admitted_ns"]).mean()
        in_flight = (steps["tokens"] * (steps["end_ns"] - steps["start_ns"])).sum()
        assert in_flight / (ended - begun) == pytest.approx(rate * residence_ns, rel=1e-12)
        # The figure is taken after the warm-up, while requests still arrive: count them there.
        measured = summary.measured_steps(run, summary.cut_steps(run))
        first, last = steps["start_ns"][measured].min(), steps["end_ns"][measured].max()
        lived = np.minimum(requests["last_token_ns"], last)
        lived -= np.maximum(requests["admitted_ns"], first)
        counted = np.maximum(lived, 0).sum() / (last - first)
        figure = summary.summary(run)["requests_in_flight"]
        assert figure == pytest.approx(counted, rel=0.02)


@few
@given(programs(), st.data())
def test_busy_time_is_the_time_of_the_tasks(program: Program, data: st.DataObject) -> None:
    script = data.draw(scripts(program))
    timeline = play(program, script, 3)
    for j in range(program.micro_batches):
        for step in range(3):
            times = script(j, step)
            assert not hasattr(times, "until_ns")
            worked = []
            for pool, described in enumerate(program.pools):
                for server in range(described.servers):
                    lane = timeline.by_server().get((pool, server), [])
                    worked.append(
                        sum(
                            r.end_ns - r.start_ns
                            for r in lane
                            if r.step == step and program.nodes[r.node].micro_batch == j
                        )
                    )
            assert program.busy_ns(times).tolist() == worked


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 99), st.integers(0, 99))
def test_busy_of_like_layers_is_layers_times_stage(layers: int, m: int, a: int, f: int) -> None:
    program = ring(layers, m)
    times = program.times({("attention", 0): a, ("experts", 0): f}, {"link": 1, "host": 1})
    busy = dict(zip([pool.name for pool in program.pools], program.busy_ns(times), strict=True))
    # m micro-batches a step: m·L·a and m·L·f.
    assert (m * busy["attention"], m * busy["ffn"]) == (m * layers * a, m * layers * f)
