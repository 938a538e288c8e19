"""What afdsim itself measured on an H200 and an H100, against the tables of other laboratories."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from sim.calibration.check import TableCheck, check_tables
from sim.calibration.measurement_files import read
from sim.inputs import cards
from sim.kernels import served

CARDS = ("h200-sxm", "h100-sxm")
FOLDER = Path(__file__).parents[2] / "hardware" / "measured"


def files(card: str) -> list[Path]:
    return sorted((FOLDER / card).glob("*.csv"))


@cache
def checked(card: str) -> tuple[TableCheck, ...]:
    return tuple(check_tables(files(card), by_range=True))


@pytest.mark.parametrize("card", CARDS)
def test_every_row_is_of_a_kernel_that_runs_ask_for(card: str) -> None:
    rows = [row for path in files(card) for row in read(path)]
    assert len(rows) > 1000
    assert {row.gpu for row in rows} == {card}
    assert card in cards.names(cards.ACCELERATORS)
    assert all(served.is_served(row.op, row.kernel, row.dtype) for row in rows)


@pytest.mark.parametrize("card", CARDS)
def test_no_time_is_faster_than_the_cards_peak(card: str) -> None:
    for one in checked(card):
        assert np.all(one.measured_us >= one.peak_us), one


@pytest.mark.parametrize("card", CARDS)
def test_the_same_library_takes_what_other_laboratories_measured(card: str) -> None:
    """BF16 products are the vendor's everywhere: a difference is the laboratories'."""
    inside = [one for one in checked(card) if (one.op, one.dtype) == ("gemm", "bfloat16")]
    inside = [one for one in inside if one.in_range]
    assert sum(one.points for one in inside) > 150
    for one in inside:
        assert one.p50 is not None
        assert one.p50 < 0.06
        assert one.p90 is not None
        assert one.p90 < 0.15


@pytest.mark.parametrize("card", CARDS)
def test_ranges_are_told_apart(card: str) -> None:
    whole = check_tables(files(card))
    assert sum(one.points for one in whole) == sum(one.points for one in checked(card))
    assert sum(one.in_range for one in whole) == sum(one.in_range for one in checked(card))
    assert all(one.in_range in (0, one.points) for one in checked(card))
