"""Prediction intervals in pictures: where bands run, what a measurement is held against, words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.pictures import intervals, pareto_figure, sweep_page
from sim.sweeps.points import Row
from sim.sweeps.sweep import Published
from tests.pictures.test_report import REFUSED, row


def sure(point: int, tpot_ms: float, batch: float, low: float, high: float, **others: Any) -> Row:
    """Return a point at a batch whose step may be shorter by `low` and longer by `high`."""
    tgs = 1e3 * batch / tpot_ms
    ends = {
        "tpot_ms_p10": tpot_ms * low,
        "tpot_ms_p90": tpot_ms * high,
        "tgs_p10": tgs / high,
        "tgs_p90": tgs / low,
    }
    return row(point, tpot_ms, tgs, **ends, **others)


ROWS = [sure(0, 20, 20, 0.8, 1.25), sure(1, 25, 50, 0.5, 1.25), REFUSED]


def published(tgs: float, tpot_ms: float, **others: Any) -> Published:
    return Published(label="there", tpot_ms=tpot_ms, tgs=tgs, source="here", **others)


def test_both_ends_of_a_point_lie_on_its_line_through_the_origin() -> None:
    for point in ROWS[:2]:
        batch = point["tgs"] / point["tokens_per_s_per_user"]
        for tgs, tpot_ms in (("tgs_p10", "tpot_ms_p90"), ("tgs_p90", "tpot_ms_p10")):
            assert point[tgs] * point[tpot_ms] / 1e3 == pytest.approx(batch)


def test_a_band_runs_from_the_front_of_low_ends_to_that_of_high_ends() -> None:
    # High ends are 1250 at 62.5 and 4000 at 80: the second beats the first. Low ends are 800 at 40
    # and 1600 at 32: both are on the front, with a corner between.
    outline = intervals.outline(ROWS)
    corners = [(80, 4000), (40, 800), (32, 800), (32, 1600), (80, 4000)]
    np.testing.assert_allclose(outline, corners)
    assert intervals.outline([row(0, 20, 1000), REFUSED]) == []


def test_without_doubt_a_band_is_its_front() -> None:
    certain = [sure(0, 20, 20, 1, 1), sure(1, 25, 50, 1, 1)]
    corners = [(40, 2000), (40, 1000), (50, 1000)]
    band = [*corners, *corners[::-1], corners[0]]
    np.testing.assert_allclose(intervals.outline(certain), band)


def test_a_measurement_is_held_against_its_family_at_its_batch() -> None:
    # 1400 tokens/s/GPU at 25 ms are 35 requests, halfway between 20 and 50.
    found = intervals.held(published(1400, 25, family="one"), ROWS)
    assert found is not None
    assert found == pytest.approx((35, (800 + 1600) / 2, 1500, (1250 + 4000) / 2))
    assert [y / x for x, y in found.places()] == pytest.approx([35] * 3)
    said = intervals.judged(published(1400, 25, family="one"), found)
    assert said == (
        "measured 1,400 tokens/s/GPU, predicted 1,500 at the same batch of 35 requests a GPU "
        "(80 %: 1,200 to 2,620). The measurement lies inside the interval."
    )


@pytest.mark.parametrize(
    ("tgs", "where"),
    [
        *((1150, "below"), (1199, "at the lower end of"), (1250, "inside")),
        *((2626, "at the upper end of"), (2700, "above")),
    ],
)
def test_a_measurement_is_placed_beside_the_ends(tgs: float, where: str) -> None:
    point = published(tgs, 35e3 / tgs, family="one")
    found = intervals.held(point, ROWS)
    assert found is not None
    assert f"lies {where} the interval" in intervals.judged(point, found)


def test_the_best_shape_counts_unless_one_is_named() -> None:
    other = sure(2, 20, 50, 0.8, 1.25, shape="2A1F")
    best, named = (
        intervals.held(published(2000, 25, family="one", shape=shape), [*ROWS, other])
        for shape in (None, "1A1F")
    )
    assert best is not None
    assert named is not None
    assert (best.predicted, named.predicted) == pytest.approx((2500, 2000))


@pytest.mark.parametrize(
    "point",
    [
        published(1400, 25),
        published(1400, 25, family="two"),
        published(1400, 25, family="one", shape="9A9F"),
        published(2100, 25, family="one"),
        published(760, 25, family="one"),
    ],
    ids=["no family", "no figures", "no such shape", "a larger batch", "a smaller batch"],
)
def test_nothing_is_held_against_a_measurement_that_was_not_simulated(point: Published) -> None:
    assert intervals.held(point, ROWS) is None
    assert intervals.held(point, [row(0, 20, 1000)]) is None


def test_few_bands_are_shown_and_of_many_those_measured() -> None:
    assert intervals.first_shown(["a", "b", "c"], []) == {"a", "b", "c"}
    measured = [published(1, 1, family="b"), published(1, 1), published(1, 1, family="x")]
    assert intervals.first_shown(["a", "b", "c", "d"], measured) == {"b"}
    many = [sure(n, 20, 20, 0.8, 1.25, family=f"family {n}") for n in range(4)]
    keys = [[key for key, _ in intervals.choices(rows, [])] for rows in (ROWS, many)]
    assert keys == [["all", "none"], ["none", "all"]]
    measured = [published(1000, 20, family="family 0")]
    assert [key for key, _ in intervals.choices(many, measured)] == ["first", "all", "none"]
    figure = pareto_figure.pareto_figure(many, measured)
    bands = [(one.legendgroup, one.visible) for one in figure.data if one.meta and one.fill]
    assert bands == [(f"family {n}", n == 0) for n in range(4)]


def test_sentences_say_how_sure_the_page_is_and_where_measurements_lie() -> None:
    first, second = intervals.sentences(ROWS, [published(1400, 25, family="one")])
    # Ends of 0.8 and 1.25 times the throughput of one, of 0.8 and 2 times that of the other.
    assert "from −20 to +62 % of the throughput" in first
    assert second.startswith("there: measured 1,400 tokens/s/GPU")
    assert list(intervals.sentences([row(0, 20, 1000), REFUSED], [])) == []


def test_picture_and_page_have_intervals(tmp_path: Path) -> None:
    figure = pareto_figure.pareto_figure(ROWS, [published(1400, 25, family="one")])
    assert intervals.ends(ROWS[1]) == "1,600 to 4,000"
    assert intervals.ends({**ROWS[1], "status": "refused"}) == "–"
    (bar,) = (one for one in figure.data if (one.name or "").startswith("predicted for there"))
    assert list(bar.y) == pytest.approx([1200, 1500, 2625])
    source = sweep_page.Source("s", ROWS, [published(1400, 25, family="one")], {}, {})
    sweep_page.write(tmp_path / "page.html", [source])
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "there: measured 1,400 tokens/s/GPU" in text
    assert '"80 % from"' in text
    assert ">1,600 to 4,000<" in text
    # Two sweeps on one page: families carry the names of their sweeps, measurements with them.
    sweep_page.write(tmp_path / "page.html", [source, source._replace(name="t")])
    assert "there: measured 1,400" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_page_without_intervals_offers_none(tmp_path: Path) -> None:
    source = sweep_page.Source("s", [row(0, 20, 1000)], [published(900, 25, family="one")], {}, {})
    sweep_page.write(tmp_path / "page.html", [source])
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert 'id="intervals"' not in text
    assert "four of five" not in text
