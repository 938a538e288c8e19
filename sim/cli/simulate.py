"""The verbs about one scenario: run, timeline, validate, launch, schema, new."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli.doubt import Showing, again, again_in_words, show_doubt
from sim.cli.text import (
    AsJson,
    Out,
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
    span,
    warn,
)
from sim.foundation import json_text
from sim.foundation.errors import ScenarioError, SimError
from sim.foundation.printable import excerpt

if TYPE_CHECKING:
    from sim.inputs.scenario import Scenario


def run(
    scenario: Annotated[str, typer.Argument(help="Scenario: a name in scenarios/ or a path.")],
    setting: Settings = None,
    price: Prices = None,
    as_json: AsJson = False,
    out: Out = None,
    timeline: Annotated[
        str | None,
        typer.Option(metavar="FIRST:LAST", help="Record the tasks of these layers (one step)."),
    ] = None,
    workers: WorkerCount = 1,
    instead: Annotated[
        Showing | None,
        typer.Option(
            "--show",
            help="Instead of simulating: doubt lists what is not known of the scenario, and what "
            "each source does to TPOT.",
        ),
    ] = None,
    reoptimise: Annotated[
        bool,
        typer.Option(
            "--reoptimise",
            help="Add batch and throughput at slo.tpot_ms if every draw of doubt took its own "
            "largest batch (closed loop).",
        ),
    ] = False,
) -> None:
    """Simulate one scenario and save its tables, those of the first of its replications.

    Example: afdsim run step3-2a2f --set workload.arrivals.concurrency=4608
    """
    from sim.decoding.step_times import left_out
    from sim.deployments import compile_deployment
    from sim.experiments import run_folder
    from sim.explain.coverage import coverage_of
    from sim.inputs.scenario import load

    loaded = load(scenario, assignments(setting, price), compile_deployment)
    say_notes([loaded.workload])
    if reoptimise and loaded.workload.arrivals.kind != "closed":
        problem = "needs workload.arrivals of kind closed"
        raise typer.BadParameter(problem, param_hint="--reoptimise")
    if instead == "doubt":
        for option, given in (("--out", out), ("--timeline", timeline)):
            if given is not None:
                raise typer.BadParameter("--show simulates and saves nothing", param_hint=option)
        show_doubt(loaded, reoptimise, as_json)
        return
    if loaded.simulation.engine == "bound" and timeline is not None:
        raise typer.BadParameter("the bound engine runs no tasks", param_hint="--timeline")
    window = None if timeline is None else _window(timeline)
    say(f"coverage: {coverage_of(loaded).sentence()}")
    with pool_of(min(workers, loaded.simulation.replications - 1)) as pool:
        saved = run_folder.run(loaded, out, pool, window)
    note = left_out(loaded) if saved.run is None else saved.run.engine_note
    if note:
        say(note)
    _show(saved.figures, loaded, reoptimise, as_json)
    if saved.run is None:
        say(f"saved in {saved.folder}; the bound engine has no tables")
    else:
        say(f"saved in {saved.folder} after {saved.run.wall_s:.1f} s")


def _show(figures: dict[str, Any], scenario: Scenario, reoptimise: bool, as_json: bool) -> None:
    from sim.metrics.catalogue import METRICS
    from sim.metrics.cautions import SCOPE, cautions
    from sim.metrics.slo import criterion

    warnings = cautions(scenario, figures)
    warn(warnings)
    if as_json:
        told = {"scope": SCOPE, "warnings": warnings, **(again(scenario) if reoptimise else {})}
        print(json_text.dumps(figures | told, indent=2, ensure_ascii=False))
        return
    shown = Table(["figure", "value", "unit", "what it is"], figures["scenario"])
    for metric in METRICS:
        if metric.unit == "USD" and figures[metric.name] is None:
            continue  # a card without a price
        shown.add_row(metric.name, number(figures[metric.name]), metric.unit, metric.definition)
    for pool, share in figures["utilisation"].items():
        shown.add_row(f"utilisation {pool}", number(share), "share", "busy share, mean")
    if "preemptions" in figures:
        for name, unit, definition in _PREEMPTION:
            shown.add_row(name, number(figures[name]), unit, definition)
    verdict = "met" if figures["slo_met"] else "missed"
    shown.add_row("slo", verdict, "", figures["slo_missed"] or criterion(scenario.slo))
    show(shown, *(again_in_words(scenario) if reoptimise else ()), SCOPE)


_PREEMPTION = (
    ("preemptions", "", "times that a request gave way for lack of KV"),
    ("preempted_share", "share", "requests that ever did"),
    ("preemption_ms_mean", "ms", "mean gap between tokens where they did"),
)


def _window(text: str) -> Any:
    from sim.decoding.step_table import FILL_STEPS

    layers = span(text, "--timeline")
    return lambda node, step: step == FILL_STEPS and node.layer in layers


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


def validate(
    scenarios: Annotated[
        list[str], typer.Argument(help="Scenarios or sweeps, names or paths, or paths of studies.")
    ],
    setting: Settings = None,
) -> None:
    """Check scenarios, sweeps and studies, memory included, without running them.

    Example: afdsim validate step3-2a2f dsv3-ep128
    """
    from sim.deployments import compile_deployment
    from sim.foundation.errors import InfeasibleError
    from sim.inputs import cards
    from sim.inputs.documents.document import read
    from sim.inputs.scenario import load

    problems: list[str] = []
    refused: list[str] = []
    for name in scenarios:
        try:
            path = cards.find_any((cards.SCENARIOS, cards.SWEEPS), name, "scenario or sweep")
            kind = read(path).get(("kind",))
            if kind == "study":
                from sim.study.cells import load as load_study

                say(f"{name}: {len(load_study(path, setting or ()).cells)} cells, all well formed")
            elif kind == "sweep":
                from sim.sweeps.sweep import load as load_sweep

                found = load_sweep(path, setting or ())
                left_out = f", {found.left_out} left out" if found.left_out else ""
                say(f"{name}: {len(found.points)} points{left_out}, all well formed")
            else:
                loaded = load(path, setting or (), compile_deployment)
                compile_deployment(loaded)
                say_notes([loaded.workload])
                say(f"{name}: ok")
        except InfeasibleError as error:
            refused += [f"{name}: {line}" for line in str(error).splitlines()]
        except SimError as error:
            problems += str(error).splitlines()
    if problems:
        raise ScenarioError([*problems, *refused])
    if refused:
        raise InfeasibleError("\n".join(refused))


def launch(
    scenario: Annotated[str, typer.Argument(help="Scenario: a name in scenarios/ or a path.")],
    engine: Annotated[str, typer.Option(help="vllm, sglang, dynamo or afd-plugin.")],
    setting: Settings = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="File to write; default: stdout.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a scenario as flags or YAML of a serving engine, and say what the engine lacks.

    Example: afdsim launch dsv3-ep8-h200 --engine sglang
    """
    from sim.deployments import compile_deployment
    from sim.foundation.errors import did_you_mean
    from sim.inputs.scenario import load
    from sim.results.files import replace_file
    from sim.study.launch.launch_file import ENGINES, launch_file

    if engine not in ENGINES:
        told = f"unknown {engine!r}; {did_you_mean(engine, ENGINES)}"
        raise typer.BadParameter(told, param_hint="--engine")
    written = launch_file(load(scenario, setting or (), compile_deployment), engine)
    if out is not None:
        replace_file(out, lambda part: part.write_text(written.text, encoding="utf-8"))
        say(f"wrote {out}")
    if as_json:
        print(json_text.dumps(vars(written), indent=2, ensure_ascii=False))
    elif out is None:
        print(written.text, end="")
    for sentence in written.cannot:
        say(f"not in the file: {sentence}")


