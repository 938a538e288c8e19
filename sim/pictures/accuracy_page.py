"""Accuracy page: predicted against measured, errors by group, and the rows.

The same sections stand on a page that opens offline and, between marks, in a Markdown file.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from sim.experiments.accuracy.intervals import cross_validated
from sim.experiments.accuracy.pairs import JudgedPair
from sim.experiments.accuracy.stages import JudgedStage
from sim.experiments.accuracy.verdict import (
    GROUPS,
    Errors,
    Judged,
    errors,
    in_order,
    stage_errors,
)
from sim.foundation.errors import ScenarioError, StoreError
from sim.foundation.reading import read_text
from sim.pictures import page as pages
from sim.pictures.looks import COLOURS, faint
from sim.pictures.sections import Section, table_lines
from sim.results.files import replace_file

_BAND = 0.10
_SYMBOLS = {"device": "circle-open", "wall": "square", "served TPOT": "circle"}
_HEIGHT_OF_GROUP = 22
_TICKS_MS = [figure * 10**power for power in range(-1, 5) for figure in (1, 1.5, 2, 3, 5, 7)]
_MOST_MARKDOWN = 8 << 20


def write_page(path: Path, rows: Sequence[Judged], name: str) -> None:
    """Write one HTML file about the rows of the file `name`. Raises StoreError if it cannot."""
    groups = _groups(rows)
    page = pages.rendered(
        "accuracy.html",
        title=f"Accuracy: {name}",
        summary=summary(rows),
        inside=inside(rows),
        figures={
            "scatter": json.loads(_scatter(rows).to_json()),
            "groups": json.loads(groups.to_json()),
        },
        height=groups.layout.height,
        sections=list(sections(rows)),
    )
    replace_file(path, lambda part: part.write_text(page, encoding="utf-8"))


def write_between_marks(path: Path, mark: str, found: Sequence[Section]) -> None:
    """Replace what stands in a Markdown file between two comments of `mark` by tables.

    Raises StoreError if it has no such comments or cannot be written, ScenarioError if it cannot
    be read.
    """
    first, last = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    text = read_text(path, _MOST_MARKDOWN)
    if text.count(first) != 1 or text.count(last) != 1 or text.index(last) < text.index(first):
        raise StoreError(
            f"{path}: write the lines {first} and {last} where the tables should stand"
        )
    lines = [first]
    for section in found:
        lines += ["", f"**{section.title}.** {section.text}".rstrip(), "", *table_lines(section)]
    before, after = text.split(first)[0], text.split(last)[1]
    made = before + "\n".join([*lines, "", last]) + after
    replace_file(path, lambda part: part.write_text(made, encoding="utf-8"))


def summary(rows: Sequence[Judged]) -> str:
    whole = errors(rows)[0]
    return (
        f"{whole.expressible} of {whole.rows} rows are predicted: median |error| "
        f"{percent(whole.median)}, P90 {percent(whole.p90)}, bias {signed(whole.bias)}."
    )


def sections(rows: Sequence[Judged]) -> list[Section]:
    """Return groups, rows, and what is not expressed."""
    groups, covered, refused = report_sections(rows)
    each = Section(
        "Rows",
        "TPOT in ms on the row's own clock; 80 %: the interval that should hold it with this "
        "probability. Calibrated: share of kernel time from inside measured ranges.",
        [
            *("row", "clock", "requests a GPU", "context"),
            *("measured", "predicted", "80 %", "error", "calibrated"),
        ],
        [_row(row) for row in rows if row.prediction is not None],
    )
    return [groups, covered, each, refused]


def report_sections(rows: Sequence[Judged]) -> list[Section]:
    """Return groups and what is not expressed, the rows of one reason together."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.why_not:
            reasons.setdefault(row.why_not, []).append(row.point.id)
    return [
        Section(
            "By group",
            "Errors are predicted over measured, less 1; bias is their mean.",
            ["group", "value", "rows", "predicted", "median error", "P90", "bias"],
            [_line(each) for each in errors(rows) if each.expressible],
        ),
        interval_section(rows),
        Section(
            "Not expressed",
            "Rows without a prediction, and why.",
            ["why", "rows"],
            [[why, ", ".join(names)] for why, names in reasons.items()],
        ),
    ]


