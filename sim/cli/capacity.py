"""The verb capacity: how many requests per second a deployment takes within its targets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.text import AsJson, Settings, Table, WorkerCount, pool_of, say, show

if TYPE_CHECKING:
    from sim.capacity import Capacity

_SHARE = 0.99


def capacity(
    scenario: Annotated[str, typer.Argument(help="Scenario: a name in scenarios/ or a path.")],
    setting: Settings = None,
    share: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Share of requests within their targets; default: slo.attainment, else 0.99.",
        ),
    ] = None,
    precision: Annotated[
        float, typer.Option(min=1e-4, max=1, help="Relative distance of neighbouring rates.")
    ] = 0.02,
    replications: Annotated[
        int, typer.Option(min=2, help="Runs with seeds of their own at every rate.")
    ] = 5,
    workers: WorkerCount = 1,
    as_json: AsJson = False,
) -> None:
    """Search the highest arrival rate at which enough requests are within their targets.

    Example: afdsim capacity poisson-example --set slo.tpot_ms=25 --workers 2
    """
    from sim import capacity as search
    from sim.scenario import load

    loaded = load(scenario, setting or ())
    if share is None:
        share = loaded.slo.attainment or _SHARE
    if share == 0:
        raise typer.BadParameter("every rate has it; name one above 0", param_hint="--share")
    with pool_of(workers) as pool:
        found = search.capacity(
            loaded,
            share,
            precision,
            replications,
            pool,
            lambda trial: say(
                f"{trial.rate:.4g}: attainment {trial.attainment:.2%} ± {trial.half_width:.2%}, "
                f"wanted {share:.4g}"
            ),
        )
    if as_json:
        print(json.dumps(found.as_dict(), indent=2, ensure_ascii=False))
    else:
        _show(found)


def _show(found: Capacity) -> None:
    show(
        f"{found.scenario}: {found.of} {found.rate:.4g} ({found.low:.4g} to {found.high:.4g}, "
        f"95 %) with {found.share:.4g} of the requests within their targets"
    )
    shown = Table([found.of, "attainment", "±", "enough"], f"{found.replications} replications")
    for trial in found.trials:
        sure = trial.surely_met(found.share) or not trial.perhaps_met(found.share)
        met = "yes" if trial.met(found.share) else "no"
        shown.add_row(
            f"{trial.rate:.4g}",
            f"{trial.attainment:.2%}",
            f"{trial.half_width:.2%}",
            met if sure else f"{met}, not surely",
        )
    show(shown)
