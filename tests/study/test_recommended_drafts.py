"""Drafts in recommendations: tried on both sides where their acceptance is stated."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest

import sim
from sim.foundation.errors import ScenarioError
from sim.pictures import recommendation_page
from sim.study import recommendation, recommendation_folder, shape_search
from sim.study.question import Question, asked
from sim.study.recommendation import Recommendation, recommended
from sim.study.recommendation_words import command, headline
from sim.study.shape_search import screen
from sim.study.starting_points import assumptions, sides
from sim.sweeps.shapes import shapes
from tests.tiny import LOADED_MODEL

LAYER = "draft_layer: {attention: full, ffn: moe, source: test}\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of the model card with heavy attention and a layer that drafts."""
    path = tmp_path_factory.mktemp("cards") / "drafting.yaml"
    path.write_text(LOADED_MODEL.replace("name: loaded", "name: drafting") + LAYER)
    return path


def ask(model: Path, acceptance: float | None) -> Question:
    return asked(str(model), "8xh800", 2.0, context=2000, output=200, acceptance=acceptance)


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    """Let searches look at few shapes: drafts are what they are about."""

    def some(scenario: sim.Scenario, gpus: int) -> Iterator[dict[str, Any]]:
        return islice(shapes(scenario, gpus), 0, None, 25)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shape_search, "shapes", some)
        patch.setattr(recommendation, "_PROBED", 3)
        patch.setattr(recommendation, "_SEARCHED", 1)
        yield


@pytest.fixture(scope="module")
def likely(model: Path) -> Recommendation:
    return recommended(ask(model, 0.9))


@pytest.fixture(scope="module")
def plain(model: Path) -> Recommendation:
    return recommended(ask(model, None))


def test_drafts_that_are_likely_pay_on_both_sides(likely: Recommendation) -> None:
    assert likely.other_side is not None
    for each in (likely.answer, likely.other_side):
        speculation = each.closed.speculation
        assert speculation is not None
        assert f"{speculation.drafts} draft" in each.shape
        assert each.figures["tpot_ms_mean"] <= 2.0
        assert each.figures["tokens_per_step"] > 1.5
    assert likely.answer.shape in headline(likely)


def test_a_shape_is_screened_with_the_drafts_that_suit_it(model: Path) -> None:
    question = ask(model, 0.9)
    for side in sides(question):
        found = [each.candidate.settings for each in screen((question, side)).candidates]
        assert all(("speculation.drafts" in each) == side.drafts for each in found)
        assert len({str(each | {"speculation.drafts": None}) for each in found}) == len(found)


def test_drafts_that_are_unlikely_are_not_made(plain: Recommendation, model: Path) -> None:
    unlikely = recommended(ask(model, 0.01))
    assert unlikely.answer.closed.speculation is None
    assert unlikely.answer.shape == plain.answer.shape
    assert unlikely.answer.figures == plain.answer.figures


def test_no_yield_falls_as_more_drafts_are_accepted(
    plain: Recommendation, likely: Recommendation, model: Path
) -> None:
    assert plain.answer.worth < likely.answer.worth
    yields = []
    for p in (0.3, 0.6, 0.9):
        question = ask(model, p)
        drafting = [side for side in sides(question) if side.drafts]
        yields.append([screen((question, side)).candidates[0].worth for side in drafting])
    for less, more in pairwise(yields):
        assert all(a < b for a, b in zip(less, more, strict=True))


def test_files_state_where_the_acceptance_is_from(likely: Recommendation, tmp_path: Path) -> None:
    folder = recommendation_folder.save(likely, tmp_path / "out")
    saved = sim.load(folder / "answer.yaml")
    assert saved.speculation == likely.answer.closed.speculation
    text = (folder / "answer.yaml").read_text()
    assert "source: stated with --acceptance" in text
    assert sim.summary(sim.simulate(saved))["tgs"] == likely.answer.figures["tgs"]
    page = recommendation_page.draw(likely, folder).read_text()
    assert f"<td>{likely.answer.shape}" in page
    assert "--acceptance 0.9" in command(likely.question)
    assert any("probability of 0.9" in each for each in assumptions(likely.question))


@pytest.mark.parametrize(
    ("engine", "option"),
    [
        ("vllm", "--speculative-config.num_speculative_tokens"),
        ("sglang", "--speculative-num-steps"),
        ("dynamo", "--speculative-config.num_speculative_tokens"),
    ],
)
def test_launch_files_draft_as_many(engine: str, option: str, likely: Recommendation) -> None:
    launch = recommendation_folder.emitted(likely, engine)
    of = recommendation_folder.roles(likely)[launch.of].closed.speculation
    assert of is not None
    value = re.search(r"\d+", launch.file.text.partition(option)[2])
    assert value is not None
    assert int(value[0]) == of.drafts


@pytest.mark.parametrize("p", [0.0, 1.0, -0.5, math.nan, math.inf])
def test_what_is_no_probability(p: float, model: Path) -> None:
    with pytest.raises(ScenarioError, match="write a probability between 0 and 1"):
        ask(model, p)


def test_a_model_without_a_module(loaded_model: Path) -> None:
    with pytest.raises(ScenarioError, match=r"loaded has no draft_layer.*leave --acceptance out"):
        ask(loaded_model, 0.8)
    assert "no drafts: the model card has no layer that drafts" in assumptions(
        ask(loaded_model, None)
    )


def test_without_an_acceptance_it_is_told_how_to_ask(model: Path) -> None:
    assert any("--acceptance states it" in each for each in assumptions(ask(model, None)))


def test_a_card_drafts_with_a_layer_that_it_has(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(LOADED_MODEL + LAYER.replace("full", "ful"))
    with pytest.raises(ScenarioError, match=r"draft_layer names attention 'ful'.*mean 'full'"):
        ask(path, 0.8)
