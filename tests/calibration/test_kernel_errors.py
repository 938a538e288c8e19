"""Errors of look-ups that curves do not reach, found where they are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sim.calibration.errors.__main__ import ErrorFigure, markdown, reduced, shipped, spread, text
from sim.calibration.errors.nodes import Nodes
from sim.calibration.errors.trials import TWINS, ShippedTable, Tried, beyond, borrowed, common
from sim.inputs import cards
from sim.inputs.csv_columns import records
from sim.kernels.curve import Curve
from sim.kernels.doubt.kernel_error import BEYOND, COLUMNS, FILE, WORK

OFF = 0.2
ROWS = np.array([2.0**power for power in range(9)])
MADE = Curve(
    *("gemm", "dense", "bf16", ""),
    overhead_us=3.0,
    e_c=0.7,
    e_m=0.8,
    p=2.0,
    source="made",
    licence="",
    points=100,
    mape=0.05,
    p90=0.1,
    most_work=256.0,
    axes=(
        ("m", ROWS),
        ("n", np.array([1024.0, 4096.0, 16384.0])),
        ("k", np.array([1024.0, 2048.0, 8192.0])),
    ),
    residual=np.zeros((9, 3, 3)),
)
CARD = cards.accelerator("h100-sxm")


def of(*curves: Curve, name: str = "h100-sxm") -> ShippedTable:
    return ShippedTable(cards.accelerator(name), {curve.identity: curve for curve in curves})


def test_a_node_is_its_own_truth() -> None:
    for table in shipped().values():
        for one in {one.curve.op: one for one in table.own}.values():
            assert np.abs(one.log_error(one.curve)).max() == 0
            assert one.measured.any()


def test_a_roofline_goes_on_as_it_began() -> None:
    trials = list(beyond([Nodes.of(MADE, CARD)]))
    assert {trial.axis for trial in trials} == {"m", "n", "k"}
    for trial in trials:
        assert np.abs(trial.errors).max() < 0.02, trial.axis


def test_a_bend_past_the_end_is_found() -> None:
    bent = MADE.residual.copy()
    bent[-1] = OFF
    trials = beyond([Nodes.of(replace(MADE, residual=bent), CARD)])
    first = next(trial for trial in trials if trial.axis == "m")
    assert first.kind == BEYOND
    assert first.errors == pytest.approx(-OFF, abs=0.02)


def test_attention_past_the_most_work_of_a_straight_line() -> None:
    table = shipped()["h100-sxm"]
    nodes = next(one for one in table.own if one.curve.op == "attention_gqa")
    errors = np.concatenate([t.errors for t in beyond([nodes]) if t.axis == WORK])
    assert 0 < np.abs(errors).mean() < 0.2


def test_a_stand_in_is_off_by_what_sets_it_apart() -> None:
    slower = replace(MADE, kernel="rowwise", residual=MADE.residual + OFF)
    trials = list(borrowed(of(MADE, slower)))
    assert {trial.kind for trial in trials} == {"kernel"}
    for trial, sign in zip(trials, (1, -1), strict=True):
        assert trial.errors == pytest.approx(sign * OFF, abs=1e-6)
    other = replace(slower, kernel="blockwise", dtype="fp8")
    assert {trial.kind for trial in borrowed(of(MADE, other))} == {"format"}


def test_twins_share_what_differs_in_the_mean() -> None:
    name, other = next(iter(TWINS))
    slower = replace(MADE, residual=MADE.residual + OFF)
    none = {card: of(name=card) for pair in TWINS for card in pair}
    (trial,) = common({**none, name: of(MADE, name=name), other: of(slower, name=other)})
    assert trial.errors == pytest.approx(OFF / np.sqrt(2), rel=1e-3)
    derived = replace(slower, source=f"derived from {name}")
    assert not list(common({**none, name: of(MADE, name=name), other: of(derived, name=other)}))


def test_a_known_spread_is_recovered() -> None:
    rng = np.random.default_rng(1)
    errors = [rng.normal(0, 0.1, 400) for _ in range(20)]
    assert spread(errors) == pytest.approx(0.1, rel=0.03)
    rows = reduced(Tried("gemm", "shape", "", each) for each in errors)
    own = next(row for row in rows if (row.op, row.kind) == ("gemm", "shape"))
    assert (own.points, own.curves) == (8000, 20)
    assert own.value == pytest.approx(0.1, rel=0.03)


def test_an_op_with_few_curves_takes_the_figure_of_all() -> None:
    few = [Tried("a", "shape", "", np.array([1.0]))]
    many = [Tried("b", "shape", "", np.array([0.1]))] * 6
    rows = reduced([*few, *many])
    assert {row.op for row in rows if row.kind == "shape"} == {"any", "b"}


def test_the_page_shows_the_shipped_figures() -> None:
    path = cards.doubt(FILE)
    assert path is not None
    rows = [row for _, row in records(path.read_text().splitlines()) if row]
    assert tuple(rows[0]) == COLUMNS
    figures = [
        ErrorFigure(op, kind, axis, float(value), int(points), int(curves))
        for op, kind, axis, value, points, curves in rows[1:]
    ]
    assert text(figures) == path.read_text()
    page = Path(__file__).parents[2] / "docs" / "calibration.md"
    assert markdown(figures) in page.read_text()
