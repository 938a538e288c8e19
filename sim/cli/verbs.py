"""The verbs of the command line, put together."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sim.cli import (
    accuracy,
    calibrate,
    capacity,
    compare,
    explain,
    measure,
    recommend,
    simulate,
    studies,
    sweeps,
    theory,
)
from sim.cli.inputs import cards, hardware, importing, scenarios


class _InGroups(TyperGroup):
    """Lists verbs under heads, in plain text as all of the help is."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        verbs = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        room = formatter.width - 6 - max(map(len, verbs))
        heads: dict[str, list[tuple[str, str]]] = {}
        for name, verb in verbs.items():
            assert verb is not None
            head = str(vars(verb)["rich_help_panel"])
            heads.setdefault(head, []).append((name, verb.get_short_help_str(room)))
        for head, lines in heads.items():
            with formatter.section(head):
                formatter.write_dl(lines)


app = typer.Typer(
    cls=_InGroups,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Simulate LLM decoding: attention-FFN disaggregation (AFD) against wide expert "
    "parallelism (EP).\n\nExample: afdsim run step3-2a2f",
)


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"afdsim {metadata.version('afdsim')}")
        raise typer.Exit


@app.callback()
def afdsim(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_tell_version, help="Say which it is."),
    ] = False,
) -> None:
    pass


_QUESTION = "What to run"
_DEPLOYMENT, _MANY = "One deployment", "Many deployments"
_INPUTS, _TRUTH = "Scenarios and cards", "Measurements"

for head, verbs in {
    _QUESTION: (recommend.recommend,),
    _DEPLOYMENT: (
        *(simulate.run, explain.explain, compare.compare, capacity.capacity, simulate.timeline),
        theory.coverage,
        simulate.launch,
    ),
    _MANY: (sweeps.sweep, sweeps.plot, studies.study, theory.theory),
    _INPUTS: (scenarios.scenarios, simulate.new, simulate.validate, simulate.schema),
    _TRUTH: (measure.measure, accuracy.accuracy),
}.items():
    for verb in verbs:
        app.command(rich_help_panel=head)(verb)
cards.models_app.command("import")(importing.import_model)
app.add_typer(cards.models_app, name="models", rich_help_panel=_INPUTS)
app.add_typer(hardware.hardware_app, name="hardware", rich_help_panel=_INPUTS)
app.add_typer(cards.software_app, name="software", rich_help_panel=_INPUTS)
app.add_typer(calibrate.app, name="calibrate", rich_help_panel=_TRUTH)
