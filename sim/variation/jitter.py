"""Jitter: the times of a step with noise, stalls, slow devices and the host's tail applied.

Draws come from streams keyed by seed, purpose, stage, step and micro-batch; layer, server and
device are places in the stream. What one section draws does not depend on another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sim.engines.program import Pool, Times
from sim.foundation.nanoseconds import from_us, whole_ns
from sim.foundation.streams import stream
from sim.foundation.units import NS_PER_S, NS_PER_US
from sim.inputs.noise import Disturbed, Noise, ServerKind, Stall
from sim.variation.unfold import Unfolding

Floats = NDArray[np.float64]

# Devices of a kind behind each server of a pool. The server is as slow as the slowest of them.
Devices = Mapping[ServerKind, int]


class Jitter:
    """Applies a scenario's noise to the times of an unfolded program."""

    def __init__(
        self,
        noise: Noise,
        unfolding: Unfolding,
        devices: Sequence[Devices],
        seed: int,
        host_share: int = 1,
    ) -> None:
        """Prepare for a program whose pools stand for `devices`, one mapping a pool.

        `host_share` micro-batches share one pass of the host.
        """
        self._noise = noise
        self._unfolding = unfolding
        self._devices = devices
        self._seed = seed
        self._host_share = host_share
        program = unfolding.program
        self._pools = [stage.pool for stage in program.stages]
        used = np.zeros((len(program.stages), len(program.layer_kinds)), dtype=np.bool_)
        for node in program.nodes:
            used[node.stage, node.layer] = True
        self._layers = [np.flatnonzero(row) for row in used]
        self._slow = [self._slow_factors(pool) for pool in range(len(program.pools))]
        self._stalling = [self._stall_weights(stall) for stall in noise.stalls]

    def applied(self, times: Times, micro_batch: int, step: int) -> Times:
        """Return unfolded `times` as this step of a micro-batch has them."""
        values = times.values.copy()
        for stage, layers in enumerate(self._layers):
            factors = self._factors(stage, len(layers), micro_batch, step)
            if factors is not None:
                block = self._unfolding.block(values, stage)
                block[layers] = whole_ns(block[layers] * factors, "a disturbed task")
        for number, stall in enumerate(self._noise.stalls):
            self._interrupt(values, number, stall, micro_batch, step)
        return times._replace(values=values, delays_ns=self._delays(times, micro_batch, step))

    def _factors(self, stage: int, layers: int, micro_batch: int, step: int) -> Floats | None:
        """Return by how much the tasks of a stage are longer (layers × servers); None: by none."""
        pool = self._unfolding.program.pools[self._pools[stage]]
        devices, slow = self._devices[self._pools[stage]], self._slow[self._pools[stage]]
        total: Floats | None = None
        for kind, count in devices.items():
            factors = slow.get(kind)
            for number, task in enumerate(self._noise.tasks):
                if task.server == kind and _meets(task, pool):
                    name = self._unfolding.program.stages[stage].name
                    purpose = f"noise-{number}-{name}"
                    rng = stream(self._seed, purpose, step, micro_batch)
                    drawn = task.law.draw(rng, (layers, pool.servers, count))
                    factors = drawn if factors is None else factors * drawn
            if factors is not None:
                slowest = factors.max(axis=-1)
                total = slowest if total is None else total * slowest
        return total

    def _slow_factors(self, pool: int) -> dict[ServerKind, Floats]:
        """Return the lasting factors of a pool's devices (servers × devices) by kind.

        The two directions of a NIC are one device, so all pools of a side draw the same.
        """
        of, found = self._unfolding.program.pools[pool], dict[ServerKind, Floats]()
        for kind, count in self._devices[pool].items():
            for number, slow in enumerate(self._noise.slow):
                if slow.server == kind and _meets(slow, of):
                    rng = stream(self._seed, f"slow-{number}-{of.side}")
                    is_slow = rng.random((of.servers, count)) < slow.share
                    factors = np.where(is_slow, float(slow.factor), 1.0)
                    found[kind] = found.get(kind, np.ones(1)) * factors
        return found

    def _stall_weights(self, stall: Stall) -> Floats:
        """Return how many devices a stall can hit in each value of the times."""
        program = self._unfolding.program
        weights = np.zeros(program.slot_bounds[-1][1])
        for index, (stage, layers) in enumerate(zip(program.stages, self._layers, strict=True)):
            pool = program.pools[stage.pool]
            other_way = stage.way and stall.way not in ("both", stage.way)
            if _meets(stall, pool) and not other_way:
                count = self._devices[stage.pool].get(stall.server, 0)
                self._unfolding.block(weights, index)[layers] = count
        return weights

    def _interrupt(
        self, values: NDArray[np.int64], number: int, stall: Stall, micro_batch: int, step: int
    ) -> None:
        """Lengthen the tasks that a stall hits: a Poisson process over all work of the step."""
        work_ns = np.cumsum(values * self._stalling[number])
        expected = float(work_ns[-1]) / NS_PER_S * stall.rate_per_s
        rng = stream(self._seed, f"stall-{number}", step, micro_batch)
        count = int(rng.poisson(expected))
        if not count:
            return
        tasks = np.searchsorted(work_ns, rng.random(count) * work_ns[-1], side="right")
        lengths = np.ones(count) if stall.duration == "fixed" else rng.standard_exponential(count)
        lengths_ns = whole_ns(lengths * stall.mean_us * NS_PER_US, "a stall")
        np.add.at(values, tasks, lengths_ns)

    def _delays(self, times: Times, micro_batch: int, step: int) -> tuple[int, ...]:
        tail = self._noise.host
        if tail is None:
            return times.delays_ns
        rng = stream(self._seed, "host", step, micro_batch // self._host_share)
        more_ns = from_us(tail.draw_us(rng) / self._host_share, "a tail of the host")
        host = self._unfolding.program.closing_delay
        return tuple(ns + more_ns * (at == host) for at, ns in enumerate(times.delays_ns))


def _meets(place: Disturbed, pool: Pool) -> bool:
    """Return whether a section speaks of the side that a pool belongs to."""
    return place.side in ("all", pool.side)
