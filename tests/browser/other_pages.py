"""The other pages under test: an explanation, a study, an accuracy report and a calibration."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sim.calibration.check import TableCheck
from sim.deployments import compile_deployment
from sim.doubt.margin import Margin
from sim.experiments.accuracy.verdict import judge_points
from sim.pictures import accuracy_page, check_page, explain_page, study_page
from sim.steady.state import under_load
from sim.study import cells
from sim.study.cells import Cell
from sim.study.verdicts import JudgedCell
from tests import small_study, tiny
from tests.measured_points import ROW, written


def write(folder: Path, model: Path) -> dict[str, Path]:
    """Write a page of each kind and return them by name."""
    made = {name: folder / f"{name}.html" for name in ("explain", "accuracy", "calibrate")}
    site = compile_deployment(tiny.load(model, "step3-2a2f"))
    state = under_load(site, 96)
    explain_page.write_page(made["explain"], state, ["First <this>.", "Then that."])
    known = ROW | {"weight_format_experts": "fp8", "framework": "sglang"}
    rows = [known, known | {"id": "<two>", "measured_tpot_ms": "40"}]
    accuracy_page.write_page(made["accuracy"], judge_points(written(folder / "p.csv", *rows)), "p")
    check_page.write([_check(f"h200<{n}>") for n in range(2)], made["calibrate"])
    loaded = cells.load(small_study.write(folder))
    judged = [_judged(loaded.cells[0], 0.1), _judged(loaded.cells[1], None)]
    study_page.write(folder, loaded.study, judged, {"afdsim": "0"})
    return made | {"study": folder / "report.html"}


def _check(gpu: str) -> TableCheck:
    measured = np.geomspace(1.0, 1000.0, 20)
    return TableCheck(
        file="made.csv",
        gpu=gpu,
        op="gemm",
        dtype="fp8",
        kernel="made",
        regime="",
        points=20,
        in_range=20,
        mape=0.05,
        p50=0.05,
        p90=0.1,
        bias=0.01,
        measured_us=measured,
        modelled_us=1.05 * measured,
        peak_us=0.6 * measured,
    )


def _judged(cell: Cell, margin: float | None) -> JudgedCell:
    """Return a cell in which the first side leads by a margin; None: it is not finished."""
    nothing = (None, None)
    known = margin is not None
    return JudgedCell(
        cell,
        "AFD" if known else None,
        margin,
        0.01 if known else None,
        None if margin is None else Margin(margin, np.ones(2), {80: 1.0, 90: 1.0}, 0.0, ()),
        (1.0, 0.0) if known else None,
        None,
        nothing,
        nothing,
        ("", ""),
        nothing,
        ((), ()),
        (),
    )
