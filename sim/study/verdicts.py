"""Outcomes: what a study found, cell by cell, as verdicts and as rows of its tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sim.foundation import json_text
from sim.study.cells import Cell, Shapes
from sim.study.jobs import Result
from sim.study.paired_runs import NEITHER, TIE, verdict
from sim.study.schema import Study
from sim.sweeps.points import Row

# Figures of a champion that the table holds, beside its shape and what limits it.
_FIGURES = (
    *("gpus", "batch", "requests_in_flight", "tgs", "usd_per_1m_tokens", "tpot_ms_mean"),
    *("kv_occupancy", "calibrated_share", "extrapolated_share", "uncalibrated_share"),
    *("t_a_layer_us", "t_a2f_layer_us", "t_f_layer_us", "t_f2a_layer_us"),
)

# A mechanism that changes less decides nothing.
_NOTABLE = 0.01
_LEAST = 1e-9


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
    is_mechanism: bool = True
    """False for an error of prediction that is known."""


@dataclass(frozen=True)
class Outcome:
    """What a study says of a cell."""

    cell: Cell
    verdict: str | None
    """The side that wins, `tie`, `only SIDE`, `neither`; None if the cell is not finished."""
    margin: float | None
    """What the first side yields more than the second, as a share; None without a duel."""
    half_width: float | None
    """Of its 95 % interval."""
    entries: tuple[dict[str, Any] | None, dict[str, Any] | None]
    """The champions of both sides, None for a side without one."""
    limits: tuple[dict[str, Any] | None, dict[str, Any] | None]
    whys: tuple[str, str]
    """Why a side has no champion; empty if it has one."""
    beyond: tuple[float | None, float | None]
    """By how much a shape that was not simulated may beat the champion."""
    edges: tuple[tuple[str, ...], tuple[str, ...]]
    """Paths whose largest tried value a champion has: larger ones might suit it better."""
    moved: tuple[Moved, ...]

    @property
    def decides(self) -> Moved | None:
        """The mechanism without which the winner would lose most of its lead, or all.

        None if none takes more than a hundredth of its yield, and where no one wins.
        """
        if self.margin is None or self.verdict == TIE:
            return None
        ahead = self.margin > 0
        lost = [(moved.factor if ahead else 1 / max(moved.factor, _LEAST), moved)
                for moved in self.moved if moved.is_mechanism]  # fmt: skip
        factor, most = min(lost, key=lambda pair: pair[0], default=(1.0, None))
        return most if factor < 1 - _NOTABLE else None


def outcome(study: Study, result: Result) -> Outcome:
    """Return what a study says of a cell whose jobs gave `result`."""
    names = list(study.sides)
    found = result.champions
    has = [each is not None and each["status"] == "ok" for each in found]
    said, margin, half_width = None, None, None
    if result.duel is not None:
        margin, half_width = result.duel["margin"], result.duel["half_width"]
        said = verdict(margin, half_width, study.indifference, names)
    elif None not in found and not all(has):
        said = f"only {names[has.index(True)]}" if any(has) else NEITHER
    limits = result.duel["limits"] if result.duel is not None else (None, None)
    entries = [each["searched"][0] if each and ok else None
               for each, ok in zip(found, has, strict=True)]  # fmt: skip
    return Outcome(
        result.cell,
        said,
        margin,
        half_width,
        (entries[0], entries[1]),
        (limits[0], limits[1]),
        (_why(result, 0), _why(result, 1)),
        (_beyond(found[0]), _beyond(found[1])),
        (_edges(result.cell.sides[0], entries[0]), _edges(result.cell.sides[1], entries[1])),
        tuple(_moved(study, result)),
    )


def _beyond(champion: dict[str, Any] | None) -> float | None:
    return champion.get("beyond") if champion else None


def _edges(shapes: Shapes, entry: dict[str, Any] | None) -> tuple[str, ...]:
    """Return the paths at whose end a champion stands."""
    if entry is None:
        return ()
    return tuple(
        path
        for axis in shapes.axes
        for path, values in axis.values.items()
        if len(axis.values) == 1
        and len(set(values)) > 1
        and all(type(value) in (int, float) for value in values)
        and entry["settings"][path] == max(values)
    )


def _why(result: Result, side: int) -> str:
    champion = result.champions[side]
    if champion is None:
        return "not finished"
    if champion["status"] == "memory":
        return "no shape fits in memory"
    if champion["status"] == "slo":
        limit_ms = result.cell.sides[side].first.slo.tpot_ms
        return f"least TPOT {champion['least_tpot_ms']:.0f} ms, the SLO is {limit_ms:g} ms"
    return ""


def _moved(study: Study, result: Result) -> Iterator[Moved]:
    if result.duel is None or result.yields is None:
        return
    worths = [each["searched"][0]["worth"] for each in result.champions if each is not None]
    before, names = worths[0] / worths[1], list(study.sides)
    margin, half_width = result.duel["margin"], result.duel["half_width"]
    now = verdict(margin, half_width, study.indifference, names)
    errors = {
        each.name
        for each in study.counterfactuals
        if any(change.factor is not None for change in each.sides.values())
    }
    for name, (first, second) in result.yields.items():
        if not (first and second):
            side = names[0] if first else names[1]
            said = f"only {side}" if first or second else NEITHER
            yield Moved(
                name, None, float("inf") if first else 0.0, said, said != now, name not in errors
            )
            continue
        factor = first / second / before
        there = (1 + margin) * factor - 1
        said = verdict(there, half_width, study.indifference, names)
        yield Moved(name, there, factor, said, said != now, name not in errors)


def counts(outcomes: Sequence[Outcome]) -> Counter[str]:
    """Return how many cells have each verdict."""
    return Counter(each.verdict for each in outcomes if each.verdict is not None)


def rows(study: Study, outcomes: Sequence[Outcome]) -> list[Row]:
    """Return one row per cell and side."""
    return [
        {
            "cell": each.cell.index,
            **each.cell.place,
            "side": side,
            "verdict": each.verdict,
            "margin": each.margin,
            "margin_ci95": each.half_width,
            "yield_of": "tokens per USD" if each.cell.priced else "tokens/s/GPU",
            "why_not": each.whys[number],
            **_of_side(each, number),
        }
        for each in outcomes
        for number, side in enumerate(study.sides)
    ]


def _of_side(outcome: Outcome, number: int) -> Row:
    entry, limits = outcome.entries[number], outcome.limits[number]
    figures = entry["figures"] if entry else {}
    busy = limits["busy"] if limits else {}
    return {
        "shape": entry["shape"] if entry else None,
        "accelerators": " + ".join(entry["accelerators"]) if entry else None,
        "settings": json_text.dumps(entry["settings"]) if entry else None,
        **{name: figures.get(name) for name in _FIGURES},
        "batch_limited_by": entry["limit"] if entry else None,
        "circuit": limits["kind"] if limits else None,
        "circuit_shares": json_text.dumps(limits["spent"]) if limits else None,
        "busy_shares": json_text.dumps(busy) if busy else None,
        "beyond": outcome.beyond[number],
        "at_end_of_axis": ", ".join(outcome.edges[number]),
    }


def mechanism_rows(outcomes: Sequence[Outcome]) -> list[Row]:
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
        for each in outcomes
        for moved in each.moved
    ]


def told(outcome: Outcome | None) -> str:
    """Return a verdict with its margin and interval, in words."""
    if outcome is None or outcome.verdict is None:
        return "–"
    if outcome.margin is None or outcome.half_width is None:
        return outcome.verdict
    return f"{outcome.verdict} {percent(outcome.margin)} ± {100 * outcome.half_width:.1f}"


def percent(share: float) -> str:
    """Return a margin in percent, with its sign."""
    return f"{100 * share:+.1f} %".replace("-", "−")


def described_shape(entry: dict[str, Any]) -> str:
    """Return a champion's shape and settings in a line."""
    names = {"deployment.ffn.parallelism": "{}", "deployment.overlap": "{}"}
    told = [entry["shape"]]
    for path, value in entry["settings"].items():
        last = path.rsplit(".", 1)[-1]
        if path.startswith("software."):
            continue
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
