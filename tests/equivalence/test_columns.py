"""Columns of tables are those that pyarrow makes, which would import pandas to make them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.results.tables import column

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
NUMBERS = st.integers(-9, 9) | st.floats()
KINDS = (st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), TEXTS, NUMBERS, st.nothing())


@given(st.one_of([st.lists(kind | st.none()) for kind in KINDS]))
def test_a_list_becomes_the_same_column(values: list[Any]) -> None:
    try:
        expected = pa.array(values)
    except OverflowError:
        with pytest.raises(OverflowError):
            column(values)
        return
    found = column(values)
    found.validate(full=True)
    assert (found.type, found.null_count) == (expected.type, expected.null_count)
    assert repr(found.to_pylist()) == repr(expected.to_pylist())


@pytest.mark.parametrize("kind", ["bool", "int8", "int64", "uint64", "float32", "float64", "U3"])
@pytest.mark.parametrize("length", [0, 1, 8, 9])
def test_an_array_becomes_the_same_column(kind: str, length: int) -> None:
    values = np.arange(2 * length).astype(kind)
    for each in (values, values[::2], values[::-1]):
        assert column(each).equals(pa.array(each))
