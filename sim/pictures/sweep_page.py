"""Report: one HTML page about one or more sweeps, which opens offline.

The page holds the rows once, as JSON, and the figures; small scripts (`templates/*.js`) fill in the
fronts, the chosen point and the table.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import plotly.graph_objects as go

from sim.deployments import compile_deployment
from sim.explain.how_sure import how_sure
from sim.foundation import json_text
from sim.inputs.scenario import Scenario
from sim.metrics.cautions import SCOPE
from sim.pictures import gantt, intervals, pareto_figure, sweep_data
from sim.pictures import page as pages
from sim.results.files import replace_files
from sim.sweeps import saved
from sim.sweeps.folder import SweepResult
from sim.sweeps.labels import labels
from sim.sweeps.pipelines import DoubtShare, Kept, read_pipelines, write_pipelines
from sim.sweeps.points import Row, best, best_rows
from sim.sweeps.sweep import Published

Described = dict[str, Any]
"""What run.json says of a sweep."""


_MOST_PARTS = 4


class Source(NamedTuple):
    name: str
    rows: list[Row]
    published: list[Published]
    described: Described
    pipelines: dict[str, Kept]
    """By family."""


class Best(NamedTuple):
    """The best point of a family, as a page begins with it."""

    point: int
    """Its place in the rows."""
    context: str
    family: str
    policy: str
    row: Row
    against_first: str
    """Its throughput against the first of the same context, in words."""
    interval: str
    """Of its throughput, in words."""


class Pipeline(NamedTuple):
    family: str
    point: str
    figure: go.Figure | None
    reason: str
    doubt: str = ""
    """What makes up the doubt, in words."""


def read(folder: Path) -> Source:
    """Return a sweep from its directory. Raises ScenarioError if `folder` holds none.

    Only files of `folder` are opened, none that they name: it may come from anyone.
    """
    rows, published, described = saved.sweep(folder)
    return Source(folder.name, rows, published, described, read_pipelines(folder))


def pipelines(rows: Sequence[Row], scenarios: Mapping[int, Scenario]) -> dict[str, Kept]:
    """Return what the page shows of each family's best point, so that it can be made again."""
    return {
        family: _pipeline(scenarios[row["point"]], row) for family, row in best_rows(rows).items()
    }


def _pipeline(scenario: Scenario, row: Row) -> Kept:
    try:
        picture = gantt.steady_picture(compile_deployment(scenario))
        return Kept(picture=picture, doubt=_parts(scenario, row) if intervals.known(row) else [])
    except Exception as error:
        # One picture is not worth the page of a whole sweep, whatever is wrong with it.
        return Kept(picture=None, reason=f"{type(error).__name__}: {error}")


def _parts(scenario: Scenario, row: Row) -> list[DoubtShare]:
    """Return what makes up the doubt in a point, the largest first."""
    found = how_sure(scenario, row["requests_in_flight"])
    parts = [DoubtShare(each.name, each.share) for each in found.sources]
    parts.append(DoubtShare("what no source declares", found.undeclared.share))
    parts.sort(key=lambda part: -part.share)
    return parts[:_MOST_PARTS]


def draw(result: SweepResult) -> Path:
    """Write report.html into the directory of a sweep and return its path."""
    found = pipelines(result.rows, result.scenarios())
    sweep = result.loaded.sweep
    source = Source(sweep.name, result.rows, sweep.published, result.described, found)

    def fill(target: Path) -> None:
        write_pipelines(target, found)
        write(target / "report.html", [source])

    replace_files(result.folder, fill)
    return result.folder / "report.html"


