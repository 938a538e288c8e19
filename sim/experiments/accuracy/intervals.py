"""Intervals: how wide predictions must be to hold measured points, and whether they do.

What is left of predictions (`sim/doubt/residual.py`) is fitted here: the log sd of what no source
declares by likelihood over all rows, and by profile the factor on the width of intervals that
covers at their level (split-conformal, the row itself left out). Cross-validation leaves out all
rows of a framework on a card, and near duplicates of these wherever they ran, fits to the others,
and asks whether those left out are covered. In the likelihood the rows of a sweep count as one.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim.doubt.interval import Doubt, spread_widths
from sim.doubt.residual import COLUMNS, LEVELS, WIDEST, LeftOver, Level, normal_width
from sim.experiments.accuracy.verdict import GROUPS, Judged
from sim.foundation.errors import ScenarioError
from sim.results.files import replace_file

# A profile with fewer measured points takes the widest factor.
LEAST_ROWS = 20

# Log standard deviations that are tried, in steps of the table's last digit.
_TRIED = np.arange(0.0, 0.3, 0.0025)
_TINY = 1e-9

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Covered:
    """How often intervals held what was measured, of rows whose group was left out of the fit."""

    value: str
    """Framework; empty for all."""
    rows: int
    covered_80: float
    covered_90: float
    half_width: float
    """Median half-width of the 80 % intervals, as a share."""


@dataclass(frozen=True)
class _Tested:
    judged: Judged
    profile: str
    left_out_with: str
    """Framework and card: rows of one are left out together."""
    near: str
    """Near duplicates, as the points of a sweep, have one name."""
    alike: tuple[str, ...]
    """Rows with the same engine, card, model and kind of deployment share what is left."""
    error: float
    """Log of measured over predicted."""

    @property
    def widths(self) -> Mapping[Level, float]:
        """How far the draws reach towards the measurement, by level, in logarithms."""
        assert self.judged.prediction is not None
        factors = self.judged.prediction.spread.factors
        return {level: spread_widths(factors, level)[int(self.error > 0)] for level in LEVELS}


def fitted(rows: Sequence[Judged]) -> list[LeftOver]:
    """Return what is left by profile, and of all others. Raises ScenarioError if rows are few."""
    return _fitted(_known(rows))


def cross_validated(rows: Sequence[Judged]) -> list[Covered]:
    """Return the coverage of all rows and by framework, their framework and card left out."""
    known = _known(rows)
    tested: list[tuple[_Tested, Doubt]] = []
    for group in sorted({row.left_out_with for row in known}):
        alike = {row.near for row in known if row.left_out_with == group}
        others = [row for row in known if row.left_out_with != group and row.near not in alike]
        left = _by_group(_fitted(others))
        for row in known:
            if row.left_out_with == group:
                assert row.judged.prediction is not None
                rest = left.get(row.profile, left[WIDEST])
                tested.append((row, Doubt(row.judged.prediction.spread, rest)))
    frameworks = sorted({GROUPS["framework"](row.judged.point) for row in known})
    found = [_coverage("", tested)]
    for each in frameworks:
        of = [
            (row, doubt) for row, doubt in tested if GROUPS["framework"](row.judged.point) == each
        ]
        found.append(_coverage(each, of))
    return found


def write(path: Path, left: Sequence[LeftOver]) -> None:
    """Write the table of what is left. Raises StoreError if the file cannot be written."""
    out = io.StringIO()
    out.write("# What is left of predictions, by software profile: afdsim accuracy --residuals\n")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for each in left:
        figures = (each.log_sd, each.shared, each.factor_80, each.factor_90)
        writer.writerow([each.group, each.rows, *(f"{figure:.4g}" for figure in figures)])
    replace_file(path, lambda part: part.write_text(out.getvalue(), encoding="utf-8"))


def _known(rows: Sequence[Judged]) -> list[_Tested]:
    found = []
    for row in rows:
        if row.error is not None and row.prediction is not None and row.setup.scenario is not None:
            named = row.setup.scenario["software"]
            profile = named if isinstance(named, str) else named["profile"]
            of = {name: group(row.point) for name, group in GROUPS.items()}
            alike = (profile, of["card"], of["model"], of["deployment"])
            left_out_with = f"{of['framework']} on {of['card']}"
            near = row.point.near_duplicate_group or row.point.id
            error = -math.log1p(row.error)
            found.append(_Tested(row, profile, left_out_with, near, alike, error))
    return found


def _fitted(rows: Sequence[_Tested]) -> list[LeftOver]:
    by_profile: dict[str, list[_Tested]] = defaultdict(list)
    for row in rows:
        by_profile[row.profile].append(row)
    enough = {name: of for name, of in sorted(by_profile.items()) if len(of) >= LEAST_ROWS}
    if not enough:
        raise ScenarioError(
            f"intervals need {LEAST_ROWS} predicted rows of one software profile at least; "
            "leave --residuals out, or give more measured points"
        )
    log_sd, shared = _undeclared(rows), _shared(rows)
    found = [
        LeftOver(name, len(of), log_sd, shared, *(_factor(of, level, log_sd) for level in LEVELS))
        for name, of in enough.items()
    ]
    widest = (max(each.factor(level) for each in found) for level in LEVELS)
    return [*found, LeftOver(WIDEST, len(rows), log_sd, shared, *widest)]


def _undeclared(rows: Sequence[_Tested]) -> float:
    """Return the log sd of what no source declares: the likeliest of normal errors.

    Near duplicates count as one row.
    """
    many = Counter(row.near for row in rows)
    weights = np.array([1 / many[row.near] for row in rows])
    errors = np.array([row.error for row in rows])
    declared = np.array([row.widths[80] / normal_width(80) for row in rows])
    sd = np.sqrt(declared**2 + _TRIED[:, np.newaxis] ** 2 + _TINY)
    likelihood = -((np.log(sd) + errors**2 / (2 * sd**2)) * weights).sum(axis=1)
    return float(_TRIED[int(np.argmax(likelihood))])


def _shared(rows: Sequence[_Tested]) -> float:
    """Return the share of the variance of errors that rows of one engine, card and model share.

    Each such group counts once, however many rows it has.
    """
    alike: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for row in rows:
        alike[row.alike].append(row.error)
    several = [errors for errors in alike.values() if len(errors) > 1]
    if not several:
        return 0.0
    together = sum(float(np.mean([a * b for a, b in combinations(each, 2)])) for each in several)
    apart = sum(float(np.mean(np.square(each))) for each in several)
    return min(max(together / apart, 0.0), 1.0)


def _factor(rows: Sequence[_Tested], level: Level, log_sd: float) -> float:
    """Return the split-conformal factor: the ⌈(n + 1) · level⌉-th smallest error over width."""
    rest = normal_width(level) * log_sd
    scores = sorted(
        abs(row.error) / max(math.hypot(row.widths[level], rest), _TINY) for row in rows
    )
    place = math.ceil((len(scores) + 1) * level / 100)
    return scores[min(place, len(scores)) - 1]


def _by_group(left: Sequence[LeftOver]) -> dict[str, LeftOver]:
    return {each.group: each for each in left}


def _coverage(value: str, tested: Sequence[tuple[_Tested, Doubt]]) -> Covered:
    inside: dict[Level, list[bool]] = {level: [] for level in LEVELS}
    half_widths = []
    for row, doubt in tested:
        for level in LEVELS:
            low, high = doubt.interval(level)
            inside[level].append(low <= math.exp(row.error) <= high)
        low, high = doubt.interval(80)
        half_widths.append(math.sqrt(high / low) - 1)
    covered_80, covered_90 = (float(np.mean(inside[level])) for level in LEVELS)
    return Covered(value, len(tested), covered_80, covered_90, float(np.median(half_widths)))
