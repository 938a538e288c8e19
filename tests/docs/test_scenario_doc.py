from pathlib import Path

import pytest

from sim.cli.reference import PAGES

DOCS = Path(__file__).resolve().parents[2] / "docs"
FILES = {"scenario": "scenario.md", "model": "model-card.md", "hardware": "hardware-card.md"}


@pytest.mark.parametrize("name", PAGES)
def test_the_committed_page_is_what_the_schema_says(name: str) -> None:
    remedy = f"write it again: python -m sim.cli.reference {name} > docs/{FILES[name]}"
    assert (DOCS / FILES[name]).read_text(encoding="utf-8") == PAGES[name](), remedy


@pytest.mark.parametrize(
    ("name", "variants"),
    [
        ("scenario", {"Afd", "Ep", "ClosedLoop", "Poisson", "Axis"}),
        ("model", {"Gqa", "Mla", "Dsa", "MoeFfn", "LayerGroup", "Checkpoint"}),
        ("hardware", {"ServerCard"}),
    ],
)
def test_every_variant_has_a_section_of_its_own(name: str, variants: set[str]) -> None:
    headings = [line for line in PAGES[name]().splitlines() if line.startswith("### ")]
    assert len(headings) == len(set(headings))
    assert {f"### {variant}" for variant in variants} <= set(headings)


@pytest.mark.parametrize("name", ["model", "hardware"])
def test_every_key_of_a_card_has_a_meaning(name: str) -> None:
    keys = [line for line in PAGES[name]().splitlines() if line.startswith("| `")]
    assert keys
    for line in keys:
        _key, _type, _default, meaning, _example = line.strip("|").split(" | ")
        assert meaning.strip(), line
