"""The verbs of the command line, put together."""

from __future__ import annotations

import typer

from sim.cli import (
    accuracy,
    calibrate,
    capacity,
    cards,
    compare,
    explain,
    importing,
    measure,
    simulate,
    studies,
    sweeps,
    theory,
)

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Simulate LLM decoding: attention-FFN disaggregation (AFD) against wide expert "
    "parallelism (EP).\n\nExample: afdsim run step3-2a2f",
)
for verb in (
    *(simulate.run, explain.explain, compare.compare, capacity.capacity, simulate.validate),
    *(theory.theory, sweeps.sweep, sweeps.plot, studies.study),
    *(theory.coverage, accuracy.accuracy),
    *(simulate.timeline, simulate.schema, simulate.new, measure.measure),
):
    app.command()(verb)
cards.models_app.command("import")(importing.import_model)
app.add_typer(cards.models_app, name="models")
app.add_typer(cards.hardware_app, name="hardware")
app.add_typer(cards.software_app, name="software")
app.add_typer(calibrate.app, name="calibrate")