def write(path: Path, sources: Sequence[Source]) -> None:
    """Write the page about `sources`. Families of several sweeps are told apart by their names."""
    rows, published = _together(sources)
    chosen = best(rows)
    common = {
        _family(source, family, len(sources) > 1): settings
        for source in sources
        for family, settings in sweep_data.common(source.described).items()
    }
    data = sweep_data.data(rows, common, None if chosen is None else rows.index(chosen))
    shown = [each for source in sources for each in _pipelines(source, prefix=len(sources) > 1)]
    figures = {"pareto": pareto_figure.pareto_figure(rows, published)}
    if any(row.get("usd_per_1m_tokens") is not None for row in rows):
        figures["cost"] = pareto_figure.cost_figure(rows)
    for number, pipeline in enumerate(shown, start=1):
        if pipeline.figure is not None:
            figures[f"pipeline-{number}"] = pipeline.figure
    page = pages.rendered(
        "report.html",
        bundle="basic",
        title=", ".join(source.name for source in sources),
        descriptions=[s.described.get("sweep", {}).get("description", "") for s in sources],
        scope=SCOPE,
        warnings=_warnings(sources),
        counts=Counter(sweep_data.state(row) for row in rows),
        best=_best(rows, data),
        contexts=list(dict.fromkeys(data["contexts"])),
        bands=intervals.choices(rows, published),
        sure=list(intervals.sentences(rows, published)),
        families=pareto_figure.families(rows),
        data=data,
        figures={name: json.loads(figure.to_json()) for name, figure in figures.items()},
        pipelines=shown,
        provenance=[
            (source.name, json_text.dumps(source.described, indent=2, ensure_ascii=False))
            for source in sources
        ],
    )
    path.write_text(page, encoding="utf-8")


def _best(rows: Sequence[Row], data: Mapping[str, Any]) -> list[Best]:
    """Return the best points of the families, by context and yield."""
    places = {id(row): place for place, row in enumerate(rows)}
    order = list(dict.fromkeys(data["contexts"]))
    found = [(data["contexts"][places[id(row)]], row) for row in best_rows(rows).values()]
    found.sort(key=lambda each: (order.index(each[0]), not each[1]["slo_met"], -each[1]["tgs"]))
    first: dict[str, float] = {}
    return [
        Best(
            places[id(row)],
            context,
            row["family"],
            data["policies"][places[id(row)]],
            row,
            _against(row["tgs"], first.setdefault(context, row["tgs"])),
            intervals.ends(row),
        )
        for context, row in found
    ]


def _against(tgs: float, first: float) -> str:
    if tgs == first or not first:
        return "–"
    return f"{100 * (tgs / first - 1):+.0f} %".replace("-", "−")


def _warnings(sources: Sequence[Source]) -> list[str]:
    """Return the cautions that sweeps were saved with, under their names if there are several."""
    return [
        f"{source.name}: {text}" if len(sources) > 1 else text
        for source in sources
        for text in source.described.get("warnings", [])
    ]


def _together(sources: Sequence[Source]) -> tuple[list[Row], list[Published]]:
    rows = [
        row | {"family": _family(source, row["family"], len(sources) > 1)}
        for source in sources
        for row in source.rows
    ]
    published = {
        point.label: point.model_copy(
            update={"family": point.family and _family(source, point.family, len(sources) > 1)}
        )
        for source in sources
        for point in source.published
    }
    return rows, list(published.values())


def _family(source: Source, family: str, prefix: bool) -> str:
    return f"{source.name}: {family}" if prefix else family


def _pipelines(source: Source, *, prefix: bool) -> Iterator[Pipeline]:
    named = {id(row): label for row, label in zip(source.rows, labels(source.rows), strict=True)}
    for family in pareto_figure.families(source.rows):
        row = best([row for row in source.rows if row["family"] == family])
        name, kept = _family(source, family, prefix), source.pipelines.get(family)
        if row is None:
            yield Pipeline(name, "", None, "no point of this family was simulated")
        elif kept is None:
            reason = "the sweep was saved without the pipeline of this point; run it again"
            yield Pipeline(name, named[id(row)], None, reason)
        else:
            figure = kept.picture and gantt.figure_of(kept.picture)
            told = ", ".join(f"{part.name} {100 * part.share:.0f} %" for part in kept.doubt)
            yield Pipeline(name, named[id(row)], figure, kept.reason, told)
