"""Schedulers of written-down workloads, one byte of KV a token."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np

from sim.decoding.micro_batch_loops import Ints
from sim.decoding.scheduler import Scheduler
from sim.deployments.kvcache import KvLayout, Transfer
from sim.inputs.admission import Admission
from sim.inputs.arrivals import ClosedLoop, Poisson
from sim.inputs.lengths import DrawnLengths, Fixed, Uniform
from sim.inputs.speculation import Speculation
from sim.inputs.workload import Requests, Workload
from tests.strategies.requests import Arrival

AMPLE = 1e12
DEFAULT = Admission()


class Scripted(Requests):
    """Requests whose arrivals and lengths are written down."""

    def __init__(self, script: list[Arrival]) -> None:
        self.script = script

    count = 0  # not told: the table grows

    def block(self, first: int) -> tuple[Ints, Ints, Ints] | None:
        # Two at a time, so that blocks end everywhere.
        rest = self.script[first : first + 2]
        if not rest:
            return None
        table = np.array([(one.prompt, one.output, one.at_ns) for one in rest], dtype=np.int64)
        return table[:, 0], table[:, 1], table[:, 2]


def dealt(present: int, m: int, row: int = 1) -> list[int]:
    """Return the shares of micro-batches when requests are dealt out in rows."""
    row = row if present >= row * m else 1
    shares = [0] * m
    for turn, first in enumerate(range(0, present, row)):
        shares[turn % m] += min(row, present - first)
    return shares


def fixed_lengths(prompt: int = 1, output: int = 1) -> DrawnLengths:
    return DrawnLengths(
        kind="drawn",
        prompt=Fixed(kind="fixed", tokens=prompt),
        output=Fixed(kind="fixed", tokens=output),
    )


def open_loop(
    script: list[Arrival],
    gpus: int = 1,
    m: int = 1,
    capacity: float = AMPLE,
    block: int = 1,
    admission: Admission = DEFAULT,
    transfer: Transfer | None = None,
    speculation: Speculation | None = None,
    most: int | None = None,
) -> Scheduler:
    """Return the scheduler of an open loop; `most` requests may run on a GPU."""
    poisson = Poisson(kind="poisson", requests_per_s=1.0, requests=max(1, len(script)))
    workload = Workload(arrivals=poisson, lengths=fixed_lengths())
    layout = KvLayout({None: 1.0}, 0.0, block, speculation.positions if speculation else 1)
    limits = layout, capacity, None, admission, transfer, speculation, most
    with patch("sim.decoding.scheduler.Requests", lambda _workload, _seed: Scripted(script)):
        return Scheduler(workload, 0, gpus, m, *limits)


def closed_loop(
    concurrency: int,
    gpus: int,
    m: int,
    capacity: float = AMPLE,
    block: int = 1,
    seed: int = 0,
    admission: Admission = DEFAULT,
    transfer: Transfer | None = None,
) -> Scheduler:
    """Return the scheduler of a closed loop."""
    lengths = DrawnLengths(
        kind="drawn",
        prompt=Uniform(kind="uniform", low=1, high=30),
        output=Uniform(kind="uniform", low=1, high=12),
    )
    workload = Workload(
        arrivals=ClosedLoop(kind="closed", concurrency=concurrency), lengths=lengths
    )
    layout = KvLayout({None: 1.0}, 0.0, block)
    return Scheduler(workload, seed, gpus, m, layout, capacity, concurrency, admission, transfer)
