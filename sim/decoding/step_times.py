"""Drawn times: the durations of a step with all that is random in it.

Where a scenario has neither noise nor expert loads drawn step by step, a deployment times each
step by its batch alone and nothing here costs anything.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.deployments.batch import Batch
from sim.deployments.deployment import Deployment
from sim.deployments.steps import Step
from sim.engines.program import Program
from sim.foundation.nanoseconds import from_us
from sim.inputs.model import MoeFfn
from sim.inputs.scenario import Scenario
from sim.kernels.ops import Floats
from sim.kernels.timed import NO_USAGE
from sim.variation.expert_loads import ExpertGrid, ExpertLoads
from sim.variation.jitter import Jitter
from sim.variation.unfold import Unfolding, unfold


class DrawnTimes:
    """Times the steps of a deployment, one layer like another or not."""

    def __init__(self, site: Deployment) -> None:
        scenario = site.scenario
        self.program: Program = site.program
        """The program that the times are for."""
        self._site = site
        self._unfolding: Unfolding | None = None
        self._experts: RoutedTimes | None = None
        self._jitter: Jitter | None = None
        if scenario.noise is None and scenario.routing.per_step is None:
            return
        self._unfolding = unfold(site.program)
        self.program = self._unfolding.program
        if scenario.routing.per_step is not None:
            self._site = site.without_routed()
            self._experts = RoutedTimes(self._site, self._unfolding)
        if scenario.noise is not None:
            seed, devices = scenario.simulation.seed, site.devices()
            self._jitter = Jitter(scenario.noise, self._unfolding, devices, seed, site.host_share)

    def step(self, batch: Batch, micro_batch: int, step: int) -> Step:
        """Return the durations of a step of a micro-batch that holds `batch`."""
        alike = self._site.step(batch)
        if self._unfolding is None:
            return alike
        times, usage_ns = self._unfolding.times(alike.times), alike.usage_ns
        if batch.is_empty():
            return Step(times, usage_ns)
        if self._experts is not None:
            usage_ns = usage_ns + self._experts.add_to(times.values, batch, micro_batch, step)
        if self._jitter is not None:
            times = self._jitter.applied(times, micro_batch, step)
        return Step(times, usage_ns)


class RoutedTimes:
    """Times what depends on where tokens go, by drawn loads of the experts."""

    def __init__(self, site: Deployment, unfolding: Unfolding) -> None:
        self._site = site
        self._unfolding = unfolding
        self._stages = {stage.name: i for i, stage in enumerate(unfolding.program.stages)}
        scenario, model = site.scenario, site.model
        pause_ms = scenario.software.eplb_pause_ms or 0.0
        self._pause_ns = from_us(pause_ms * 1e3, "the pause of EPLB")
        tokens = max(1, round(site.expected.requests() / site.micro_batches))
        self._loads: list[tuple[MoeFfn, int, list[int], ExpertLoads]] = []
        for name, ffn in model.ffn.items():
            if not isinstance(ffn, MoeFfn):
                continue
            like: dict[int, list[int]] = {}
            for number, each in enumerate(site.course.passes):
                if each.layer.ffn == name:
                    like.setdefault(each.positions, []).append(number)
            for positions, layers in like.items():
                spread = site.spread(ffn)
                held = spread.copies, spread.ranks, site.expert_nodes
                grid = ExpertGrid(tuple(layers), ffn.experts, ffn.top_k, *held, ffn.zero_experts)
                routing, seed = scenario.routing, scenario.simulation.seed
                loads = ExpertLoads(routing, grid, tokens * positions, seed)
                self._loads.append((ffn, positions, layers, loads))

    def add_to(
        self, values: NDArray[np.int64], batch: Batch, micro_batch: int, step: int
    ) -> Floats:
        """Write the durations of this step of a micro-batch into `values` of unfolded times.

        Return their kernel time by status, ns.
        """
        usage_ns, rebalanced = NO_USAGE, False
        for ffn, positions, layers, loads in self._loads:
            tokens = batch.requests * positions
            drawn = loads.drawn(int(tokens.sum()), micro_batch, step)
            for stage, timed in self._site.routed(ffn, tokens, drawn).items():
                lasting = self._site.launched(batch.requests, timed.ns)
                self._unfolding.block(values, self._stages[stage])[layers] = lasting
                usage_ns = usage_ns + timed.usage_ns
            rebalanced |= bool(drawn.moved.any())
        if rebalanced:
            # All ranks stand still together, before the first experts of the step.
            first = min(layers[0] for _ffn, _positions, layers, _loads in self._loads)
            self._unfolding.block(values, self._stages["experts"])[first] += self._pause_ns
        return usage_ns


def left_out(scenario: Scenario) -> str:
    """Return what a frozen state leaves out of `scenario`, in one line; empty if nothing is."""
    left = []
    if scenario.noise is not None:
        left.append("noise is left out")
    if scenario.routing.per_step is not None:
        left.append("experts have their expected load, without routing.per_step")
    return f"a frozen state takes mean times: {'; '.join(left)}" if left else ""
