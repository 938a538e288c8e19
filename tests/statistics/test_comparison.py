"""Comparisons: none of a scenario with itself, the known one of two, and an honest interval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from sim.decoding.run import simulate
from sim.doubt.margin import margin_of
from sim.experiments import comparison
from sim.experiments.comparison import PILOT, Difference, DoubtOfDifference, compare
from sim.experiments.replications import replication
from sim.inputs.scenario import Scenario, load
from sim.metrics import summary
from tests import tiny

NOISY = (
    *tiny.SLOWED,
    "workload.lengths.prompt={kind: geometric, mean: 2000, max_tokens: 100000}",
    "workload.lengths.output={kind: geometric, mean: 20, max_tokens: 1000}",
    "workload.arrivals={kind: closed, concurrency: 96}",
)

FEW = ("simulation.min_steps=20", "simulation.max_steps=20")
SURE = DoubtOfDifference(0, 0, 0, 0, 0.5)


def noisy(model: Path, *settings: str) -> Scenario:
    return tiny.load(model, "dsv3-ep128", *NOISY, *settings)


def test_a_scenario_does_not_differ_from_itself(loaded_model: Path) -> None:
    found = compare(noisy(loaded_model), noisy(loaded_model, "simulation.seed=9"), 1e-6, 50)
    assert found.replications == PILOT
    assert found.is_precise()
    for each in found.differences:
        assert (each.relative, each.half_width, each.is_certain()) == (0, 0, False)
        assert "no difference" in each.sentence()


def test_constant_steps_differ_by_their_ratio(tiny_model: Path) -> None:
    # TPOT is a closed form here (tests/properties/test_closed_loop.py), and nothing is random.
    a, b = (
        tiny.load(tiny_model, "dsv3-ep128", "simulation.engine=recurrence", gap)
        for gap in (
            "software.host_gap_us_per_step={value: 0, source: test}",
            "software.host_gap_us_per_step={value: 500, source: test}",
        )
    )
    tpot_a, tpot_b = (summary.summary(simulate(each))["tpot_ms_mean"] for each in (a, b))
    assert tpot_b - tpot_a == pytest.approx(0.5, rel=1e-9)
    tpot, tgs, usd = compare(a, b, 0.01, 50).differences
    assert tpot.relative == pytest.approx(tpot_a / tpot_b - 1, rel=1e-9)
    assert tgs.relative == pytest.approx(tpot_b / tpot_a - 1, rel=1e-9)
    assert usd.relative == pytest.approx(tpot.relative, rel=1e-9)
    assert tpot.half_width < 1e-9
    assert tpot.sentence().startswith("A is faster by ")
    assert tgs.sentence().startswith("A serves more per GPU by ")
    assert usd.sentence().startswith("A is cheaper by ")


def test_common_random_numbers_show_what_single_runs_hide(loaded_model: Path) -> None:
    # 2 µs of glue in each of two layers: far less than what one draw of requests is from another.
    slower = "software.glue_us_per_layer={value: 2, source: test}"
    a, b = noisy(loaded_model), noisy(loaded_model, slower)
    tpot = compare(a, b, 0.01, 50).differences[0]
    assert tpot.is_certain()
    assert tpot.relative < 0
    runs = [summary.summary(simulate(replication(a, n)))["tpot_ms_mean"] for n in range(PILOT)]
    apart = np.std(runs, ddof=1) / np.mean(runs) * np.sqrt(2 / PILOT) * 2.262
    assert tpot.half_width < apart / 2


@pytest.mark.parametrize("precision", [0.5, 0.01, 0.003])
def test_the_interval_holds_the_truth_at_its_rate(
    precision: float, loaded_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs are replaced by draws whose ratio is known: A is 2 % faster in the mean."""
    scenario, rng = noisy(loaded_model), np.random.default_rng(0)

    def draws(scenarios: Sequence[Scenario], _workers: object) -> list[dict[str, float | None]]:
        assert [each.simulation.seed for each in scenarios[::2]] == [
            each.simulation.seed for each in scenarios[1::2]
        ]
        figures: list[dict[str, float | None]] = []
        for _ in scenarios[::2]:
            common = rng.normal(50, 5)
            for mean in (0.98, 1.0):
                tpot = common * mean
                figures.append({"tpot_ms_mean": tpot, "tgs": 1.0, "usd_per_1m_tokens": None})
            figures[-2]["tpot_ms_mean"] = common * (0.98 + rng.normal(0, 0.01))
        return figures

    monkeypatch.setattr(comparison, "run_all", draws)
    monkeypatch.setattr(comparison, "_warnings", lambda _a, _b, _pairs: ())
    doubt = margin_of(0, scenario, scenario)  # the same of all 600: it does not draw
    monkeypatch.setattr(comparison, "margin_of", lambda *_: doubt)
    held, counts = 0, []
    for _ in range(600):
        found = compare(scenario, scenario, precision, 1000)
        tpot, tgs = found.differences
        held += abs(tpot.relative + 0.02) <= tpot.half_width
        counts.append(found.replications)
        assert tgs.half_width == 0
        assert found.is_precise()
    # 570 are expected, with a standard deviation of 5.
    assert 553 <= held <= 587
    assert max(counts) > PILOT or precision == 0.5


def test_the_most_replications_are_not_exceeded(loaded_model: Path) -> None:
    a, b = noisy(loaded_model), noisy(loaded_model, "workload.arrivals.concurrency=95")
    found = compare(a, b, 1e-5, 12)
    assert found.replications == 12
    assert not found.is_precise()


def test_differences_are_told_with_the_digits_that_are_known() -> None:
    told = Difference("tpot_ms_mean", 46.45, 50.0, -0.071, 0.006, SURE).sentence()
    assert told == "A is faster by 7.1 % ± 0.6 %"
    told = Difference("tpot_ms_mean", 50.0, 50.0, 0.0051, 0.006, SURE).sentence()
    assert told == "TPOT: no difference at this precision (± 0.6 %)"
    told = Difference("usd_per_1m_tokens", 1.0, 1.0, 0.00512, 0.00021, SURE).sentence()
    assert told == "A is dearer by 0.51 % ± 0.02 %"


def test_doubt_lies_around_the_difference_and_is_not_chance() -> None:
    """Without noise replications agree; what is not known of them does not go away."""
    one, other = (load(name, FEW) for name in ("step3-2a2f", "dsv3-ep128"))
    found = compare(one, other, most=10)
    by_figure = {each.figure: each for each in found.differences}
    for each in by_figure.values():
        doubt = each.doubt
        assert doubt.p05 <= doubt.p10 < each.relative < doubt.p90 <= doubt.p95
        assert doubt.p90 - doubt.p10 > 10 * each.half_width
    yields, costs = by_figure["tgs"].doubt, by_figure["usd_per_1m_tokens"].doubt
    assert yields.better == pytest.approx(costs.better, abs=0.01)
    shares = [each.share for each in found.settled_by]
    assert shares == sorted(shares, reverse=True)
    measured = next(each for each in found.settled_by if each.source)
    assert measured.name in found.doubt_sentence()
