"""Software fit: the unmeasured figures of a software profile from measured operating points.

Least squares on relative errors, in Gauss–Newton steps: glue and host time enter a step as they
are, the power law of expert loads nearly so. A figure that the rows do not determine to within its
resolution is refused and keeps the profile's value. Intervals come from drawing groups of
near-duplicate rows again; with few groups, from the linearised fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sim.experiments.accuracy import words
from sim.experiments.accuracy.points import OperatingPoint
from sim.experiments.accuracy.setup import setup
from sim.experiments.accuracy.verdict import predicted
from sim.foundation.errors import ScenarioError, SimError
from sim.foundation.streams import stream
from sim.inputs import cards
from sim.inputs.scenario import Scenario
from sim.inputs.software import Software
from sim.kernels.ops import Floats
from sim.results.files import replace_file


@dataclass(frozen=True)
class Fittable:
    """A figure that no kernel table holds."""

    name: str
    unit: str
    most: float
    """Largest value that is tried; the smallest is 0."""
    step: float
    """By how much it is changed to see what it does."""
    resolution: float
    """Half-width of its 95 % interval above which the rows do not identify it."""


FITTABLE = (
    Fittable("glue_us_per_layer", "µs", 300.0, 5.0, 15.0),
    Fittable("host_gap_us_per_step", "µs", 50_000.0, 500.0, 2_500.0),
    Fittable("host_us_per_further_rank", "µs", 5_000.0, 100.0, 250.0),
    Fittable("routing_imbalance", "", 2.0, 0.1, 0.25),
)

# Two runs of one server differ by up to 2 % (InferenceX), so smaller residuals prove nothing.
_LEAST_RESIDUAL = 0.01
_STEPS = 4
_DRAWS = 1_000
_FEWEST_GROUPS = 8
_SETTLED = 1e-3
# Cosine of two columns of slopes above which the rows do not tell the figures apart.
_ALIKE = 0.995
_REMEDIES = "add rows of another model or of other numbers of ranks"
# Change of a prediction, as a share, that counts as none.
_NO_EFFECT = 1e-4


@dataclass(frozen=True)
class Fitted:
    """A figure as the rows determine it."""

    of: Fittable
    before: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SoftwareFit:
    """What became of a profile."""

    profile: str
    rows: int
    fitted: tuple[Fitted, ...]
    refused: dict[str, str]
    """Figures that the rows cannot identify, and why."""
    left_out: dict[str, str]
    """Rows that cannot be expressed, and why."""
    error_before: float
    """Median of the absolute errors."""
    error: float

    def card(self, name: str, origin: str) -> dict[str, Any]:
        """Return the profile with the fitted figures, as a software card holds it."""
        named = {"kind", "name", "description", "profile"}
        known = cards.software(self.profile).model_dump(exclude=named, exclude_defaults=True)
        said = f"fitted to {self.rows} rows of {origin}, 95 % interval; {self.profile} had"
        figures = {
            one.of.name: {
                "value": _rounded(one.value),
                "low": _rounded(one.low),
                "high": _rounded(one.high),
                "source": f"{said} {one.before:g}",
            }
            for one in self.fitted
        }
        described = f"{self.profile}, {', '.join(figures)} fitted to {origin}"
        head = {"kind": "software", "name": name, "description": described}
        return head | known | figures


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def fit_software(
    points: Sequence[OperatingPoint], profile: str, watch: Callable[[str], object] | None = None
) -> SoftwareFit:
    """Return the figures of `profile` that rows of its framework determine.

    Raises ScenarioError if no row is of the profile, or none of its figures can be identified.
    """
    cards.software(profile)
    rows, left_out = _rows(points, profile)
    if not rows:
        raise ScenarioError(f"no row that can be expressed is of framework {profile}")
    model = _Model(rows)
    measured, groups = model.measured, model.groups
    start = np.array([_before(profile, one) for one in FITTABLE])
    values, active, refused = start.copy(), list(range(len(FITTABLE))), dict[str, str]()
    error_before = float(np.median(np.abs(model.errors(start))))
    error, slopes = model.errors(values), model.slopes(values)
    for step in range(_STEPS):
        if watch is not None:
            watch(f"step {step + 1} of at most {_STEPS}")
        active = _identified(error, slopes, active, refused)
        if not active:
            why = "; ".join(f"{name}: {text}" for name, text in refused.items())
            raise ScenarioError(f"the rows identify no figure of {profile}: {why}")
        moved = values.copy()
        moved[active] = _solved(error, slopes, values, active)
        settled = np.allclose(moved, values, rtol=_SETTLED, atol=1e-6)
        values = moved
        error = model.errors(values)
        if settled:
            break
        slopes = model.slopes(values)
    low, high = _interval(error, slopes, values, active, groups)
    fitted = tuple(
        Fitted(FITTABLE[n], float(start[n]), float(values[n]), float(a), float(b))
        for n, a, b in zip(active, low, high, strict=True)
    )
    assert len(measured) == len(rows)
    found = float(np.median(np.abs(error)))
    return SoftwareFit(profile, len(rows), fitted, refused, left_out, error_before, found)


def _rows(
    points: Sequence[OperatingPoint], profile: str
) -> tuple[list[tuple[OperatingPoint, Scenario]], dict[str, str]]:
    """Return the rows of a profile with their scenarios, and those that cannot be expressed."""
    rows, left_out = [], {}
    for point in points:
        try:
            if words.framework(point.framework) != profile:
                continue
        except words.Unclear:
            continue
        made = setup(point)
        try:
            scenario = made.validated()
            predicted(scenario)
        except SimError as error:
            left_out[point.id] = "; ".join(str(error).splitlines())
            continue
        rows.append((point, scenario))
    return rows, left_out


def _before(profile: str, one: Fittable) -> float:
    value = getattr(cards.software(profile), one.name)
    if value is None:
        return 0.0
    return float(value)


class _Model:
    """Relative errors of the rows as functions of the figures."""

    def __init__(self, rows: Sequence[tuple[OperatingPoint, Scenario]]) -> None:
        self.rows = rows
        self.measured = np.array([point.measured_ms for point, _scenario in rows], dtype=np.float64)
        names = [point.near_duplicate_group or point.id for point, _scenario in rows]
        self.groups = np.unique(names, return_inverse=True)[1]

    def errors(self, values: Floats) -> Floats:
        """Return predicted over measured, less 1, of every row."""
        figures = dict(zip((one.name for one in FITTABLE), values.tolist(), strict=True))
        found = [self._ms(point, scenario, figures) for point, scenario in self.rows]
        return np.array(found) / self.measured - 1

    def slopes(self, values: Floats) -> Floats:
        """Return the change of each error by each figure (rows × figures)."""
        here = self.errors(values)
        columns = []
        for number, one in enumerate(FITTABLE):
            there = values.copy()
            there[number] += one.step
            columns.append((self.errors(there) - here) / one.step)
        return np.column_stack(columns)

    @staticmethod
    def _ms(point: OperatingPoint, scenario: Scenario, figures: Mapping[str, float]) -> float:
        stated = {
            name: {"value": value, "source": "tried"}
            for name, value in figures.items()
            if name != "routing_imbalance"
        }
        software = Software.model_validate(scenario.software.model_dump() | stated)
        changed = scenario.replaced(software=software)
        if figures["routing_imbalance"] > 0 and after_eplb(point, scenario):
            alpha = figures["routing_imbalance"]
            routing = {"kind": "power_law", "alpha": alpha, "eplb": True}
            changed = changed.replaced(routing=routing)
        seen = predicted(changed)
        return seen.device_ms if point.clock == "device" else seen.wall_ms


def _identified(
    error: Floats, slopes: Floats, active: Sequence[int], refused: dict[str, str]
) -> list[int]:
    """Return the figures that the rows determine; what they tell worst is refused first."""
    found = list(active)
    for n in active:
        if np.abs(slopes[:, n]).max() * FITTABLE[n].resolution < _NO_EFFECT:
            refused[FITTABLE[n].name] = "no row depends on it"
            found.remove(n)
    while found:
        widths = _half_widths(error, slopes, found)
        ratios = [width / FITTABLE[n].resolution for n, width in zip(found, widths, strict=True)]
        one, other = _most_alike(slopes, found)
        if max(ratios) <= 1:
            break
        if other is not None:
            told = f"the rows cannot tell it from {FITTABLE[other].name}; {_REMEDIES}"
            refused[FITTABLE[one].name] = told
            found.remove(one)
            continue
        worst = found[int(np.argmax(ratios))]
        of, width = FITTABLE[worst], float(max(ratios)) * FITTABLE[worst].resolution
        told = (
            f"the rows tell it only to ±{width:,.3g} {of.unit}"
            if width < np.inf
            else "too few rows"
        )
        refused[of.name] = f"{told}; ±{of.resolution:g} {of.unit}".rstrip() + " is wanted"
        found.remove(worst)
    return found


def _most_alike(slopes: Floats, active: Sequence[int]) -> tuple[int, int | None]:
    """Return the later of the two figures that rows tell apart worst, and the other.

    The other is None if the rows tell all apart.
    """
    columns = slopes[:, active] / np.linalg.norm(slopes[:, active], axis=0)
    alike = np.tril(np.abs(columns.T @ columns), -1)
    later, former = np.unravel_index(int(np.argmax(alike)), alike.shape)
    apart = alike[later, former] < _ALIKE
    return active[int(later)], None if apart else active[int(former)]


def _half_widths(error: Floats, slopes: Floats, active: Sequence[int]) -> Floats:
    """Return half-widths of 95 % intervals by the linearised fit; inf where it is singular."""
    scales = np.array([FITTABLE[n].resolution for n in active])
    scaled = slopes[:, active] * scales
    freedom = len(error) - len(active)
    if freedom < 1:
        return np.full(len(active), np.inf)
    rest = error - scaled @ np.linalg.lstsq(scaled, error, rcond=None)[0]
    deviation = max(float(np.sqrt(rest @ rest / freedom)), _LEAST_RESIDUAL)
    normal = scaled.T @ scaled
    if np.linalg.cond(normal) > 1e10:
        return np.full(len(active), np.inf)
    return np.asarray(2 * deviation * np.sqrt(np.diag(np.linalg.inv(normal))) * scales)


def _solved(error: Floats, slopes: Floats, values: Floats, active: Sequence[int]) -> Floats:
    """Return the values of the active figures that make the errors least, within their bounds."""
    most = np.array([FITTABLE[n].most for n in active])
    found = values[list(active)].copy()
    free = list(range(len(active)))
    while free:
        held = [n for n in range(len(active)) if n not in free]
        moved = found - values[list(active)]
        target = -(error + slopes[:, [active[n] for n in held]] @ moved[held])
        step = np.linalg.lstsq(slopes[:, [active[n] for n in free]], target, rcond=None)[0]
        wanted = values[[active[n] for n in free]] + step
        inside = (wanted >= 0) & (wanted <= most[free])
        found[free] = np.clip(wanted, 0, most[free])
        if inside.all():
            break
        free = [n for n, kept in zip(free, inside, strict=True) if kept]
    return found


def _interval(
    error: Floats, slopes: Floats, values: Floats, active: Sequence[int], groups: Any
) -> tuple[Floats, Floats]:
    """Return the ends of 95 % intervals that hold the values."""
    here = values[list(active)]
    names = np.unique(groups)
    if len(names) < _FEWEST_GROUPS:
        width = _half_widths(error, slopes, active)
        return np.maximum(here - width, 0), here + width
    members = [np.flatnonzero(groups == name) for name in names]
    draws = stream(0, "software fit")
    found = []
    for _ in range(_DRAWS):
        chosen = np.concatenate([members[n] for n in draws.integers(len(names), size=len(names))])
        found.append(_solved(error[chosen], slopes[chosen], values, active))
    low, high = np.quantile(np.array(found), (0.025, 0.975), axis=0)
    return np.minimum(low, here), np.maximum(high, here)


def after_eplb(point: OperatingPoint, scenario: Scenario) -> bool:
    """Return whether the loads of a row are those that EPLB leaves."""
    even = scenario.routing.kind == "balanced"
    return not even and words.placed_by_load(point.routing, point.redundant_experts)


def write(path: Path, found: SoftwareFit, origin: str) -> None:
    """Write the fitted profile as a card. Raises StoreError if it cannot be written."""
    card = found.card(path.stem, origin)
    text = yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=1000)
    replace_file(path, lambda part: part.write_text(text, encoding="utf-8"))
