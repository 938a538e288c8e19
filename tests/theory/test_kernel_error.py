"""How far kernel times may be off: the law of a look-up, and tables with one doubtful kind."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from sim.decoding.decoder import Decoder
from sim.decoding.run import decode
from sim.deployments import compile_deployment
from sim.deployments.deployment import Deployment
from sim.doubt.kernels import doubtful_kernels
from sim.inputs import cards
from sim.inputs.scenario import LEAST_STEPS, load
from sim.kernels import kernel_table, ops
from sim.kernels.curve import DERIVED, Curve
from sim.kernels.doubt.doubtful_table import DoubtfulTable, KernelKind
from sim.kernels.doubt.kernel_error import (
    SD_OF_MEAN_ERROR,
    WORK,
    law_of,
    log_sd,
    outside,
    uncalibrated_log_sd,
)
from sim.kernels.kernel_table import KernelTable

SCENARIOS = ("step3-2a2f", "dsv3-ep128")
FP8 = KernelKind("gemm", "blockwise", "fp8")
NOWHERE = KernelKind("gemm", "unheard of", "fp8")

CURVE = Curve(
    *("gemm", "dense", "bf16", ""),
    overhead_us=2.0,
    e_c=0.8,
    e_m=0.9,
    p=3.0,
    source="made",
    licence="",
    points=9,
    mape=0.04,
    p90=0.1,
    most_work=1024.0,
    axes=(("m", np.array([1.0, 1024.0])), ("n", np.array([64.0, 4096.0]))),
    residual=np.zeros((2, 2)),
)


def doubtful(site: Deployment, kind: KernelKind, deviations: float) -> Deployment:
    return site.with_tables(lambda _side, table: DoubtfulTable(table, {kind: deviations}))


def at(m: ArrayLike, n: ArrayLike = 64.0, kernel: str = "dense", dtype: str = "bf16") -> ops.Op:
    """Return a product at coordinates, wherever its rows are padded to."""
    op = ops.gemm(dtype, 1, 64, 64, 1, kernel)
    return replace(op, axes={"m": ops.floats(m), "n": ops.floats(n)})


@given(st.floats(0, 20), st.floats(0, 20))
def test_doubt_grows_with_the_distance(one: float, other: float) -> None:
    distances = np.array(sorted((one, other)))
    for place, sign in ((1024.0, 1), (1.0, -1)):
        op = at(place * 2.0 ** (sign * distances))
        less, more = log_sd(CURVE, op, True)
        assert less <= more <= math.log(10)
        assert outside(CURVE, op.axes)["m"] == pytest.approx(distances, abs=1e-6)


def test_doubt_inside_is_of_the_curve_alone() -> None:
    inside = log_sd(CURVE, at([1, 77, 1024]), True)
    assert inside.shape == (3,)
    assert np.ptp(inside) == 0
    assert log_sd(replace(CURVE, mape=0.01), at(2), True) < inside[0]
    unknown = log_sd(replace(CURVE, mape=np.nan), at(2), True)
    same = replace(CURVE, mape=law_of("gemm").inside / SD_OF_MEAN_ERROR)
    assert unknown == pytest.approx(float(log_sd(same, at(2), True)))
    assert log_sd(replace(CURVE, source=f"{DERIVED}a100-sxm"), at(2), True) > inside[0]


def test_what_a_stand_in_differs_in_decides() -> None:
    law, own = law_of("gemm"), log_sd(CURVE, at(2), True)
    for op, more in (
        (at(2), law.shape),
        (at(2, kernel="rowwise"), law.kernel),
        (at(2, kernel="rowwise", dtype="fp8"), law.format),
    ):
        assert log_sd(CURVE, op, False) == pytest.approx(math.hypot(own, more))


def test_axes_are_independent_and_work_counts_where_it_is_farther() -> None:
    slopes = law_of("gemm").beyond
    own = float(log_sd(CURVE, at(2), True))
    corner = at(1024.0 * 2, 64 / 2)
    far = math.hypot(own, slopes["m"], slopes["n"])
    assert log_sd(CURVE, corner, True) == pytest.approx(max(far, math.hypot(own, slopes["work"])))
    less = replace(CURVE, most_work=2.0)
    assert outside(less, at(8).axes)[WORK] == pytest.approx(2)
    assert log_sd(less, at(8), True) == pytest.approx(math.hypot(own, 2 * slopes["work"]))


def test_no_rows_at_all_are_outside_of_the_range() -> None:
    """One request on many GPUs leaves most of them without."""
    found = log_sd(CURVE, at([0, 1]), True)
    assert np.isfinite(found).all()
    assert found[0] > found[1]


def test_an_op_without_curves_is_as_doubtful_as_can_be() -> None:
    card = cards.accelerator("h100-sxm")
    op = ops.gemm("bf16", 64, 4096, 4096, card.gemm_tile_rows)
    plain, kind = KernelTable(card), KernelKind.of(op)
    slower = DoubtfulTable(plain, {kind: 1.0}).timed(op)
    time_us = plain.timed(op).ns / 1000
    factor = math.exp(float(uncalibrated_log_sd("gemm", time_us)))
    assert slower.ns == pytest.approx(factor * float(plain.timed(op).ns), rel=1e-3)
    # A short launch is off by what a launch takes at least, a long one by its efficiency.
    law = law_of("gemm")
    short, long = uncalibrated_log_sd("gemm", np.array([law.launch, 1e9]))
    assert short == pytest.approx(math.hypot(law.uncalibrated, math.log(2)))
    assert long == pytest.approx(law.uncalibrated)
    nothing = DoubtfulTable(plain, {kind: 1.0}).timed(ops.gemm("bf16", 0, 4096, 4096, 1))
    assert nothing.ns == 0
    # None is faster than the peak, however lucky.
    fastest = DoubtfulTable(plain, {kind: -50.0}).timed(op)
    assert fastest.ns == round(1000 * float(np.maximum(*plain.peak_us(op))))


def test_a_look_up_takes_as_much_longer_as_its_law_says() -> None:
    name = "h100-sxm"
    plain = kernel_table.load(cards.accelerator(name), cards.calibration(name))
    op = ops.gemm("fp8", [1, 100, 1 << 20], 7168, 2048, plain.accelerator.gemm_tile_rows)
    curve, own = plain.serving(op)
    assert curve is not None
    factor = np.exp(2 * log_sd(curve, op, own))
    slower = DoubtfulTable(plain, {FP8: 2.0})
    assert slower.timed(op).ns == pytest.approx(plain.timed(op).ns * factor, abs=3)
    crowded = slower.without_sms(20).timed(op).ns
    assert crowded == pytest.approx(plain.without_sms(20).timed(op).ns * factor, abs=3)
    assert (DoubtfulTable(plain, {NOWHERE: 2.0}).timed(op).ns == plain.timed(op).ns).all()


def ran(site: Deployment) -> dict[str, bytes]:
    decoder = Decoder(site)
    decode(decoder)
    return {name: column.tobytes() for name, column in decoder.steps.columns().items()}


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_doubt_keeps_the_bytes(name: str) -> None:
    steps = {"min_steps": LEAST_STEPS, "max_steps": LEAST_STEPS}
    scenario = load(name, ["simulation.engine=event"])
    scenario = scenario.replaced(simulation=scenario.simulation.replaced(**steps))
    site = compile_deployment(scenario)
    batch = site.expected.batch()
    plain = site.step(batch)
    for what in doubtful_kernels(site, batch):
        step = doubtful(site, what.kind, 0.0).step(batch)
        assert (step.times.values == plain.times.values).all()
        assert (step.usage_ns == plain.usage_ns).all()
    assert ran(doubtful(site, FP8, 0.0)) == ran(site)
    assert ran(doubtful(site, FP8, 1.0)) != ran(site)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_factor_raises_the_stages_that_hold_its_kernels(name: str) -> None:
    site = compile_deployment(load(name, ["software=ideal"]))
    batch = site.expected.batch()
    plain = site.durations(batch).rows
    (core,) = [
        what for what in doubtful_kernels(site, batch) if what.kind.op.startswith("attention_")
    ]
    once, twice = (doubtful(site, core.kind, x).durations(batch).rows for x in (1.0, 2.0))
    for number in range(len(site.kinds)):
        of = site.attended_in(site.kinds[number])
        window, line = site.core_line(of)
        kv_tokens = batch.kv_tokens[window]
        op = line.op(batch.requests, kv_tokens)
        curve, own = site.core_timer.table.serving(op)
        assert curve is not None
        factor = np.exp(log_sd(curve, op, own))
        ns = line.timed(batch.requests, kv_tokens).ns
        stage = site.core_stage, number
        assert once[stage] - plain[stage] == pytest.approx(ns * (factor - 1), abs=2)
        assert twice[stage] - plain[stage] == pytest.approx(ns * (factor**2 - 1), abs=2)
    others = [stage for stage in plain if stage[0] != site.core_stage]
    assert others
    assert all((once[stage] == plain[stage]).all() for stage in others)


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_kind_lengthens_a_step_and_all_are_asked(name: str) -> None:
    site = compile_deployment(load(name))
    batch = site.expected.batch()
    usage = site.durations(batch).usage_ns.sum()
    kinds = doubtful_kernels(site, batch)
    assert FP8 in {what.kind for what in kinds}
    for what, sd in kinds.items():
        assert sd > 0
        assert doubtful(site, what.kind, 1.0).durations(batch).usage_ns.sum() > usage
    assert doubtful(site, NOWHERE, 1.0).durations(batch).usage_ns.sum() == usage
