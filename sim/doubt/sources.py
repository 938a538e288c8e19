"""Sources of doubt: what is not known of a deployment, each with how it would run otherwise.

Three kinds are found on their own: figures of software and fabric that state a range, kernels that
may be off by as much as their curves err, and the skew of experts. Each is one unknown for all
launches of a deployment, and one for all deployments that have it from the same source.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.deployments.deployment import Deployment
from sim.doubt.kernels import doubtful_kernels, slower
from sim.inputs.base import Strict
from sim.inputs.routing import PowerLaw
from sim.inputs.sourced import Sourced
from sim.kernels.doubt.doubtful_table import KernelKind

Floats = NDArray[np.float64]
Change = Callable[[Deployment], Deployment]

# Ends of what has no ends of its own: the 10th and the 90th percentile.
TENTH = NormalDist().inv_cdf(0.9)

# Figures that decide no time of a step at a given batch, or are settings that anyone may choose.
_BESIDE_TIMES = {
    *("eplb_pause_ms", "utilisation", "routing_imbalance", "tokens_per_exchange"),
    *("bytes", "largest_batch"),
}

_TITLES = {
    "glue_us_per_layer": "glue of a layer",
    "router_us_per_layer": "router of a layer",
    "host_gap_us_per_step": "host gap of a step",
    "host_us_per_further_rank": "host time of each further rank",
    "host_us_across_servers": "host time of ranks on several servers",
    "overlap_slowdown": "slow-down beside communication",
    "overlap_pairs.slowdown": "slow-down beside communication",
    "attention_glue.floor_us": "glue of an attention block",
    "attention_glue.us_per_request": "glue of an attention block, by request",
    "attention_glue.us_per_request_and_head": "glue of an attention block, by request",
    "partial_sum.launch_us": "launch that sums what FFNs return",
    "partial_sum.hbm_share": "memory share of the sum of what FFNs return",
    "exchange.dispatch.floor_us": "send and receive of a dispatch",
    "exchange.dispatch.us_per_token": "send and receive of a dispatch, by token",
    "exchange.combine.floor_us": "send and receive of a combine",
    "exchange.combine.us_per_token": "send and receive of a combine, by token",
    "communication_sms": "SMs that communication takes",
    "graphs.beyond": "slow-down of steps without a graph",
    "latency_us": "latency",
    "goodput": "goodput",
}

_KERNELS = {
    "gemm": "GEMM",
    "lm_head": "LM head",
    "moe": "experts",
    "moe_fused_ep": "experts with their all-to-all",
    "a2a_prepare": "preparing a dispatch",
    "a2a_dispatch": "dispatch",
    "a2a_combine": "combine",
    "collective": "collectives over the scale-up link",
}


@dataclass(frozen=True)
class DoubtSource:
    """Something that is not known, and the deployment at both ends of what it may be."""

    key: str
    """What it is, and whence: sources with the same key are one unknown."""
    name: str
    """In words."""
    unit: str
    ends: tuple[float, float, float]
    """Low, stated and high: of a figure its values, of kernels factors on their time."""
    is_range: bool
    """Whether it lies between its ends for certain, the stated value being the likeliest; else it
    is normal, and its ends are the 10th and 90th percentile."""
    source: str
    """Where the ends are from."""
    changed: Callable[[float], Change] = field(compare=False, repr=False)
    """To a position: −1 is its low end, 0 as stated, 1 its high end."""
    possibilities: tuple[str, ...] = ()
    """What it may be, in words, instead of a number between ends."""

    def positions(self, shares: Floats) -> Floats:
        """Return where the unknown lies at cumulative shares: −1 at its low end, 1 at its high."""
        if not self.is_range:
            return np.array([NormalDist().inv_cdf(u) for u in shares]) / TENTH
        low, value, high = self.ends
        below, above = value - low, high - value
        width = below + above
        left = np.sqrt(shares * width * below) - below
        right = above - np.sqrt((1 - shares) * width * above)
        one_sided = np.where(shares * width < below, left, right)
        scale = np.where(one_sided < 0, below or 1.0, above or 1.0)
        return np.asarray(one_sided / scale)

    def weights(self, positions: Floats, log: float | None = None) -> tuple[Floats, Floats]:
        """Return how many times what its low end does, and its high end, adds up to positions.

        What a range does is linear in its figure, what kernels do in the factor on their time,
        whose `log` at the high end may be another for a load than that in `ends`.
        """
        low, high = np.maximum(-positions, 0), np.maximum(positions, 0)
        if log is None and not self.is_range:
            log = math.log(self.ends[2])
        if self.is_range or not log:
            return low, high
        return np.expm1(-log * low) / math.expm1(-log), np.expm1(log * high) / math.expm1(log)

    def value_at(self, position: float) -> float:
        """Return the figure, or the factor on the time of kernels, at a position."""
        if self.is_range:
            return between(self.ends, position)
        return float(self.ends[2] ** position)

    def told(self, position: float) -> str:
        """Return the value at a position in words."""
        if self.possibilities:
            last = len(self.possibilities) - 1
            return self.possibilities[round((position + 1) / 2 * last)]
        value = self.value_at(position)
        if self.is_range:
            rounded = float(f"{value:.3g}")
            return f"{rounded:,g} {self.unit}".strip()
        away = 100 * (value - 1)
        return f"{abs(away):.0f} % {'slower' if away > 0 else 'faster'}"


def sources_of(deployment: Deployment) -> list[DoubtSource]:
    """Return all sources of doubt of a deployment, whether they move its step or not."""
    found = [*_of_software(deployment), *_of_fabric(deployment)]
    return [*found, *_of_routing(deployment), *_of_kernels(deployment)]


def _of_software(deployment: Deployment) -> Iterator[DoubtSource]:
    software, others = deployment.scenario.software, _glue_of_others(deployment)
    for path, figure in ranges(software):
        if path[-1] in _BESIDE_TIMES or path[:2] in others:
            continue
        words = ".".join(str(part) for part in path if isinstance(part, str))

        def change(path: tuple[Any, ...], value: float) -> Change:
            return lambda site: site.with_software(_replaced(site.scenario.software, path, value))

        yield _of_figure(f"software.{words}", _TITLES[words], figure, partial(change, path))


def _glue_of_others(deployment: Deployment) -> set[tuple[str, int]]:
    """Return the places of glue that is of other cards or kinds of attention."""
    software = deployment.scenario.software
    cards = [getattr(deployment, name).table.accelerator.name for name in deployment.sides.values()]
    kinds = [attention.kind for attention in deployment.model.attention.values()]
    own = [software.glue_of(card, kind) for card in cards for kind in kinds]
    return {
        ("attention_glue", number)
        for number, glue in enumerate(software.attention_glue)
        if not any(glue is each for each in own)
    }


def _of_fabric(deployment: Deployment) -> Iterator[DoubtSource]:
    fabric = deployment.fabric
    for path, figure in ranges(fabric):

        def change(path: tuple[Any, ...], value: float) -> Change:
            return lambda site: site.with_fabric(_replaced(site.fabric, path, value))

        title = f"{_TITLES[str(path[-1])]} of {fabric.name}"
        of = f"fabric.{fabric.name}.{path[-1]}"
        yield _of_figure(of, title, figure, partial(change, path))


def _of_routing(deployment: Deployment) -> Iterator[DoubtSource]:
    """Yield the skew of experts where a scenario takes it as far as the profile knows it."""
    routing = deployment.scenario.routing
    known = deployment.scenario.software.routing_imbalance
    if known is None or known.low is None or known.high is None:
        return
    if not isinstance(routing, PowerLaw) or not known.low <= routing.alpha <= known.high:
        return
    if known.low <= 0:
        return

    def change(value: float) -> Change:
        return lambda site: site.with_routing(routing.model_copy(update={"alpha": value}))

    figure = Sourced(routing.alpha, known.source, known.low, known.high)
    yield _of_figure("routing.alpha", "skew of experts", figure, change)


def _of_figure(
    name: str, title: str, figure: Sourced, change: Callable[[float], Change]
) -> DoubtSource:
    low = float(figure if figure.low is None else figure.low)
    high = float(figure if figure.high is None else figure.high)
    ends = (low, float(figure), high)
    key = f"{name} {ends} {figure.source}"

    def changed(position: float) -> Change:
        return change(between(ends, position))

    return DoubtSource(key, title, figure.unit, ends, True, figure.source, changed)


def between(ends: tuple[float, float, float], position: float) -> float:
    """Return the value at a position between low (−1), stated (0) and high (1)."""
    low, value, high = ends
    return value + position * (high - value if position > 0 else value - low)


def ranges(part: Strict, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Sourced]]:
    """Yield every figure with a range in a part of a scenario or card, and where it stands."""
    for name, value in part:
        yield from _ranges_in(value, (*path, name))


def _ranges_in(value: object, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Sourced]]:
    if isinstance(value, Sourced):
        if (value.low is not None or value.high is not None) and value.low != value.high:
            yield path, value
    elif isinstance(value, Strict):
        yield from ranges(value, path)
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _ranges_in(each, (*path, number))


def _replaced(part: Any, path: tuple[Any, ...], value: float) -> Any:
    """Return a part of a scenario or card with another value at a path."""
    if not path:
        return type(part)(value, part.source)
    first, *rest = path
    if isinstance(part, list):
        return [
            _replaced(each, tuple(rest), value) if place == first else each
            for place, each in enumerate(part)
        ]
    inner = _replaced(getattr(part, first), tuple(rest), value)
    return part.model_copy(update={first: inner})


def _of_kernels(deployment: Deployment) -> Iterator[DoubtSource]:
    batch = deployment.expected.batch()
    for (card, kind), sd in doubtful_kernels(deployment, batch).items():
        ends = (float(np.exp(-TENTH * sd)), 1.0, float(np.exp(TENTH * sd)))
        kernel = "" if kind.kernel in ("", "dense", "fastest") else f"{kind.kernel} "
        core = kind.op.removeprefix("attention_").upper()
        what = _KERNELS.get(kind.op, f"attention core {core}")
        name = f"{what} ({kernel}{kind.dtype}) on {card}"

        def changed(card: str, kind: KernelKind, position: float) -> Change:
            return partial(slower, card, kind, position * TENTH)

        yield DoubtSource(
            f"kernels {card} {kind}",
            name,
            "times",
            ends,
            False,
            f"held-out error of its curves in hardware/calibration/{card}.csv, "
            "and of curves outside of their range",
            partial(changed, card, kind),
        )