def schema(
    of: Annotated[
        str, typer.Argument(help="scenario, sweep, model, accelerator or fabric.")
    ] = "scenario",
) -> None:
    """Print a JSON Schema, for completion and checks in an editor.

    Example: afdsim schema > scenario.schema.json
    """
    from sim.foundation.errors import did_you_mean
    from sim.inputs.hardware import Accelerator, Fabric
    from sim.inputs.model import ModelCard
    from sim.inputs.scenario import Scenario
    from sim.sweeps.sweep import Sweep

    kinds: dict[str, Any] = {
        "scenario": Scenario,
        "sweep": Sweep,
        "model": ModelCard,
        "accelerator": Accelerator,
        "fabric": Fabric,
    }
    if of not in kinds:
        raise typer.BadParameter(f"unknown {of!r}; {did_you_mean(of, kinds)}", param_hint="OF")
    data = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    print(json_text.dumps(data | kinds[of].model_json_schema(), indent=2, ensure_ascii=False))


def new(
    name: Annotated[str, typer.Argument(help="Name of the new scenario.")],
    base: Annotated[str, typer.Option("--from", help="Scenario to start from.")] = "step3-2a2f",
    model: Annotated[
        str | None,
        typer.Option(help="Model card to run instead, in the formats of its checkpoint."),
    ] = None,
) -> None:
    """Write scenarios/NAME.yaml, a copy of a shipped scenario to edit.

    Example: afdsim new mine --from dsv3-ep128
    """
    from sim.foundation.reading import read_text
    from sim.inputs import cards
    from sim.inputs.documents.document import MOST_BYTES, parse
    from sim.inputs.naming import folder_name
    from sim.results.files import replace_file

    if not name or folder_name(name) != name:
        raise ScenarioError(
            f"no name for a scenario: {excerpt(name)}; write letters, digits and _ . + -, "
            "a letter or digit in front"
        )
    text = read_text(cards.find(cards.SCENARIOS, base, "scenario"), MOST_BYTES)
    path = Path(cards.SCENARIOS) / f"{name}.yaml"
    if path.exists():
        raise typer.BadParameter(f"{path} exists already", param_hint="NAME")
    written = (
        name if parse(f"name: {name}", path.name).data["name"] == name else json_text.dumps(name)
    )
    lines = [f"name: {written}" if line.startswith("name:") else line for line in text.splitlines()]
    if model is not None:
        lines = _with_model(lines, base, model)
    text = "\n".join(lines) + "\n"
    replace_file(path, lambda part: part.write_text(text, encoding="utf-8"))
    say(f"wrote {path}; run it: afdsim run {name}")


def _with_model(lines: list[str], base: str, name: str) -> list[str]:
    """Return the lines of a scenario with another model, in the formats of its checkpoint.

    What the scenario said of its own model is left out: comments at the top, drafts.
    """
    from sim.inputs import cards
    from sim.inputs.naming.titles import in_shape_of

    card = cards.model(name)
    shape = json_text.dumps(in_shape_of(card.title, base), ensure_ascii=False)
    told = {"model": name, "description": shape}
    if card.checkpoint is None:
        say(f"{name} states no checkpoint: precision is that of {base}")
    else:
        formats = card.checkpoint.precision().items()
        pairs = ", ".join(f"{part}: {dtype}" for part, dtype in formats)
        told["precision"] = f"{{{pairs}}} # as the checkpoint stores it"
    while lines and lines[0].startswith("#"):
        lines = lines[1:]
    kept, dropping = list[str](), False
    for line in lines:
        if line and not line[0].isspace() and not line.startswith("#"):
            key = line.partition(":")[0]
            dropping = key == "speculation" or key in told
            if key in told:
                kept.append(f"{key}: {told[key]}")
            if key == "speculation":
                say(f"speculation of {base} is left out: its drafting layer is of another model")
        if not dropping:
            kept.append(line)
    return kept
