"""Study report: the verdicts of a study as a page that opens offline and as Markdown.

Both show the same sections: what they say is written once, here.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import plotly.graph_objects as go
import plotly.offline
from plotly.subplots import make_subplots

from sim.outcomes import Outcome, counts
from sim.plots import COLOURS
from sim.studies import Study

# Margins beyond this share have the full colour.
_FULL = 0.5


class Section(NamedTuple):
    """A table with what it says."""

    title: str
    text: str
    head: list[str]
    rows: list[list[str]]


def write(
    folder: Path, study: Study, outcomes: Sequence[Outcome], described: dict[str, Any]
) -> None:
    """Write report.md and report.html into `folder`."""
    found = list(sections(study, outcomes))
    (folder / "report.md").write_text(markdown(study, outcomes, found), encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sim"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    figure = verdict_map(study, outcomes)
    page = environment.get_template("study.html").render(
        title=study.name,
        description=study.description,
        summary=summary(study, outcomes),
        figure=json.loads(figure.to_json()),
        height=figure.layout.height,
        sections=found,
        provenance=json.dumps(described, indent=2, ensure_ascii=False),
        plotly=plotly.offline.get_plotlyjs(),
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


def markdown(study: Study, outcomes: Sequence[Outcome], found: Sequence[Section]) -> str:
    """Return the report as Markdown."""
    lines = [f"# {study.name}", "", study.description, "", summary(study, outcomes)]
    for section in found:
        lines += ["", f"## {section.title}", "", section.text, ""]
        lines.append("| " + " | ".join(section.head) + " |")
        lines.append("|" + "---|" * len(section.head))
        lines += ["| " + " | ".join(row) + " |" for row in section.rows]
    return "\n".join(lines) + "\n"


def summary(study: Study, outcomes: Sequence[Outcome]) -> str:
    """Return the verdicts in a sentence."""
    many = counts(outcomes)
    said = ", ".join(f"{verdict}: {count}" for verdict, count in many.most_common())
    unfinished = sum(each.verdict is None for each in outcomes)
    more = f" {unfinished} cells are not finished." if unfinished else ""
    return f"Of {len(outcomes)} cells, by verdict: {said or 'none yet'}.{more}"


def sections(study: Study, outcomes: Sequence[Outcome]) -> Iterator[Section]:
    """Yield the sections of the report."""
    first, second = study.sides
    yield from _verdicts(study, outcomes)
    yield Section(
        "Champions",
        "The best shape of each side at the largest batch that meets the SLO in simulation. Batch: "
        "requests on each attention GPU in each micro-batch, and what limits it. Bound by: the "
        "critical circuit of the steady state, with its share. Measured: share of kernel time from "
        "inside measured ranges, outside them, from no measurement. Left open: by how much a shape "
        "that was never simulated would beat this one, if it lost as little to chance as the "
        "one that lost least. At the end of: axes whose largest tried value it has.",
        [
            *study.dimensions,
            "side",
            "shape",
            "GPUs",
            "batch",
            "limit",
            "TPOT ms",
            "tokens/s/GPU",
            "USD/1M",
            "bound by",
            "GPUs busy",
            "measured / outside / none",
            "left open",
            "at the end of",
        ],
        [
            _champion(each, number, side)
            for each in outcomes
            for number, side in enumerate(study.sides)
        ],
    )
    names = [each.name for each in study.counterfactuals]
    if names:
        yield Section(
            "Mechanisms",
            f"The margin of {first} over {second} with one mechanism switched off at a time, shape "
            "and batch chosen anew; «→» where the verdict is another then. Last stands what the "
            "winner owes most of its lead to; «–» where nothing takes 1 % of its yield.",
            [*study.dimensions, "margin", *names, "decides"],
            [_mechanisms(each, names) for each in outcomes if each.moved],
        )
        yield Section(
            "Sensitivity",
            "Cells by verdict, of those in which both sides can run, as they are and with one "
            "mechanism switched off; how many verdicts that flips; and the median factor by which "
            f"the yield of {first} relative to {second} changes.",
            ["", first, second, "tie", "flips", "median factor"],
            list(_sensitivity(study, outcomes, names)),
        )


def _verdicts(study: Study, outcomes: Sequence[Outcome]) -> Iterator[Section]:
    """Yield a table for each value of the first dimension: the last one across."""
    first, _second = study.sides
    *front, down, _across = study.dimensions
    by_place = {tuple(each.cell.place.values()): each for each in outcomes}
    fronts = dict.fromkeys(tuple(place[: len(front)]) for place in by_place)
    for number, chosen in enumerate(fronts):
        mine = {p[len(front) :]: each for p, each in by_place.items() if p[: len(front)] == chosen}
        columns = list(dict.fromkeys(place[-1] for place in mine))
        lines = list(dict.fromkeys(place[:-1] for place in mine))
        text = (
            f"Who yields more, by how much ({first} over the other side), and the 95 % interval of "
            f"chance. Smaller margins than {100 * study.indifference:g} % are ties. The yield is "
            "tokens per USD where all cards have a price, tokens/s/GPU elsewhere."
        )
        yield Section(
            ", ".join(chosen) or study.name,
            text if number == 0 else "",
            [down, *columns],
            [
                [", ".join(line), *(_verdict(mine.get((*line, column))) for column in columns)]
                for line in lines
            ],
        )


def _verdict(outcome: Outcome | None) -> str:
    if outcome is None or outcome.verdict is None:
        return "–"
    if outcome.margin is None or outcome.half_width is None:
        return outcome.verdict
    return f"{outcome.verdict} {_percent(outcome.margin)} ± {100 * outcome.half_width:.1f}"


def _champion(outcome: Outcome, number: int, side: str) -> list[str]:
    entry, limits, beyond = outcome.entries[number], outcome.limits[number], outcome.beyond[number]
    place = [*outcome.cell.place.values(), side]
    if entry is None:
        return [*place, outcome.whys[number], *["–"] * 11]
    figures = entry["figures"]
    usd = figures["usd_per_1m_tokens"]
    bound_by = busy = "–"
    if limits:
        kind = limits["kind"].removesuffix("-bound")
        bound_by = f"{kind} {limits['spent'].get(kind, 0):.0%}"
        busy = ", ".join(f"{pool} {share:.0%}" for pool, share in limits["busy"].items())
    shares = [
        figures[f"{status}_share"] for status in ("calibrated", "extrapolated", "uncalibrated")
    ]
    return [
        *place,
        described_shape(entry),
        f"{figures['gpus']:.0f}",
        f"{figures['batch']}",
        entry["limit"],
        f"{figures['tpot_ms_mean']:.1f}",
        f"{figures['tgs']:,.0f}",
        "–" if usd is None else f"{usd:.3f}",
        bound_by,
        busy,
        " / ".join(f"{share:.0%}" for share in shares),
        "–" if beyond is None else _percent(beyond),
        ", ".join(path.rsplit(".", 1)[-1] for path in outcome.edges[number]) or "–",
    ]


def described_shape(entry: dict[str, Any]) -> str:
    """Return a champion's shape and settings in a line."""
    names = {"deployment.ffn.parallelism": "{}", "deployment.overlap": "{}"}
    told = [entry["shape"]]
    for path, value in entry["settings"].items():
        last = path.rsplit(".", 1)[-1]
        if path in names:
            told.append(names[path].format(value))
        elif last == "gpus_per_instance":
            told.append(f"{value} GPUs an F")
        elif last == "redundant_experts":
            told += [f"+{value} replicas"] if value else []
        elif last == "micro_batches":
            told.append(f"{value} micro-batches")
        elif last not in ("instances", "gpus"):
            told.append(f"{value}")
    return ", ".join(told)


