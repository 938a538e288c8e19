"""The command line: verbs, tables and exit codes. No model logic lives here.

stdout is data, stderr is talk. Heavy modules are imported inside the verb that needs them, so
that `--help` answers at once.
"""

from __future__ import annotations

import sys

import typer

from sim import calibrate_cli, measure_cli
from sim.cli import capacity, cards, compare, explain, simulate, studies, sweeps, theory, timeline
from sim.cli.text import say
from sim.errors import EXIT_INTERRUPTED, SimError

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
    *(timeline.timeline, simulate.schema, simulate.new, measure_cli.measure),
):
    app.command()(verb)
app.add_typer(cards.models_app, name="models")
app.add_typer(cards.hardware_app, name="hardware")
app.add_typer(calibrate_cli.app, name="calibrate")


def main() -> None:
    """Run the command line and exit with the documented code (see `sim.errors`)."""
    try:
        app()
    except SimError as error:
        for line in str(error).split("\n"):
            say(f"error: {line}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(EXIT_INTERRUPTED)
