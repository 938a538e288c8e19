"""The page in a real browser, opened as a file, with no network."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from tests.browser import pages

PATIENCE_S = 20
SMALL = 10  # points: 2 x 3 AFD, 3 EP, 1 refused


class Page:
    """A page that is open in the browser."""

    def __init__(self, browser: Chrome, path: Path) -> None:
        self.browser = browser
        self.complaints()  # forget those about the page before
        browser.get(path.as_uri())
        self.wait(lambda: self.all("#pareto .point"))

    def wait(self, met: Callable[[], Any]) -> Any:
        return WebDriverWait(self.browser, PATIENCE_S).until(lambda _browser: met())

    def one(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return self.one(selector).text

    def select(self, name: str, choice: str) -> None:
        Select(self.one(f"#filters [name={name}]")).select_by_visible_text(choice)

    def complaints(self) -> list[dict[str, Any]]:
        """Return what stands in the console, and clear it."""
        found: list[dict[str, Any]] = self.browser.get_log("browser")  # type: ignore[no-untyped-call]
        return found

    def run(self, script: str, *arguments: object) -> Any:
        return self.browser.execute_script(script, *arguments)

    def head(self, label: str) -> WebElement:
        return next(one for one in self.all("#points th button") if one.text == label)

    def cells(self, label: str) -> list[str]:
        """Return what the rows that are shown say under a head."""
        heads = [one.text for one in self.all("#points th button")]
        script = (
            "return [...document.querySelectorAll('#points tbody tr')]"
            ".map(row => row.cells[arguments[0]].textContent)"
        )
        found: list[str] = self.run(script, heads.index(label))
        return found

    def show_all(self) -> None:
        """Show the points that are on no front."""
        self.one("#view [name=all]").click()
        self.wait(lambda: self.run("return document.getElementById('pareto').data[0].visible"))

    def over_point(self, number: int) -> tuple[ActionChains, str]:
        """Move the mouse to a point of the first family; return the mouse and the shape there."""
        point = self.all("#pareto .trace:first-child .point")[number]
        script = "return document.getElementById('pareto').data[0].customdata[arguments[0]][1]"
        mouse = ActionChains(self.browser).move_to_element(point)
        return mouse, self.run(script, number)


@pytest.fixture
def page(browser: Chrome, small_page: Path) -> Page:
    return Page(browser, small_page)


def test_the_page_opens_without_network_or_complaint(page: Page) -> None:
    for figure in page.all(".figure"):
        page.run("arguments[0].scrollIntoView()", figure)
        page.wait(partial(figure.find_elements, By.CSS_SELECTOR, ".plot-container"))
    assert len(page.all(".figure")) == 4  # fronts, costs, two pipelines
    assert len(page.all("#points tbody tr")) == SMALL
    assert page.run("return performance.getEntriesByType('resource').map(one => one.name)") == []
    assert page.complaints() == []


def test_no_figure_offers_to_send_itself_away(page: Page) -> None:
    buttons = [one.get_attribute("data-title") for one in page.all(".modebar-btn")]
    assert "Zoom in" in buttons
    assert not [one for one in buttons if one is None or "Share" in one or "cloud" in one.lower()]


def test_every_simulated_point_is_drawn_once(page: Page) -> None:
    traces = page.run(
        "return document.getElementById('pareto').data"
        ".filter(trace => trace.meta?.role === 'points')"
        ".map(trace => trace.customdata.map(point => point[0]))"
    )
    assert sorted(point for trace in traces for point in trace) == list(range(SMALL - 1))


def test_hover_shows_the_configuration(page: Page) -> None:
    page.show_all()
    mouse, shape = page.over_point(0)
    mouse.perform()
    label = page.wait(lambda: page.all("#pareto .hoverlayer .hovertext"))[0].text
    assert f"AFD {shape}" in label
    for part in ("TPOT ", " ms", " tokens/s/GPU (", " USD per 1M tokens", "24 requests in flight"):
        assert part in label
    text = page.run("return document.getElementById('pareto').data[0].text[0]")
    assert text.count("<br>") <= 5


def test_filters_leave_only_what_they_say(page: Page) -> None:
    assert page.text("#count") == f"{SMALL} of {SMALL} points"
    text = page.one("#filters [name=text]")
    text.send_keys("1a2f 384")
    page.wait(lambda: page.text("#count") == f"1 of {SMALL} points")
    assert page.cells("shape") == ["1A2F"]
    text.send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.DELETE)
    page.wait(lambda: len(page.cells("shape")) == SMALL)
    page.select("family", "EP")
    page.wait(lambda: page.cells("shape") == ["EP4"] * 3)
    page.select("state", "SLO met")
    page.wait(lambda: 0 < len(page.cells("state")) < 3)
    assert set(page.cells("state")) == {"SLO met"}
    page.select("family", "all")
    page.select("state", "refused")
    page.wait(lambda: page.cells("family") == [pages.ODD])
    assert "no NICs" in page.cells("reason")[0]


def test_heads_sort_both_ways_and_keep_the_empty_last(page: Page) -> None:
    for rising in (True, False):
        page.head("tokens/s/GPU").click()
        cells = page.cells("tokens/s/GPU")
        assert cells[-1] == "–"
        values = [float(cell.replace(",", "")) for cell in cells[:-1]]
        assert values == sorted(values, reverse=not rising)
        assert len(set(values)) > 1
    page.head("family").click()
    families = page.cells("family")
    assert families[-3:] == ["EP"] * 3


def test_the_first_choice_is_the_best_under_the_slo(page: Page) -> None:
    data = json.loads(page.run("return document.getElementById('data').textContent"))
    rows = [dict(zip(data["columns"], row, strict=True)) for row in data["rows"]]
    best = max((row for row in rows if row["slo_met"]), key=lambda row: row["tgs"])
    name = f"{best['family']} {best['shape']}"
    assert page.text("#chosen-point strong").startswith(name)
    ring = page.run(
        "return document.getElementById('pareto').data.find(t => t.name === arguments[0])",
        data["ring"],
    )
    assert (ring["x"], ring["y"]) == ([best["tokens_per_s_per_user"]], [best["tgs"]])


def test_a_click_chooses_a_point(page: Page) -> None:
    page.show_all()
    chosen = [page.text("#chosen-point")]
    for number in (0, 4):
        mouse, shape = page.over_point(number)
        mouse.click().perform()
        page.wait(lambda: page.text("#chosen-point") != chosen[-1])
        chosen.append(page.text("#chosen-point"))
        assert page.text("#chosen-point strong").startswith(f"AFD {shape}")
    for part in ("Busy and bubble", "attention.nic_out", "One layer", "Where kernel times"):
        assert part in chosen[-1]
    assert len(page.all("#points [aria-current]")) == 1
    for row, said in ((8, "EP EP4"), (SMALL - 1, pages.ODD)):
        page.one(f"#points [data-point='{row}']").click()
        assert page.text("#chosen-point strong").startswith(said)
    assert "no NICs" in page.text("#chosen-point")
    assert (
        page.run(
            "return document.getElementById('pareto').data.find(t => t.name === 'chosen point').x"
        )
        == []
    )


def test_a_family_without_a_pipeline_says_why(page: Page) -> None:
    assert "no point of this family was simulated" in page.text(".missing")
    assert page.all("b") == []  # the odd name is text


def test_full_values_and_provenance_are_there(page: Page) -> None:
    rounded = page.one("#points tbody td.number + td.number + td.number")
    title = rounded.get_attribute("title")
    assert title is not None
    assert len(title) > len(rounded.text)
    assert float(title) == pytest.approx(float(rounded.text.replace(",", "")), rel=1e-3)
    provenance = json.loads(page.run("return document.querySelector('pre').textContent"))
    assert {"afdsim", "libraries", "sweep", "scenarios_sha256", "best"} <= set(provenance)


def test_the_keyboard_alone_reaches_every_point(page: Page) -> None:
    rows = page.all("#points tbody tr")
    page.run("arguments[0].focus()", rows[0])
    keys = ActionChains(page.browser)
    keys.send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_UP, Keys.ENTER).perform()
    assert page.run("return document.activeElement === arguments[0]", rows[1])
    assert page.one("#points [aria-current]") == rows[1]
    keys = ActionChains(page.browser)
    keys.send_keys(Keys.TAB, Keys.SPACE).perform()
    assert page.one("#points [aria-current]") == rows[2]


def test_a_small_screen_shows_all_of_it(browser: Chrome, small_page: Path) -> None:
    screen = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        page = Page(browser, small_page)
        assert page.run("return document.documentElement.scrollWidth") <= 390
        for figure in page.all(".figure"):
            page.run("arguments[0].scrollIntoView()", figure)
            page.wait(partial(figure.find_elements, By.CSS_SELECTOR, ".plot-container"))
            assert figure.rect["width"] <= 390
        title, legend = page.one("#pareto .xtitle").rect, page.one("#pareto .legend").rect
        assert legend["y"] + legend["height"] <= title["y"]
        for bar in page.all("#chosen-point .bar"):
            assert bar.rect["width"] >= 40
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def shown_bands(page: Page) -> list[str]:
    found: list[str] = page.run(
        "return document.getElementById('pareto').data"
        ".filter(trace => trace.meta?.band && trace.visible === true)"
        ".map(trace => trace.meta.band)"
    )
    return found


def test_bands_are_switched_by_a_choice_and_in_the_legend(
    browser: Chrome, large_page: Path
) -> None:
    page = Page(browser, large_page)
    # The first family alone was measured.
    first, *_others = every = list(pages.FAMILIES)
    assert shown_bands(page) == [first]
    choice = Select(page.one("#intervals"))
    choice.select_by_visible_text("all families")
    page.wait(lambda: shown_bands(page) == every)
    key = page.one("#pareto .legend .traces rect.legendtoggle")
    assert "80 % prediction interval" in page.all("#pareto .legend .legendtext")[0].text
    key.click()
    page.wait(lambda: shown_bands(page) == [])
    assert choice.first_selected_option.text == "no family"
    key = page.one("#pareto .legend .traces rect.legendtoggle")
    key.click()
    page.wait(lambda: shown_bands(page) == every)
    assert page.complaints() == []


def test_a_page_says_how_sure_it_is(browser: Chrome, large_page: Path) -> None:
    page = Page(browser, large_page)
    said = [each.text for each in page.all(".sure")]
    assert any("from −17 to +11 % of the throughput" in text for text in said)
    assert any(text.startswith("measured: measured 2,000 tokens/s/GPU") for text in said)
    assert page.text("#chosen-point").count("80 % interval") == 2
    low, value, high = (
        float(page.cells(head)[0].replace(",", ""))
        for head in ("80 % from", "tokens/s/GPU", "80 % to")
    )
    assert low < value < high


@pytest.mark.parametrize("width", [390, 1400])
def test_no_tool_bar_lies_over_a_legend(browser: Chrome, large_page: Path, width: int) -> None:
    screen = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        page = Page(browser, large_page)
        for name in ("pareto", "cost"):
            figure = page.one(f"#{name}")
            page.run("arguments[0].scrollIntoView()", figure)
            page.wait(partial(figure.find_elements, By.CSS_SELECTOR, ".modebar-group"))
            bar, legend = (
                figure.find_element(By.CSS_SELECTOR, part).rect
                for part in (".modebar", ".legend .bg")
            )
            beside = bar["x"] >= legend["x"] + legend["width"]
            assert beside or bar["y"] >= legend["y"] + legend["height"]
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_paper_shows_what_a_screen_shows_as_one_scrolls(
    browser: Chrome, large_page: Path, small_page: Path
) -> None:
    printed = partial(browser.execute_cdp_cmd, "Page.printToPDF", {"preferCSSPageSize": True})
    page = Page(browser, small_page)
    printed()
    for figure in page.all(".figure"):
        assert figure.find_elements(By.CSS_SELECTOR, ".plot-container")
    page = Page(browser, large_page)
    printed()
    assert len(page.all("#points tbody tr")) == 2000


def test_two_thousand_points_open_and_are_shown_as_one_scrolls(
    browser: Chrome, large_page: Path
) -> None:
    page = Page(browser, large_page)
    assert page.text("#count") == "2,000 of 2,000 points"
    # At first the fronts alone, then all.
    assert 4 < len(page.all("#pareto .point")) < 1000
    page.show_all()
    page.wait(lambda: len(page.all("#pareto .point")) >= 2000)
    shown = len(page.all("#points tbody tr"))
    assert shown < 2000
    page.run("const list = document.querySelector('.list'); list.scrollTop = list.scrollHeight")
    page.wait(lambda: len(page.all("#points tbody tr")) > shown)
    assert page.run("return performance.getEntriesByType('navigation')[0].loadEventEnd") > 0
    assert page.complaints() == []


@pytest.mark.bench
def test_two_thousand_points_open_in_three_seconds(browser: Chrome, large_page: Path) -> None:
    loaded_s = []
    for _ in range(3):
        page = Page(browser, large_page)
        loaded_ms = page.run("return performance.getEntriesByType('navigation')[0].loadEventEnd")
        loaded_s.append(loaded_ms / 1e3)
    size = large_page.stat().st_size / 1e6
    print(
        f"\n2,000 points, {size:.1f} MB, loaded after {', '.join(f'{s:.2f}' for s in loaded_s)} s"
    )
    assert max(loaded_s) < 3