def interval_section(rows: Sequence[Judged]) -> Section:
    """Return how often intervals hold what was measured, by framework."""
    try:
        found = cross_validated(rows)
    except ScenarioError:
        found = []
    return Section(
        "Intervals",
        "How many measured points lie inside the 80 % and 90 % intervals of their predictions, "
        "while all rows of their framework and card, and near duplicates of these, were left out "
        "of the fit; and the median "
        "half-width of the 80 % intervals.",
        ["framework", "rows", "inside 80 %", "inside 90 %", "half-width"],
        [
            [
                *(each.value or "all", str(each.rows)),
                *(percent(each.covered_80), percent(each.covered_90)),
                f"± {percent(each.half_width)}",
            ]
            for each in found
        ],
    )


def stage_sections(rows: Sequence[JudgedStage]) -> list[Section]:
    """Return groups and rows of stages."""
    return [
        Section(
            "By stage",
            "",
            ["group", "stage", "rows", "predicted", "median error", "P90", "bias"],
            [_line(each) for each in stage_errors(rows)],
        ),
        Section(
            "Stages",
            "Times in µs in one layer.",
            ["row", "run", "stage", "tokens", "measured", "predicted", "error"],
            [
                [
                    *(row.point.id, row.point.run, row.point.stage, row.point.batch),
                    *(f"{row.point.measured_us:.1f}", f"{row.predicted_us:.1f}"),
                    signed(row.error),
                ]
                for row in rows
                if row.predicted_us is not None
            ],
        ),
    ]


def pair_section(pairs: Sequence[JudgedPair]) -> Section:
    """Return the leads of pairs."""
    words = {None: "–", True: "yes", False: "no"}
    return Section(
        "Pairs",
        "By how much the first yields more tokens/s/GPU than the second, over all GPUs; the "
        "interval that should hold the lead with a probability of 90 %, and how likely the first "
        "yields more at all.",
        [
            *("first", "second", "measured lead", "predicted lead", "90 %", "same sign"),
            *("points apart", "P(more)"),
        ],
        [
            [
                *(each.first.point.id, each.second.point.id),
                *(signed(each.measured), signed(each.predicted), _lead_interval(each)),
                *(words[each.same_sign], _apart(each), _likely(each.first_yields_more)),
            ]
            for each in pairs
        ],
    )


def _lead_interval(pair: JudgedPair) -> str:
    ends = pair.percentiles
    return "–" if ends is None else f"{signed(ends[0])} to {signed(ends[-1])}"


