"""Ratio: how many attention instances to an FFN instance, when contexts differ by chance.

The model of arXiv 2601.21351. An attention GPU with B slots takes T_A = α_A·(KV tokens) + β_A for a
micro-batch, the FFN T_F = α_F·tokens + β_F, the network T_C = α_C·tokens + β_C, where the tokens of
a micro-batch are one a slot. The KV tokens of the slots are independent, so that T_A is nearly
normal, with mean μ and deviation σ, and the FFN waits for the slowest attention GPU. With enough
micro-batches in flight, one takes τ on whatever is slowest:

    mean field      τ = max(μ, T_F, T_C)
    with barrier    τ = E max(G, T_A of all attention GPUs),  G = max(T_F, T_C)

Times are those of a whole step of a micro-batch, LM head included. The lines are fitted to the
kernel table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import ceil, erf, floor, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.deployments import compile_deployment
from sim.deployments.afd import AfdDeployment
from sim.deployments.batch import Batch
from sim.deployments.deployment import Deployment
from sim.deployments.steps import slowest
from sim.explain.balance import changed
from sim.foundation.errors import ScenarioError
from sim.foundation.units import NS_PER_S, NS_PER_US
from sim.inputs.lengths import BLOCK, DrawnLengths
from sim.inputs.workload import Workload
from sim.steady.state import SteadyState

Floats = NDArray[np.float64]

# Ratios are looked at up to this many attention instances, or as many as the links join.
_MOST_INSTANCES = 512
# The lines are fitted again around the optimum that they give, at most this many times.
_MOST_FITS = 6
# T_F and T_C are fitted at these shares of the attention instances.
_AROUND = (0.5, 0.75, 1.0, 1.25, 1.5)
# Requests that the moments of drawn lengths are taken over.
_SAMPLE_BLOCKS = 64

_Z = np.linspace(-10.0, 10.0, 4_001)
_PHI = np.array([0.5 * (1 + erf(z / sqrt(2))) for z in _Z])


class SlotLoad(NamedTuple):
    """The context in a slot of a closed loop at a random time."""

    mean_tokens: float
    """θ = Σ[D·P + D(D−1)/2]/ΣD, of prompts P and outputs D."""
    variance: float
    """ν² = Σ[D·P² + P·D(D−1) + D(D−1)(2D−1)/6]/ΣD − θ²."""


class LinearTime(NamedTuple):
    """A time as a straight line over tokens."""

    ns_per_token: float
    constant_ns: float
    misfit: float
    """Largest relative departure of the fitted points."""

    def ns(self, tokens: float) -> float:
        return self.constant_ns + self.ns_per_token * tokens


@dataclass(frozen=True)
class Ratio:
    """What a number of attention instances gives."""

    attention_instances: int
    ratio: float
    """Attention instances to an FFN instance."""
    ffn_us: float
    """T_F."""
    transfer_us: float
    """T_C."""
    mean_field_us: float
    """τ if all contexts were alike."""
    barrier_us: float
    """τ when the FFN waits for the slowest attention GPU."""
    mean_field_tgs: float
    barrier_tgs: float


@dataclass(frozen=True)
class StochasticRatio:
    """The best ratio of attention to FFN instances under contexts that differ by chance."""

    slots: int
    """B: requests of a micro-batch on an attention GPU."""
    load: SlotLoad
    attention: LinearTime
    """T_A over the KV tokens of a GPU."""
    ffn: LinearTime
    """T_F over the tokens of a micro-batch."""
    transfer: LinearTime
    """T_C over the same: the busiest NIC or NVLink direction."""
    attention_us: float
    """μ."""
    deviation_us: float
    """σ."""
    present: Ratio
    mean_field: Ratio
    """Highest throughput per GPU by the mean field."""
    barrier: Ratio
    """Highest throughput per GPU with the barrier."""

    def as_dict(self) -> dict[str, Any]:
        plain = asdict(self)
        for name in ("load", "attention", "ffn", "transfer"):
            plain[name] = getattr(self, name)._asdict()
        return plain


def slot_load(workload: Workload, seed: int) -> SlotLoad:
    """Return mean and variance of the context in a slot; of recorded lengths exactly."""
    law = workload.law
    if isinstance(law, DrawnLengths):
        pairs = [law.draw(seed, "slot-load", block, BLOCK) for block in range(_SAMPLE_BLOCKS)]
    else:
        recorded = law.read()
        pairs = [(recorded.prompt, recorded.output)]
    p, d = (np.concatenate(column).astype(np.float64) for column in zip(*pairs, strict=True))
    mean = float((d * p + d * (d - 1) / 2).sum() / d.sum())
    square = d * p**2 + p * d * (d - 1) + d * (d - 1) * (2 * d - 1) / 6
    return SlotLoad(mean, float(square.sum() / d.sum()) - mean**2)


def with_barrier(others: float, mean: float, deviation: float, gpus: int) -> float:
    """Return E max(others, the largest of `gpus` independent normal times)."""
    if deviation == 0:
        return max(others, mean)
    first = (others - mean) / deviation
    above = 1 - _PHI**gpus
    areas = np.concatenate([[0.0], np.cumsum((above[1:] + above[:-1]) / 2 * np.diff(_Z))])
    rest = areas[-1] - float(np.interp(first, _Z, areas)) + max(_Z[0] - first, 0.0)
    return float(others + deviation * rest)


def stochastic_ratio(state: SteadyState) -> StochasticRatio:
    """Return the best ratios around a steady state of AFD. Raises ScenarioError for others."""
    site = state.deployment
    if not isinstance(site, AfdDeployment):
        raise ScenarioError("only AFD has a ratio of attention to FFN: choose an AFD scenario")
    workload, seed = site.scenario.workload, site.scenario.simulation.seed
    slots, load = int(state.batch.requests[0]), slot_load(workload, seed)
    attention = _attention_line(site, slots, load)
    mean = attention.ns(slots * load.mean_tokens)
    deviation = attention.ns_per_token * sqrt(slots * load.variance)
    side, ffn_side = site.afd.attention, site.afd.ffn

    def of(instances: int, ffn: LinearTime, transfer: LinearTime) -> Ratio:
        gpus = instances * side.gpus_per_instance
        ranks = gpus // side.tp
        tokens, all_gpus = ranks * slots, gpus + ffn_side.gpu_count()
        others = max(ffn.ns(tokens), transfer.ns(tokens))
        emitted = tokens * site.scenario.tokens_per_step()
        field, barrier = max(mean, others), with_barrier(others, mean, deviation, ranks)
        return Ratio(
            attention_instances=instances,
            ratio=instances / ffn_side.instances,
            ffn_us=ffn.ns(tokens) / NS_PER_US,
            transfer_us=transfer.ns(tokens) / NS_PER_US,
            mean_field_us=field / NS_PER_US,
            barrier_us=barrier / NS_PER_US,
            mean_field_tgs=emitted / field * NS_PER_S / all_gpus,
            barrier_tgs=emitted / barrier * NS_PER_S / all_gpus,
        )

    most = int(min(_MOST_INSTANCES, site.most_attention_instances()))
    around, seen = side.instances, set[int]()
    while True:
        ffn, transfer = _ffn_lines(state, site, slots, around, most)
        ratios = [of(instances, ffn, transfer) for instances in range(1, most + 1)]
        best = max(ratios, key=lambda ratio: ratio.barrier_tgs)
        seen.add(around)
        if best.attention_instances in seen or len(seen) == _MOST_FITS:
            break
        around = best.attention_instances
    return StochasticRatio(
        slots=slots,
        load=load,
        attention=attention,
        ffn=ffn,
        transfer=transfer,
        attention_us=mean / NS_PER_US,
        deviation_us=deviation / NS_PER_US,
        present=of(side.instances, ffn, transfer),
        mean_field=max(ratios, key=lambda ratio: ratio.mean_field_tgs),
        barrier=best,
    )


def _attention_line(site: Deployment, slots: int, load: SlotLoad) -> LinearTime:
    """Return T_A over the KV tokens of a GPU, fitted up to two deviations from its mean."""
    middle, deviation = slots * load.mean_tokens, sqrt(slots * load.variance)
    reach = min(max(2 * deviation, 0.1 * middle), 0.9 * middle)
    points = [middle + reach * part for part in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    gpus, windows = site.attention_gpus, site.layout.bytes_per_token

    def time_ns(tokens: float) -> float:
        batch = Batch.spread(gpus, gpus * slots, tokens / slots, windows)
        return work_ns(site, batch)["attention"]

    return _line(points, time_ns)


def _ffn_lines(
    state: SteadyState, site: AfdDeployment, slots: int, around: int, most: int
) -> tuple[LinearTime, LinearTime]:
    """Return T_F and T_C over the tokens of a micro-batch, fitted around `around` instances."""
    afd, work = site.afd, dict[float, dict[str, float]]()
    counts = {max(1, f(around * part)) for part in _AROUND for f in (floor, ceil)}
    # A line needs two points: where there is room for one instance, that is refused.
    for instances in sorted(n for n in counts | {around + 1} if n <= max(most, 2)):
        load = instances / afd.attention.instances
        scenario = changed(state, afd.resized(instances, afd.ffn.instances), load)
        other = compile_deployment(scenario)
        tokens = slots * other.attention_gpus
        work[tokens] = work_ns(other, other.expected.batch_of(tokens))
    ffn = _line(list(work), lambda tokens: work[tokens]["ffn"])

    def transfer_ns(tokens: float) -> float:
        return max(ns for pool, ns in work[tokens].items() if pool not in ("attention", "ffn"))

    return ffn, _line(list(work), transfer_ns)


def work_ns(site: Deployment, batch: Batch) -> dict[str, float]:
    """Return what the slowest server of each pool works on a micro-batch in a step, by pool."""
    longest = slowest(site.durations(batch).rows)
    program = site.one_of_each(longest)
    times = program.times(longest, site.delays_ns)
    busy = program.busy_ns(times)
    return {pool.name: float(ns) for pool, ns in zip(program.pools, busy, strict=True)}


def _line(tokens: list[float], time_ns: Callable[[float], float]) -> LinearTime:
    """Return the line of least squares through times at some numbers of tokens."""
    x, y = np.array(tokens, dtype=np.float64), np.array([time_ns(each) for each in tokens])
    slope, constant = np.polyfit(x, y, 1)
    misfit = np.abs(constant + slope * x - y) / np.maximum(y, 1.0)
    return LinearTime(float(slope), float(constant), float(misfit.max()))
