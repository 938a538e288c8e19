"""Balance: what would have to change so that no part of a deployment waits for another.

There are two answers: a fraction, from the times of the steady state alone, and whole shapes near
it, each with a steady state of its own at the same requests in flight.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

import numpy as np

from sim.deployments.batch import Batch
from sim.engines.program import Times
from sim.explain.bottleneck import critical_circuit
from sim.explain.sensitivity import scaled
from sim.foundation.errors import InfeasibleError
from sim.foundation.units import NS_PER_MS
from sim.inputs.arrivals import ClosedLoop, at_rate, rate_field
from sim.inputs.deployment import MOST_MICRO_BATCHES, Afd, DeploymentShape, Ep
from sim.inputs.scenario import Scenario
from sim.metrics.steady_summary import SteadyFigures, steady_figures
from sim.steady.state import SteadyState

# An all-to-all counts as hidden when its exposed part is below this share of the step.
_HIDDEN = 1e-3

# More FFN instances are tried up to this many times the present ones.
_MOST_TIMES_FFN = 8


@dataclass(frozen=True)
class Shape:
    """A shape and its steady state: the present shape, or one that may be better balanced."""

    shape: str
    """xAyF or EPn."""
    micro_batches: int
    gpus: int
    requests_in_flight: float | None
    figures: SteadyFigures | None
    kind: str | None
    """Kind of its critical circuit."""
    busy: dict[str, float]
    """Share of the step that the busiest server of each pool works."""
    ideal_micro_batches: float | None
    """Its own loop time over its own longest work."""
    refused: str | None
    """Why it cannot run; the fields of its figures are None then."""


@dataclass(frozen=True)
class AfdBalance:
    """What a balanced AFD deployment needs."""

    present_ratio: float
    """Attention instances over FFN instances."""
    ratio: float | None
    """The ratio at which attention GPUs and FFN GPUs work equally long on these micro-batches: more
    attention GPUs hold fewer requests each, while the FFN sees the same tokens. None if no number
    of requests on a GPU, from one to all, has that effect."""
    ideal_micro_batches: float
    """Time of a micro-batch alone over the longest work of a server on it: with as many, the
    longest-working server always has one to work on."""
    shapes: tuple[Shape, ...]
    """The present shape, those with the whole numbers of attention instances around the ratio, and
    those with other numbers of FFN instances between which attention and FFN change places; each
    with the present number of micro-batches and with its own ideal number, rounded."""


@dataclass(frozen=True)
class EpBalance:
    """How far an EP deployment hides its all-to-all behind computation."""

    all_to_all_ms: float
    """Dispatch and combine of all micro-batches in a step."""
    exposed_ms: float
    """By how much the step would be shorter if both took no time."""
    hidden_share: float
    """Share of the all-to-all that is not exposed."""
    hides_up_to: int | None
    """Largest requests per GPU in flight, around the present number and up to `most_requests`, at
    which two overlapping micro-batches hide all of it; None if they never do."""
    most_requests: int
    """Requests per GPU that the KV capacity holds and the engine runs."""
    ideal_micro_batches: float
    """Time of a micro-batch alone over the longest work of a server on it."""
    shapes: tuple[Shape, ...]
    """The present shape, the other overlap, and half and double the GPUs at the same load each."""


def balance(state: SteadyState) -> AfdBalance | EpBalance:
    match state.deployment.scenario.deployment:
        case Afd() as afd:
            return _afd(state, afd)
        case Ep() as ep:
            return _ep(state, ep)


def bounded(scenario: Scenario) -> Shape:
    """Return the shape of `scenario` with its figures, or why it cannot run."""
    try:
        return present(SteadyState.of(scenario))
    except InfeasibleError as error:
        name, m = scenario.deployment.shape_name(), scenario.deployment.micro_batches
        return Shape(name, m, scenario.gpu_count(), None, None, None, {}, None, str(error))


def present(state: SteadyState) -> Shape:
    """Return the shape of a steady state with its figures."""
    scenario, circuit = state.deployment.scenario, critical_circuit(state)
    return Shape(
        shape=scenario.deployment.shape_name(),
        micro_batches=state.micro_batches,
        gpus=scenario.gpu_count(),
        requests_in_flight=float(state.requests),
        figures=steady_figures(state),
        kind=circuit.kind,
        busy={pool.name: state.busy(i) for i, pool in enumerate(state.program.pools)},
        ideal_micro_batches=ideal_micro_batches(state),
        refused=None,
    )


def ideal_micro_batches(state: SteadyState) -> float:
    """Return the time of a micro-batch alone over the longest work of a server on it."""
    return float(state.loop_ns() / int(state.work_ns.max()))


def changed(state: SteadyState, deployment: DeploymentShape, load: float = 1.0) -> Scenario:
    """Return the scenario with another deployment and `load` times the requests in flight."""
    scenario = state.deployment.scenario
    arrivals = scenario.workload.arrivals
    if isinstance(arrivals, ClosedLoop):
        in_flight = max(1, round(state.requests * load))
        arrivals = ClosedLoop(kind="closed", concurrency=in_flight)
    else:
        field = rate_field(arrivals)
        assert field is not None
        arrivals = at_rate(arrivals, getattr(arrivals, field) * load)
    workload = scenario.workload.replaced(arrivals=arrivals)
    return scenario.replaced(deployment=deployment, workload=workload)


def with_micro_batches(state: SteadyState, count: int) -> Shape | None:
    """Return the present deployment with another number of micro-batches, None if it has none."""
    other = state.deployment.scenario.deployment.with_micro_batches(count)
    return None if other is None else bounded(changed(state, other))


def _afd(state: SteadyState, afd: Afd) -> AfdBalance:
    x, y = afd.attention.instances, afd.ffn.instances
    ratio = _balanced_ratio(state, afd)
    shapes = [(x, y)]
    if ratio is not None:
        shapes += [(whole(ratio * y), y) for whole in (floor, ceil)]
    shapes += [(x, count) for count in _ffn_around_balance(state, afd)]
    rows = []
    for a, f in dict.fromkeys(shapes):
        if a:
            rows += _with_ideal_micro_batches(state, afd.resized(a, f))
    return AfdBalance(x / y, ratio, ideal_micro_batches(state), tuple(rows))


def _ffn_around_balance(state: SteadyState, afd: Afd) -> list[int]:
    """Return the numbers of FFN instances between which attention and FFN change places.

    Where they do not, that is the last number that can run and the first that cannot.
    """
    now = afd.ffn.instances
    attention_leads = _attention_leads(present(state))
    counts = range(now - 1, 0, -1) if attention_leads else range(now + 1, _MOST_TIMES_FFN * now + 1)
    last, refused = now, []
    for count in counts:
        shape = bounded(changed(state, afd.resized(afd.attention.instances, count)))
        if shape.refused:
            refused.append(count)
        elif _attention_leads(shape) != attention_leads:
            return [last, count]
        else:
            last = count
    return [last, *refused[:1]]


def _attention_leads(shape: Shape) -> bool:
    return shape.busy["attention"] > shape.busy["ffn"]


def _with_ideal_micro_batches(state: SteadyState, afd: Afd) -> list[Shape]:
    """Return a shape with the present number of micro-batches, and with its own ideal number."""
    shape = bounded(changed(state, afd))
    if shape.ideal_micro_batches is None:
        return [shape]
    ideal = min(max(1, round(shape.ideal_micro_batches)), MOST_MICRO_BATCHES)
    if ideal == shape.micro_batches:
        return [shape]
    return [shape, bounded(changed(state, afd.model_copy(update={"micro_batches": ideal})))]


def _balanced_ratio(state: SteadyState, afd: Afd) -> float | None:
    program = state.program
    pools = [pool.name for pool in program.pools]
    attention, ffn = pools.index("attention"), pools.index("ffn")
    tokens, ffn_ns = int(state.batch.requests.sum()), int(state.work_of(ffn).max())
    first = sum(pool.servers for pool in program.pools[:attention])

    def attention_ns(each: int) -> int:
        times = state.deployment.times(_with_requests(state.batch, each))
        return int(program.busy_ns(times)[first])

    each = bisect_right(range(1, tokens + 1), ffn_ns, key=attention_ns)
    if not 1 <= each < tokens:
        return None
    fits_ns, exceeds_ns = attention_ns(each), attention_ns(each + 1)
    requests = each + (ffn_ns - fits_ns) / (exceeds_ns - fits_ns)
    ranks = afd.attention.gpus_per_instance // afd.attention.tp
    return tokens / requests / ranks / afd.ffn.instances


def _with_requests(batch: Batch, each: int) -> Batch:
    """Return an even batch with another number of like requests on every GPU."""
    kv_tokens = {of: tokens // batch.requests * each for of, tokens in batch.kv_tokens.items()}
    return Batch(np.full_like(batch.requests, each), kv_tokens)


def _ep(state: SteadyState, ep: Ep) -> EpBalance:
    network = [pool.name for pool in state.program.pools].index("network")
    spent_ns = state.micro_batches * int(state.work_of(network).sum())
    exposed = float(exposed_ns(state, state.times[0]))
    site = state.deployment
    fitting = int(site.kv_memory().kv_capacity_bytes() / site.expected.reserved_bytes)
    limit = min(fitting, site.scenario.memory.max_running_requests or fitting)
    rows = [present(state), with_micro_batches(state, 3 - state.micro_batches)]
    for gpus in (ep.gpus // 2, ep.gpus * 2):
        if gpus > 1 and gpus % ep.lm_head_tp == 0:
            wider = ep.model_copy(update={"gpus": gpus})
            rows.append(bounded(changed(state, wider, gpus / ep.gpus)))
    return EpBalance(
        all_to_all_ms=spent_ns / NS_PER_MS,
        exposed_ms=exposed / NS_PER_MS,
        hidden_share=1 - exposed / spent_ns if spent_ns else 1.0,
        hides_up_to=_hides_up_to(state, ep, limit),
        most_requests=limit,
        ideal_micro_batches=ideal_micro_batches(state),
        shapes=tuple(row for row in rows if row is not None),
    )


def exposed_ns(state: SteadyState, times: Times) -> Fraction:
    """Return by how much a step is longer for its all-to-all."""
    program, without = state.program, times
    for stage in program.stages:
        if program.pools[stage.pool].kind == "network":
            without = scaled(program, without, stage.name, Fraction(0))
    return state.step_ns_with(times) - state.step_ns_with(without)


def _hides_up_to(state: SteadyState, ep: Ep, limit: int) -> int | None:
    """Return the largest load at which two micro-batches hide the all-to-all, requests a GPU."""
    if state.micro_batches == 1:
        state = SteadyState.of(changed(state, ep.model_copy(update={"overlap": "two_batch"})))

    def hidden(each: int) -> bool:
        times = state.deployment.times(_with_requests(state.batch, each))
        return exposed_ns(state, times) < _HIDDEN * state.step_ns_with(times)

    largest = _turning_point(hidden, int(state.batch.requests[0]), limit // 2)
    return largest and 2 * largest


def _turning_point(holds: Callable[[int], bool], start: int, limit: int) -> int | None:
    """Return the largest count up to `limit` at which `holds`, looked for around `start`.

    From `start` on upwards in doublings while it holds, or downwards in halves until it does.
    """
    good, bad = 0, limit + 1
    trial = min(start, limit)
    while 0 < trial < bad and trial > good:
        if holds(trial):
            good = trial
            trial = min(2 * trial, bad - 1) if bad > limit else (good + bad) // 2
        else:
            bad = trial
            trial = trial // 2 if not good else (good + bad) // 2
    return good or None
