"""How sure: what is not known of a deployment, and what each source of doubt does to its figures.

Nothing is simulated: TPOT and throughput are those of the steady state.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from sim.deployments import compile_deployment
from sim.doubt.interval import Doubt, doubt_of
from sim.doubt.residual import normal_width
from sim.doubt.spread import Alone
from sim.foundation.units import NS_PER_MS, NS_PER_S
from sim.inputs.scenario import Scenario
from sim.steady.state import under_load


@dataclass(frozen=True)
class SourceShare:
    """A source of doubt that moves the step."""

    name: str
    stated: str
    """Its value, in words."""
    may_be: str
    """What it may be, in words: from its least to its most; kernels from the 10th percentile to the
    90th."""
    tpot_ms_p10: float
    """TPOT with this source alone at its 10th percentile; the fastest of several possibilities."""
    tpot_ms_p90: float
    share: float
    """Of the variance of log TPOT."""
    source: str


@dataclass(frozen=True)
class Undeclared:
    """What no source declares: how far predictions lay off what was measured."""

    group: str
    """Software profile, or `any`: the widest of all, for those with too few measured points."""
    rows: int
    """Measured points that it was fitted to."""
    log_sd: float
    """Log standard deviation of TPOT."""
    share: float
    """Of the variance of log TPOT."""
    factor_80: float
    """On the width of the 80 % interval, so that it holds as many measured points as it says."""
    factor_90: float


@dataclass(frozen=True)
class HowSure:
    """The figures of a steady state, their prediction intervals and what makes these up."""

    scenario: str
    requests_in_flight: int
    tpot_ms: float
    tpot_ms_p05: float
    tpot_ms_p10: float
    tpot_ms_p90: float
    tpot_ms_p95: float
    tgs: float
    tgs_p05: float
    tgs_p10: float
    tgs_p90: float
    tgs_p95: float
    sources: tuple[SourceShare, ...]
    """Those that move the step, the largest share first."""
    undeclared: Undeclared
    unmoved: int
    """Sources that do not move the step: what they would slow is hidden, or not used."""

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain data, ready for JSON."""
        return asdict(self)

    def sentence(self) -> str:
        """Return the interval, and what makes up most of it, in words."""
        parts = [(each.share, each.name) for each in self.sources]
        parts.append((self.undeclared.share, "what no source declares"))
        most = [f"{name} ({share:.0%})" for share, name in sorted(parts, reverse=True)[:3] if share]
        named = f"; most of the doubt is {', '.join(most)}" if most else ""
        return (
            f"How sure: in 80 % of cases TPOT lies from {self.tpot_ms_p10:.1f} to "
            f"{self.tpot_ms_p90:.1f} ms, {self.tgs_p10:,.0f} to {self.tgs_p90:,.0f} tokens/s/GPU"
            f"{named}"
        ).replace("%)", " %)")


def how_sure(scenario: Scenario, requests: float | None = None) -> HowSure:
    """Return how sure the figures of a scenario are with `requests` in flight.

    By default those of its closed loop, or those that its arrivals are expected to keep in flight.
    Raises InfeasibleError if the shape cannot run.
    """
    site = compile_deployment(scenario)
    wanted = site.expected.requests() if requests is None else requests
    in_flight = max(1, round(wanted))
    tpot_ns = under_load(site, in_flight).tpot_ns
    tpot_ms, tgs = tpot_ns / NS_PER_MS, in_flight / (tpot_ns / NS_PER_S) / scenario.gpu_count()
    doubt = doubt_of(scenario, in_flight)
    p05, p10, p90, p95 = doubt.percentiles()
    sources, undeclared = _shares(doubt, tpot_ms)
    return HowSure(
        scenario=scenario.name,
        requests_in_flight=in_flight,
        tpot_ms=tpot_ms,
        tpot_ms_p05=tpot_ms * p05,
        tpot_ms_p10=tpot_ms * p10,
        tpot_ms_p90=tpot_ms * p90,
        tpot_ms_p95=tpot_ms * p95,
        tgs=tgs,
        tgs_p05=tgs / p95,
        tgs_p10=tgs / p90,
        tgs_p90=tgs / p10,
        tgs_p95=tgs / p05,
        sources=sources,
        undeclared=undeclared,
        unmoved=sum(not each.moves for each in doubt.spread.alone),
    )


def _shares(doubt: Doubt, tpot_ms: float) -> tuple[tuple[SourceShare, ...], Undeclared]:
    left = doubt.residual
    moving = [each for each in doubt.spread.alone if each.moves]
    squares = [_width(each) ** 2 for each in moving]
    rest = (normal_width(80) * left.log_sd) ** 2
    total = sum(squares) + rest or 1.0
    told = zip(moving, squares, strict=True)
    found = [_told(each, tpot_ms, square / total) for each, square in told]
    found.sort(key=lambda each: -each.share)
    undeclared = Undeclared(
        left.group, left.rows, left.log_sd, rest / total, left.factor_80, left.factor_90
    )
    return tuple(found), undeclared


def _width(alone: Alone) -> float:
    """Return half the distance of the 10th and the 90th percentile, in log TPOT."""
    logs = [math.log(factor) for factor in alone.factors[alone.likely]]
    return (max(logs) - min(logs)) / 2


def _told(alone: Alone, tpot_ms: float, share: float) -> SourceShare:
    source, likely = alone.source, alone.factors[alone.likely]
    stated = source.told(0.0) if source.is_range else "as measured"
    may_be = f"{source.told(-1.0)} to {source.told(1.0)}"
    if source.possibilities:
        stated, may_be = "not settled", " or ".join(source.possibilities)
    return SourceShare(
        name=source.name,
        stated=stated,
        may_be=may_be,
        tpot_ms_p10=float(tpot_ms * likely.min()),
        tpot_ms_p90=float(tpot_ms * likely.max()),
        share=share,
        source=source.source,
    )
