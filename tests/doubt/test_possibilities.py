"""What a scenario says is not settled: drawn, told, checked, and no part of any figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim.decoding.run import simulate
from sim.doubt.interval import doubt_of
from sim.foundation.errors import InfeasibleError, ScenarioError
from sim.inputs import cards, scenario
from sim.metrics.summary import summary
from sim.results.provenance import resolved, sha256
from sim.steady.state import steady_state

HOPPER = "step3-2a2f-hopper"
CARDS = ("h800", "h100-sxm", "h200-sxm")
FEW_STEPS = ("simulation.min_steps=20", "simulation.max_steps=20")
# Step-3 report (arXiv 2507.19427), section 7: a peak minute, and the mean.
PUBLISHED_TGS = (4039, 3910)


def on(card: str) -> list[str]:
    return [f"deployment.{side}.accelerator={card}" for side in ("attention", "ffn")]


def test_a_card_not_stated_is_each_card_as_often() -> None:
    doubt = doubt_of(scenario.load(HOPPER))
    (card,) = (each for each in doubt.spread.alone if each.source.possibilities)
    assert card.source.possibilities == CARDS
    tpot_ns = [steady_state(scenario.load(HOPPER, on(each))).tpot_ns for each in CARDS]
    assert card.factors == pytest.approx(np.array(tpot_ns) / tpot_ns[0])


def test_draws_are_those_of_the_card_that_was_drawn() -> None:
    """Each third of the draws are draws of a scenario that states the card."""
    factors = doubt_of(scenario.load(HOPPER)).spread.factors
    stated_ns = steady_state(scenario.load(HOPPER)).tpot_ns
    counts = []
    for card in CARDS:
        settled = scenario.load(HOPPER, [*on(card), "doubt=[]"])
        there = doubt_of(settled).spread.factors * steady_state(settled).tpot_ns / stated_ns
        counts.append(int(np.isclose(factors, there).sum()))
    assert sum(counts) == len(factors)
    assert max(counts) - min(counts) <= 1


def test_both_published_points_of_step3_lie_inside() -> None:
    """Attention's kernel dominates: its FP8 form for MFA was not published (docs/validation.md)."""
    loaded = scenario.load(HOPPER)
    doubt = doubt_of(loaded)
    tgs = float(summary(simulate(loaded))["tgs"])
    slowest, fastest = (tgs / factor for factor in reversed(doubt.interval(90)))
    for published in PUBLISHED_TGS:
        assert slowest < published < fastest
    widths = {
        each.source.name: np.ptp(np.log(each.factors[each.likely])) for each in doubt.spread.alone
    }
    assert max(widths, key=lambda name: widths[name]) == "attention core GQA (fp8) on h800"


def test_a_scenario_with_doubt_has_the_figures_of_one_without() -> None:
    with_doubt, without = (
        summary(simulate(scenario.load(HOPPER, [*FEW_STEPS, *more])))
        for more in ((), ("doubt=[]",))
    )
    assert with_doubt == without


def test_doubt_is_part_of_the_record() -> None:
    told = resolved(scenario.load(HOPPER))["doubt"]
    assert [each["name"] for each in told] == ["card"]
    assert sha256(resolved(scenario.load(HOPPER))) != sha256(
        resolved(scenario.load(HOPPER, ["doubt=[]"]))
    )


def test_drafts_that_are_accepted_count_in_tpot() -> None:
    """An acceptance is no time of a step, but of a token."""
    law = "{'speculation.acceptance.p.value': %s}"
    doubt = f"doubt=[{{name: acceptance, source: test, one_of: [{law % 0.5}, {law % 0.9}]}}]"
    spread = doubt_of(scenario.load("dsv3-ep72-h100-mtp", [doubt.replace("'", '"')])).spread
    (drafts,) = (each for each in spread.alone if each.source.possibilities)
    stated = scenario.load("dsv3-ep72-h100-mtp").tokens_per_step()
    assert drafts.factors == pytest.approx([stated / 1.5, stated / 1.9], rel=1e-6)


def settings(path: Path, first: str) -> str:
    text = (cards.packaged(cards.SCENARIOS) / f"{HOPPER}.yaml").read_text(encoding="utf-8")
    place = path / "own.yaml"
    lines = [
        f"  - {first}" if "attention.accelerator: h800, deployment" in line else line
        for line in text.splitlines()
    ]
    place.write_text("\n".join(lines), encoding="utf-8")
    return str(place)


@pytest.mark.parametrize(
    ("first", "told"),
    [
        ("{deployment.attention.acelerator: h800}", "unknown key; did you mean 'accelerator'"),
        ("{deployment.attention.accelerator: h900}", "unknown accelerator 'h900'; did you mean"),
        ("{deployment.attention.gpus_per_instance: 7}", "lm_head_tp 8 does not divide 7"),
        ("{deployment.attention.instances: 3}", "should leave the number of GPUs, 32"),
        ("{workload.arrivals.concurrency: 9}", "workload.arrivals decides no step of a batch"),
        ("{simulation.seed: 9}", "simulation decides no step of a batch; leave simulation.seed"),
        ("{doubt: []}", "doubt decides no step of a batch"),
        ("[h800]", "should be a mapping"),
        ("{'': 1}", "unknown key"),
    ],
)
def test_a_possibility_that_is_none_is_told_by_its_line(
    tmp_path: Path, first: str, told: str
) -> None:
    path = settings(tmp_path, first)
    with pytest.raises(ScenarioError, match=r"own\.yaml:3\d:\d: doubt\.0") as caught:
        scenario.load(path)
    assert len(caught.value.problems) == 1
    assert told in str(caught.value)


@pytest.mark.parametrize("line", ["nme: card", "one_off: []"])
def test_unknown_keys_and_missing_ones_are_told(tmp_path: Path, line: str) -> None:
    path = tmp_path / "own.yaml"
    text = (cards.packaged(cards.SCENARIOS) / f"{HOPPER}.yaml").read_text(encoding="utf-8")
    old = "- name: card" if line.startswith("nme") else "  one_of:"
    new = "- nme: card" if line.startswith("nme") else "  one_off:"
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ScenarioError) as caught:
        scenario.load(str(path))
    kinds = [problem.split(": ", 2)[2] for problem in caught.value.problems]
    assert kinds[0] == "missing; add this key"
    assert kinds[1].startswith("unknown key; did you mean")


def test_a_possibility_that_cannot_run_is_named(tmp_path: Path) -> None:
    path = settings(tmp_path, "{memory.utilisation: 0.05}")
    with pytest.raises(InfeasibleError, match=r"doubt: utilisation 0\.05 cannot run"):
        doubt_of(scenario.load(path))


def test_as_stated_is_a_possibility(tmp_path: Path) -> None:
    (card,) = (
        each
        for each in doubt_of(scenario.load(settings(tmp_path, "{}"))).spread.alone
        if each.source.possibilities
    )
    assert card.source.possibilities[0] == "as stated"
    assert card.factors[0] == 1
