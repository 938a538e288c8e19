"""CSV files of every kind: whatever stands in them is read or told by line, never a traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sim.calibration import measurement_files
from sim.foundation.errors import EXIT_BAD_INPUT, CalibrationError, ScenarioError
from sim.inputs import csv_columns
from sim.inputs.arrivals import Trace
from sim.inputs.lengths import CsvLengths
from sim.inputs.noise import read_factors
from sim.inputs.routing import read_profiles
from sim.inputs.speculation import read_accepted
from sim.kernels import table_file

CALIBRATION = """# afdsim-calibration 2
op,kernel,dtype,key,field,at,values
gemm,dense,bf16,,fit,,overhead_us=3.5 e_c=0.84 e_m=0.89 p=3.5
gemm,dense,bf16,,error,held-out,points=910 mape=nan p90=nan work=8192
gemm,dense,bf16,,source,Apache-2.0,made up
"""


def trace(path: str) -> object:
    return Trace(kind="trace", path=path).read()


def lengths(path: str) -> object:
    return CsvLengths(kind="csv", path=path).read()


# Reader, and a file that it reads; the last row is the one that tests spoil at the mark 7.
KINDS: dict[str, tuple[Callable[[str], object], str]] = {
    "profile": (read_profiles, "layer,expert,share\n0,0,0.5\n0,1,7\n"),
    "factors": (read_factors, "factor\n0.9\n7\n1.1\n"),
    "accepted": (lambda path: read_accepted(path, 9), "accepted\n1\n7\n"),
    "calibration": (
        lambda path: table_file.read(Path(path)),
        CALIBRATION.replace(" p=3.5", " p=7"),
    ),
    "measurements": (
        lambda path: measurement_files.read(Path(path)),
        "gpu,dtype,m,n,k,latency_us,source\nh800,bfloat16,1,2,3,5,here\n"
        "h800,bfloat16,7,2,3,5,here\n",
    ),
    "lengths": (lengths, "prompt_tokens,output_tokens\n1,2\n7,3\n"),
    "trace": (trace, "arrived_at,num_prefill_tokens,num_decode_tokens\n1,2,3\n2,7,9\n"),
}


def told(kind: str, path: Path) -> str:
    with pytest.raises((ScenarioError, CalibrationError)) as caught:
        KINDS[kind][0](str(path))
    assert caught.value.exit_code == EXIT_BAD_INPUT
    assert len(str(caught.value)) < 4000
    return str(caught.value)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def number_of(kind: str) -> int:
    return KINDS[kind][1].partition("7")[0].count("\n") + 1


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_files_as_editors_write_them(kind: str, end: str, tmp_path: Path) -> None:
    read, text = KINDS[kind]
    path = tmp_path / "file.csv"
    path.write_text("\ufeff" + text.replace("\n", end) + end, encoding="utf-8", newline="")
    read(str(path))


@pytest.mark.parametrize(
    "instead", ["²", "١", "7" * 50_000, "1_0", "inf", "nan", "1e999", "", '"', '"7', "\x1b[31m7"]
)
def test_what_is_no_number_is_told_by_line(kind: str, instead: str, tmp_path: Path) -> None:
    if not instead and kind in ("factors", "accepted"):
        pytest.skip("a blank line is no row")
    path = tmp_path / "file.csv"
    path.write_text(KINDS[kind][1].replace("7", instead, 1), encoding="utf-8")
    text = told(kind, path)
    assert f"{path}:{number_of(kind)}: " in text
    assert "\x1b" not in text


def test_a_quote_that_is_never_closed(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    begun = number_of(kind) - 1
    lines = KINDS[kind][1].splitlines()
    lines[begun] = '"' + lines[begun]
    path.write_text("\n".join([*lines, *lines[-1:] * 30_000]))
    assert f"{path}:{begun + 1}: " in told(kind, path)
    lines[begun - 1], lines[begun] = '"' + lines[begun - 1], lines[begun][1:]
    path.write_text("\n".join(lines))
    assert f"{path}:{begun}: " in told(kind, path)


@pytest.mark.parametrize(
    "text", ["", "\n\n", "\ufeff", '"', '""', ",,,", "²", "# x\n", "a;b\n1;2\n"]
)
def test_files_without_a_header(kind: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    path.write_text(text, encoding="utf-8")
    assert told(kind, path).startswith(f"{path}:")


def test_files_with_a_header_alone(kind: str, tmp_path: Path) -> None:
    if kind == "calibration":
        pytest.skip("a table without curves calibrates nothing, and is one")
    path = tmp_path / "file.csv"
    path.write_text(KINDS[kind][1].partition("\n")[0] + "\n")
    assert told(kind, path).startswith(f"{path}:")


def test_rows_of_another_length(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    lines = KINDS[kind][1].splitlines()
    wrong = number_of(kind) - 1
    lines[wrong] += ",8,8"
    path.write_text("\n".join(lines))
    assert f"{path}:{wrong + 1}: " in told(kind, path)


def test_bytes_that_are_no_text(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    for wrong in (b"\0", b"\xff"):
        path.write_bytes(KINDS[kind][1].encode().replace(b"7", wrong, 1))
        assert f"{path}:{number_of(kind)}: cannot be read: byte 0x" in told(kind, path)


def test_no_regular_files(kind: str, tmp_path: Path) -> None:
    for path in (Path("/dev/zero"), tmp_path):
        assert told(kind, path) == f"{path}: cannot be read: it is not a regular file"


def test_files_and_lines_without_end(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    path.write_text(KINDS[kind][1].replace("7", "7" * 2_000_000))
    assert f"{path}:{number_of(kind)}: a line should have at most" in told(kind, path)
    with path.open("r+b") as file:
        file.truncate(10**12)
    assert "bytes; " in told(kind, path)


def test_columns_are_found_in_any_order_and_case(tmp_path: Path) -> None:
    path = tmp_path / "profile.csv"
    path.write_text('Share, "EXPERT" ,note,layer\n"0.5",1.0,"a, b",0\n')
    assert read_profiles(str(path)) == {0: {(0, 1): 0.5}}
    path.write_text("layer,expert,share,Layer\n0,1,1,1\n")
    with pytest.raises(ScenarioError, match=r"profile\.csv:1: the header names layer twice"):
        read_profiles(str(path))


def test_rows_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "factors.csv"
    path.write_text("factor\n1\n1\n1\n")
    monkeypatch.setattr(csv_columns, "_MOST_ROWS", 2)
    with pytest.raises(ScenarioError, match=r"factors\.csv:4: has more than 2 rows; shorten it"):
        read_factors(str(path))
