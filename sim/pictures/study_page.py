"""Study report: the verdicts of a study as a page that opens offline and as Markdown.

Both show the same sections: what they say is written once, here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from sim.doubt.margin import OPEN
from sim.foundation import json_text
from sim.inputs.naming.settings import described
from sim.metrics.cautions import SCOPE
from sim.pictures import page as pages
from sim.pictures.sections import Section, as_written, markdown_lines
from sim.pictures.verdict_map import verdict_map
from sim.results.files import replace_files
from sim.study import published
from sim.study.folder import StudyResult
from sim.study.schema import Study
from sim.study.verdicts import JudgedCell, counts, percent, settled, told


def draw(result: StudyResult) -> Path:
    """Write report.md and report.html into the directory of a study; return the page's path."""
    replace_files(
        result.folder,
        lambda target: write(target, result.study, result.cells, result.described),
    )
    return result.folder / "report.html"


def write(
    folder: Path, study: Study, cells: Sequence[JudgedCell], described: dict[str, Any]
) -> None:
    """Write report.md and report.html into `folder`."""
    found = list(sections(study, cells))
    (folder / "report.md").write_text(markdown(study, cells, found), encoding="utf-8")
    maps = {"map": verdict_map(study, cells), "map-narrow": verdict_map(study, cells, columns=1)}
    page = pages.rendered(
        "study.html",
        title=study.name,
        description=study.description,
        summary=summary(study, cells),
        figures={name: json.loads(figure.to_json()) for name, figure in maps.items()},
        sections=found,
        provenance=json_text.dumps(described, indent=2, ensure_ascii=False),
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


def markdown(study: Study, cells: Sequence[JudgedCell], found: Sequence[Section]) -> str:
    head = [f"# {study.name}", "", study.description, "", summary(study, cells)]
    lines = [as_written(line) for line in head]
    for section in found:
        lines += markdown_lines(section)
    return "\n".join(lines) + "\n"


def summary(study: Study, cells: Sequence[JudgedCell]) -> str:
    many = counts(cells)
    said = ", ".join(f"{verdict}: {count}" for verdict, count in many.most_common())
    unfinished = sum(each.verdict is None for each in cells)
    more = f" {unfinished} cells are not finished." if unfinished else ""
    return f"Of {len(cells)} cells, by verdict: {said or 'none yet'}.{more} {SCOPE.capitalize()}."


def sections(study: Study, cells: Sequence[JudgedCell]) -> Iterator[Section]:
    first, second = study.sides
    yield from _verdicts(study, cells)
    yield Section(
        "How sure",
        f"Chance: the 95 % interval of the paired runs, which more runs would narrow. Doubt: what "
        f"is not known of kernels, engines and links, which only measurements narrow; probability "
        f"that a side leads by {100 * study.indifference:g} % at least, and what makes up most of "
        "the doubt, with the value at which the lead would turn over, all else as stated.",
        [
            *(*study.dimensions, f"{first} over {second}", "chance ±", "doubt 80 %", "doubt 90 %"),
            *(f"{first} leads", f"{second} leads", "settled by measuring"),
        ],
        [_sure(study, each) for each in cells if each.doubt is not None],
    )
    yield Section(
        "Best shapes",
        "The best shape of each side at the largest batch that meets the SLO in simulation. "
        "Batch: requests on each attention GPU in each micro-batch, and the limit of the batch. "
        "Load: requests on each attention GPU on average, between whole loads; the yield is there. "
        "Bound by: the critical circuit of the steady state, with its share. Measured: shares of "
        "kernel time from inside measured ranges, from outside, and from no measurement. Left "
        "open: by how much a shape that was never simulated could beat this shape, if chance "
        "cost it as little as the shape that lost least. At the end of: axes on which this shape "
        "has the largest tried value.",
        [
            *study.dimensions,
            "side",
            "shape",
            "GPUs",
            "batch",
            "limit",
            "load",
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
            _best_shape(each, number, side)
            for each in cells
            for number, side in enumerate(study.sides)
        ],
    )
    if study.published:
        yield Section(
            "Measured comparisons",
            f"What was measured of both sides, and what this study says of the same place: margins "
            f"of {first} over {second}. A study compares best shapes under one SLO; a measurement "
            "compares what was there.",
            [
                *(*study.dimensions, "compared", "measured", "here", "which side leads"),
                *("measured is in its 90 % interval", "source"),
            ],
            list(_measured(study, cells)),
        )
    names = [each.name for each in study.counterfactuals]
    if names:
        yield Section(
            "Mechanisms",
            f"The margin of {first} over {second} with one mechanism switched off at a time, with "
            "a new choice of shape and batch. «→» marks a changed verdict. The last column names "
            "the mechanism that gives the winner most of its lead; «–» if none takes 1 % of its "
            "yield.",
            [*study.dimensions, "margin", *names, "decides"],
            [_mechanisms(each, names) for each in cells if each.moved],
        )
        yield Section(
            "Sensitivity",
            "Number of cells by verdict, with all mechanisms and with one mechanism switched off "
            "(cells in which both sides can run); number of flipped verdicts; and the median "
            f"factor by which the yield of {first} relative to {second} changes.",
            ["", first, second, OPEN, "flips", "median factor"],
            list(_sensitivity(study, cells, names)),
        )
        yield Section(
            "Robustness",
            "Number of verdicts that hold whichever single mechanism is switched off, and how "
            "often each mechanism decides.",
            ["verdict", "cells", "no mechanism flips it", "decides"],
            list(_robustness(cells)),
        )
    yield Section(
        "Sides",
        "Limit of the batch of the best shapes, and the median share of their kernel time from "
        "inside measured ranges.",
        ["side", "best shapes", "KV", "requests", "SLO", "measured"],
        list(_sides(study, cells)),
    )


def _measured(study: Study, cells: Sequence[JudgedCell]) -> Iterator[list[str]]:
    for measured, judged in published.compared(study, cells):
        yield [
            *(measured.place.get(name, "–") for name in study.dimensions),
            measured.what,
            percent(measured.margin),
            told(judged),
            published.agreement(measured, judged),
            _yes_or_no(published.is_inside(measured, judged)),
            measured.source,
        ]


def _yes_or_no(answer: bool | None) -> str:
    return "–" if answer is None else "yes" if answer else "no"


def _robustness(cells: Sequence[JudgedCell]) -> Iterator[list[str]]:
    met = [each for each in cells if each.moved]
    for verdict in dict.fromkeys(str(each.verdict) for each in met):
        mine = [each for each in met if each.verdict == verdict]
        decides = Counter(each.decides.name if each.decides else "–" for each in mine)
        yield [
            verdict,
            str(len(mine)),
            str(sum(not any(m.flips for m in each.moved) for each in mine)),
            ", ".join(f"{name} {count}" for name, count in decides.most_common()),
        ]


def _sides(study: Study, cells: Sequence[JudgedCell]) -> Iterator[list[str]]:
    for number, side in enumerate(study.sides):
        entries = [each.entries[number] for each in cells]
        found = [entry for entry in entries if entry is not None]
        limits = Counter(entry["limit"] for entry in found)
        measured = [entry["figures"]["calibrated_share"] for entry in found]
        share = f"{median(measured):.0%}" if measured else "–"
        counts = [str(limits[each]) for each in ("KV", "requests", "SLO")]
        yield [side, str(len(found)), *counts, share]


def _verdicts(study: Study, cells: Sequence[JudgedCell]) -> Iterator[Section]:
    """Yield a table for each value of the first dimension: the last one across."""
    first, _second = study.sides
    *front, down, across = study.dimensions
    by_place = {tuple(each.cell.place.values()): each for each in cells}
    fronts = dict.fromkeys(tuple(place[: len(front)]) for place in by_place)
    text = (
        f"Who yields more, by how much ({first} over the other side), and the 80 % interval of "
        f"what is not known. A side leads where it yields {100 * study.indifference:g} % more "
        f"with a probability of {study.certainty:.0%}; elsewhere the cell is open. The yield "
        "is tokens per USD where all cards have a price, tokens/s/GPU elsewhere."
    )
    if len(fronts) == len(by_place) > 1:
        # A table of one cell each would be headings and little else.
        head = [*front, down, across, "which side leads"]
        yield Section(
            "Verdicts", text, head, [[*place, told(each)] for place, each in by_place.items()]
        )
        return
    for number, chosen in enumerate(fronts):
        mine = {p[len(front) :]: each for p, each in by_place.items() if p[: len(front)] == chosen}
        had = {place[-1] for place in mine}
        columns = [value for value in study.dimensions[across] if value in had]
        lines = list(dict.fromkeys(place[:-1] for place in mine))
        yield Section(
            ", ".join(chosen) or study.name,
            text if number == 0 else "",
            [down, *columns],
            [
                [", ".join(line), *(told(mine.get((*line, column))) for column in columns)]
                for line in lines
            ],
        )


def _sure(study: Study, judged: JudgedCell) -> list[str]:
    first, second = study.sides
    assert judged.doubt is not None
    assert judged.margin is not None
    assert judged.half_width is not None
    assert judged.probabilities is not None
    p05, p10, p90, p95 = (percent(each) for each in judged.doubt.percentiles())
    return [
        *judged.cell.place.values(),
        percent(judged.margin),
        f"{100 * judged.half_width:.1f}",
        f"{p10} to {p90}",
        f"{p05} to {p95}",
        *(f"{each:.0%}" for each in judged.probabilities),
        "; ".join(settled(part, (first, second)) for part in judged.settled_by) or "–",
    ]


def _best_shape(judged: JudgedCell, number: int, side: str) -> list[str]:
    entry, limits, beyond = judged.entries[number], judged.limits[number], judged.beyond[number]
    place = [*judged.cell.place.values(), side]
    if entry is None:
        return [*place, judged.whys[number], *["–"] * 12]
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
        described(entry["shape"], entry["settings"]),
        f"{figures['gpus']:.0f}",
        f"{figures['batch']:.3g}",
        entry["limit"],
        f"{entry['load']:.3g}",
        f"{figures['tpot_ms_mean']:.1f}",
        f"{figures['tgs']:,.0f}",
        "–" if usd is None else f"{usd:.3f}",
        bound_by,
        busy,
        " / ".join(f"{share:.0%}" for share in shares),
        "–" if beyond is None else percent(beyond),
        ", ".join(path.rsplit(".", 1)[-1] for path in judged.edges[number]) or "–",
    ]


def _mechanisms(judged: JudgedCell, names: Sequence[str]) -> list[str]:
    moved = {each.name: each for each in judged.moved}
    cells = []
    for name in names:
        each = moved.get(name)
        if each is None:
            cells.append("–")
            continue
        margin = each.verdict if each.margin is None else percent(each.margin)
        cells.append(f"{margin} → {each.verdict}" if each.flips else margin)
    most = judged.decides
    return [
        *judged.cell.place.values(),
        told(judged),
        *cells,
        "–" if most is None else most.name,
    ]


def _sensitivity(
    study: Study, cells: Sequence[JudgedCell], names: Sequence[str]
) -> Iterator[list[str]]:
    met = [each for each in cells if each.margin is not None]
    kinds = [*study.sides, OPEN]
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
