"""Prices that users state: whose rent holds, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.foundation.errors import ScenarioError
from sim.inputs import cards, prices, scenario
from sim.study import cells

GPUS = 8


def test_a_stated_price_is_the_rent_of_each_gpu() -> None:
    assert scenario.load("dsv3-ep8-h200").usd_per_hour() is None
    loaded = scenario.load("dsv3-ep8-h200", prices.settings(["h200-sxm=2.5"]))
    assert loaded.usd_per_hour() == 2.5 * GPUS


def test_a_stated_price_replaces_the_card_s_and_others_stay() -> None:
    before = scenario.load("step3-h20-h800")
    gpus = dict(before.deployment.gpus_by_card())
    usd = {name: cards.accelerator(name).usd_per_hour or 0.0 for name in gpus}
    assert before.usd_per_hour() == pytest.approx(sum(usd[n] * gpus[n] for n in gpus))
    after = before.with_settings({"prices": {"h20": 9.0, "b200": 4.0}})
    assert after.usd_per_hour() == pytest.approx(9 * gpus["h20"] + usd["h800"] * gpus["h800"])


def test_the_last_of_two_prices_holds() -> None:
    assert prices.read_prices(["b200=4", "b200 = 5"]) == {"b200": 5.0}


def test_all_wrong_prices_are_told_at_once() -> None:
    texts = ["h200=2.5", "h20=-1", "h20=nan", "h20=2,5", "h20=0", "h20=2e9", "h20", "=3"]
    with pytest.raises(ScenarioError) as caught:
        prices.read_prices(texts)
    told = caught.value.problems
    assert len(told) == len(texts)
    assert "did you mean 'h200-sxm'?" in told[0]
    assert all("from 0.001 to 10000 USD/h" in problem for problem in told[1:6])
    assert all("write CARD=USD" in problem for problem in told[6:])


def test_a_scenario_names_the_place_of_a_wrong_price() -> None:
    with pytest.raises(ScenarioError) as caught:
        scenario.load("dsv3-ep8-h200", ["prices.h200=2.5", "prices.b200=-1"])
    told = "\n".join(caught.value.problems)
    assert "prices.h200: unknown accelerator; did you mean 'h200-sxm'?" in told
    assert "prices.b200: should be greater than or equal to 0.001 (got -1)" in told


def test_a_card_at_a_path_is_priced_by_its_name(tmp_path: Path) -> None:
    text = cards.find(cards.ACCELERATORS, "h200-sxm", "accelerator").read_text()
    card = tmp_path / "card.yaml"
    card.write_text(text.replace("name: h200-sxm", "name: mine"))
    named = [f"deployment.accelerator={card}"]
    loaded = scenario.load("dsv3-ep8-h200", [*named, *prices.settings([f"{card}=3"])])
    assert loaded.prices == {"mine": 3.0}
    assert loaded.usd_per_hour() == 3.0 * GPUS


def test_stated_prices_make_a_study_rank_by_output_per_usd() -> None:
    def priced(*texts: str) -> bool:
        only = ["context=4K", "model=DeepSeek-V3", "hardware=H200"]
        (cell,) = cells.load("afd-vs-ep", prices.settings(texts), only).cells
        return cell.priced

    assert not priced()
    assert priced("h200-sxm=2.5")
