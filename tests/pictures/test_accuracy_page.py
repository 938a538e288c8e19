"""The accuracy page and the tables in a Markdown file: rows as written, and the same twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.experiments.accuracy import rows_file, stages
from sim.experiments.accuracy.verdict import Judged, judge_points
from sim.foundation.errors import StoreError
from sim.pictures import accuracy_page
from tests.measured_points import ROW, written

KNOWN = ROW | {"weight_format_experts": "fp8", "framework": "sglang"}
HOSTILE = "<b>[two]</b>"


@pytest.fixture
def rows(tmp_path: Path) -> list[Judged]:
    other = KNOWN | {"id": HOSTILE, "model": "unheard-of", "framework": ""}
    return judge_points(written(tmp_path / "p.csv", KNOWN, other))


def test_the_page_shows_names_as_written(rows: list[Judged], tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    accuracy_page.write_page(path, rows, HOSTILE)
    text = path.read_text(encoding="utf-8")
    assert HOSTILE not in text
    assert "&lt;b&gt;[two]&lt;/b&gt;" in text
    assert "1 of 2 rows are predicted" in text


def test_the_page_says_how_many_points_lie_inside(rows: list[Judged]) -> None:
    known, measured_ms = rows[0].percentiles_ms, rows[0].point.measured_ms
    assert known is not None
    assert measured_ms is not None
    assert known[1] < (rows[0].predicted_ms or 0) < known[2]
    held = {level: known[n] <= measured_ms <= known[3 - n]
            for n, level in ((1, 80), (0, 90))}  # fmt: skip
    said = accuracy_page.inside(rows)
    assert said.startswith("Of 1 measured points, ")
    for level, inside in held.items():
        assert f"{inside:d} ({100 * inside:.1f} %) lie inside their {level} % intervals" in said
    assert accuracy_page.inside(rows[1:]) == ""


def test_tables_between_marks_are_replaced(rows: list[Judged], tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    marks = ("<!-- accuracy: begin -->", "<!-- accuracy: end -->")
    path.write_text(f"before\n{marks[0]}\nold\n{marks[1]}\nafter\n", encoding="utf-8")
    found = accuracy_page.report_sections(rows)
    accuracy_page.write_between_marks(path, "accuracy", found)
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{marks[0]}\n")
    assert text.endswith(f"\n{marks[1]}\nafter\n")
    assert "old" not in text
    assert "| framework | sglang | 1 | 1 |" in text
    assert "| framework | unknown |" not in text
    accuracy_page.write_between_marks(path, "accuracy", found)
    assert path.read_text(encoding="utf-8") == text
    with pytest.raises(StoreError, match="stages: begin"):
        accuracy_page.write_between_marks(path, "stages", accuracy_page.stage_sections([]))


def test_the_rows_file_holds_every_row(rows: list[Judged], tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    rows_file.write(path, [row.as_dict() for row in rows])
    head, first, second = path.read_text(encoding="utf-8").splitlines()
    assert head.startswith("id,framework,card,model,")
    assert first.startswith("one,sglang,h200,")
    assert "no model card of unheard-of" in second


def test_shipped_stages_are_read() -> None:
    root = Path(__file__).resolve().parents[2]
    assert len(stages.read(root / "results/accuracy/stages.csv")) == 24
