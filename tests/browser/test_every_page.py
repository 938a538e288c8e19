"""Every page, wide and narrow, light and dark, on paper and by keyboard. Pictures are kept."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

PAGES = ("sweep", "large sweep", "explain", "study", "accuracy", "calibrate")
PATIENCE_S = 20


@contextmanager
def screen(browser: Chrome, width: int, scheme: str = "light") -> Iterator[None]:
    """Show pages on a screen of a width, to a reader who prefers a colour scheme."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 700}
    preferred = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", preferred)
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def opened(browser: Chrome, path: Path) -> list[Any]:
    """Open a page, scroll to its figures until all are drawn, and return those that are seen."""
    browser.get_log("browser")  # type: ignore[no-untyped-call]
    browser.get("about:blank")
    browser.get(path.as_uri())
    figures = [each for each in browser.find_elements(By.CSS_SELECTOR, ".figure")
               if each.is_displayed()]  # fmt: skip
    for figure in figures:
        browser.execute_script("arguments[0].scrollIntoView()", figure)
        _wait_for(partial(figure.find_elements, By.CSS_SELECTOR, ".plot-container"), browser)
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
    return figures


def _wait_for(met: Callable[[], object], browser: Chrome) -> None:
    WebDriverWait(browser, PATIENCE_S).until(lambda _browser: met())


def keep(browser: Chrome, path: Path) -> None:
    """Keep a picture of a whole page."""
    browser.execute_script("window.scrollTo(0, 0)")
    taken = browser.execute_cdp_cmd(
        "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True}
    )
    path.write_bytes(base64.b64decode(taken["data"]))


def luminance(colour: str) -> float:
    """Return how bright `rgb(…)` is, from 0 to 1."""
    red, green, blue = (int(part) for part in colour.split("(")[1].rstrip(")").split(",")[:3])
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_its_screen_in_both_colour_schemes(
    browser: Chrome,
    every_page: dict[str, Path],
    screenshots: Path,
    name: str,
    width: int,
    scheme: str,
) -> None:
    with screen(browser, width, scheme):
        figures = opened(browser, every_page[name])
        keep(browser, screenshots / f"{name} {width} {scheme}.png")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert all(figure.rect["width"] <= width for figure in figures)
        style = "return getComputedStyle(document.body)[arguments[0]]"
        paper, ink = (
            luminance(browser.execute_script(style, part)) for part in ("backgroundColor", "color")
        )
        assert (paper > ink) == (scheme == "light")
        for figure in figures:
            background = figure.find_element(By.CSS_SELECTOR, ".main-svg")
            shown = luminance(background.value_of_css_property("background-color"))
            assert (shown > 0.5) == (scheme == "light")


@pytest.mark.parametrize("width", [1400, 390])
def test_a_pipeline_has_its_title_over_its_legend(
    browser: Chrome, every_page: dict[str, Path], width: int
) -> None:
    with screen(browser, width):
        (figure,) = opened(browser, every_page["explain"])
        title, legend = (
            figure.find_element(By.CSS_SELECTOR, part).rect for part in (".gtitle", ".legend .bg")
        )
        assert title["y"] + title["height"] <= legend["y"]


@pytest.mark.parametrize("name", PAGES)
def test_paper_is_white_and_complete(
    browser: Chrome, every_page: dict[str, Path], screenshots: Path, name: str
) -> None:
    with screen(browser, 1400, "dark"):
        browser.get(every_page[name].as_uri())
        printed = browser.execute_cdp_cmd(
            "Page.printToPDF", {"preferCSSPageSize": True, "printBackground": True}
        )
        made = base64.b64decode(printed["data"])
        (screenshots / f"{name} on paper.pdf").write_bytes(made)
        assert made.startswith(b"%PDF")
        drawn = browser.execute_script("return drawn.size")
        assert drawn == len(browser.find_elements(By.CSS_SELECTOR, ".figure"))
        # Afterwards the screen is as dark as before.
        paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert luminance(paper) < 0.5


@pytest.mark.parametrize("name", PAGES)
def test_the_keyboard_moves_a_focus_that_is_seen(
    browser: Chrome, every_page: dict[str, Path], name: str
) -> None:
    with screen(browser, 1400):
        opened(browser, every_page[name])
        browser.execute_script("window.scrollTo(0, 0)")
        ActionChains(browser).send_keys(Keys.TAB).perform()
        focused = browser.switch_to.active_element
        assert focused.get_attribute("class") == "skip"
        assert focused.rect["x"] >= 0
        for _ in range(3):
            ActionChains(browser).send_keys(Keys.TAB).perform()
            focused = browser.switch_to.active_element
            if focused.tag_name == "body":
                break
            assert focused.value_of_css_property("outline-style") == "solid"
            assert focused.value_of_css_property("outline-width") == "3px"
