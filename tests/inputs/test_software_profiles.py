"""Software profiles: whose figures a scenario gets, and what is told of mistakes in them."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from sim.foundation.errors import ScenarioError
from sim.inputs import cards, scenario
from sim.inputs.scenario import Scenario
from sim.inputs.software import Software
from sim.inputs.sourced import Pause
from sim.results import provenance
from sim.sweeps import sweep

MINE = """kind: software
name: mine
description: an engine of my own
glue_us_per_layer: {value: 30, low: 20, high: 40, source: measured here}
host_gap_us_per_step: {value: 500, source: measured here}
overlap_slowdown: {value: 1.1, source: measured here}
graphs: {largest_batch: {value: 256, source: its log}, beyond: {value: 3, source: measured here}}
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the profile `mine` in the working directory."""
    path = tmp_path / "hardware" / "software" / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return path


def load(*settings: str) -> Scenario:
    return scenario.load("step3-2a2f", settings)


def figures(*settings: str) -> Software:
    return load(*settings).software


def mistakes(*settings: str) -> str:
    with pytest.raises(ScenarioError) as caught:
        load(*settings)
    return str(caught.value)


@pytest.mark.parametrize("name", cards.names(cards.SOFTWARE))
def test_a_name_stands_for_all_figures_of_the_profile(name: str) -> None:
    card = cards.software(name).model_dump(exclude={"kind", "name", "description", "profile"})
    found = figures(f"software={name}")
    assert found.profile == name
    assert found.model_dump(exclude={"profile"}) == card


def test_a_figure_that_is_stated_replaces_that_of_the_profile(mine: Path) -> None:
    stated = "{profile: mine, glue_us_per_layer: {value: 90, source: elsewhere}}"
    found = figures(f"software={stated}")
    assert found.glue_us_per_layer.as_dict() == {"value": 90, "source": "elsewhere"}
    assert float(found.host_gap_us_per_step) == 500


def test_a_value_alone_changes_the_figure_and_its_source_says_from_what(mine: Path) -> None:
    found = figures("software=mine", "software.glue_us_per_layer.value=90")
    assert found.glue_us_per_layer.as_dict() == {
        "value": 90,
        "source": "changed from 30: measured here",
    }


def test_a_part_of_a_group_of_figures_leaves_the_others(mine: Path) -> None:
    graphs = figures("software=mine", "software.graphs.beyond.value=4").graphs
    assert graphs is not None
    assert (float(graphs.largest_batch), float(graphs.beyond)) == (256, 4)
    assert figures("software={profile: mine, graphs: null}").graphs is None


def test_another_profile_keeps_what_the_scenario_states_itself(mine: Path) -> None:
    first = load("software=vllm", "software.host_gap_us_per_step.value=3")
    other = first.with_settings({"software.profile": "mine"}).software
    assert other.profile == "mine"
    assert float(other.host_gap_us_per_step) == 3
    assert float(other.glue_us_per_layer) == 30


def test_settings_change_a_figure_whatever_its_range(mine: Path) -> None:
    again = load("software=mine").with_settings({"software.glue_us_per_layer.value": 90})
    assert float(again.software.glue_us_per_layer) == 90
    assert again.software.profile == "mine"
    assert again.software.graphs == cards.software("mine").graphs


def test_a_resolved_scenario_reads_as_the_same(mine: Path) -> None:
    first = load("software=mine", "software.glue_us_per_layer.value=90")
    data = provenance.resolved(first)
    assert data["software"]["profile"] == "mine"
    assert data["software"]["host_gap_us_per_step"]["value"] == 500
    assert Scenario.model_validate(data) == first


def test_an_axis_of_a_sweep_may_be_profiles(mine: Path) -> None:
    (mine.parent / "engines.yaml").write_text(
        "kind: sweep\nname: engines\nfamilies:\n- family: AFD\n  base: step3-2a2f\n"
        "  axes:\n  - {software: [vllm, mine]}\n"
    )
    points = sweep.load(mine.parent / "engines.yaml", ["software.overlap_slowdown.value=1"]).points
    assert [point.scenario.software.profile for point in points] == ["vllm", "mine"]
    assert {float(point.scenario.software.overlap_slowdown) for point in points} == {1}


def test_a_profile_that_is_not_there() -> None:
    told = mistakes("software=sglan", "slo.tpot_ms=-1")
    assert "software.profile: unknown software profile 'sglan'; did you mean 'sglang'?" in told
    assert "slo.tpot_ms: should be greater than 0" in told
    assert len(told.splitlines()) == 2


def test_a_mistake_in_a_profile_has_its_place(mine: Path) -> None:
    mine.write_text(MINE.replace("{value: 500,", "{valu: 500,"))
    told = mistakes("software=mine", "software.graphs=2")
    assert "mine.yaml:5:24: host_gap_us_per_step.valu: unknown key; did you mean 'value'?" in told
    assert "mine.yaml:5:1: host_gap_us_per_step.value: missing" in told
    assert "--set software.graphs: software.graphs: should be a mapping" in told


def test_a_figure_that_no_profile_has(mine: Path) -> None:
    told = mistakes("software=mine", "software.glue_us.value=3")
    assert "software.glue_us: unknown key; did you mean 'glue_us_per_layer'?" in told


def test_a_profile_names_no_other(mine: Path) -> None:
    mine.write_text(MINE + "profile: vllm\n")
    assert "a profile names no other" in mistakes("software=mine")


def test_a_figure_without_a_profile_needs_its_source() -> None:
    told = mistakes("software={glue_us_per_layer: {value: 3}}")
    assert "software.glue_us_per_layer.source: missing; add this key" in told
    assert "software.host_gap_us_per_step: missing; add this key" in told


@pytest.mark.parametrize("range_", ["low: 4", "high: 2", "low: 4, high: 5"])
def test_a_value_is_within_its_range(range_: str) -> None:
    told = mistakes(f"software.glue_us_per_layer={{value: 3, {range_}, source: test}}")
    assert "should be low ≤ value ≤ high" in told


def test_the_ends_of_a_range_have_the_unit_of_the_value() -> None:
    told = mistakes("software.host_gap_us_per_step={value: 3, high: 1.0e+9, source: test}")
    assert "Should be from 0 to 1e6 µs" in told


def test_a_range_survives_its_way_to_another_process() -> None:
    figure = pickle.loads(pickle.dumps(Pause(3, "test", low=2)))
    assert (figure, figure.source, figure.low, figure.high) == (3, "test", 2, None)
