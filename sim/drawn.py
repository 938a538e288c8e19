"""Drawn times: the durations of a step with all that is random in it.

Without noise a deployment times each step by its batch alone, and nothing here is used.
"""

from __future__ import annotations

from sim.deployments.site import Site
from sim.jitter import Jitter
from sim.layers import Batch
from sim.program import Program, Times
from sim.scenario import Scenario
from sim.unfolding import unfold


class DrawnTimes:
    """Times the steps of a deployment, one layer like another or not."""

    def __init__(self, site: Site) -> None:
        self._site = site
        scenario = site.scenario
        self._unfolding = None if scenario.noise is None else unfold(site.program)
        self._jitter = None
        if scenario.noise is not None and self._unfolding is not None:
            seed, devices = scenario.simulation.seed, site.devices()
            self._jitter = Jitter(scenario.noise, self._unfolding, devices, seed, site.host_share)

    @property
    def program(self) -> Program:
        """The program that the times are for."""
        return self._site.program if self._unfolding is None else self._unfolding.program

    def times(self, batch: Batch, micro_batch: int, step: int) -> Times:
        """Return the durations of a step of a micro-batch that holds `batch`."""
        times = self._site.times(batch)
        if self._unfolding is None or self._jitter is None:
            return times
        unfolded = self._unfolding.times(times)
        return unfolded if batch.is_empty() else self._jitter.applied(unfolded, micro_batch, step)


def left_out(scenario: Scenario) -> str:
    """Return what a frozen state leaves out of `scenario`, in one line; empty if nothing is."""
    return "" if scenario.noise is None else "a frozen state takes mean times: noise is left out"