def _mechanisms(outcome: Outcome, names: Sequence[str]) -> list[str]:
    moved = {each.name: each for each in outcome.moved}
    cells = []
    for name in names:
        each = moved.get(name)
        if each is None:
            cells.append("–")
            continue
        margin = each.verdict if each.margin is None else _percent(each.margin)
        cells.append(f"{margin} → {each.verdict}" if each.flips else margin)
    most = outcome.decides
    return [
        *outcome.cell.place.values(),
        _verdict(outcome),
        *cells,
        "–" if most is None else most.name,
    ]


def _sensitivity(
    study: Study, outcomes: Sequence[Outcome], names: Sequence[str]
) -> Iterator[list[str]]:
    met = [each for each in outcomes if each.margin is not None]
    kinds = [*study.sides, "tie"]
    yield ["as it is", *(str(sum(each.verdict == kind for each in met)) for kind in kinds), "", ""]
    for name in names:
        there = [moved for each in met for moved in each.moved if moved.name == name]
        factors = sorted(moved.factor for moved in there)
        yield [
            name,
            *(
                str(sum(moved.verdict.removeprefix("only ") == kind for moved in there))
                for kind in kinds
            ),
            str(sum(moved.flips for moved in there)),
            f"× {factors[len(factors) // 2]:.3f}" if factors else "–",
        ]


