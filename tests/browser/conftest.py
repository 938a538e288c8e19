"""A browser without a network, and the pages that it opens."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from sim.pictures import sweep_page
from tests.browser import other_pages, pages

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--window-size=1400,1000", "--host-resolver-rules=MAP * ~NOTFOUND"),
)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    options = ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()


@pytest.fixture(scope="session")
def small_page(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Return the page that `afdsim sweep` writes of a few small scenarios."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "small.yaml").write_text(json.dumps(pages.small_sweep(tiny_model)))
    command = [sys.executable, "-m", "sim.cli", "sweep", "small.yaml", "--out", "made"]
    done = subprocess.run(
        [*command, "--workers", "1"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / "made/report.html"


@pytest.fixture(scope="session")
def large_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a page of 2,000 made-up points."""
    path = tmp_path_factory.mktemp("large") / "report.html"
    sweep_page.write(path, [pages.large_source(2000)])
    return path


@pytest.fixture(scope="session")
def every_page(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, small_page: Path, large_page: Path
) -> dict[str, Path]:
    """Return a page of each kind by name."""
    others = other_pages.write(tmp_path_factory.mktemp("others"), tiny_model)
    return {"sweep": small_page, "large sweep": large_page, **others}


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where pictures of the pages go: the directory SCREENSHOTS, or one that is lost."""
    named = os.environ.get("SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
