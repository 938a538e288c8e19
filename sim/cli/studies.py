"""The verb study: two ways of deployment, each at its best shape, cell by cell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.text import (
    AsJson,
    OwnWorkers,
    Prices,
    Scheduler,
    Settings,
    Table,
    assignments,
    job_bar,
    own_or_cluster,
    say,
    show,
)
from sim.foundation import json_text
from sim.foundation.errors import EXIT_FAILED_POINTS, EXIT_OK
from sim.parallel import signals

if TYPE_CHECKING:
    from sim.study.schema import Study
    from sim.study.verdicts import JudgedCell


def study(
    name: Annotated[str, typer.Argument(help="Study: a name in scenarios/studies/ or a path.")],
    setting: Settings = None,
    price: Prices = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="DIMENSION=VALUE", help="Leave out cells of other values."),
    ] = None,
    as_json: AsJson = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Directory to keep; default: results/runs/NAME."),
    ] = None,
    workers: OwnWorkers = None,
    scheduler: Scheduler = None,
) -> None:
    """Compare two ways of deployment in every cell of a study, each at its best shape.

    Example: afdsim study afd-vs-ep --only context=4K
    """
    from sim.inputs.naming import folder_name
    from sim.metrics.cautions import SCOPE
    from sim.pictures import study_page
    from sim.results.files import RUNS
    from sim.study import cells, folder

    loaded = cells.load(name, assignments(setting, price), only or ())
    place = out or RUNS / folder_name(loaded.study.name)
    with own_or_cluster(workers, scheduler) as pool:
        result = folder.run(loaded, place, pool, watch=job_bar)
        with signals.postponed():
            study_page.draw(result)
    if as_json:
        plain = {"directory": str(place), "scope": SCOPE, "cells": result.rows()}
        print(json_text.dumps(plain, ensure_ascii=False, indent=2))
    else:
        _print(loaded.study, result.cells)
    for failure in result.failures:
        say(f"failed: {failure}")
    finished = sum(each.verdict is not None for each in result.cells)
    say(f"{finished} of {len(result.cells)} cells are finished; open {place}/report.html")
    if result.stopped:
        say("interrupted")
        raise typer.Exit(result.stopped.exit_code)
    raise typer.Exit(EXIT_FAILED_POINTS if result.failures else EXIT_OK)


def _print(study: Study, found: list[JudgedCell]) -> None:
    from sim.inputs.naming.settings import described
    from sim.metrics.cautions import SCOPE
    from sim.study.verdicts import percent

    first, second = study.sides
    columns = [*study.dimensions, "verdict", f"{first} over {second}", "80 %", first, second]
    shown = Table(columns, study.description)
    for each in found:
        margin = "–" if each.margin is None else percent(each.margin)
        ends = [] if each.doubt is None else [percent(end) for end in each.doubt.interval(80)]
        doubt = " to ".join(ends) or "–"
        shapes = [described(entry["shape"], entry["settings"]) if entry else why or "–"
                  for entry, why in zip(each.entries, each.whys, strict=True)]  # fmt: skip
        shown.add_row(*each.cell.place.values(), each.verdict or "–", margin, doubt, *shapes)
    show(shown, SCOPE)
