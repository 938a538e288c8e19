"""Predictions of operating points: the scenario is the row's, the clock is the row's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sim.deployments import compile_deployment
from sim.experiments.accuracy import pairs
from sim.experiments.accuracy.points import OperatingPoint, read_points
from sim.experiments.accuracy.setup import Setup, setup
from sim.experiments.accuracy.verdict import Judged, batch_band, errors, judge_row
from sim.foundation.errors import ScenarioError
from sim.inputs import scenario
from tests.measured_points import ROW, written

SAID: dict[str, Any] = {"mtp": "off", "routing": "natural"}


@pytest.fixture
def point(tmp_path: Path) -> OperatingPoint:
    formats = dict.fromkeys(("weight_format_attention", "weight_format_experts"), "fp8 (block)")
    changed = formats | {"kv_format": "fp8", "framework": "trtllm"}
    return read_points(written(tmp_path / "p.csv", ROW | changed))[0]


@pytest.mark.parametrize("context", [600.0, 4096.0, 67_584.5])
@pytest.mark.parametrize("osl", ["", "1024", "16 (15 timed steps)"])
def test_the_mean_context_in_flight_is_the_rows(
    point: OperatingPoint, context: float, osl: str
) -> None:
    made = setup(replace(point, context_tokens_mean=context, osl=osl)).validated()
    prompt, _output, age = compile_deployment(made).expected._sample()
    # P + (D − 1)/2; the prompt is whole, the ages are a sample of 4,096.
    assert float((prompt + age).mean()) == pytest.approx(context, rel=0.02)


def test_a_row_with_all_that_counts_assumes_only_its_routing(point: OperatingPoint) -> None:
    said = SAID | {"weight_format_attention": point.weight_format_experts}
    made = setup(replace(point, redundant_experts="0", micro_batches_or_overlap="none", **said))
    assert made.why_not == ""
    assert [text.split(":")[0] for text in made.assumptions] == ["routing"]
    assert [text.split(":")[0] for text in setup(point).assumptions] == [
        *("micro_batches_or_overlap", "redundant_experts", "routing", "routing", "mtp"),
    ]


@pytest.mark.parametrize(
    ("routing", "source", "alpha"),
    [
        ("natural", "github.com/linsj20/FastAFD README", 1.2),
        ("natural", "a paper", 1.01),
        ("unknown (random tokens)", "github.com/linsj20/FastAFD README", 0.6),
    ],
)
def test_the_fewer_the_topics_the_steeper_the_law(
    point: OperatingPoint, routing: str, source: str, alpha: float
) -> None:
    made = setup(replace(point, routing=routing, source=source, redundant_experts="0"))
    assert made.scenario is not None
    assert made.scenario["routing"] == {"kind": "power_law", "alpha": alpha}


def test_the_clock_decides_whether_the_host_counts(point: OperatingPoint) -> None:
    wall, device = judge_row(setup(point)), judge_row(setup(replace(point, clock="device")))
    seen = wall.prediction
    assert seen is not None
    assert (wall.predicted_ms, device.predicted_ms) == (seen.wall_ms, seen.device_ms)
    gap_us = setup(point).validated().software.host_gap_us_per_step
    assert seen.wall_ms - seen.device_ms == pytest.approx(gap_us / 1e3)


def test_ranks_of_sglang_sit_out_a_step_for_requests_from_prefill(point: OperatingPoint) -> None:
    note = "lengths uniform in 0.8..1 of ISL and OSL, random tokens"
    served = replace(
        point, framework="sglang", clock="served TPOT", source="disagg; layout 2P x 1D"
    )
    served = replace(served, osl="1000", uncertainty_note=note)
    idle, aggregated = judge_row(setup(served)), judge_row(setup(replace(served, source="")))
    assert setup(replace(served, clock="wall")).validated().admission.idle_step_share is None
    assert idle.predicted_ms is not None
    assert aggregated.predicted_ms is not None
    # Outputs have 900 tokens in the mean, and experts see fewer tokens in a step.
    longest = 2 - (1 - 1 / 900) ** 16
    assert 1 + (longest - 1) / 2 < idle.predicted_ms / aggregated.predicted_ms < longest


def test_scheduling_that_nothing_hides_lasts_five_milliseconds(point: OperatingPoint) -> None:
    hidden = judge_row(setup(point)).predicted_ms
    made = setup(replace(point, micro_batches_or_overlap="no overlap scheduling"))
    assert any(text.startswith("host:") for text in made.assumptions)
    assert judge_row(made).predicted_ms == pytest.approx(5 + (hidden or 0.0))


def test_a_shown_scenario_runs_as_written(point: OperatingPoint, tmp_path: Path) -> None:
    made = setup(point)
    path = tmp_path / "shown.yaml"
    path.write_text(made.yaml(), encoding="utf-8")
    assert scenario.load(path).model_dump() == made.validated().model_dump()


@pytest.mark.parametrize("column", ["model", "framework", "hardware_attention", "expert_parallel"])
def test_what_cannot_be_expressed_is_told(point: OperatingPoint, column: str) -> None:
    strange: dict[str, Any] = {column: "strange"}
    row = judge_row(setup(replace(point, **strange)))
    assert row.predicted_ms is None
    assert row.as_dict()["expressible"] is False
    assert "strange" in row.why_not
    with pytest.raises(ScenarioError, match="strange"):
        row.setup.yaml()


def test_errors_of_groups(point: OperatingPoint) -> None:
    row = judge_row(setup(point))
    assert row.predicted_ms is not None
    off = [
        Judged(_measured(row, row.predicted_ms / ratio), row.prediction, "") for ratio in (0.9, 1.2)
    ]
    found = {(each.group, each.value): each for each in errors(off)}
    whole = found["all", ""]
    assert (whole.rows, whole.expressible) == (2, 2)
    assert whole.median == pytest.approx(0.15)
    assert whole.bias == pytest.approx(0.05)
    assert found["batch", batch_band(16)].p90 == pytest.approx(0.19)


def _measured(row: Judged, tpot_ms: float) -> Setup:
    return replace(row.setup, point=replace(row.point, measured_tpot_ms=tpot_ms))


def test_a_pair_compares_yields_over_all_gpus(point: OperatingPoint, tmp_path: Path) -> None:
    other = replace(point, id="two", requests_per_gpu=32.0, measured_tpot_ms=40.0)
    rows = [judge_row(setup(each)) for each in (point, other)]
    path = tmp_path / "pairs.csv"
    path.write_text("first,second\none,two\n\none,one\n", encoding="utf-8")
    pair, itself = pairs.judge(path, rows)
    assert itself.percentiles == (0, 0, 0, 0)
    assert itself.first_yields_more == 0.5
    assert pair.measured == pytest.approx((16 / 30) / (32 / 40) - 1)
    seen = [row.predicted_ms or 0.0 for row in rows]
    assert pair.predicted == pytest.approx((16 / seen[0]) / (32 / seen[1]) - 1)
    told = pair.as_dict()
    ends = [told[name] for name in pairs.PERCENTILES]
    assert ends == sorted(ends) == list(pair.percentiles or ())
    assert ends[1] < told["predicted_lead"] < ends[2]
    # Half the requests a GPU on the same card and engine yield less, whatever is not known.
    assert told["first_yields_more"] < 0.01
    path.write_text("first,second\none,tow\n", encoding="utf-8")
    with pytest.raises(ScenarioError, match=r"pairs.csv:2: second: .*did you mean 'two'"):
        pairs.judge(path, rows)


SHIPPED = Path(__file__).parents[2] / "results" / "accuracy" / "points.csv"


def test_afd_plugin_routes_on_ffn_dies_and_sends_in_stream() -> None:
    """Its forced routing lets 16 dies stand for 64: four experts of each get tokens."""
    rows = {row.id: row for row in read_points(SHIPPED)}
    ep = setup(rows["afdplugin-ep64-16k"]).validated()
    afd = setup(rows["afdplugin-64a16f-16k"]).validated()
    assert ep.routing.load() == afd.routing.load() == "balanced"
    assert afd.routing.model_dump(exclude_none=True) == {"kind": "balanced", "experts": 64}
    assert afd.deployment.model_dump(exclude_none=True)["transfers"] == "in_stream"
    assert afd.deployment.accelerators() == ep.deployment.accelerators() == ["ascend-910c"]
    judged = [judge_row(setup(rows[name])) for name in rows if name.startswith("afdplugin-")]
    assert [row.why_not for row in judged] == ["", "", ""]
    assert all("the end of the benchmark" in row.setup.left_out[0] for row in judged)
    errors_of = [row.error for row in judged if row.error is not None]
    assert len(errors_of) == 3
    assert max(abs(error) for error in errors_of) < 0.3
