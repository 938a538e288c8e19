"""Prediction intervals in pictures: bands around fronts, what a measurement is held against, words.

At a held batch, throughput and tokens/s/user are one figure but for a factor: a longer step makes
both smaller by the same share. So the interval of a point lies on the line from the origin through
the point. A band reaches from the front of all low ends to the front of all high ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import numpy as np

from sim.foundation.pareto import pareto_front
from sim.sweeps.points import Row, front
from sim.sweeps.sweep import Published

LEVEL = "80 %"
ENDS = {"tgs": ("tgs_p10", "tgs_p90"), "tpot_ms_mean": ("tpot_ms_p10", "tpot_ms_p90")}
"""Columns of the ends of a figure's interval."""

# Of more families, bands lie over each other.
_MOST_BANDS = 3
# Batches that differ by less are the same: steps of one length leave no whole number of them.
_SAME_BATCH = 0.005
# No one knows the end of an interval more closely.
_AT_END = 0.005

Places = list[tuple[float, float]]
"""In tokens/s/user and tokens/s/GPU."""


class Foreseen(NamedTuple):
    """What is predicted at the batch of a measurement, tokens/s/GPU."""

    batch: float
    """Requests in flight on each GPU, as measured."""
    low: float
    predicted: float
    high: float

    def places(self) -> Places:
        """Return low end, prediction and high end, on the line through the measurement."""
        return [(tgs / self.batch, tgs) for tgs in (self.low, self.predicted, self.high)]


def known(row: Row) -> bool:
    """Return whether a row has an interval."""
    return row["status"] == "ok" and all(
        row.get(name) is not None for ends in ENDS.values() for name in ends
    )


def outline(rows: Iterable[Row]) -> Places:
    """Return the closed outline of the band of some points; nothing without intervals."""
    mine = [row for row in rows if known(row)]
    low = _front([(1e3 / row["tpot_ms_p90"], row["tgs_p10"]) for row in mine])
    high = _front([(1e3 / row["tpot_ms_p10"], row["tgs_p90"]) for row in mine])
    return [*_stairs(high), *_stairs(low)[::-1], *high[:1]]


def _front(places: Places) -> Places:
    return [places[index] for index in pareto_front(places)]


def _stairs(places: Places) -> Places:
    """Return the corners of a front: each place reaches what is above all slower ones."""
    corners = places[:1]
    for (x, _), (right, y) in pairwise(places):
        corners += [(x, y), (right, y)]
    return corners


def first_shown(families: Sequence[str], published: Iterable[Published]) -> set[str]:
    """Return the families whose bands a picture begins with: all of few, else those measured."""
    if len(families) <= _MOST_BANDS:
        return set(families)
    return set(families) & {point.family for point in published}


def choices(rows: Sequence[Row], published: Iterable[Published]) -> list[tuple[str, str]]:
    """Return whose bands a page can show, how a picture begins first: keys and words."""
    families = list(dict.fromkeys(row["family"] for row in rows if known(row)))
    first = first_shown(families, published)
    every, none = ("all", "all families"), ("none", "no family")
    if not first:
        return [none, every]
    if first == set(families):
        return [every, none]
    return [("first", "families that were measured"), every, none]


def held(point: Published, rows: Iterable[Row]) -> Foreseen | None:
    """Return the prediction that a measurement is held against.

    It is that of the measurement's family, and of its shape if one is named, at the measured batch,
    between the two nearest that were simulated. None without a family or with no such batch.
    """
    best: dict[str, Row] = {}
    for row in rows:
        if row["family"] != point.family or point.shape not in (None, row["shape"]):
            continue
        if known(row) and row["tgs"] > 0:
            at = f"{_batch(row['tgs'], row['tpot_ms_mean']):.3g}"
            if at not in best or best[at]["tgs"] < row["tgs"]:
                best[at] = row
    mine = sorted(best.values(), key=lambda row: _batch(row["tgs"], row["tpot_ms_mean"]))
    batches = [_batch(row["tgs"], row["tpot_ms_mean"]) for row in mine]
    batch = _batch(point.tgs, point.tpot_ms)
    within = (
        mine and batches[0] / batch - 1 <= _SAME_BATCH and 1 - batches[-1] / batch <= _SAME_BATCH
    )
    if not within:
        return None
    columns = ("tgs_p10", "tgs", "tgs_p90")
    found = [float(np.interp(batch, batches, [row[name] for row in mine])) for name in columns]
    return Foreseen(batch, *found)


def _batch(tgs: float, tpot_ms: float) -> float:
    """Return the requests in flight on each GPU (Little's law)."""
    return tgs * tpot_ms / 1e3


def told(low: float, high: float) -> str:
    """Return an interval in words, to three digits."""
    return f"{LEVEL}: {_rounded(low)} to {_rounded(high)}"


def ends(row: Row) -> str:
    """Return the interval of a point's throughput in words; «–» if it has none."""
    if not known(row):
        return "–"
    return " to ".join(_rounded(row[name]) for name in ENDS["tgs"])


def _rounded(value: float) -> str:
    exact = float(f"{value:.3g}")
    return f"{exact:,.0f}" if abs(exact) >= 100 else f"{exact:#.3g}"


def judged(point: Published, found: Foreseen) -> str:
    """Return where a measurement lies, in a sentence."""
    if abs(point.tgs / found.low - 1) < _AT_END:
        where = "at the lower end of"
    elif abs(point.tgs / found.high - 1) < _AT_END:
        where = "at the upper end of"
    elif point.tgs < found.low:
        where = "below"
    else:
        where = "above" if point.tgs > found.high else "inside"
    return (
        f"measured {point.tgs:,.0f} tokens/s/GPU, predicted {found.predicted:,.0f} at the same "
        f"batch of {found.batch:.0f} requests a GPU ({told(found.low, found.high)}). "
        f"The measurement lies {where} the interval."
    )


def sentences(rows: Sequence[Row], published: Sequence[Published]) -> Iterator[str]:
    """Yield how sure a picture is, and why; nothing without intervals."""
    sure = [row for row in rows if known(row) and row["tgs"] > 0]
    fronts = [
        row for family in {row["family"]: None for row in sure} for row in front(sure, family)
    ]
    if not fronts:
        return
    below, above = (
        100 * (median(row[name] / row["tgs"] for row in fronts) - 1) for name in ENDS["tgs"]
    )
    yield (
        f"Bands, and the bars at published crosses, are {LEVEL} prediction intervals: four of five "
        f"measurements should lie inside. On the fronts they reach from {below:+.0f} to "
        f"{above:+.0f} % of the throughput (median). "
        "They hold what is not known of kernels, engine, network and routing, and how far "
        "predictions lay off measurements; more simulated steps do not make them narrower "
        "(docs/doubt.md)."
    ).replace("-", "−")
    for point in published:
        found = held(point, rows)
        if found is not None:
            yield f"{point.label}: {judged(point, found)}"
