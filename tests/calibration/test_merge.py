"""A fit is merged into a table: what was measured anew replaces its curve, the others stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from sim.calibration.merge import Change, changes, merge, narrower
from sim.cli.calibrate import app
from sim.kernels.curve import Curve
from sim.kernels.table_file import dump, read
from tests import made_measurements

OLD = Curve(
    op="gemm",
    kernel="dense",
    dtype="bf16",
    key="",
    overhead_us=5.0,
    e_c=0.8,
    e_m=0.8,
    p=4.0,
    source="a publication (40)",
    licence="MIT",
    points=40,
    mape=0.01,
    p90=0.02,
    axes=(("m", np.array([1.0, 4096.0])),),
    residual=np.zeros(2),
)
NEW = replace(OLD, source="afdsim:measure (9)", points=9, axes=(("m", np.array([1.0, 512.0])),))
OTHER = replace(OLD, kernel="blockwise", dtype="fp8")
MOE = replace(NEW, op="moe", kernel="fused", key="h7168")


def test_what_was_measured_anew_replaces_its_curve_alone() -> None:
    merged = merge([OTHER, OLD], [NEW, MOE])
    assert merged == (OTHER, NEW, MOE)
    assert changes([OTHER, OLD], merged) == [
        Change("replaced", "gemm", "dense", "bf16", 1, 40, 9),
        Change("added", "moe", "fused", "bf16", 1, 0, 9),
        Change("kept", "gemm", "", "", 1, 40, 40),
    ]
    assert narrower([OTHER, OLD], merged) == ["gemm dense bf16: m 1 to 512 (was 1 to 4096)"]
    assert narrower([NEW], merge([NEW], [OLD])) == []


def test_another_cards_kernels_replace_no_measured_ones() -> None:
    derived = replace(NEW, source="derived from h100-sxm: x (9)")
    newer = replace(derived, points=12)
    assert merge([OLD], [derived]) == (OLD,)
    assert merge([derived], [newer]) == (newer,)
    assert merge([derived], [OLD]) == (OLD,)


def fit(out: Path, files: list[Path], *options: str) -> str:
    words = ["fit", *map(str, files), "--accelerator", "h100-sxm", "--out", str(out), *options]
    result = CliRunner().invoke(app, words)
    assert result.exception is None, result.stderr
    return result.stderr


def test_fit_merges_unless_it_is_told_to_replace(tmp_path: Path) -> None:
    gemm, attention = (
        made_measurements.gemm(tmp_path / "g.csv"),
        made_measurements.attention(tmp_path / "a.csv"),
    )
    table = tmp_path / "folder" / "h100-sxm.csv"
    fit(table, [attention], "--replace")
    before = read(table)[0]
    assert {curve.op for curve in before} == {"attention_gqa"}
    said = fit(table, [gemm])
    after = read(table)[0]
    assert dump([curve for curve in after if curve.op == "attention_gqa"]) == dump(before)
    assert {curve.op for curve in after} == {"attention_gqa", "gemm"}
    assert [line.split()[0] for line in said.splitlines()[1:3]] == ["added", "kept"]
    fit(table, [gemm], "--replace")
    assert {curve.op for curve in read(table)[0]} == {"gemm"}
    assert [path.name for path in table.parent.iterdir()] == ["h100-sxm.csv"]


def test_where_there_is_no_table_the_cards_own_is_merged_with(tmp_path: Path) -> None:
    table = tmp_path / "h100-sxm.csv"
    fit(table, [made_measurements.gemm(tmp_path / "g.csv")])
    assert {"moe", "a2a_dispatch", "gemm"} <= {curve.op for curve in read(table)[0]}


@pytest.mark.parametrize(
    ("header", "row", "why"),
    [
        ("gpu,dtype,m,n,k,latency_us,source", "h100_sxm,bfloat16,16,4096,7168,24,x", "too few"),
        (
            "gpu,layout,groups,m_per_group,n,k,dtype,latency_us,source",
            "h100_sxm,masked,8,64,4096,7168,fp8_block,102,x",
            "no measurement is of",
        ),
    ],
)
def test_measurements_that_give_no_curve_change_nothing(
    tmp_path: Path, header: str, row: str, why: str
) -> None:
    path = made_measurements.written(tmp_path / "rows.csv", [header, row])
    table = tmp_path / "h100-sxm.csv"
    words = ["fit", str(path), "--accelerator", "h100-sxm", "--out", str(table)]
    result = CliRunner().invoke(app, words)
    assert why in str(result.exception)
    assert not table.exists()
