"""Frozen: a deployment in its nominal state, in which no request comes, grows or goes.

Every micro-batch holds an even share of the mean load for ever. The time per step is then an
eigenvalue (`sim/engines/bound.py`), exact to the nanosecond and found in milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sim.deployments import compile_deployment
from sim.deployments.deployment import Deployment
from sim.deployments.layers import Batch
from sim.engines.bound import Bound, BoundEngine
from sim.engines.program import Times
from sim.foundation.units import NS_PER_MS, NS_PER_S
from sim.inputs.scenario import Scenario


@dataclass(frozen=True)
class Figures:
    """What a user and an operator see of a step time."""

    tpot_ms: float
    tgs: float
    """Output tokens per second and GPU, all GPUs counted."""
    usd_per_1m_tokens: float | None
    """None if a card has no price."""


@dataclass(frozen=True)
class Frozen:
    """A compiled deployment, and the one batch that all of its micro-batches always hold."""

    site: Deployment
    engine: BoundEngine
    batch: Batch
    times: Times
    """Durations of a step of any micro-batch."""

    @classmethod
    def of(cls, scenario: Scenario) -> Frozen:
        """Return the nominal state of `scenario`. Raises InfeasibleError as a run does."""
        site = compile_deployment(scenario)
        batch = site.expected.batch()
        return cls(site, BoundEngine(site.program), batch, site.times(batch))

    @property
    def micro_batches(self) -> int:
        """Micro-batches in flight."""
        return self.site.program.micro_batches

    @property
    def gpus(self) -> int:
        """All GPUs of the deployment."""
        return self.site.scenario.gpu_count()

    @cached_property
    def requests_in_flight(self) -> float:
        """Requests in flight; the batches hold as many, up to one a GPU by rounding."""
        return float(self.site.expected.requests())

    @cached_property
    def bound(self) -> Bound:
        """The steady state: time per step, critical circuit, slack."""
        return self.engine.bound([self.times] * self.micro_batches)

    @property
    def step_ns(self) -> Fraction:
        """Time per step, ns."""
        return self.bound.step_ns

    def step_ns_with(self, times: Times) -> Fraction:
        """Return the time per step if every micro-batch took `times`, in the same order, ns."""
        return self.engine.step_ns([times] * self.micro_batches)

    def figures(self, step_ns: Fraction | None = None) -> Figures:
        """Return what users see at a time per step; the state's own by default."""
        emitted = self.site.scenario.tokens_per_step()
        tpot_s = float(self.step_ns if step_ns is None else step_ns) / NS_PER_S / emitted
        per_s = self.requests_in_flight / tpot_s
        rent = self.site.usd_per_hour()
        usd = None if rent is None else rent / 3600 / per_s * 1e6
        return Figures(tpot_s * NS_PER_S / NS_PER_MS, per_s / self.gpus, usd)

    @cached_property
    def work_ns(self) -> NDArray[np.int64]:
        """What each server works on one micro-batch in a step, ns, in the order of the pools."""
        return self.site.program.busy_ns(self.times)

    def work_of(self, pool: int) -> NDArray[np.int64]:
        """Return the same for the servers of a pool."""
        pools = self.site.program.pools
        first = sum(before.servers for before in pools[:pool])
        return self.work_ns[first : first + pools[pool].servers]

    def busy(self, pool: int) -> float:
        """Return the share of the step that the busiest server of a pool works."""
        return float(self.micro_batches * int(self.work_of(pool).max()) / self.step_ns)

    def loop_ns(self) -> Fraction:
        """Return the time per step of a micro-batch that has the deployment to itself, ns."""
        program = self.site.program
        nothing = program.times({}, dict.fromkeys(program.delays, 0))
        return self.engine.step_ns([self.times, *[nothing] * (self.micro_batches - 1)])
