"""Fitting finds again the rooflines that made the measurements, and refuses what cannot be."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from sim.calibration import fit
from sim.calibration.measurement_files import read_all
from sim.calibration.measurements import Measurement
from sim.calibration.regression import fit_constants, rising, roofline_us
from sim.cli.calibrate import app
from sim.foundation.errors import CalibrationError, StoreError
from sim.inputs import cards
from sim.kernels.kernel_table import KernelTable
from sim.kernels.table_file import dump, read
from tests import made_measurements

CARD = made_measurements.CARD


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("measurements")
    return [
        made_measurements.gemm(folder / "gemm.csv"),
        made_measurements.attention(folder / "attention.csv"),
        made_measurements.collective(folder / "collective.csv"),
    ]


@pytest.fixture(scope="module")
def rows(files: list[Path]) -> list[Measurement]:
    return read_all(files)


@pytest.fixture(scope="module")
def fitted(rows: list[Measurement]) -> fit.Fit:
    return fit.fit(rows, CARD)


def test_constants_are_found_again() -> None:
    compute, memory = np.geomspace(0.01, 5000, 60), np.geomspace(200, 1, 60)
    true = np.log([7.0, 0.6, 0.9, 2.5])
    found = fit_constants(compute, memory, roofline_us(true, compute, memory))
    assert found == pytest.approx(tuple(np.exp(true)), rel=0.02)


def test_held_out_error_is_near_the_noise(fitted: fit.Fit) -> None:
    for curve in fitted.curves:
        assert curve.mape < 2.5 * made_measurements.NOISE, curve.identity
        assert curve.points > 20
        assert curve.source
    assert {trial.row.op for trial in fitted.trials} == {"gemm", "attention_gqa", "collective"}


def test_gemm_is_held_out_by_whole_shapes(fitted: fit.Fit) -> None:
    shapes = [
        (dict(trial.row.at)["n"], dict(trial.row.at)["k"])
        for trial in fitted.trials
        if trial.row.op == "gemm"
    ]
    counts = {shape: shapes.count(shape) for shape in shapes}
    assert set(counts.values()) == {7}


def test_the_same_measurements_give_the_same_bytes(
    rows: list[Measurement], fitted: fit.Fit
) -> None:
    gemms = [row for row in rows if row.op == "gemm"]
    again = fit.fit(gemms, CARD)
    first = [curve for curve in fitted.curves if curve.op == "gemm"]
    assert dump(again.curves) == dump(first)


def test_a_like_card_fills_what_was_not_measured(rows: list[Measurement]) -> None:
    mine = [replace(row, gpu="h800") for row in rows if row.op == "attention_gqa"]
    other = [row for row in rows if row.op != "gemm"]
    found = fit.fit([*mine, *other], cards.accelerator("h800"), CARD)
    derived = {curve.op for curve in found.curves if curve.source.startswith("derived from")}
    assert derived == {"collective"}
    only = fit.fit(rows, cards.accelerator("h800"), CARD, frozenset({"gemm"}))
    assert {curve.op for curve in only.curves} == {"gemm"}


def test_an_outlier_does_not_move_its_neighbours(rows: list[Measurement]) -> None:
    attention = [row for row in rows if row.op == "attention_gqa"]
    wrong = [replace(attention[12], latency_us=40 * attention[12].latency_us), *attention[13:]]
    group = fit.groups([*attention[:12], *wrong])[0]
    table = KernelTable(CARD, fit.curves_of(group, CARD))
    for kernel, members in group.members:
        errors = np.abs(fit.relative_errors(table, kernel, members))
        assert np.sort(errors)[-2] < 0.15


def test_isotonic_grids_rise_and_stay_near() -> None:
    rng = np.random.default_rng(0)
    grid = np.add.outer(np.arange(6.0), np.arange(5.0)) + rng.normal(0, 0.7, (6, 5))
    least = {axis: np.zeros(grid.shape) for axis in (0, 1)}
    found = rising(grid, least)
    assert (np.diff(found, axis=0) >= -1e-12).all()
    assert (np.diff(found, axis=1) >= -1e-12).all()
    assert np.abs(found - grid).mean() < 0.6


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, CalibrationError):
        return result.exception.exit_code, result.stdout, str(result.exception)
    return result.exit_code, result.stdout, result.stderr


def test_fit_writes_a_table_that_check_finds_good(files: list[Path], tmp_path: Path) -> None:
    table = tmp_path / "h100-sxm.csv"
    where = ("--accelerator", "h100-sxm", "--out", table, "--replace")
    code, out, _ = run("fit", *files, *where, "--json")
    assert code == 0
    assert {record["op"] for record in json.loads(out)} == {"attention_gqa", "collective", "gemm"}
    curves, _ = read(table)
    assert len(curves) == 5
    code, out, _ = run("check", files[0], files[1], "--tables", tmp_path, "--json")
    assert code == 0
    records = json.loads(out)
    what = ["file", "gpu", "op", "dtype", "kernel", "regime", "points", "in_range"]
    assert list(records[0]) == [*what, "mape", "p50", "p90", "bias"]
    assert [(record["file"], record["dtype"], record["regime"]) for record in records] == [
        ("gemm.csv", "bfloat16", ""),
        ("attention.csv", "bfloat16", "hbm"),
    ]
    for record in records:
        assert record["points"] == record["in_range"]
        assert record["mape"] < 2 * made_measurements.NOISE
        assert abs(record["bias"]) < made_measurements.NOISE


def test_check_reports_a_gpu_without_a_table(tmp_path: Path) -> None:
    row = "unheard_of,bfloat16,16,4096,7168,24.4,made"
    path = made_measurements.written(tmp_path / "g.csv", ["gpu,dtype,m,n,k,latency_us,source", row])
    code, out, _ = run("check", path, "--json")
    (record,) = json.loads(out)
    assert code == 0
    assert (record["points"], record["in_range"], record["mape"]) == (1, 0, None)
    assert "–" in run("check", path)[1]


def test_plot_draws_one_page_that_opens_offline(files: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    code, _, _ = run("plot", files[0], "--out", page)
    text = page.read_text(encoding="utf-8")
    assert code == 0
    assert "h100_sxm gemm</h2>" in text
    assert "modelled against measured" in text
    assert "<script src=" not in text


HEADER = "gpu,dtype,m,n,k,latency_us,source"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            ["h100_sxm,bfloat16,16,4096,7168,2.5,made"],
            "rows.csv:2: 2.5 µs is 7.* faster than",
        ),
        (["h100_sxm,bfloat16,16,4096,7168,-2.5,made"], "rows.csv:2: latency_us should be"),
        (["h200_sxm,bfloat16,16,4096,7168,24,made"], "no measurement is of h100-sxm"),
        ([], "rows.csv:1: the file holds no measurements"),
    ],
)
def test_wrong_measurements_leave_the_old_table(
    tmp_path: Path, rows: list[str], message: str
) -> None:
    path = made_measurements.written(tmp_path / "rows.csv", [HEADER, *rows])
    table = tmp_path / "table.csv"
    old = dump(())
    table.write_text(old)
    code, out, error = run("fit", path, "--accelerator", "h100-sxm", "--out", table)
    assert code == 3
    assert out == ""
    assert re.search(message, error)
    assert table.read_text() == old


def test_impossible_points_can_be_left_out(files: list[Path], tmp_path: Path) -> None:
    text = files[0].read_text() + "h100_sxm,bfloat16,16,4096,7168,2.5,made\n"
    path = tmp_path / "gemm.csv"
    path.write_text(text)
    table = tmp_path / "table.csv"
    arguments = ("fit", path, "--accelerator", "h100-sxm", "--out", table)
    assert run(*arguments)[0] == 3
    code, _, error = run(*arguments, "--skip-impossible")
    assert code == 0
    assert "left out" in error
    assert table.is_file()


def test_a_file_that_cannot_be_written_is_told_with_the_exit_code_of_that(
    files: list[Path], tmp_path: Path
) -> None:
    fit = ("fit", *files, "--accelerator", "h100-sxm")
    for command in (("plot", files[0]), fit):
        (tmp_path / "file").write_text("")
        words = [str(word) for word in (*command, "--out", tmp_path / "file/below.csv")]
        error = CliRunner().invoke(app, words).exception
        assert isinstance(error, StoreError)
        assert "below.csv: cannot be written: " in str(error)
        assert str(error).endswith("; make room or choose another --out")


def test_two_files_of_one_kernel_are_told_apart_in_the_legend(
    files: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "again").mkdir()
    again = tmp_path / "again" / f"second-{files[0].name}"
    again.write_text(files[0].read_text(encoding="utf-8"), encoding="utf-8")
    page = tmp_path / "page.html"
    assert run("plot", files[0], again, "--out", page)[0] == 0
    assert f"({again.name})" in page.read_text(encoding="utf-8")
