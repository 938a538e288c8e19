"""The verb compare: which of two scenarios is faster, serves more and costs less, and how sure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.text import (
    AsJson,
    Prices,
    Settings,
    Table,
    WorkerCount,
    assignments,
    number,
    pool_of,
    say,
    say_notes,
    show,
    warn,
)
from sim.foundation import json_text

if TYPE_CHECKING:
    from sim.experiments.comparison import Comparison


def compare(
    a: Annotated[str, typer.Argument(help="Scenario: a name in scenarios/ or a path.")],
    b: Annotated[str, typer.Argument(help="Scenario to compare with.")],
    setting: Settings = None,
    price: Prices = None,
    setting_b: Annotated[
        list[str] | None,
        typer.Option(
            "--set-b", metavar="PATH=VALUE", help="Overwrite a value of B only; may be repeated."
        ),
    ] = None,
    precision: Annotated[
        float,
        typer.Option(min=1e-6, max=1, help="Half-width of the differences to reach, relative."),
    ] = 0.005,
    most: Annotated[
        int, typer.Option("--most", min=10, help="Replications of each after which to stop.")
    ] = 100,
    workers: WorkerCount = 1,
    as_json: AsJson = False,
) -> None:
    """Compare two scenarios under common random numbers.

    Example: afdsim compare step3-2a2f step3-2a2f --set-b deployment.micro_batches=2
    """
    from sim.experiments import comparison
    from sim.inputs.scenario import load
    from sim.metrics.cautions import SCOPE

    both = assignments(setting, price)
    scenarios = load(a, both), load(b, [*both, *(setting_b or ())])
    say_notes(loaded.workload for loaded in scenarios)
    with pool_of(workers) as pool:
        found = comparison.compare(*scenarios, precision, most, pool, say)
    json_text.check(found.as_dict())
    warn(found.warnings)
    if as_json:
        print(json_text.dumps(found.as_dict() | {"scope": SCOPE}, indent=2, ensure_ascii=False))
    else:
        _show(found)
    if not found.is_precise():
        say(f"not as precise as {precision:.2%} after {found.replications} replications: --most")


def _show(found: Comparison) -> None:
    from sim.metrics.cautions import SCOPE

    columns = ["figure", "A", "B", "A − B, % of B", "± chance", "doubt, 80 %", "A is better"]
    columns.append("what it means")
    shown = Table(columns, f"A: {found.a}, B: {found.b}, {found.replications} replications of each")
    for each in found.differences:
        shown.add_row(
            each.figure,
            number(each.a),
            number(each.b),
            _signed(each.relative),
            f"{100 * each.half_width:.2f}",
            f"{_signed(each.doubt.p10)} to {_signed(each.doubt.p90)}",
            f"{100 * each.doubt.better:.0f} %",
            each.sentence(),
        )
    show(shown, f"{found.doubt_sentence()}.", SCOPE)


def _signed(relative: float) -> str:
    return f"{100 * relative:+.2f}".replace("-", "−")
