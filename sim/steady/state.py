"""Steady state: what a load that never changes makes of a deployment, without simulating it.

Every micro-batch holds its share of the requests, all of mean context, spread evenly over the
attention GPUs, for ever. The time per step is then an eigenvalue (`sim/engines/bound.py`), exact to
the nanosecond and found in milliseconds. Nothing waits for requests and no context is longer than
another: a simulation is slower by what that costs.

There are two ways to ask. `under_load` puts one server of each pool in place of all, which do the
same at the same time; where they differ (a request more on some GPUs, the hottest experts on one
FFN instance) the slowest sets the pace. `SteadyState.of` keeps them apart, so that what
limits the deployment has a name.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.deployments import compile_deployment
from sim.deployments.deployment import Deployment
from sim.deployments.layers import Batch, Ns
from sim.engines.bound import Bound, BoundEngine
from sim.engines.program import KEPT, Program, Times
from sim.foundation.errors import InfeasibleError
from sim.inputs.admission import share_of
from sim.inputs.scenario import Scenario
from sim.kernels.ops import Floats
from sim.kernels.timed import NO_USAGE


@dataclass(frozen=True)
class SteadyState:
    """A deployment in which no request comes, grows or goes."""

    deployment: Deployment
    requests: float
    """Requests in flight."""
    engine: BoundEngine
    """Of all servers, or of one of each pool."""
    times: tuple[Times, ...]
    """Durations of a step of each micro-batch."""
    usage_ns: Floats
    """Kernel time by status of its look-up, of all micro-batches."""

    @classmethod
    def of(cls, scenario: Scenario) -> SteadyState:
        """Return the state in which all micro-batches hold the one `batch`.

        Raises InfeasibleError as a run does.
        """
        deployment = compile_deployment(scenario)
        expected, engine = deployment.expected, BoundEngine(deployment.program)
        step, m = deployment.step(expected.batch()), deployment.micro_batches
        return cls(deployment, expected.requests(), engine, (step.times,) * m, step.usage_ns * m)

    @property
    def program(self) -> Program:
        return self.engine.program

    @property
    def micro_batches(self) -> int:
        return len(self.times)

    @cached_property
    def batch(self) -> Batch:
        """An even share of the expected load: whole requests on each GPU, at least one."""
        return self.deployment.expected.batch()

    @cached_property
    def bound(self) -> Bound:
        """Time per step, critical circuit, slack."""
        return self.engine.bound(self.times)

    @cached_property
    def step_ns(self) -> Fraction:
        """Time per step, ns; found faster than the `bound`."""
        return self.bound.step_ns if "bound" in vars(self) else self.engine.step_ns(self.times)

    @property
    def tpot_ns(self) -> float:
        """The TPOT of every request, ns."""
        return float(self.step_ns) / self.deployment.scenario.tokens_per_step()

    def step_ns_with(self, times: Times) -> Fraction:
        """Return the time per step if every micro-batch took `times`, in the same order, ns."""
        return self.engine.step_ns([times] * self.micro_batches)

    @cached_property
    def work_ns(self) -> NDArray[np.int64]:
        """What each server works on micro-batch 0 in a step, ns, in the order of the pools."""
        return self.program.busy_ns(self.times[0])

    def work_of(self, pool: int) -> NDArray[np.int64]:
        """Return `work_ns` of the servers of a pool."""
        pools = self.program.pools
        first = sum(before.servers for before in pools[:pool])
        return self.work_ns[first : first + pools[pool].servers]

    def busy(self, pool: int) -> float:
        """Return the share of the step that the busiest server of a pool works."""
        return float(self.micro_batches * int(self.work_of(pool).max()) / self.step_ns)

    def loop_ns(self) -> Fraction:
        """Return the time per step of a micro-batch that has the deployment to itself, ns."""
        nothing = self.program.times({}, dict.fromkeys(self.program.delays, 0))
        return self.engine.step_ns([self.times[0], *[nothing] * (self.micro_batches - 1)])


def steady_state(scenario: Scenario) -> SteadyState:
    """Return the steady state of a closed loop. Raises InfeasibleError if the shape cannot run."""
    deployment = compile_deployment(scenario)
    in_flight = deployment.expected.in_flight()
    if in_flight is None:
        raise InfeasibleError("an open loop has no steady state of a fixed load")
    return under_load(deployment, in_flight)


def under_load(
    deployment: Deployment,
    requests: int,
    free: Collection[str] = (),
    known: dict[int, Load] | None = None,
) -> SteadyState:
    """Return the steady state with `requests` in flight, shared out as admission does.

    Stages and delays in `free` take no time, as if what they need were without limits. `known`
    remembers, from call to call with the same deployment and `free`, what loads of a micro-batch
    take.
    """
    known = {} if known is None else known
    m, row = deployment.micro_batches, deployment.scenario.admission.row(deployment.attention_gpus)
    shares = [share_of(requests, micro_batch, m, row) for micro_batch in range(m)]
    loads = [_load(deployment, share, free, known) for share in shares]
    program = deployment.one_of_each(loads[0].rows)
    times = {share: program.times(*known[share][:2]) for share in set(shares)}
    usage_ns = sum((load.usage_ns for load in loads), NO_USAGE)
    in_turn = tuple(times[share] for share in shares)
    return SteadyState(deployment, requests, _engine(program), in_turn, usage_ns)


class Load(NamedTuple):
    """What a micro-batch takes under a load."""

    slowest: dict[tuple[str, int], Ns]
    """Durations by (stage, layer kind) of the slowest server."""
    delays_ns: dict[str, int]
    rows: dict[tuple[str, int], Ns]
    """Durations of all servers."""
    usage_ns: Floats


def _load(
    deployment: Deployment, requests: int, free: Collection[str], known: dict[int, Load]
) -> Load:
    if requests in known:
        return known[requests]
    rows, usage_ns = deployment.durations(deployment.expected.batch_of(requests))
    rows = {key: np.zeros_like(ns) if key[0] in free else ns for key, ns in rows.items()}
    delays_ns = {
        name: ns if requests and name not in free else 0
        for name, ns in deployment.delays_ns().items()
    }
    slowest = {key: ns.max() for key, ns in rows.items()} if requests else {}
    return known.setdefault(requests, Load(slowest, delays_ns, rows, usage_ns))


@lru_cache(maxsize=KEPT)
def _engine(program: Program) -> BoundEngine:
    return BoundEngine(program)
