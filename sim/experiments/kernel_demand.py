"""Demand: the kernels that a scenario asks for, by running it on tables that note each look-up.

The tables have no curves: kernels take their time at the card's default efficiency.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sim.decoding.decoder import Decoder
from sim.decoding.run import decode
from sim.deployments import compile_deployment
from sim.inputs.attention import Mla
from sim.inputs.hardware import Accelerator
from sim.inputs.model import ModelCard
from sim.inputs.scenario import LEAST_STEPS, Scenario
from sim.kernels.kernel_table import KernelTable
from sim.kernels.noting import NotingTable
from sim.kernels.ops import Op

# Coordinates that the deployment fixes; the others change with the load.
_SIZES = ("n", "k", "experts", "intermediate", "ep", "gpus")


@dataclass(frozen=True)
class Kernel:
    """A kernel at the sizes that a deployment fixes."""

    op: str
    kernel: str
    dtype: str
    key: str
    """The part of the shape that selects a curve, as calibration tables write it."""
    sizes: tuple[tuple[str, float], ...] = ()


@dataclass
class Demand:
    """What one card is asked for in a run."""

    accelerator: Accelerator
    model: ModelCard
    ranges: dict[Kernel, dict[str, tuple[float, float]]] = field(default_factory=dict)
    """Smallest and largest value of each coordinate that changes with the load."""

    def note(self, op: Op) -> None:
        """Widen the ranges of a kernel by one look-up; launches without work do not count."""
        works = np.broadcast_to(op.bytes > 0, np.broadcast_shapes(op.bytes.shape))
        if not works.any():
            return
        sizes = tuple((name, float(at.flat[0])) for name, at in op.axes.items() if name in _SIZES)
        known = self.ranges.setdefault(Kernel(op.name, op.kernel, op.dtype, op.key, sizes), {})
        for name, at in op.axes.items():
            if name not in _SIZES:
                values = np.broadcast_to(at, works.shape)[works]
                low, high = known.get(name, (np.inf, 0.0))
                known[name] = min(low, float(values.min())), max(high, float(values.max()))

    def mla(self) -> Mla:
        """Return the latent attention of the model."""
        return next(one for one in self.model.attention.values() if isinstance(one, Mla))


def demands(scenario: Scenario) -> list[Demand]:
    """Return what each card of `scenario` is asked for, closed loops for a few steps only.

    Raises InfeasibleError if the shape cannot run.
    """
    short = scenario.simulation.replaced(
        engine="recurrence", min_steps=LEAST_STEPS, max_steps=LEAST_STEPS
    )
    site = compile_deployment(scenario.replaced(simulation=short))
    found: dict[str, Demand] = {}

    def noting(_side: str, table: KernelTable) -> KernelTable:
        card = table.accelerator
        demand = found.setdefault(card.name, Demand(card, site.model))
        return NotingTable(KernelTable(card), lambda _table, op: demand.note(op))

    decode(Decoder(site.with_tables(noting)))
    return list(found.values())
