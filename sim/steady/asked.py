"""What a steady load asks the kernel tables for: kinds of kernels, and how long each takes."""

from __future__ import annotations

from typing import NamedTuple

from sim.deployments.batch import Batch, GpuTokens
from sim.deployments.deployment import Deployment
from sim.kernels.doubt.doubtful_table import KernelKind
from sim.kernels.kernel_table import KernelTable
from sim.kernels.noting import NotingTable
from sim.kernels.ops import Op


class KindOnCard(NamedTuple):
    """Kernels of one kind on one card."""

    card: str
    kind: KernelKind


def asked(site: Deployment, batch: Batch) -> dict[KindOnCard, int]:
    """Return what a step of `batch` asks for, with the time of its look-ups on the slowest GPU, ns.

    Kernels that take no time are left out. A slow-down beside communication is not in the times,
    and where several look-ups make one time (experts in turn) they are all in.
    """
    found: dict[KindOnCard, int] = {}

    def noted(times: int) -> Deployment:
        def note(table: KernelTable, op: Op) -> None:
            ns = int(KernelTable.timed(table, op).ns.max()) * times
            if ns > 0:
                what = KindOnCard(table.accelerator.name, KernelKind.of(op))
                found[what] = found.get(what, 0) + ns

        return site.with_tables(lambda _side, table: NotingTable(table, note))

    requests = GpuTokens(batch.requests, batch.alike, batch.taking)
    for kind in site.kinds:
        one = noted(site.uses(kind)).of_kind(kind)
        one.own_durations(requests)
        for of in one.attention_uses:
            window, line = one.core_line(of)
            line.timed(batch.requests, batch.kv_tokens[window], batch.alike)
        one.joint_durations(requests)
    noted(1).head(requests)
    return found
