"""FastAFD and vLLM's EP on GB200: who leads, by how much, and the steps of its ratios."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.experiments.accuracy import pairs, verdict
from sim.inputs import scenario
from sim.steady.state import steady_state

POINTS = Path(__file__).parents[2] / "results" / "accuracy"


def test_afd_leads_ep_where_it_did() -> None:
    rows = verdict.judge_points(POINTS / "points.csv")
    leads = [pair for pair in pairs.judge(POINTS / "pairs.csv", rows) if pair.predicted is not None]
    assert len(leads) == 5
    for pair in leads:
        assert pair.same_sign
        assert pair.predicted == pytest.approx(pair.measured, abs=0.1)


@pytest.mark.parametrize(
    ("ratio", "tpot_ms", "within"),
    [("3a1f", 32.8, 0.06), ("7a1f", 33.36, 0.06), ("17a1f", 48.7, 0.1)],
)
def test_each_ratio_takes_its_step(ratio: str, tpot_ms: float, within: float) -> None:
    found = steady_state(scenario.load(f"qwen3-fastafd-{ratio}")).tpot_ns / 1e6
    assert found == pytest.approx(tpot_ms, rel=within)
