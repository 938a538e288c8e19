"""What a reader does with a sweep's page: other figures, two points, own measurements, links."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.support.ui import Select

from sim.pictures import sweep_page
from tests.browser import pages
from tests.browser.test_page import Page

TRACES = "return document.getElementById('pareto').data.filter(t => t.meta?.role === arguments[0])"
LAYOUT = "return document.getElementById('pareto').layout"


@pytest.fixture
def page(browser: Chrome, large_page: Path) -> Page:
    return Page(browser, large_page)


def fronts(page: Page) -> dict[str, list[tuple[float, float]]]:
    found = page.run(TRACES, "front")
    return {
        trace["meta"]["family"]: list(zip(trace["x"], trace["y"], strict=True)) for trace in found
    }


def choose_y(page: Page, words: str) -> None:
    Select(page.one("#view [name=y]")).select_by_visible_text(words)
    page.wait(lambda: words.split()[0] in page.run(LAYOUT)["yaxis"]["title"]["text"])


def type_in(page: Page, fieldset: str, family: str, figure: str) -> None:
    field = page.one(f"#{fieldset} [data-family='{family}']")
    field.send_keys(figure)
    page.run("arguments[0].blur()", field)


def test_each_figure_has_a_front_of_its_own(page: Page) -> None:
    before = fronts(page)
    for front in before.values():
        assert front == sorted(front)
        assert [y for _x, y in front] == sorted((y for _x, y in front), reverse=True)
    choose_y(page, "USD per 1M tokens")
    after = fronts(page)
    # Cards of one rent: the cheapest points are those of the highest throughput.
    for family, front in after.items():
        assert [x for x, _y in front] == [x for x, _y in before[family]]
        assert front[0][1] == pytest.approx(560 / before[family][0][1], rel=1e-6)
    first = next(iter(after))
    type_in(page, "usd", first, "4")
    x, y = before[first][0]
    page.wait(lambda: fronts(page)[first][0] == pytest.approx((x, 4 / 3600 * 1e6 / y)))
    assert page.complaints() == []


def test_power_is_asked_for_and_never_guessed(page: Page) -> None:
    before = fronts(page)
    choose_y(page, "tokens/s per kW")
    assert all(front == [] for front in fronts(page).values())
    first = next(iter(before))
    type_in(page, "watts", first, "1000")
    page.wait(lambda: fronts(page)[first])
    for after, earlier in zip(fronts(page)[first], before[first], strict=True):
        assert after == pytest.approx(earlier)


def test_a_link_holds_what_was_chosen(browser: Chrome, large_page: Path, page: Page) -> None:
    choose_y(page, "USD per 1M tokens")
    page.one("#view [name=log]").click()
    page.one("#filters [name=text]").send_keys("5A1F")
    page.one("#points tbody tr:nth-child(2)").click()
    chosen, count = page.text("#chosen-point strong"), page.text("#count")
    link = browser.current_url
    browser.get("about:blank")
    browser.get(link)
    page.wait(lambda: page.all("#pareto .point"))
    assert page.text("#chosen-point strong") == chosen
    assert page.text("#count") == count != "2,000 of 2,000 points"
    assert page.run(LAYOUT)["yaxis"]["type"] == "log"
    assert "USD" in page.run(LAYOUT)["yaxis"]["title"]["text"]
    # What a link says may be anything.
    browser.get("about:blank")
    browser.get(f"{large_page.as_uri()}#y=__proto__&point=99999999&pinned=a+-1&usd=x&context=%00")
    page.wait(lambda: page.all("#pareto .point"))
    assert page.complaints() == []


def test_two_pinned_points_are_compared_in_words(page: Page) -> None:
    page.one("#best tbody tr:nth-child(1)").click()
    page.one("#pin").click()
    assert page.text("#compare") == ""
    fourth = page.one("#best tbody tr:nth-child(4)")
    fourth.click()
    assert page.one("#best [aria-current]") == fourth
    said = page.text("#compare")
    assert "fewer tokens/s/GPU" in said
    assert "intervals of tokens/s/GPU overlap" in said
    page.one("#pin").click()
    (pinned,) = (
        trace
        for trace in page.run("return document.getElementById('pareto').data")
        if trace["name"] == "pinned points"
    )
    assert pinned["text"] == ["A", "B"]
    page.one("#best tbody tr:nth-child(2)").click()
    assert page.text("#compare") == said


def test_zoom_along_x_survives_another_figure(page: Page) -> None:
    page.run("Plotly.relayout('pareto', {'xaxis.range[0]': 15, 'xaxis.range[1]': 25})")
    choose_y(page, "USD per 1M tokens")
    assert page.run(LAYOUT)["xaxis"]["range"] == pytest.approx([15, 25])


def test_names_along_the_fronts_lie_apart(page: Page) -> None:
    page.wait(lambda: page.all("#pareto .annotation"))
    boxes = page.run(
        "return [...document.querySelectorAll('#pareto .annotation')]"
        ".filter(one => one.textContent.match(/A[0-9]+F/))"
        ".map(one => one.getBoundingClientRect().toJSON())"
    )
    assert boxes
    for number, one in enumerate(boxes):
        for other in boxes[:number]:
            apart = one["left"] >= other["right"] or other["left"] >= one["right"]
            assert apart or one["top"] >= other["bottom"] or other["top"] >= one["bottom"]


def test_own_measurements_are_crosses_and_sentences(page: Page, tmp_path: Path) -> None:
    head = "id,requests_per_gpu,measured_tpot_ms,measured_tgs"
    rows = '"a, b",80,40,\nc,,,\n,1,50,1500\n'
    (tmp_path / "own.csv").write_text(f"{head}\n{rows}")
    page.one("#measurements").send_keys(str(tmp_path / "own.csv"))
    said = page.wait(lambda: page.text("#own"))
    assert said.startswith("a, b: measured 2,000 tokens/s/GPU at a TPOT of 40 ms; the front yields")
    own = [t for t in page.run(TRACES, "published") if t["name"] == "own measurements"]
    assert own[0]["x"] == [25, 20]
    assert own[0]["y"] == [2000, 1500]
    assert page.complaints() == []


def test_the_command_of_a_point_sets_what_the_sweep_set(
    browser: Chrome, small_page: Path, tiny_model: Path
) -> None:
    page = Page(browser, small_page)
    command = page.one("#copy").get_attribute("title")
    assert command is not None
    assert command.startswith("afdsim run step3-2a2f --set ")
    assert f"--set model={tiny_model}" in command
    assert "--set deployment.attention.instances=" in command


def test_the_list_is_exported_as_it_is_filtered(page: Page) -> None:
    page.one("#filters [name=text]").send_keys("5A1F")
    page.wait(lambda: page.text("#count") != "2,000 of 2,000 points")
    lines: Any = page.run("return csvOf(kept).trim().split('\\n')")
    assert len(lines) - 1 == int(page.text("#count").split()[0])
    assert lines[0].startswith("state,point,family,")
    # Whole words: not 15A1F.
    assert set(page.cells("shape")) == {"5A1F"}


def test_the_best_points_come_first_in_the_list(page: Page) -> None:
    assert set(page.cells("state")[:100]) == {"SLO met"}
    yields = [float(each.replace(",", "")) for each in page.cells("tokens/s/GPU")[:100]]
    assert yields == sorted(yields, reverse=True)


def test_fronts_are_of_one_context(browser: Chrome, tmp_path: Path) -> None:
    source = pages.large_source(40)
    name = "set.workload.context"
    rows = [row | {name: 4096 if row["point"] % 8 < 4 else 32768} for row in source.rows]
    sweep_page.write(tmp_path / "page.html", [source._replace(rows=rows)])
    page = Page(browser, tmp_path / "page.html")
    drawn = sum(len(front) for front in fronts(page).values())
    (overall,) = page.run(TRACES, "overall")
    Select(page.one("#view [name=context]")).select_by_index(1)
    page.wait(lambda: page.run(TRACES, "overall")[0]["x"] != overall["x"])
    assert 0 < drawn < 40
    assert page.complaints() == []
