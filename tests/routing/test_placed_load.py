"""Placed load: what EPLB leaves of a popularity on the hottest rank, as expected loads have it."""

from __future__ import annotations

import numpy as np
import pytest

from sim.deployments import compile_deployment
from sim.foundation.errors import ScenarioError
from sim.inputs import scenario
from sim.kernels.hottest_rank import Held, hottest_factor, hottest_loads
from sim.metrics.cautions import cautions

TOKENS = 1 << 20
LAWS = ("power_law_0.6", "power_law_1.01", "dirichlet_0.5")


@pytest.mark.parametrize("law", LAWS)
def test_a_slot_of_its_own_for_each_expert_leaves_eplb_no_choice(law: str) -> None:
    held = Held(copies=64, ranks=64, experts=64)
    placed = hottest_loads(f"{law}_eplb", TOKENS, held, 8).sum(axis=1)
    alone = hottest_loads(law, TOKENS, held, 8).sum(axis=1)
    # The tokens of the hottest expert are drawn by chance: a few standard deviations.
    assert (np.abs(placed - alone) < 6 * np.sqrt(alone)).all()


@pytest.mark.parametrize("law", LAWS)
def test_replicas_of_every_expert_on_every_rank_leave_nothing(law: str) -> None:
    """With many more slots than experts, each has as many as its popularity asks for."""
    held = Held(copies=512, ranks=8, experts=8)
    assert hottest_factor(f"{law}_eplb", TOKENS, held, 2) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("law", LAWS)
def test_eplb_never_makes_the_hottest_rank_hotter(law: str) -> None:
    for ranks in (8, 32, 72, 144):
        held = Held(288, ranks, 256)
        unplaced = hottest_factor(law, TOKENS, held, 8)
        assert 1 <= hottest_factor(f"{law}_eplb", TOKENS, held, 8) < unplaced


def test_one_replica_halves_the_one_hot_expert() -> None:
    """Two slots a rank: the hot expert in halves, with a cold one beside each."""
    held = Held(copies=4, ranks=2, experts=3)
    loads = hottest_loads("power_law_3_eplb", TOKENS, held, 1)
    assert loads.sum(axis=1).mean() * 2 / TOKENS < 1.1


@pytest.mark.parametrize("kind", ["power_law, alpha: 1.01", "dirichlet, concentration: 0.5"])
def test_the_exchange_and_the_experts_follow_what_is_left(kind: str) -> None:
    def of(routing: str) -> tuple[float, float]:
        found = compile_deployment(scenario.load("dsv3-ep144", [f"routing={routing}"]))
        rows, layer = found.durations(found.expected.batch()).rows, len(found.kinds) - 1
        return float(rows["experts", layer].max()), float(rows["dispatch", layer].max())

    uniform, placed, unplaced = (
        of(routing)
        for routing in ("{kind: uniform}", f"{{kind: {kind}, eplb: true}}", f"{{kind: {kind}}}")
    )
    assert all(a < b < c for a, b, c in zip(uniform, placed, unplaced, strict=True))


def test_drawn_loads_have_a_placement_instead() -> None:
    drawn = "{kind: power_law, alpha: 1, eplb: true, per_step: {placement: {kind: contiguous}}}"
    with pytest.raises(ScenarioError, match="write its placement"):
        scenario.load("dsv3-ep144", [f"routing={drawn}"])


def test_results_tell_the_imbalance_and_its_range() -> None:
    figures = {"stable": None, "tpot_ms_mean": 1.0, "tpot_ms_p99": None, "engine": "bound"}
    figures |= {"extrapolated_share": 0.0, "uncalibrated_share": 0.0, "requests_in_flight": 1.0}
    told = cautions(scenario.load("dsv3-ep144", ["software=sglang"]), figures)
    assert any("power law of 0.6, placed by EPLB; of served traffic 0.6 to 1.01" in t for t in told)
