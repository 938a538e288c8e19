"""The map of a study: cells where they belong, and what was measured there beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim.doubt.margin import Margin
from sim.pictures import study_page
from sim.pictures.verdict_map import verdict_map
from sim.study import cells, published
from sim.study.cells import LoadedStudy
from sim.study.verdicts import JudgedCell
from tests import small_study

MEASURED = """published:
  - {place: {model: Loaded, pace: slow}, what: one, margin: 0.354, source: a page}
  - {place: {model: Loaded, pace: slow}, what: two, margin: -0.02, source: a page}
  - {place: {model: Loaded, pace: slower}, what: three, margin: 0.1, source: a page}
counterfactuals:"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> LoadedStudy:
    folder = tmp_path_factory.mktemp("study")
    return cells.load(small_study.write(folder, ("counterfactuals:", MEASURED)))


def judged(study: LoadedStudy, number: int, margin: float | None, verdict: str) -> JudgedCell:
    nothing = (None, None)
    sure = None if margin is None else Margin(margin, np.ones(2), {80: 1.0, 90: 1.0}, 0.0, ())
    return JudgedCell(
        study.cells[number],
        verdict,
        margin,
        0.01,
        sure,
        None if sure is None else (1.0, 0.0),
        None,
        nothing,
        nothing,
        ("", ""),
        nothing,
        ((), ()),
        (),
    )


def test_a_cell_shows_what_was_measured_in_its_place(study: LoadedStudy) -> None:
    found = [judged(study, 0, -0.1, "EP"), judged(study, 1, 0.05, "AFD")]
    figure = verdict_map(study.study, found)
    (line,) = figure.data[0].text
    assert list(line) == ["EP<br>−10.0 %", "AFD<br>+5.0 %<br>▲ −2 to +35 %"]
    assert "measured +35.4 %: one" in figure.data[0].hovertext[0][1]


def test_cells_that_are_not_studied_are_empty(study: LoadedStudy) -> None:
    figure = verdict_map(study.study, [judged(study, 1, 0.05, "AFD")])
    assert list(figure.data[0].x) == ["slow"]


def test_measured_comparisons_beside_the_study(study: LoadedStudy) -> None:
    found = [judged(study, 0, -0.1, "EP"), judged(study, 1, 0.05, "AFD")]
    rows = published.rows(study.study, found)
    assert [row["agreement"] for row in rows] == ["same side", "other side", "no cell"]
    assert [row["margin"] for row in rows] == [0.05, 0.05, None]
    assert [row["inside_90"] for row in rows] == [False, False, None]
    assert rows[2]["pace"] == "slower"
    alone = judged(study, 1, None, "only AFD")
    assert published.agreement(study.study.published[0], alone) == "one side alone"
    told = study_page.markdown(study.study, found, list(study_page.sections(study.study, found)))
    assert (
        "| Loaded | slow | two | −2.0 % | AFD +5.0 % (+5.0 % to +5.0 %) | other side | no |" in told
    )


def test_a_study_without_measured_comparisons_has_no_table_of_them(tmp_path: Path) -> None:
    loaded = cells.load(small_study.write(tmp_path))
    assert published.rows(loaded.study, []) == []
