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

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.deployments import compile_deployment
from sim.deployments.batch import Batch
from sim.deployments.deployment import Deployment
from sim.engines.bound import Bound, BoundEngine
from sim.engines.program import Program, Times
from sim.foundation.errors import InfeasibleError, SimError
from sim.foundation.identity import kept_by_identity
from sim.inputs.base import Strict
from sim.inputs.deployment import DeploymentKind
from sim.inputs.scenario import Scenario
from sim.kernels.ops import Floats
from sim.kernels.timed import NO_USAGE
from sim.steady.load_times import LoadTimes, bound_engine, shares

# What of a scenario no time depends on.
_BESIDE_TIMES = ("name", "description", "slo", "prices", "doubt")
_ARRIVALS: dict[str, Any] = {"arrivals": True}
_NOTHING: dict[str, Any] = {}


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
    known_step_ns: Fraction | None = None
    """Time per step where it is known already, ns."""

    @classmethod
    def of(cls, scenario: Scenario) -> SteadyState:
        """Return the state in which all micro-batches hold the one `batch`.

        Raises InfeasibleError as a run does.
        """
        deployment = compile_deployment(scenario)
        expected, engine = deployment.expected, BoundEngine(deployment.program)
        step, m = deployment.step(expected.batch()), deployment.micro_batches
        return cls(deployment, expected.requests(), engine, (step.times,) * m, step.usage_ns * m)

    @classmethod
    def under(
        cls,
        loads: LoadTimes,
        deployment: Deployment,
        requests: int,
        step_ns: Fraction | None = None,
    ) -> SteadyState:
        """Return the state with `requests` in flight, whose micro-batches `loads` has looked up.

        `step_ns` is its time per step if that is known.
        """
        in_turn, delays_ns = loads.in_turn(deployment, requests)
        program = in_turn[0].program
        times = tuple(
            Times(load.values, program.slot_bounds, each_ns)
            for load, each_ns in zip(in_turn, delays_ns, strict=True)
        )
        usage_ns = sum((load.usage_ns for load in in_turn), NO_USAGE)
        return cls(deployment, requests, bound_engine(program), times, usage_ns, step_ns)

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
        if self.known_step_ns is not None:
            return self.known_step_ns
        return self.bound.step_ns if "bound" in vars(self) else self.engine.step_ns(self.times)

    @property
    def tpot_ns(self) -> float:
        """The TPOT of every request, ns."""
        return tpot_ns(self.deployment, self.requests, self.step_ns)

    @property
    def sat_out(self) -> float:
        """Steps that a GPU sits out for each that it takes (`Admission.idle_step_share`)."""
        return sat_out(self.deployment, self.requests)

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


def tpot_ns(deployment: Deployment, requests: float, step_ns: Fraction) -> float:
    """Return the TPOT of `requests` in flight whose micro-batches take `step_ns` a step, ns."""
    steps = (1 + sat_out(deployment, requests)) / deployment.scenario.tokens_per_step()
    return float(step_ns) * steps


def sat_out(deployment: Deployment, requests: float) -> float:
    """Return the steps that a GPU sits out for each that it takes, `requests` being in flight."""
    gpus, each = np.array([deployment.attention_gpus]), requests / deployment.micro_batches
    return float(deployment.expected.sat_out(gpus, np.array([each]))[0])


def steady_state(scenario: Scenario) -> SteadyState:
    """Return the steady state of a closed loop. Raises InfeasibleError if the shape cannot run."""
    deployment = compile_deployment(scenario)
    return under_load(deployment, _in_flight(deployment))


def steady_states(scenarios: Sequence[Scenario]) -> list[SteadyState | SimError]:
    """Return the same of each scenario, or why it has none; those alike share a look-up."""
    found: dict[int, SteadyState | SimError] = {}
    alike: dict[Hashable, dict[int, Deployment]] = {}
    for place, scenario in enumerate(scenarios):
        try:
            site = compile_deployment(scenario)
            _in_flight(site)
        except SimError as error:
            found[place] = error
        else:
            alike.setdefault(likeness(scenario), {})[place] = site
    for sites in alike.values():
        found |= _side_by_side(sites)
    return [found[place] for place in range(len(scenarios))]


def _side_by_side(sites: Mapping[int, Deployment]) -> dict[int, SteadyState | SimError]:
    loads = LoadTimes()
    asked = [(site, share) for site in sites.values() for share in shares(site, _in_flight(site))]
    try:
        loads.look_up_all(asked)
    except SimError as error:  # one of them fails: it alone shall
        if len(sites) == 1:
            return dict.fromkeys(sites, error)
        return {k: v for place in sites for k, v in _side_by_side({place: sites[place]}).items()}
    return {
        place: SteadyState.under(loads, site, _in_flight(site)) for place, site in sites.items()
    }


def _in_flight(deployment: Deployment) -> int:
    in_flight = deployment.expected.in_flight()
    if in_flight is None:
        raise InfeasibleError("an open loop has no steady state of a fixed load")
    return in_flight


def under_load(deployment: Deployment, requests: int, free: Collection[str] = ()) -> SteadyState:
    """Return the steady state with `requests` in flight, shared out as admission does.

    Stages and delays in `free` take no time, as if what they need were without limits.
    """
    loads = LoadTimes(free)
    loads.look_up(deployment, shares(deployment, requests))
    return SteadyState.under(loads, deployment, requests)


def likeness(scenario: Scenario) -> Hashable:
    """Return what deployments have in common that differ at most in number of attention GPUs."""
    return tuple(
        _text(part, _ARRIVALS if name == "workload" else _counted(part))
        for name, part in scenario
        if name not in _BESIDE_TIMES
    )


def _counted(part: object) -> dict[str, Any]:
    return part.attention_count if isinstance(part, DeploymentKind) else _NOTHING


def _text(part: object, apart: dict[str, Any]) -> object:
    return _json(part, apart) if isinstance(part, Strict) else part


@kept_by_identity
def _json(part: Strict, apart: dict[str, Any]) -> str:
    """Return a part of scenarios, which points of a sweep share, without what is `apart`."""
    return part.model_dump_json(exclude=apart)
