"""The CSV of a table holds what was fitted, and says where it is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sim.foundation.errors import CalibrationError
from sim.kernels import table_file
from sim.kernels.curve import Curve

AXES = (("m", np.array([1.0, 2.0, 8.0])), ("n", np.array([512.0, 4096.0])))


def curve(**changes: object) -> Curve:
    fields: dict[str, object] = {
        "op": "gemm",
        "kernel": "dense",
        "dtype": "bf16",
        "key": "",
        "overhead_us": 3.5,
        "e_c": 0.8,
        "e_m": 0.9,
        "p": 3.0,
        "source": "somewhere, (12)",
        "licence": "MIT",
        "points": 12,
        "mape": 0.05,
        "p90": 0.1,
        "most_work": 64.0,
        "axes": AXES,
        "residual": np.array([[0.01, -0.02], [0.0, 0.3], [-0.1, 0.002]]),
    }
    return Curve(**(fields | changes))  # type: ignore[arg-type]  # one dict for several types


@given(
    arrays(np.float64, (3, 2), elements=st.integers(-900, 900).map(lambda value: value / 1000)),
    st.floats(0, 500),
    st.floats(0.01, 1),
)
def test_what_is_written_is_read(residual: np.ndarray, overhead_us: float, e_c: float) -> None:
    overhead_us, e_c = (float(f"{value:.5g}") for value in (overhead_us, e_c))
    made = curve(residual=residual, overhead_us=overhead_us, e_c=e_c)
    text = table_file.dump([made, curve(key="other", axes=(), residual=np.zeros(()))])
    found = table_file.parse(text, "card.csv")
    assert [one.identity for one in found] == [made.identity, ("gemm", "dense", "bf16", "other")]
    assert np.array_equal(found[0].residual, residual)
    assert (found[0].overhead_us, found[0].e_c) == (overhead_us, e_c)
    assert found[0].source == made.source
    assert table_file.dump(found) == text


def test_a_file_gives_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "card.csv"
    table_file.write([curve()], path)
    curves, sha256 = table_file.read(path)
    assert len(curves) == 1
    assert len(sha256) == 64
    assert [file.name for file in tmp_path.iterdir()] == ["card.csv"]


LINES = table_file.dump([curve()]).splitlines()


@pytest.mark.parametrize(
    ("line", "old", "new", "place", "message"),
    [
        (0, "calibration 2", "calibration 1", ":1:", "the first line should be"),
        (1, "kernel", "kernal", ":2:", "the columns should be"),
        (2, ",fit,", ",fitt,", ":3:", "field should be one of fit, error"),
        (2, "e_c=0.8", "e_c=1.8", ":3:", "they should lie in"),
        (2, "e_c=0.8", "e_c=fast", ":3:", "should give overhead_us, e_c"),
        (4, '"somewhere, (12)"', "", ":5:", "needs a source"),
        (5, "1 2 8", "1 8 2", ":6:", "should be positive and ascend"),
        (7, "10 0 -100", "10 0", ":8:", "should hold 3 residuals"),
        (7, "10 0 -100", "10 0 nan", ":8:", "should hold numbers"),
        (7, "10 0 -100", "10 0 -10001", ":8:", "from -10000 to 10000"),
        (8, "residual", "error", ":3:", "needs one error row"),
        (2, ",fit,", ",", ":3:", "should have 7 columns"),
    ],
)
def test_a_wrong_line_is_named(
    tmp_path: Path, line: int, old: str, new: str, place: str, message: str
) -> None:
    assert old in LINES[line]
    lines = [*LINES]
    lines[line] = lines[line].replace(old, new)
    path = tmp_path / "card.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(CalibrationError, match=message) as caught:
        table_file.read(path)
    assert f"{path}{place}" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="cannot be read"):
        table_file.read(tmp_path / "absent.csv")
