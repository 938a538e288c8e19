"""The site is made without a warning, holds every page, and asks no other server for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = re.compile(
    r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the site; a warning of the maker is an error."""
    if find_spec("material") is None:
        pytest.skip("mkdocs-material is not installed: make docs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir"]
    done = subprocess.run(
        [*command, str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_of_the_project_is_there(site: Path) -> None:
    pages = [*ROOT.glob("docs/*.md"), ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]
    missing = [page.name for page in pages if not (site / f"{page.stem}.html").is_file()]
    assert not missing
    assert "Should this model decode" in (site / "index.html").read_text(encoding="utf-8")


def test_nothing_is_asked_of_another_server(site: Path) -> None:
    asked = {
        found
        for page in site.rglob("*.html")
        for found in ELSEWHERE.findall(page.read_text(encoding="utf-8"))
    }
    assert not asked


def test_files_that_pages_link_to_come_along(site: Path) -> None:
    (site / "404.html").unlink(missing_ok=True)  # a server's, which knows the root of the site
    for page in site.rglob("*.html"):
        for target in re.findall(r'(?:href|src)="([^"#]+)', page.read_text(encoding="utf-8")):
            if re.match(r"[a-z]+:", target) is None:
                assert (page.parent / target).exists(), (page.name, target)


def test_cells_of_the_script_are_a_page(site: Path) -> None:
    page = (site / "python-api.html").read_text(encoding="utf-8")
    assert "What limits it, and how sure that is" in page
    assert "# %%" not in page
