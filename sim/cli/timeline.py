"""The verb that exports a timeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sim.cli.text import Settings, say, span


def timeline(
    scenario: Annotated[str, typer.Argument(help="Scenario: a name in scenarios/ or a path.")],
    steps: Annotated[
        str, typer.Option(metavar="FIRST:LAST", help="Steps to show, both ends included.")
    ],
    layers: Annotated[
        str | None,
        typer.Option(metavar="FIRST:LAST", help="Only these layers; the LM head follows the last."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Trace to write; default: SCENARIO-timeline.json.gz."
        ),
    ] = None,
    setting: Settings = None,
) -> None:
    """Write what every server does in some steps, for ui.perfetto.dev or chrome://tracing.

    Example: afdsim timeline step3-2a2f --steps 4:5 --out trace.json.gz
    """
    from sim.inputs.naming import folder_name
    from sim.inputs.scenario import load
    from sim.pictures import perfetto as trace

    wanted = span(steps, "--steps")
    chosen = None if layers is None else span(layers, "--layers")
    loaded = load(scenario, setting or ())
    try:
        run = trace.record(loaded, wanted, chosen)
    except trace.WindowError as error:
        raise typer.BadParameter(str(error), param_hint=f"--{error.option}") from None
    path = out or Path(f"{folder_name(loaded.name)}-timeline.json.gz")
    trace.write(run, path)
    say(f"wrote {len(run.records)} tasks to {path}; open it at https://ui.perfetto.dev")
