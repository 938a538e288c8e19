"""Streams: what mixing several residual streams takes on attention GPUs (hyper-connections)."""

from __future__ import annotations

import numpy as np

from sim.deployments.batch import GpuTokens
from sim.deployments.layers import LayerTimer
from sim.kernels import mixing, ops, served
from sim.kernels.timed import Timed


def mixed(timer: LayerTimer, tokens: GpuTokens) -> tuple[Timed, Timed]:
    """Return what mixes the streams of `tokens` before a layer's core, and what does after it.

    Before the core, streams take the result of the FFN before and give the input of the attention;
    after it, they take the attention's result and give the input of the FFN: half of a layer's
    mixing each.
    """
    model, table, streams = timer.model, timer.table, timer.model.hyper_connections
    if streams is None:
        nothing = Timed(np.zeros_like(tokens.each))
        return nothing, nothing
    kernels = {name: _kernel(timer, name) for name in mixing.OPS}

    def time(rows: ops.Floats) -> Timed:
        total = Timed(np.zeros(rows.shape, dtype=np.int64))
        for name, side in mixing.OPS.items():
            total += table.timed(mixing.mixing(side, model.hidden, streams, rows, kernels[name]))
        return total

    what = ("mixing", model.hidden, streams, *kernels.values())
    rows, alike = tokens.own
    both = table.timed_each(what, rows, time, alike)
    first = both.ns // 2
    return Timed(first, both.usage_ns / 2), Timed(both.ns - first, both.usage_ns / 2)


def _kernel(timer: LayerTimer, op: str) -> str:
    """Return the engine's kernel, if one that it names was measured."""
    named = timer.kernels.get(op, {}).get(mixing.STREAM, ())
    measured = (each for each in named if timer.table.has_format(op, each, mixing.STREAM))
    return next(measured, served.FASTEST)