def verdict_map(study: Study, outcomes: Sequence[Outcome]) -> go.Figure:
    """Return the map: a panel for each value of the first dimension, coloured by margin."""
    first, second = study.sides
    names = list(study.dimensions)
    across, down = names[-1], names[-2]
    panels = list(dict.fromkeys(tuple(each.cell.place.values())[:-2] for each in outcomes))
    columns = min(len(panels), 2)
    lines = -(-len(panels) // columns)
    titles = [", ".join(panel) for panel in panels]
    figure = make_subplots(
        lines, columns, subplot_titles=titles, horizontal_spacing=0.12, vertical_spacing=0.14
    )
    for number, panel in enumerate(panels):
        mine = [each for each in outcomes if tuple(each.cell.place.values())[:-2] == panel]
        xs = list(dict.fromkeys(each.cell.place[across] for each in mine))
        ys = list(dict.fromkeys(each.cell.place[down] for each in mine))
        at = {(each.cell.place[down], each.cell.place[across]): each for each in mine}
        grid = [[at.get((y, x)) for x in xs] for y in ys]
        figure.add_trace(
            go.Heatmap(
                x=xs,
                y=ys,
                z=[[_colour(study, each) for each in line] for line in grid],
                text=[[_short(each) for each in line] for line in grid],
                hovertext=[[_hover(study, each) for each in line] for line in grid],
                texttemplate="%{text}",
                hoverinfo="text",
                zmin=-_FULL,
                zmax=_FULL,
                colorscale=[[0, COLOURS[1]], [0.5, "#f7f7f7"], [1, COLOURS[0]]],
                showscale=number == 0,
                colorbar={
                    "title": f"{first} over {second}",
                    "tickformat": "+.0%",
                    "len": 0.6,
                },
                xgap=3,
                ygap=3,
            ),
            row=number // columns + 1,
            col=number % columns + 1,
        )
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(type="category")
    figure.update_layout(
        height=120 + 290 * lines,
        template="plotly_white",
        margin={"l": 80, "r": 20, "t": 50, "b": 40},
        font={"family": "system-ui, sans-serif", "size": 13},
    )
    return figure


def _colour(study: Study, outcome: Outcome | None) -> float | None:
    if outcome is None or outcome.verdict is None:
        return None
    if outcome.margin is not None:
        return outcome.margin
    first, second = study.sides
    return {f"only {first}": _FULL, f"only {second}": -_FULL}.get(outcome.verdict)


def _short(outcome: Outcome | None) -> str:
    if outcome is None or outcome.verdict is None:
        return "–"
    if outcome.margin is None:
        return outcome.verdict
    return f"{outcome.verdict}<br>{_percent(outcome.margin)}"


def _hover(study: Study, outcome: Outcome | None) -> str:
    if outcome is None:
        return ""
    lines = [f"<b>{html.escape(outcome.cell.name())}</b>: {html.escape(_verdict(outcome))}"]
    for number, side in enumerate(study.sides):
        entry, limits = outcome.entries[number], outcome.limits[number]
        if entry is None:
            lines.append(f"{html.escape(side)}: {html.escape(outcome.whys[number])}")
            continue
        figures = entry["figures"]
        lines.append(f"{html.escape(side)}: {html.escape(described_shape(entry))}")
        lines.append(
            f"  {figures['gpus']:.0f} GPUs, batch {figures['batch']} ({entry['limit']}), "
            f"{figures['tgs']:,.0f} tokens/s/GPU, TPOT {figures['tpot_ms_mean']:.1f} ms"
        )
        if limits:
            lines.append(f"  {limits['kind']}")
    most = outcome.decides
    if most is not None:
        lines.append(f"decides: {html.escape(most.name)}")
    return "<br>".join(lines)


def _percent(share: float) -> str:
    return f"{100 * share:+.1f} %".replace("-", "−")
