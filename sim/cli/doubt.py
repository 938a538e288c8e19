"""What verbs print of doubt: intervals, and the sources that make them up."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sim.cli.text import Table, show
from sim.foundation import json_text

if TYPE_CHECKING:
    from sim.explain.how_sure import HowSure
    from sim.inputs.scenario import Scenario


class Showing(StrEnum):
    """What `run` may show instead of simulating."""

    doubt = "doubt"


def show_doubt(scenario: Scenario, reoptimise: bool, as_json: bool) -> None:
    """Print what is not known of a scenario; in its steady state, nothing being simulated."""
    from sim.explain.how_sure import how_sure
    from sim.metrics.cautions import SCOPE

    found = how_sure(scenario)
    if as_json:
        told = found.as_dict() | (again(scenario) if reoptimise else {}) | {"scope": SCOPE}
        print(json_text.dumps(told, indent=2, ensure_ascii=False))
        return
    lines = again_in_words(scenario) if reoptimise else ()
    show(*intervals(found), sources(found), *rest(found), *lines, SCOPE)


def intervals(found: HowSure) -> tuple[str, ...]:
    return (
        f"{found.scenario} with {found.requests_in_flight:,} requests in flight, steady state:",
        f"TPOT {found.tpot_ms:.2f} ms, from {found.tpot_ms_p10:.2f} to {found.tpot_ms_p90:.2f} in "
        f"80 % of cases, from {found.tpot_ms_p05:.2f} to {found.tpot_ms_p95:.2f} in 90 %",
        f"{found.tgs:,.0f} tokens/s/GPU, from {found.tgs_p10:,.0f} to {found.tgs_p90:,.0f} in "
        f"80 % of cases, from {found.tgs_p05:,.0f} to {found.tgs_p95:,.0f} in 90 %",
    )


def sources(found: HowSure) -> Table:
    shown = Table(
        ["source of doubt", "stated", "may be", "TPOT ms p10", "p90", "share", "where from"],
        "what moves TPOT, each alone at its 10th and 90th percentile",
    )
    for each in found.sources:
        ends = f"{each.tpot_ms_p10:.2f}", f"{each.tpot_ms_p90:.2f}"
        shown.add_row(each.name, each.stated, each.may_be, *ends, percent(each.share), each.source)
    left = found.undeclared
    errors = f"errors of {left.rows} measured points, group {left.group}"
    shown.add_row("what no source declares", "", "", "", "", percent(left.share), errors)
    return shown


def rest(found: HowSure) -> tuple[str, ...]:
    left = found.undeclared
    fitted = (
        f"the 80 % interval is {left.factor_80:.2f} times as wide as these make it, the 90 % "
        f"interval {left.factor_90:.2f} times, so that they hold as many measured points"
    )
    return fitted, f"{found.unmoved} further sources do not move the step"


def again(scenario: Scenario) -> dict[str, Any]:
    """Return batch and throughput at `slo.tpot_ms` if every draw takes its own largest batch."""
    from sim.doubt.reoptimised import reoptimised

    return {"reoptimised": reoptimised(scenario).as_dict()}


def again_in_words(scenario: Scenario) -> tuple[str, ...]:
    found = again(scenario)["reoptimised"]
    return (
        f"largest batch under {scenario.slo.tpot_ms:.4g} ms, steady state: {found['batch']:.4g}, "
        f"from {found['batch_p10']:.4g} to {found['batch_p90']:.4g} in 80 % of cases; "
        f"{found['tgs']:,.0f} tokens/s/GPU, from {found['tgs_p10']:,.0f} to "
        f"{found['tgs_p90']:,.0f}",
    )


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"
