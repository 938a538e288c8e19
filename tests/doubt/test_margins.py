"""Margins: what both sides share cancels, probabilities rise with the margin, verdicts follow."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.doubt.interval import doubt_of
from sim.doubt.margin import OPEN, Margin, are_alike, margin, margin_of, verdict
from sim.doubt.residual import LeftOver
from sim.inputs import scenario
from sim.inputs.scenario import Scenario
from sim.steady.state import steady_state

FIGURES = st.floats(-0.5, 1.0)


def tgs(loaded: Scenario) -> float:
    state = steady_state(loaded)
    return state.requests / state.tpot_ns / loaded.gpu_count()


def between(first: Scenario, second: Scenario) -> Margin:
    return margin_of(tgs(first) / tgs(second) - 1, first, second)


def of_draws(value: float, logs: list[float], log_sd: float) -> Margin:
    return Margin(value, np.exp(np.array(logs)), {80: 1.2, 90: 1.4}, log_sd, ())


@pytest.mark.parametrize("name", ["step3-2a2f", "dsv3-ep128", "step3-2a2f-hopper"])
def test_a_deployment_beside_itself_has_no_margin_and_no_doubt(name: str) -> None:
    itself = scenario.load(name)
    found = between(itself, scenario.load(name, ["name=other", "slo.tpot_ms=20"]))
    assert found.value == 0
    assert (found.factors == 1).all()
    assert found.interval(80) == found.interval(90) == (0, 0)
    assert [found.probability(x) for x in (-0.01, 0, 0.01)] == [1, 0.5, 0]
    assert found.parts == ()
    assert verdict(found, ("one", "two"), 0.0, 0.8) == OPEN


def test_a_seed_of_the_second_side_does_not_count() -> None:
    one, other = scenario.load("step3-2a2f"), scenario.load("step3-2a2f", ["simulation.seed=9"])
    assert between(one, other).interval(90) == (0, 0)


def test_what_two_shapes_of_a_card_share_cancels() -> None:
    shapes = scenario.load("step3-2a2f"), scenario.load("step3-4a2f-8k")
    together = between(*shapes)
    apart = [doubt_of(each).spread.factors for each in shapes]
    shuffled = np.random.default_rng(0).permutation(apart[0])
    independent = np.log(apart[1] / shuffled).std()
    assert np.log(together.factors).std() < 0.5 * independent
    left = doubt_of(shapes[0]).residual
    assert together.log_sd == pytest.approx(left.log_sd * np.sqrt(2 * (1 - left.shared)))


def test_less_cancels_between_engines_or_kinds() -> None:
    afd, ep = scenario.load("qwen3-fastafd-7a1f"), scenario.load("qwen3-ep16")
    assert not are_alike(afd, ep)
    assert are_alike(afd, scenario.load("qwen3-fastafd-3a1f"))
    doubts = doubt_of(afd), doubt_of(ep)
    own = [each.residual.log_sd for each in doubts]
    assert margin(0.1, *doubts, same=False, alike=False).log_sd == pytest.approx(math.hypot(*own))


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8), st.floats(0, 0.3), FIGURES, FIGURES)
def test_the_probability_falls_with_what_is_asked(
    logs: list[float], log_sd: float, one: float, other: float
) -> None:
    less, more = sorted((one, other))
    found = of_draws(0.05, logs, log_sd)
    assert 0 <= found.probability(more) <= found.probability(less) <= 1


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8), st.floats(0, 0.3), FIGURES, FIGURES)
def test_the_probability_rises_with_the_margin(
    logs: list[float], log_sd: float, one: float, other: float
) -> None:
    less, more = sorted((one, other))
    asked = of_draws(less, logs, log_sd), of_draws(more, logs, log_sd)
    assert asked[0].probability(0.02) <= asked[1].probability(0.02)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8), st.floats(0, 0.3), FIGURES)
def test_intervals_hold_the_margin_and_each_other(
    logs: list[float], log_sd: float, value: float
) -> None:
    ends = of_draws(value, logs, log_sd).percentiles()
    assert list(ends) == sorted(ends)
    assert ends[1] - 1e-12 <= value <= ends[2] + 1e-12


@given(st.floats(0.01, 0.3), FIGURES, st.floats(0, 0.1), st.floats(0.51, 0.99))
def test_a_verdict_is_a_side_that_is_likely_enough(
    log_sd: float, value: float, indifference: float, certainty: float
) -> None:
    found = of_draws(value, [0.0], log_sd)
    told = verdict(found, ("AFD", "EP"), indifference, certainty)
    # The other way round: EP's margin over AFD, as the same doubt has it.
    turned = of_draws(1 / (1 + value) - 1, [0.0], log_sd)
    other = verdict(turned, ("EP", "AFD"), indifference, certainty)
    assert told == other
    assert (told == "AFD") == (found.probability(indifference) >= certainty)
    if told != OPEN:
        assert (told == "AFD") == (value > 0)


def test_the_doubt_of_a_margin_is_told_by_its_parts() -> None:
    found = between(scenario.load("step3-2a2f-hopper"), scenario.load("dsv3-ep128"))
    shares = [part.share for part in found.parts]
    assert shares == sorted(shares, reverse=True)
    assert 0.9 < sum(shares) <= 1 + 1e-9
    assert all(part.name for part in found.parts)
    assert {part.source for part in found.parts if not part.source} <= {""}


def test_the_value_that_turns_a_margin_turns_it() -> None:
    """The stated host gap of one side is all that keeps it behind."""
    gap = "software.host_gap_us_per_step={value: %s, low: 0, high: 20000, source: test}"
    slow = scenario.load("dsv3-ep8-h200", [gap % 8000])
    same = scenario.load("dsv3-ep8-h200", ["software.host_gap_us_per_step.value=2000"])
    found = between(slow, same)
    assert found.value < 0
    (part,) = (part for part in found.parts if part.name == "host gap of a step" and part.turns_at)
    turned = scenario.load("dsv3-ep8-h200", [gap % part.turns_at.split()[0].replace(",", "")])  # type: ignore[union-attr]
    assert tgs(turned) == pytest.approx(tgs(same), rel=1e-3)


def test_a_possibility_turns_a_margin_if_it_lies_on_the_other_side() -> None:
    hopper = scenario.load("step3-2a2f-hopper")
    # Between what H100 and H200 yield.
    found = margin_of(-0.04, hopper, scenario.load("step3-3a2f-bf16"))
    (card,) = (part for part in found.parts if part.name == "card")
    assert card.turns_at == "h200-sxm"
    assert margin_of(-0.3, hopper, scenario.load("step3-3a2f-bf16")).parts
    (card,) = (
        part
        for part in margin_of(-0.3, hopper, scenario.load("step3-3a2f-bf16")).parts
        if part.name == "card"
    )
    assert card.turns_at is None


def test_the_wider_side_widens_the_margin() -> None:
    doubt = doubt_of(scenario.load("step3-2a2f"))
    wide = replace(doubt, residual=LeftOver("wide", 30, 0.1, 0.5, 3.0, 4.0))
    found = margin(0.1, doubt, wide, same=False, alike=False)
    assert found.factor == {80: 3.0, 90: 4.0}
