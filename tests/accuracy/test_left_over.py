"""What is left of predictions: fitted to rows with errors of a known law, and what is refused."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

from sim.doubt.interval import Doubt
from sim.doubt.residual import COLUMNS, LEVELS, WIDEST, LeftOver, Level
from sim.doubt.spread import StepSpread
from sim.experiments.accuracy import intervals
from sim.experiments.accuracy.points import OperatingPoint, read_points
from sim.experiments.accuracy.setup import Setup
from sim.experiments.accuracy.verdict import Judged, Prediction
from sim.foundation.errors import ScenarioError
from tests.measured_points import ROW, written

SURE = StepSpread(np.ones(64))
PREDICTED_MS = 30.0


@pytest.fixture
def point(tmp_path: Path) -> OperatingPoint:
    return read_points(written(tmp_path / "p.csv", ROW | {"framework": "vllm"}))[0]


def judged(
    point: OperatingPoint, profile: str, errors: Sequence[float], spread: StepSpread = SURE
) -> list[Judged]:
    """Return rows of a profile whose measurements are exp(error) times what is predicted."""
    prediction = Prediction(PREDICTED_MS, PREDICTED_MS, 1.0, spread)
    rows = []
    for number, error in enumerate(errors):
        row = replace(
            point,
            id=f"{profile}-{number}",
            framework=f"{profile} {number % 4}",
            measured_tpot_ms=PREDICTED_MS * math.exp(error),
        )
        rows.append(Judged(Setup(row, {"software": profile}, "", (), ()), prediction, ""))
    return rows


def normal(seed: int, count: int, sd: float) -> list[float]:
    return [float(each) for each in np.random.default_rng(seed).normal(0, sd, count)]


def left_of(rows: Sequence[Judged]) -> dict[str, LeftOver]:
    return {each.group: each for each in intervals.fitted(rows)}


def covered(left: LeftOver, level: Level, sd: float) -> float:
    """Return how often an interval holds errors of a normal law."""
    low, high = Doubt(SURE, left).interval(level)
    law = NormalDist(0, sd)
    return law.cdf(math.log(high)) - law.cdf(math.log(low))


def test_rows_with_a_known_law_are_covered_at_their_level(point: OperatingPoint) -> None:
    fits = [left_of(judged(point, "vllm", normal(seed, 60, 0.1)))["vllm"] for seed in range(40)]
    # Nothing is declared: what is left is the law itself, and needs no factor.
    assert np.mean([fit.log_sd for fit in fits]) == pytest.approx(0.1, abs=0.003)
    assert np.mean([fit.factor_80 for fit in fits]) == pytest.approx(1, abs=0.05)
    for level in LEVELS:
        shares = [covered(fit, level, 0.1) for fit in fits]
        # In the mean over fits of n rows: from the level to 1 / (n + 1) above it.
        assert np.mean(shares) == pytest.approx(level / 100 + 0.5 / 61, abs=0.02)


def test_declared_doubt_as_large_as_errors_leaves_nothing(point: OperatingPoint) -> None:
    spread = StepSpread(np.exp(normal(3, 4000, 0.1)))
    fitted = left_of(judged(point, "vllm", normal(4, 400, 0.1), spread))["vllm"]
    assert fitted.log_sd < 0.03
    assert fitted.factor_80 == pytest.approx(1, abs=0.12)


@pytest.mark.parametrize(("level", "of"), [(80, 17), (90, 19)])
def test_the_factor_is_the_order_statistic(point: OperatingPoint, level: int, of: int) -> None:
    """Of 20 rows the ⌈21 · 0.8⌉ = 17th and the ⌈21 · 0.9⌉ = 19th smallest error over width."""
    errors = [0.01 * (1 + n) * (-1) ** n for n in range(20)]
    fitted = left_of(judged(point, "vllm", errors[::-1]))["vllm"]
    z = {80: 1.2815515655446004, 90: 1.6448536269514722}[level]
    factor = fitted.factor_80 if level == 80 else fitted.factor_90
    assert factor * z * fitted.log_sd == pytest.approx(0.01 * of)


def test_few_rows_take_the_widest_and_a_wider_profile_sets_it(point: OperatingPoint) -> None:
    many, few = normal(5, 40, 0.05), [0.4] * (intervals.LEAST_ROWS - 1)
    wide = judged(point, "sglang", [5 * error for error in many])
    found = left_of([*judged(point, "vllm", many), *wide, *judged(point, "trtllm", few)])
    assert set(found) == {"vllm", "sglang", WIDEST}
    assert found[WIDEST].factor_80 == found["sglang"].factor_80 > found["vllm"].factor_80
    assert found[WIDEST].rows == 2 * len(many) + len(few)


def test_what_rows_of_one_engine_and_card_share(point: OperatingPoint) -> None:
    """Four engines, each off by its own: all of the variance is common. Apart: nothing is."""
    common = [(-1) ** (n % 4 // 2) * 0.1 for n in range(40)]
    rows = judged(point, "vllm", common)
    models = [
        replace(row, setup=replace(row.setup, point=replace(row.point, model=f"m{n % 4}")))
        for n, row in enumerate(rows)
    ]
    assert left_of(models)["vllm"].shared == pytest.approx(1)
    assert left_of(judged(point, "vllm", normal(6, 400, 0.1)))["vllm"].shared < 0.05


def test_too_few_rows_of_every_profile_are_an_error_with_a_remedy(point: OperatingPoint) -> None:
    rows = judged(point, "vllm", [0.1] * (intervals.LEAST_ROWS - 1))
    with pytest.raises(ScenarioError, match=r"intervals need 20 predicted rows .* leave"):
        intervals.fitted(rows)
    with pytest.raises(ScenarioError, match="give more measured points"):
        intervals.fitted([])


def test_a_group_that_is_left_out_is_not_fitted_to(point: OperatingPoint) -> None:
    """Rows far off are covered by their own fit, and not by that of others."""
    near, far = normal(7, 60, 0.02), [0.5 + error for error in normal(8, 30, 0.02)]
    rows = [*judged(point, "vllm", near), *judged(point, "sglang", far)]
    one_engine = [
        replace(row, setup=replace(row.setup, point=replace(row.point, framework="far")))
        for row in rows[len(near) :]
    ]
    found = {each.value: each for each in intervals.cross_validated(rows[: len(near)] + one_engine)}
    assert found["far"].covered_90 == 0
    assert found["far"].rows == len(far)
    assert found[""].rows == len(rows)
    assert found["vllm 0"].covered_90 > 0.5


def test_the_table_is_written_as_it_is_read(point: OperatingPoint, tmp_path: Path) -> None:
    left = intervals.fitted(judged(point, "vllm", normal(9, 50, 0.1)))
    intervals.write(tmp_path / "r.csv", left)
    comment, *lines = (tmp_path / "r.csv").read_text(encoding="utf-8").splitlines()
    assert comment.startswith("# ")
    header, *rows = csv.reader(lines)
    assert tuple(header) == COLUMNS
    assert [row[0] for row in rows] == ["vllm", WIDEST]
    assert float(rows[0][4]) == pytest.approx(left[0].factor_80, rel=1e-3)
