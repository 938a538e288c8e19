from pathlib import Path

from sim.cli.reference import markdown

PAGE = Path(__file__).resolve().parents[2] / "docs" / "scenario.md"


def test_the_committed_page_is_what_the_schema_says() -> None:
    remedy = "write it again: python -m sim.cli.reference > docs/scenario.md"
    assert PAGE.read_text(encoding="utf-8") == markdown(), remedy


def test_every_variant_has_a_section_of_its_own() -> None:
    headings = [line for line in markdown().splitlines() if line.startswith("### ")]
    assert len(headings) == len(set(headings))
    assert {"### Afd", "### Ep", "### ClosedLoop", "### Poisson", "### Axis"} <= set(headings)
