"""The verb study: two ways of deployment, each at its best shape, cell by cell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli.text import AsJson, Settings, Table, progress, say, show
from sim.foundation import json_text
from sim.foundation.errors import EXIT_FAILED_POINTS, EXIT_OK
from sim.parallel import signals

if TYPE_CHECKING:
    from sim.study.cells import Loaded
    from sim.study.schema import Study
    from sim.study.verdicts import Outcome


def study(
    name: Annotated[str, typer.Argument(help="Study: a name in scenarios/studies/ or a path.")],
    setting: Settings = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="DIMENSION=VALUE", help="Leave out cells of other values."),
    ] = None,
    as_json: AsJson = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Directory to keep; default: results/runs/NAME."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; default: one per core.")
    ] = None,
) -> None:
    """Compare two ways of deployment in every cell of a study, each at its best shape.

    Example: afdsim study afd-vs-ep --only context=4K
    """
    import os

    from sim.inputs.naming import folder_name
    from sim.metrics.cautions import SCOPE
    from sim.parallel import processes as pools
    from sim.results.files import RUNS
    from sim.study import cells, verdicts
    from sim.study.jobs import Contests
    from sim.sweeps.store import Store

    loaded = cells.load(name, setting or (), only or ())
    folder = out or RUNS / folder_name(loaded.study.name)
    stopped = None
    with (
        pools.local(workers or len(os.sched_getaffinity(0))) as pool,
        Store(folder, loaded.study.name) as store,
    ):
        contests = Contests(loaded, store)
        try:
            for title, jobs in (("champions", contests.champions), ("duels", contests.meetings)):
                with _Progress(title, found := jobs()) as shown:
                    contests.run(found, pool, shown.advance)
        except signals.Stopped as signal:
            stopped = signal
            pool.stop(now=True)
        with signals.postponed():
            found_all = [verdicts.outcome(loaded.study, result) for result in contests.results()]
            _save(loaded, found_all, folder)
    rows = verdicts.rows(loaded.study, found_all)
    if as_json:
        plain = {"directory": str(folder), "scope": SCOPE, "cells": rows}
        print(json_text.dumps(plain, ensure_ascii=False, indent=2))
    else:
        _print(loaded.study, found_all)
    for failure in contests.failures:
        say(f"failed: {failure}")
    finished = sum(each.verdict is not None for each in found_all)
    say(f"{finished} of {len(found_all)} cells are finished; open {folder}/report.html")
    if stopped:
        say("interrupted")
        raise typer.Exit(stopped.exit_code)
    raise typer.Exit(EXIT_FAILED_POINTS if contests.failures else EXIT_OK)


class _Progress:
    """A progress bar on stderr with the time to go, taken from the jobs of this sitting alone."""

    def __init__(self, title: str, jobs: list[Any]) -> None:
        self.bar = progress(title, "{task.fields[taken]} taken over")
        self.task = self.bar.add_task(title, total=len(jobs), taken=0)
        self.taken = 0

    def __enter__(self) -> _Progress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def advance(self, _job: object, outcome: object | None) -> None:
        if outcome is None:
            self.taken += 1
            (task,) = self.bar.tasks
            left = (task.total or 0) - 1
            self.bar.update(self.task, total=left, taken=self.taken)
        else:
            self.bar.update(self.task, advance=1)


def _save(loaded: Loaded, found: list[Outcome], folder: Path) -> None:
    from sim.pictures import study_page
    from sim.results import files, provenance
    from sim.study import verdicts
    from sim.study.cells import named_cards
    from sim.sweeps import points

    study = loaded.study
    scenarios = [each for cell in loaded.cells for of in cell.sides for each in named_cards(of)]
    used = {name for scenario in scenarios for name in scenario.deployment.accelerators()}
    described = {
        **provenance.provenance(),
        "study": study.model_dump(mode="json"),
        "scenarios_sha256": provenance.sha256([provenance.resolved(each) for each in scenarios]),
        "cells": len(found),
        "finished": sum(each.verdict is not None for each in found),
        "calibration": provenance.calibration_of(sorted(used)),
        "verdicts": dict(verdicts.counts(found)),
    }

    def fill(target: Path) -> None:
        files.write_table(target / "study", points.columns(verdicts.rows(study, found)))
        mechanisms = verdicts.mechanism_rows(found)
        if mechanisms:
            files.write_table(target / "mechanisms", points.columns(mechanisms))
        files.write_json(target / "run.json", described)
        study_page.write(target, study, found, described)

    files.replace_files(folder, fill)


def _print(study: Study, found: list[Outcome]) -> None:
    from sim.metrics.cautions import SCOPE
    from sim.study.verdicts import described_shape

    first, second = study.sides
    columns = [*study.dimensions, "verdict", f"{first} over {second}", "±", first, second]
    shown = Table(columns, study.description)
    for each in found:
        margin = "–" if each.margin is None else f"{100 * each.margin:+.1f} %".replace("-", "−")
        doubt = "–" if each.half_width is None else f"{100 * each.half_width:.1f}"
        shapes = [described_shape(entry) if entry else why or "–"
                  for entry, why in zip(each.entries, each.whys, strict=True)]  # fmt: skip
        shown.add_row(*each.cell.place.values(), each.verdict or "–", margin, doubt, *shapes)
    show(shown, SCOPE)
