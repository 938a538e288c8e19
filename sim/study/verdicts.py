"""Verdicts: what a study says of each cell, and the rows of its tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sim.doubt.margin import OPEN, DoubtPart, Margin, verdict
from sim.foundation import json_text
from sim.study.cells import Cell, SideShapes
from sim.study.doubts import margin_of_plain
from sim.study.jobs import CellResult
from sim.study.schema import Study
from sim.sweeps.points import Outcome, Row

# Figures of a best shape that the table holds, beside its shape and what limits it.
_FIGURES = (
    *("gpus", "batch", "requests_in_flight", "tgs", "usd_per_1m_tokens", "tpot_ms_mean"),
    *("kv_occupancy", "calibrated_share", "extrapolated_share", "uncalibrated_share"),
    *("t_a_layer_us", "t_a2f_layer_us", "t_f_layer_us", "t_f2a_layer_us"),
)

NEITHER = "neither"

# A mechanism that changes less decides nothing.
_NOTABLE = 0.01
_LEAST = 1e-9

# A shape with more of the GPUs that it may have stands at their end.
_NEAR = 2 / 3

# Parts of the doubt that are named.
_NAMED = 2


@dataclass(frozen=True)
class Moved:
    """The margin of a cell in a counterfactual."""

    name: str
    margin: float | None
    """None if a side does not meet the SLO there."""
    factor: float
    """(1 + margin there) / (1 + margin of the cell)."""
    verdict: str
    flips: bool
    """Whether the verdict is another."""


@dataclass(frozen=True)
class JudgedCell:
    """What a study says of a cell."""

    cell: Cell
    verdict: str | None
    """The side that surely leads, `open`, `only SIDE`, `neither`; None if the cell is not
    finished."""
    margin: float | None
    """What the first side yields more than the second, as a share; None without paired runs."""
    half_width: float | None
    """Of its 95 % interval of chance."""
    doubt: Margin | None
    """The margin with all that is not known; None without paired runs."""
    probabilities: tuple[float, float] | None
    """That the first side leads by the indifference at least, and the second."""
    factors: tuple[tuple[float, float], tuple[float, float]] | None
    """Of each side, the factors on TPOT between which it lies in 80 of 100 cases."""
    entries: tuple[dict[str, Any] | None, dict[str, Any] | None]
    """The best shapes of both sides, None for a side without one."""
    limits: tuple[dict[str, Any] | None, dict[str, Any] | None]
    whys: tuple[str, str]
    """Why a side has no best shape; empty if it has one."""
    beyond: tuple[float | None, float | None]
    """By how much a shape that was not simulated may beat the best."""
    edges: tuple[tuple[str, ...], tuple[str, ...]]
    """Paths whose largest tried value the best shape has: larger ones might suit it better."""
    moved: tuple[Moved, ...]

    @property
    def decides(self) -> Moved | None:
        """The mechanism without which the winner would lose most of its lead, or all.

        None if none takes more than a hundredth of its yield, and where no one wins.
        """
        if self.margin is None or self.verdict == OPEN:
            return None
        ahead = self.margin > 0
        lost = [(moved.factor if ahead else 1 / max(moved.factor, _LEAST), moved)
                for moved in self.moved]  # fmt: skip
        factor, most = min(lost, key=lambda pair: pair[0], default=(1.0, None))
        return most if factor < 1 - _NOTABLE else None

    @property
    def settled_by(self) -> list[DoubtPart]:
        """What would have to be measured to know better, the largest part of the doubt first."""
        if self.doubt is None:
            return []
        return [part for part in self.doubt.parts if part.source][:_NAMED]


def judge(study: Study, result: CellResult, doubt: Outcome | None) -> JudgedCell:
    """Return what a study says of a cell whose jobs gave `result`."""
    names = list(study.sides)
    found = result.best
    has = [each is not None and each["status"] == "ok" for each in found]
    said, margin, half_width, known = None, None, None, None
    if result.paired is not None:
        margin, half_width = result.paired["margin"], result.paired["half_width"]
        if doubt is not None:
            known = margin_of_plain(doubt["margin"])
            said = verdict(known, (names[0], names[1]), study.indifference, study.certainty)
    elif None not in found and not all(has):
        said = f"only {names[has.index(True)]}" if any(has) else NEITHER
    limits = result.paired["limits"] if result.paired is not None else (None, None)
    entries = [each["searched"][0] if each and ok else None
               for each, ok in zip(found, has, strict=True)]  # fmt: skip
    return JudgedCell(
        result.cell,
        said,
        margin,
        half_width,
        known,
        None if known is None else known.leading(study.indifference),
        None if doubt is None else (tuple(doubt["tpot"][0]), tuple(doubt["tpot"][1])),
        (entries[0], entries[1]),
        (limits[0], limits[1]),
        (_why(result, 0), _why(result, 1)),
        (_beyond(found[0]), _beyond(found[1])),
        (_edges(result.cell.sides[0], entries[0]), _edges(result.cell.sides[1], entries[1])),
        tuple(_moved(study, result, doubt)),
    )


def _beyond(best: dict[str, Any] | None) -> float | None:
    return best.get("beyond") if best else None


def _edges(shapes: SideShapes, entry: dict[str, Any] | None) -> tuple[str, ...]:
    """Return the paths at whose end a best shape stands."""
    if entry is None:
        return ()
    built = shapes.built
    full = built is not None and entry["figures"]["gpus"] > _NEAR * built.gpus
    return (*(["gpus"] if full else []), *_ends(shapes, entry))


def _ends(shapes: SideShapes, entry: dict[str, Any]) -> Iterator[str]:
    return (
        path
        for axis in shapes.axes
        for path, values in axis.values.items()
        if len(axis.values) == 1
        and len(set(values)) > 1
        and all(type(value) in (int, float) for value in values)
        and entry["settings"][path] == max(values)
    )


def _why(result: CellResult, side: int) -> str:
    best = result.best[side]
    if best is None:
        return "not finished"
    if best["status"] == "memory":
        return "no shape fits in memory"
    if best["status"] == "slo":
        limit_ms = result.cell.sides[side].first.slo.tpot_ms
        return f"least TPOT {best['least_tpot_ms']:.0f} ms, the SLO is {limit_ms:g} ms"
    return ""


def _moved(study: Study, result: CellResult, doubt: Outcome | None) -> Iterator[Moved]:
    if result.paired is None or result.yields is None or doubt is None:
        return
    worths = [each["searched"][0]["worth"] for each in result.best if each is not None]
    before, names = worths[0] / worths[1], list(study.sides)

    def said(margin: float) -> str:
        moved = margin_of_plain(doubt["margin"], margin)
        return verdict(moved, (names[0], names[1]), study.indifference, study.certainty)

    margin = result.paired["margin"]
    now = said(margin)
    for name, (first, second) in result.yields.items():
        if not (first and second):
            side = names[0] if first else names[1]
            alone = f"only {side}" if first or second else NEITHER
            yield Moved(name, None, float("inf") if first else 0.0, alone, alone != now)
            continue
        factor = first / second / before
        there = (1 + margin) * factor - 1
        yield Moved(name, there, factor, said(there), said(there) != now)


def counts(cells: Sequence[JudgedCell]) -> Counter[str]:
    """Return how many cells have each verdict."""
    return Counter(each.verdict for each in cells if each.verdict is not None)


def rows(study: Study, cells: Sequence[JudgedCell]) -> list[Row]:
    """Return one row per cell and side."""
    return [
        {
            "cell": each.cell.index,
            **each.cell.place,
            "side": side,
            "verdict": each.verdict,
            "margin": each.margin,
            "margin_ci95": each.half_width,
            **_in_doubt(study, each),
            "yield_of": "tokens per USD" if each.cell.priced else "tokens/s/GPU",
            "why_not": each.whys[number],
            **_of_side(each, number),
        }
        for each in cells
        for number, side in enumerate(study.sides)
    ]


def _in_doubt(study: Study, judged: JudgedCell) -> Row:
    """Return the interval of a margin, who leads how likely, and what would settle it."""
    first, second = study.sides
    ends = (None,) * 4 if judged.doubt is None else judged.doubt.percentiles()
    likely = judged.probabilities or (None, None)
    return {
        **dict(zip(("margin_p05", "margin_p10", "margin_p90", "margin_p95"), ends, strict=True)),
        f"probability_{first}": likely[0],
        f"probability_{second}": likely[1],
        "settled_by": "; ".join(settled(part, (first, second)) for part in judged.settled_by),
    }


def settled(part: DoubtPart, sides: tuple[str, str]) -> str:
    """Return a part of a doubt in words, with what would turn the margin over."""
    turns = "" if part.turns_at is None else f", turns over at {part.turns_at}"
    return f"{part.told(sides)} ({part.share:.0%} of the doubt{turns})"


def _of_side(judged: JudgedCell, number: int) -> Row:
    entry, limits = judged.entries[number], judged.limits[number]
    figures = entry["figures"] if entry else {}
    busy = limits["busy"] if limits else {}
    return {
        "shape": entry["shape"] if entry else None,
        "accelerators": " + ".join(entry["accelerators"]) if entry else None,
        "settings": json_text.dumps(entry["settings"]) if entry else None,
        **{name: figures.get(name) for name in _FIGURES},
        **_interval(figures, judged.factors[number] if judged.factors else None),
        "load": entry["load"] if entry else None,
        "gain_between_loads": entry["gain"] if entry else None,
        "yield": entry["worth"] if entry else None,
        "batch_limited_by": entry["limit"] if entry else None,
        "circuit": limits["kind"] if limits else None,
        "circuit_shares": json_text.dumps(limits["spent"]) if limits else None,
        "busy_shares": json_text.dumps(busy) if busy else None,
        "beyond": judged.beyond[number],
        "at_end_of_axis": ", ".join(judged.edges[number]),
    }


def _interval(figures: Mapping[str, Any], factors: tuple[float, float] | None) -> Row:
    """Return the 80 % interval of TPOT and throughput of a best shape."""
    if factors is None or not figures:
        return dict.fromkeys(("tpot_ms_p10", "tpot_ms_p90", "tgs_p10", "tgs_p90"))
    low, high = factors
    return {
        "tpot_ms_p10": figures["tpot_ms_mean"] * low,
        "tpot_ms_p90": figures["tpot_ms_mean"] * high,
        "tgs_p10": figures["tgs"] / high,
        "tgs_p90": figures["tgs"] / low,
    }


def mechanism_rows(cells: Sequence[JudgedCell]) -> list[Row]:
    """Return one row per cell and counterfactual."""
    return [
        {
            "cell": each.cell.index,
            **each.cell.place,
            "counterfactual": moved.name,
            "verdict": each.verdict,
            "margin": each.margin,
            "margin_there": moved.margin,
            "verdict_there": moved.verdict,
            "flips": moved.flips,
        }
        for each in cells
        for moved in each.moved
    ]


def told(judged: JudgedCell | None) -> str:
    """Return a verdict with its margin and the 80 % interval of what is not known, in words."""
    if judged is None or judged.verdict is None:
        return "–"
    if judged.margin is None or judged.doubt is None:
        return judged.verdict
    low, high = judged.doubt.interval(80)
    return f"{judged.verdict} {percent(judged.margin)} ({percent(low)} to {percent(high)})"


def percent(share: float) -> str:
    """Return a margin in percent, with its sign."""
    return f"{100 * share:+.1f} %".replace("-", "−")
