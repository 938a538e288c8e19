"""The verb capacity: how many requests per second a deployment takes within its targets."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.text import (
    AsJson,
    Prices,
    Settings,
    Table,
    WorkerCount,
    assignments,
    pool_of,
    say,
    say_notes,
    show,
)
from sim.foundation import json_text

if TYPE_CHECKING:
    from sim.experiments.capacity import Attempt, Capacity, Trial


def capacity(
    scenario: Annotated[str, typer.Argument(help="Scenario: a name in scenarios/ or a path.")],
    setting: Settings = None,
    price: Prices = None,
    share: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Share of requests within their targets; default: slo.attainment, or 0.99.",
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
    from sim.experiments import capacity as search
    from sim.inputs.scenario import load
    from sim.metrics.cautions import SCOPE

    loaded = load(scenario, assignments(setting, price))
    say_notes([loaded.workload])
    if share is None:
        share = search.default_share(loaded)
    if share == 0:
        raise typer.BadParameter("every rate has it; name one above 0", param_hint="--share")
    shown = _Progress(share)
    with pool_of(workers) as pool:
        found = search.capacity(
            loaded,
            share,
            precision,
            replications,
            pool,
            shown.ahead,
            shown.tell,
        )
    json_text.check(found.as_dict())
    if as_json:
        print(json_text.dumps(found.as_dict() | {"scope": SCOPE}, indent=2, ensure_ascii=False))
    else:
        _show(found)


class _Progress:
    """Lines on stderr: the rate that is tried, between which it lies, and what came of it."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.begun_s = time.monotonic()
        self.tried = 0

    def ahead(self, attempt: Attempt) -> None:
        """Tell the rate that is tried next, and the time to go once both ends are known."""
        known = [f"above {attempt.low:.4g}"] if attempt.low is not None else []
        known += [f"below {attempt.high:.4g}"] if attempt.high is not None else []
        where = f", the limit is {' and '.join(known)}" if known else ""
        to_go = ""
        if attempt.left is not None and self.tried:
            each_s = (time.monotonic() - self.begun_s) / self.tried
            to_go = f"; about {attempt.left} to go, {each_s * attempt.left:.0f} s"
        say(f"trying {attempt.rate:.4g}{where}{to_go}")

    def tell(self, trial: Trial) -> None:
        self.tried += 1
        say(
            f"{trial.rate:.4g}: attainment {trial.attainment:.2%} ± {trial.half_width:.2%}: "
            f"{_verdict(trial, self.share)}"
        )


def _verdict(trial: Trial, share: float) -> str:
    if not trial.stable and not trial.perhaps_met(share):
        return "no, unstable"
    sure = trial.surely_met(share) or not trial.perhaps_met(share)
    met = "yes" if trial.met(share) else "no"
    return met if sure else f"{met}, not surely"


def _show(found: Capacity) -> None:
    from sim.metrics.cautions import SCOPE

    show(
        f"{found.scenario}: {found.of} {found.rate:.4g} ({found.low:.4g} to {found.high:.4g}, "
        f"95 %) with {found.share:.4g} of the requests within their targets",
        f"doubt: from {found.rate_p10:.4g} to {found.rate_p90:.4g} in 80 % of cases",
    )
    if found.usd_per_1m_tokens is not None:
        show(f"at that rate {found.usd_per_1m_tokens:.3f} USD per 1M output tokens")
    shown = Table([found.of, "attainment", "±", "enough"], f"{found.replications} replications")
    for trial in found.trials:
        shown.add_row(
            f"{trial.rate:.4g}",
            f"{trial.attainment:.2%}",
            f"{trial.half_width:.2%}",
            _verdict(trial, found.share),
        )
    show(shown, SCOPE)
