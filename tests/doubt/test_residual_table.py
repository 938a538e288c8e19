"""Tables of errors: own ones before packaged ones, and every mistake told by file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.doubt.residual import COLUMNS, WIDEST, left_over
from sim.foundation.errors import CalibrationError, ScenarioError
from sim.inputs import cards
from sim.kernels.doubt.kernel_error import law_of

HEAD = ",".join(COLUMNS)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / cards.DOUBT).mkdir(parents=True)
    return tmp_path / cards.DOUBT


def test_a_profile_has_its_own_row_and_others_the_widest(folder: Path) -> None:
    table = f"# why\n{HEAD}\nvllm,30,0.1,0.5,0.8,0.9\n{WIDEST},99,0.1,0.5,1.5,2\n"
    (folder / "residuals.csv").write_text(table, encoding="utf-8")
    assert left_over("vllm").factor_80 == 0.8
    assert left_over("vllm").rows == 30
    for other in ("sglang", None, ""):
        assert left_over(other).factor(90) == 2
    # A table that has changed is read again.
    (folder / "residuals.csv").write_text(table.replace("0.8", "0.81"), encoding="utf-8")
    assert left_over("vllm").factor_80 == 0.81


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("vllm,30,-0.1,0.5,1,1", r"residuals\.csv:2: should hold numbers from 0 on"),
        ("vllm,30,0.1,1.5,1,1", r"residuals\.csv:2: should hold numbers .* shared at most 1"),
        ("vllm,many,0.1,0.5,1,1", r"residuals\.csv:2: should hold numbers"),
        ("vllm,30,nan,0.5,1,1", r"residuals\.csv:2: should hold numbers"),
        ("vllm,30,3,0.5,1,1", r"residuals\.csv:2: should hold .* log_sd at most 2\.3"),
        ("vllm,30,0.1,0.5,1,1e30", r"residuals\.csv:2: should hold .* factors at most 100"),
        ("vllm,30,0.1,0.5,1", r"residuals\.csv:2: should have 6 columns \(got 5\)"),
        ("vllm,30,0.1,0.5,1,1", r"residuals\.csv: needs a row of the group any"),
    ],
)
def test_a_damaged_residual_is_told(folder: Path, rows: str, told: str) -> None:
    (folder / "residuals.csv").write_text(f"{HEAD}\n{rows}\n", encoding="utf-8")
    with pytest.raises((ScenarioError, CalibrationError), match=told) as caught:
        left_over("vllm")
    assert caught.value.exit_code == 3


def test_a_header_without_a_column_is_told(folder: Path) -> None:
    (folder / "residuals.csv").write_text("group,rows\nany,3\n", encoding="utf-8")
    with pytest.raises(ScenarioError, match=r"residuals\.csv:1: the header should name"):
        left_over("vllm")


def kernel_errors(folder: Path, old: str, new: str) -> Path:
    text = (cards.packaged(cards.DOUBT) / "kernel-errors.csv").read_text(encoding="utf-8")
    assert old in text
    (folder / "kernel-errors.csv").write_text(text.replace(old, new, 1), encoding="utf-8")
    return folder / "kernel-errors.csv"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("any,inside,", "any,within,", r"kernel-errors\.csv:\d+: should have a kind"),
        ("any,inside,,0.", "any,inside,,-0.", r"kernel-errors\.csv:\d+: should have a kind"),
        ("any,inside,,0.", "any,inside,,x0.", r"kernel-errors\.csv:\d+: should have a kind"),
        ("any,inside,,0.", "any,inside,,9999999.", r"kernel-errors\.csv:\d+: .* to 1,000,000"),
        ("op,kind,", "op,kinds,", r"kernel-errors\.csv:2: the header should name"),
        ("any,inside,", "gemm,inside,", r"kernel-errors\.csv: any should have the kinds"),
    ],
)
def test_a_damaged_law_of_kernels_is_told(folder: Path, old: str, new: str, told: str) -> None:
    kernel_errors(folder, old, new)
    with pytest.raises((ScenarioError, CalibrationError), match=told) as caught:
        law_of("gemm")
    assert caught.value.exit_code == 3


def test_an_own_law_of_kernels_counts_and_is_read_again(folder: Path) -> None:
    packaged = law_of("no such op")
    kernel_errors(folder, "any,common,,0.", "any,common,,9.")
    assert law_of("no such op").common == packaged.common + 9
    kernel_errors(folder, "any,common,,0.", "any,common,,19.")
    assert law_of("no such op").common == packaged.common + 19
