"""Zero doubt: factors of exactly 1, today's figures; and what is wider the wider a range is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.deployments import compile_deployment
from sim.doubt.interval import COLUMNS, doubt_of, spread_widths
from sim.doubt.sources import sources_of
from sim.doubt.spread import SteadyLoad, spread
from sim.inputs import scenario

pytestmark = pytest.mark.usefixtures("certain")

SCENARIOS = ("step3-2a2f", "dsv3-ep128", "dsv3-ep72-h100-mtp", "qwen3-fastafd-7a1f")


@pytest.mark.parametrize("name", SCENARIOS)
def test_without_doubt_figures_are_todays(name: str) -> None:
    without = scenario.load(name, ["software=ideal"])
    doubt = doubt_of(without)
    assert (doubt.spread.factors == 1).all()
    assert not any(each.moves for each in doubt.spread.alone)
    assert doubt.percentiles() == (1, 1, 1, 1)
    figures = {"tpot_ms_mean": 47.5, "tgs": 4039.0}
    assert list(doubt.columns(figures).values()) == [47.5, 47.5, 4039.0, 4039.0]
    assert doubt.columns({}) == dict.fromkeys(COLUMNS)


@given(
    stated=st.floats(5, 2000),
    below=st.floats(0, 1),
    above=st.floats(0, 1),
    path=st.sampled_from(["glue_us_per_layer", "host_gap_us_per_step"]),
)
@settings(max_examples=20)
def test_a_doubled_range_gives_a_wider_interval(
    stated: float, below: float, above: float, path: str
) -> None:
    def widths(times: float) -> tuple[float, float]:
        ends = f"low: {stated * (1 - times * below / 2)!r}, high: {stated * (1 + times * above)!r}"
        figure = f"software.{path}={{value: {stated!r}, {ends}, source: test}}"
        doubt = doubt_of(scenario.load("dsv3-ep8-h200", ["software=ideal", figure]))
        return spread_widths(doubt.spread.factors, 80)

    once, twice = widths(1), widths(2)
    assert twice[0] >= once[0]
    assert twice[1] >= once[1]
    if stated * above > 100 and above > below:
        assert twice[1] > once[1]


def test_a_range_of_the_host_moves_the_step_as_its_triangle_says() -> None:
    """The host alone is in doubt and stands still in no shadow: the step moves as it does."""
    ends = "{value: 1000, low: 500, high: 3000, source: test}"
    site = compile_deployment(
        scenario.load("dsv3-ep8-h200", ["software=ideal", f"software.host_gap_us_per_step={ends}"])
    )
    (host,) = (each for each in sources_of(site) if each.is_range)
    load = SteadyLoad(site, round(site.expected.requests()))
    (alone,) = (each for each in spread(load, 0).alone if each.source == host)
    step_us = (alone.factors[-1] - 1) ** -1 * 2000
    moved = (spread(load, 0).factors - 1) * step_us
    # Middles of 64 equal parts of the law, each once.
    middles = (np.arange(64) + 0.5) / 64
    below, above, width = 500, 2000, 2500
    left = np.sqrt(middles * width * below) - below
    right = above - np.sqrt((1 - middles) * width * above)
    expected = np.where(middles < below / width, left, right)
    assert np.sort(moved) == pytest.approx(expected, abs=0.01)
