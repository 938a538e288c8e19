"""Noise: means of 1, more of it never faster, and one section's draws apart from another's."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from sim.decoding.run import Run, simulate
from sim.decoding.step_times import DrawnTimes, left_out
from sim.deployments import compile_deployment
from sim.deployments.afd import ring as afd_ring
from sim.deployments.deployment import Deployment
from sim.engines.program import Program, Times
from sim.foundation.streams import stream
from sim.foundation.units import NS_PER_MS
from sim.inputs import scenario
from sim.inputs.noise import Law, Noise, ServerKind
from sim.metrics.steady_summary import steady_summary
from sim.metrics.summary import summary
from sim.steady.state import steady_state
from sim.variation.jitter import Jitter
from sim.variation.unfold import unfold
from tests import tiny
from tests.scripted_runs import play, play_boundaries
from tests.strategies.deployments import programs, scripts

TASK_NS = 1_000_000


def given_as(value: float) -> dict[str, Any]:
    return {"value": value, "source": "test"}


def law_of(kind: str, **values: Any) -> Law:
    return TypeAdapter[Law](Law).validate_python({"kind": kind, **values})


def noise_of(**sections: Any) -> Noise:
    return Noise.model_validate(sections)


LAWS: tuple[tuple[Law, float], ...] = (
    (law_of("lognormal", cv=given_as(0.3)), 0.3),
    (law_of("gamma", cv=given_as(0.3)), 0.3),
    (law_of("uniform", spread=given_as(0.3)), 0.3 / 3**0.5),
    (law_of("empirical", factors=[0.5, 1.0, 1.5], source="test"), 0.5 / 3**0.5),
)


@pytest.mark.parametrize(("law", "cv"), LAWS)
def test_factors_have_mean_1_and_the_spread_that_is_stated(law: Law, cv: float) -> None:
    factors = law.draw(stream(0, "test"), (200, 1000))
    error = cv / factors.size**0.5
    assert factors.mean() == pytest.approx(1, abs=4 * error)
    assert factors.std() == pytest.approx(cv, rel=0.02)
    assert factors.min() >= 0


@pytest.mark.parametrize(
    "law",
    [
        law_of("lognormal", cv=given_as(0)),
        law_of("gamma", cv=given_as(0)),
        law_of("uniform", spread=given_as(0)),
    ],
)
def test_no_noise_is_a_factor_of_1(law: Law) -> None:
    assert (law.draw(stream(0, "test"), (5, 7)) == 1).all()


def test_host_tails_have_their_mean() -> None:
    for law in (
        {"kind": "exponential", "mean_us": given_as(300)},
        {"kind": "lognormal", "mean_us": given_as(300), "cv": given_as(1)},
    ):
        tail = noise_of(host=law).host
        assert tail is not None
        drawn = [tail.draw_us(stream(0, "test", i)) for i in range(4000)]
        assert np.mean(drawn) == pytest.approx(300, rel=0.08)
        assert min(drawn) >= 0


def jitter_of(
    noise: Noise,
    program: Program,
    devices: Sequence[dict[ServerKind, int]] | None = None,
    seed: int = 0,
) -> tuple[Jitter, Times]:
    """Return the jitter of a program and its times, all tasks alike."""
    unfolding = unfold(program)
    per_pool = devices or [{pool.kind: 1} for pool in program.pools]
    names = {(stage.name, kind) for stage in program.stages for kind in set(program.layer_kinds)}
    times = program.times(dict.fromkeys(names, TASK_NS), dict.fromkeys(program.delays, 0))
    return Jitter(noise, unfolding, per_pool, seed), unfolding.times(times)


RING = afd_ring.program(afd_ring.Ring((0,) * 30, 3, 4, 2), afd_ring.Lags())


def changed(noise: Noise) -> set[str]:
    """Return the stages of a ring that noise changes in some layer, micro-batch or step."""
    jitter, times = jitter_of(noise, RING)
    unfolding = unfold(RING)
    found = set()
    for step in range(3):
        for micro_batch in range(3):
            applied = jitter.applied(times, micro_batch, step)
            for index, stage in enumerate(RING.stages):
                mine = unfolding.block(applied.values, index)
                if (mine != unfolding.block(times.values, index)).any():
                    found.add(stage.name)
    return found


LAW = {"kind": "lognormal", "cv": given_as(0.1)}


def test_noise_meets_the_servers_that_it_names() -> None:
    compute_a, compute_f = {"attention", "lm_head"}, {"experts"}
    wires_a, wires_f = {"a2f", "f2a_in"}, {"a2f_in", "f2a"}

    def noise(**place: str) -> Noise:
        return noise_of(tasks=[{**place, "law": LAW}])

    assert changed(noise(server="gpu")) == compute_a | compute_f
    assert changed(noise(server="gpu", side="ffn")) == compute_f
    assert changed(noise(server="nic", side="attention")) == wires_a
    assert changed(noise(server="nvlink")) == {"all_gather", "reduce_scatter"}
    assert changed(noise(server="network")) == set()

    def pauses(**place: str) -> Noise:
        often = given_as(1e4)
        return noise_of(
            stalls=[{"rate_per_s": often, "mean_us": often, "duration": "fixed", **place}]
        )

    assert changed(pauses(server="nic")) == wires_a | wires_f
    assert changed(pauses(server="nic", way="in")) == {"a2f_in", "f2a_in"}
    assert changed(pauses(server="nic", way="out", side="ffn")) == {"f2a"}
    assert changed(slow("nic", 1, 2, side="ffn")) == wires_f


def slow(server: str, share: float, factor: float, **place: str) -> Noise:
    figures = {"share": given_as(share), "factor": given_as(factor)}
    return noise_of(slow=[{"server": server, **figures, **place}])


def test_a_server_is_as_slow_as_the_slowest_of_its_devices() -> None:
    noise = noise_of(tasks=[{"server": "gpu", "law": LAW}])
    means = []
    for count in (1, 2, 8):
        devices: list[dict[ServerKind, int]] = [{pool.kind: count} for pool in RING.pools]
        jitter, times = jitter_of(noise, RING, devices)
        drawn = [
            unfold(RING).block(jitter.applied(times, 0, step).values, 0)[:-1] for step in range(30)
        ]
        means.append(float(np.mean(drawn)) / TASK_NS)
    # E max of r normals is 0.564 and 1.424 for r = 2 and 8; the law is nearly normal.
    assert means == pytest.approx([1, 1 + 0.1 * 0.564, 1 + 0.1 * 1.424], abs=0.008)


def test_slow_devices_stay_the_same_and_both_directions_of_a_nic_are_one() -> None:
    jitter, times = jitter_of(slow("nic", 0.4, 3), RING)
    names = [stage.name for stage in RING.stages]
    unfolding = unfold(RING)
    seen = []
    for micro_batch, step in ((0, 0), (1, 0), (2, 7)):
        applied = jitter.applied(times, micro_batch, step).values
        out = unfolding.block(applied, names.index("a2f"))[:-1]
        back = unfolding.block(applied, names.index("f2a_in"))[:-1]
        assert (out == back).all()
        assert set(np.unique(out)) <= {TASK_NS, 3 * TASK_NS}
        seen.append(out)
    assert all((one == seen[0]).all() for one in seen)


def test_a_larger_share_adds_slow_devices_to_those_that_are() -> None:
    def slow_values(share: float) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        program = afd_ring.program(afd_ring.Ring((0,), 1, 64, 8), afd_ring.Lags())
        jitter, times = jitter_of(slow("gpu", share, 2), program)
        return jitter.applied(times, 0, 0).values > TASK_NS

    found = [slow_values(share) for share in (0.0, 0.1, 0.3, 1.0)]
    assert not found[0].any()
    assert all((less <= more).all() for less, more in pairwise(found))
    assert found[1].sum() < found[2].sum()


def test_stalls_come_at_their_rate_and_last_as_long_as_stated() -> None:
    # 30 layers and a tail on 4 GPUs of 1 ms each: 124 ms of attention work a step.
    for duration, spread in (("fixed", 0.0), ("exponential", 1.0)):
        values = {
            "server": "gpu",
            "side": "attention",
            "rate_per_s": given_as(50),
            "mean_us": given_as(200),
            "duration": duration,
        }
        jitter, times = jitter_of(noise_of(stalls=[values]), RING)
        more = np.array(
            [(jitter.applied(times, 0, step).values - times.values) for step in range(400)]
        )
        assert more.min() == 0
        work_s = 400 * 124e-3
        hits = work_s * 50
        # Poisson hits, each of a length with this coefficient of variation.
        error = (hits * (1 + spread**2)) ** 0.5 / hits
        assert more.sum() / 1e9 == pytest.approx(hits * 200e-6, rel=4 * error)
        if duration == "fixed":
            assert set(np.unique(more)) <= {0, 200_000, 400_000, 600_000}


@settings(max_examples=30, deadline=None)
@given(programs(), st.integers(0, 2**32), st.data())
def test_slower_devices_and_stalls_make_no_boundary_earlier(
    program: Program, seed: int, data: st.DataObject
) -> None:
    stall = {
        "server": "nic",
        "rate_per_s": given_as(1e8),
        "mean_us": given_as(0.01),
        "duration": "exponential",
    }
    disturbing = slow("gpu", 0.5, 1.7).model_copy(
        update={"stalls": noise_of(stalls=[stall]).stalls}
    )
    unfolding = unfold(program)
    devices: list[dict[ServerKind, int]] = [{pool.kind: 2} for pool in program.pools]
    jitter = Jitter(disturbing, unfolding, devices, seed)
    script = data.draw(scripts(program))

    def calm(micro_batch: int, step: int) -> Times:
        times = script(micro_batch, step)
        assert isinstance(times, Times)
        return unfolding.times(times)

    def disturbed(micro_batch: int, step: int) -> Times:
        return jitter.applied(calm(micro_batch, step), micro_batch, step)

    folded = play(program, script, 3).boundaries
    before = play_boundaries(unfolding.program, calm, 3)
    after = play_boundaries(unfolding.program, disturbed, 3)
    assert before == folded
    for mine, slowed in zip(before, after, strict=True):
        assert all(a <= b for a, b in zip(mine, slowed, strict=True))


def law(cv: float) -> str:
    return f"law: {{kind: lognormal, cv: {{value: {cv}, source: test}}}}"


def noise(cv: float, *more: str) -> str:
    tasks = ", ".join(f"{{server: {server}, {law(cv)}}}" for server in ("gpu", "nic", "network"))
    return f"noise={{{', '.join([f'tasks: [{tasks}]', *more])}}}"


CLOSED = "workload.arrivals={kind: closed, concurrency: 48}"


def run(model: Path, base: str, *overrides: str) -> Run:
    settings = ["simulation.engine=recurrence", "simulation.min_steps=60", CLOSED]
    return simulate(tiny.load(model, base, *settings, *overrides))


@pytest.mark.parametrize("base", ["step3-2a2f", "dsv3-ep128"])
def test_steps_take_longer_the_more_noise_there_is(tiny_model: Path, base: str) -> None:
    runs = [summary(run(tiny_model, base, noise(cv))) for cv in (0.0, 0.05, 0.1, 0.2)]
    means = [one["tpot_ms_mean"] for one in runs]
    assert all(less < more for less, more in pairwise(means))
    closed = tiny.load(tiny_model, base, CLOSED, noise(0.2))
    bound_ms = float(steady_state(closed).step_ns) / NS_PER_MS
    # The bound takes means: noise lengthens what it finds, within the interval of the run.
    for one in runs:
        assert one["tpot_ms_mean"] + one["tpot_ci95_ms"] >= bound_ms


STEPWISE = "routing={kind: balanced, per_step: {placement: {kind: contiguous}}}"


def test_the_bound_says_what_it_leaves_out(tiny_model: Path) -> None:
    calm = tiny.load(tiny_model, "dsv3-ep128", CLOSED)
    loud = tiny.load(tiny_model, "dsv3-ep128", CLOSED, noise(0.2), STEPWISE)
    assert left_out(calm) == ""
    assert left_out(loud) == (
        "a frozen state takes mean times: noise is left out; experts have their expected load, "
        "without routing.per_step"
    )
    assert steady_summary(steady_state(loud)) == steady_summary(steady_state(calm))


@pytest.mark.parametrize("base", ["step3-2a2f", "dsv3-ep128"])
def test_noise_that_is_none_changes_no_table(tiny_model: Path, base: str) -> None:
    calm, silent = run(tiny_model, base), run(tiny_model, base, noise(0.0))
    for mine, other in ((calm.requests, silent.requests), (calm.steps, silent.steps)):
        assert all((mine[name] == other[name]).all() for name in mine)
    for name, column in calm.layer_ns.items():
        # Layers are added up one by one instead of kind by kind.
        assert silent.layer_ns[name] == pytest.approx(column, rel=1e-12)
    assert (calm.busy_ns == silent.busy_ns).all()
    assert calm.usage_ns == silent.usage_ns


def times_of(site: Deployment) -> Times:
    return DrawnTimes(site).step(site.expected.batch(), 1, 5).times


def test_one_sections_draws_do_not_depend_on_anothers() -> None:
    plain = times_of(compile_deployment(scenario.load("dsv3-ep128", [noise(0.1)])))
    host = "host: {kind: exponential, mean_us: {value: 500, source: test}}"
    more = times_of(compile_deployment(scenario.load("dsv3-ep128", [noise(0.1, host)])))
    assert (plain.values == more.values).all()
    assert more.delays_ns > plain.delays_ns


def test_micro_batches_of_ep_share_one_pass_of_the_host() -> None:
    host = "noise={host: {kind: exponential, mean_us: {value: 500, source: test}}}"
    for base, alike in (("dsv3-ep128", True), ("step3-2a2f", False)):
        site = compile_deployment(scenario.load(base, [host]))
        drawn, batch = DrawnTimes(site), site.expected.batch()
        first, second = (drawn.step(batch, j, 3).times.delays_ns for j in (0, 1))
        assert (first == second) == alike


def test_an_all_to_all_is_as_slow_as_the_slowest_link() -> None:
    figures = "share: {value: 1, source: test}, factor: {value: 2, source: test}"
    for server, gpus, changes in (
        ("nic", 128, True),
        ("nvlink", 128, False),
        ("nvlink", 8, True),
        ("network", 8, True),
    ):
        sets = [
            f"noise={{slow: [{{server: {server}, {figures}}}]}}",
            f"deployment.gpus={gpus}",
            "workload.lengths.prompt.tokens=64",
        ]
        sets += ["workload.arrivals={kind: closed, requests_per_gpu: 8}"]
        sets += ["memory.utilisation=1.0", "deployment.accelerator=h200-sxm"]
        site = compile_deployment(scenario.load("dsv3-ep128", sets))
        stage = [stage.name for stage in site.program.stages].index("dispatch")
        unfolding = unfold(site.program)
        batch = site.expected.batch()
        before = unfolding.block(unfolding.times(site.times(batch)).values, stage)
        after = unfolding.block(DrawnTimes(site).step(batch, 0, 0).times.values, stage)
        assert (after == before * (2 if changes else 1)).all()