def _likely(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def _apart(pair: JudgedPair) -> str:
    if pair.measured is None or pair.predicted is None:
        return "–"
    return f"{100 * (pair.predicted - pair.measured):+.1f}".replace("-", "−")


def _line(each: Errors) -> list[str]:
    counts = [str(each.rows), str(each.expressible)]
    return [
        *(each.group, each.value, *counts),
        *(percent(each.median), percent(each.p90), signed(each.bias)),
    ]


def _row(row: Judged) -> list[str]:
    point, seen = row.point, row.prediction
    assert seen is not None
    return [
        *(
            point.id,
            point.clock,
            f"{point.requests_per_gpu:g}",
            f"{point.context_tokens_mean:,.0f}",
        ),
        *(f"{point.measured_ms:.2f}", f"{row.predicted_ms:.2f}", _interval(row), signed(row.error)),
        f"{seen.calibrated_share:.0%}",
    ]


def _interval(row: Judged) -> str:
    ends = row.percentiles_ms
    return "–" if ends is None else f"{ends[1]:.2f} to {ends[2]:.2f}"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def signed(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:+.1f} %".replace("-", "−")


def _scatter(rows: Sequence[Judged]) -> go.Figure:
    known = [row for row in rows if row.error is not None]
    figure = go.Figure()
    frameworks = sorted({row.point.framework or "unknown" for row in known})
    for number, framework in enumerate(frameworks):
        members = [row for row in known if (row.point.framework or "unknown") == framework]
        figure.add_trace(
            go.Scatter(
                x=[row.point.measured_ms for row in members],
                y=[row.predicted_ms for row in members],
                mode="markers",
                name=html.escape(framework),
                error_y=_whiskers(members, COLOURS[number % len(COLOURS)]),
                marker={
                    "size": 8,
                    "color": COLOURS[number % len(COLOURS)],
                    "symbol": [_SYMBOLS.get(row.point.clock, "x") for row in members],
                },
                text=[_hover(row) for row in members],
                hoverinfo="text",
            )
        )
    times = [time for row in known for time in (row.point.measured_ms, row.predicted_ms) if time]
    ends = [0.8 * min(times), 1.25 * max(times)] if times else [1.0, 100.0]
    for factor, dash in ((1.0, "solid"), (1 + _BAND, "dot"), (1 - _BAND, "dot")):
        figure.add_trace(
            go.Scatter(
                x=ends,
                y=[factor * end for end in ends],
                mode="lines",
                hoverinfo="skip",
                showlegend=False,
                line={"color": "grey", "width": 1, "dash": dash},
            )
        )
    figure.update_xaxes(type="log", title="measured TPOT, ms", tickvals=_TICKS_MS)
    figure.update_yaxes(type="log", title="predicted TPOT, ms", tickvals=_TICKS_MS)
    figure.update_layout(
        template="plotly_white",
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        modebar={"orientation": "v"},  # beside the plot, or it would cover the legend
        margin={"t": 10, "b": 50, "r": 40},
    )
    return figure


def _whiskers(rows: Sequence[Judged], colour: str) -> dict[str, Any]:
    """Return 80 % intervals as bars up and down from what is predicted."""
    ends = [row.percentiles_ms or (row.predicted_ms or 0.0,) * 4 for row in rows]
    return {
        "array": [end[2] - (row.predicted_ms or 0.0) for end, row in zip(ends, rows, strict=True)],
        "arrayminus": [
            (row.predicted_ms or 0.0) - end[1] for end, row in zip(ends, rows, strict=True)
        ],
        "color": faint(colour, 0.45),
        "thickness": 1,
        "width": 0,
    }


def inside(rows: Sequence[Judged]) -> str:
    """Return how many measured points lie inside the intervals of their predictions, in words."""
    sure = [
        (row.percentiles_ms, row.point.measured_ms)
        for row in rows
        if row.percentiles_ms is not None and row.point.measured_ms is not None
    ]
    if not sure:
        return ""
    words = []
    for level, low, high in ((80, 1, 2), (90, 0, 3)):
        count = sum(ends[low] <= measured_ms <= ends[high] for ends, measured_ms in sure)
        words.append(f"{count} ({percent(count / len(sure))}) lie inside their {level} % intervals")
    return f"Of {len(sure)} measured points, {' and '.join(words)}."


def _hover(row: Judged) -> str:
    point = row.point
    lines = (
        *(point.id, f"{point.model}, {point.hardware_attention}, {point.framework}"),
        f"{point.requests_per_gpu:g} requests a GPU, {point.context_tokens_mean:,.0f} tokens",
        f"{point.clock}: measured {point.measured_ms:.2f} ms, predicted {row.predicted_ms:.2f} ms "
        f"({signed(row.error)}), 80 %: {_interval(row)} ms",
    )
    return "<br>".join(map(html.escape, lines))


def _groups(rows: Sequence[Judged]) -> go.Figure:
    known = [row for row in rows if row.error is not None]
    figure = go.Figure()
    labels: list[str] = []
    for number, (name, value) in enumerate(GROUPS.items()):
        for each in sorted({value(row.point) for row in known}, key=in_order):
            members = [row for row in known if value(row.point) == each]
            label = html.escape(f"{name}: {each} ({len(members)})")
            labels.append(label)
            figure.add_trace(
                go.Box(
                    x=[100 * (row.error or 0.0) for row in members],
                    y=[label] * len(members),
                    name=label,
                    orientation="h",
                    boxpoints="all",
                    jitter=0.4,
                    pointpos=0,
                    marker={"size": 4, "opacity": 0.6, "color": COLOURS[number % len(COLOURS)]},
                    text=[html.escape(row.point.id) for row in members],
                    hoverinfo="text+x",
                )
            )
    for at, dash in ((0, "solid"), (100 * _BAND, "dot"), (-100 * _BAND, "dot")):
        figure.add_vline(at, line={"color": "grey", "width": 1, "dash": dash})
    figure.update_yaxes(categoryorder="array", categoryarray=labels[::-1], automargin=True)
    figure.update_xaxes(title="error, %")
    figure.update_layout(
        template="plotly_white",
        showlegend=False,
        height=140 + _HEIGHT_OF_GROUP * len(labels),
        modebar={"orientation": "v"},
        margin={"t": 10, "r": 40},
    )
    return figure
