"""Kernels in doubt: which kinds a step asks for, how far each may be off, and a slower one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim.deployments.batch import Batch
from sim.deployments.deployment import Deployment
from sim.kernels.doubt.doubtful_table import DoubtfulTable, KernelKind
from sim.kernels.kernel_table import KernelTable
from sim.kernels.noting import NotingTable
from sim.kernels.ops import Op


class KindOnCard(NamedTuple):
    """Kernels of one kind on one card."""

    card: str
    kind: KernelKind


def doubtful_kernels(site: Deployment, batch: Batch) -> dict[KindOnCard, float]:
    """Return what a step of `batch` asks for, and the log standard deviation of its time.

    Of several look-ups each counts by its time; kernels that take none are left out.
    """
    spent: dict[KindOnCard, tuple[float, float]] = {}

    def note(table: KernelTable, op: Op) -> None:
        plain_ns = float(KernelTable.timed(table, op).ns.sum())
        if plain_ns > 0:
            kind = KernelKind.of(op)
            longer_ns = float(DoubtfulTable(table, {kind: 1.0}).timed(op).ns.sum())
            what = KindOnCard(table.accelerator.name, kind)
            before = spent.get(what, (0.0, 0.0))
            spent[what] = before[0] + plain_ns, before[1] + longer_ns

    site.with_tables(lambda _side, table: NotingTable(table, note)).durations(batch)
    return {what: float(np.log(longer / plain)) for what, (plain, longer) in spent.items()}


def slower(card: str, kind: KernelKind, deviations: float, site: Deployment) -> Deployment:
    """Return the deployment with kernels of a kind on a card that deviate."""

    def table_of(_side: str, table: KernelTable) -> KernelTable:
        same = table.accelerator.name == card
        return DoubtfulTable(table, {kind: deviations}) if same else table

    return site.with_tables(table_of)
