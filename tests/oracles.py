"""Closed forms of DESIGN §5, and a max-plus model of a step written from DESIGN §4.

Nothing here calls the engine or reads a Program: the ring and the EP schedule are told again, as
recurrences, so that the two can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NEVER = -np.inf


def ring_ns(layers: int, m: int, a: int, f: int, c1: int = 0, c2: int = 0, p: int = 0) -> int:
    """Return C2b (C2 with p = 0): links with occupancy c1, c2 and propagation p each way."""
    return layers * max(m * a, m * f, m * c1, m * c2, a + c1 + f + c2 + 2 * p)


def latency_ring_ns(layers: int, m: int, a: int, f: int, c: int) -> int:
    """Return C1: links are pure latency c each way."""
    return layers * max(m * a, m * f, a + f + 2 * c)


def half_duplex_bound_ns(layers: int, m: int, a: int, f: int, c1: int, c2: int) -> int:
    """Return C8: one link takes turns between the two directions."""
    return layers * max(m * a, m * f, m * (c1 + c2), a + c1 + f + c2)


def first_step_ns(layers: int, m: int, a: int, f: int, c: int) -> int:
    """Return C5: the makespan of one step from empty, when m·max(a, f) ≥ a + f + 2c."""
    return a + f + 2 * c + max(a, f) * (m * layers - 1)


def two_batch_ns(layers: int, d: int, s: int, a0: int, e: int, c: int, a1: int) -> int:
    """Return C7: two half layers, each hides dispatch and combine behind the other micro-batch."""
    return layers * 2 * (max(d, s + a0) + e + max(c, a1))


@dataclass(frozen=True)
class RingTimes:
    """Durations of a ring, per layer; the second index is the GPU or the FFN instance."""

    attention: Floats
    a2f: Floats
    a2f_in: Floats
    all_gather: Floats
    experts: Floats
    reduce_scatter: Floats
    f2a: Floats
    f2a_in: Floats
    lm_head: Floats
    """Per attention GPU."""
    link: float
    host: float


def _column(values: Floats) -> Floats:
    return values[:, np.newaxis]


def ring_matrix(t: RingTimes, m: int, tail: int) -> Floats:
    """Return the max-plus matrix of one step of the ring.

    The state at the end of a step's last layer: when each server is free, and when each attention
    GPU has the answers for each micro-batch. Every entry of the next state is the latest of some
    entries of this one plus constants. `tail` more micro-batches run their LM heads before the
    first one begins its next step.
    """
    layers, gpus = t.attention.shape
    instances = t.experts.shape[1]
    widths = [gpus, gpus, *[instances] * 5, gpus, *[gpus] * m]
    x = _unit_vectors(sum(widths))
    parts = np.split(x, np.cumsum(widths)[:-1])
    gpu, a_out, f_in, gather, expert, scatter, f_out, a_in = parts[:8]
    answered = parts[8:]
    begins: list[Floats] = [x[:1]] * m
    for layer in range(layers):
        for j in range(m):
            if layer == 0:
                heads = range(tail + 1) if j == 0 else range(j + tail, min(j + tail + 1, m))
                for i in heads:
                    gpu = np.maximum(gpu, answered[i]) + _column(t.lm_head)
                    begins[i] = gpu.max(axis=0) + t.host
            ready = begins[j] if layer == 0 else answered[j]
            gpu = np.maximum(gpu, ready) + _column(t.attention[layer])
            begun = np.maximum(a_out, gpu)
            a_out = begun + _column(t.a2f[layer])
            f_in = np.maximum(f_in, begun.max(axis=0)) + _column(t.a2f_in[layer])
            arrived = np.maximum(f_in, a_out.max(axis=0)) + t.link
            gather = np.maximum(gather, arrived) + _column(t.all_gather[layer])
            expert = np.maximum(expert, gather) + _column(t.experts[layer])
            scatter = np.maximum(scatter, expert) + _column(t.reduce_scatter[layer])
            begun = np.maximum(f_out, scatter)
            f_out = begun + _column(t.f2a[layer])
            a_in = np.maximum(a_in, begun.max(axis=0)) + _column(t.f2a_in[layer])
            answered[j] = np.maximum(a_in, f_out.max(axis=0)) + t.link
    return np.concatenate(
        [gpu, a_out, f_in, gather, expert, scatter, f_out, a_in, *answered], axis=0
    )


@dataclass(frozen=True)
class EpTimes:
    """Durations of an EP schedule, per layer; the second index is the GPU."""

    attn0: Floats
    attn1: Floats
    shared: Floats
    experts: Floats
    dispatch: Floats
    combine: Floats
    lm_head: Floats
    """Per GPU."""
    host: float


def in_sequence_ns(t: EpTimes) -> float:
    """Return the time per step of EP without overlap: each all-to-all waits for the slowest GPU."""
    before = (t.attn0 + t.attn1 + t.shared).max(axis=1)
    layers = before + t.dispatch + t.experts.max(axis=1) + t.combine
    return float(layers.sum() + t.lm_head.max() + t.host)


def two_batch_matrix(t: EpTimes) -> Floats:
    """Return the max-plus matrix of one step of DeepSeek's schedule, told literally.

    issue DISPATCH(j); compute SHARED(j), ATTN-0(1−j); wait DISPATCH(j); EXPERTS(j);
    issue COMBINE(j); compute ATTN-1(1−j); wait COMBINE(j); swap j.

    The state before SHARED(0) of the first layer: when each GPU is free, when the network is, when
    the ATTN-1(0) that DISPATCH(0) waits for was over everywhere, and when COMBINE(1) of the step
    before was.
    """
    layers, gpus = t.attn0.shape
    x = _unit_vectors(gpus + 3)
    gpu, network, ready, combined = x[:gpus], x[gpus], x[gpus + 1], x[gpus + 2]
    for half in range(2 * layers):
        layer, j = divmod(half, 2)
        other_layer = layer + j
        dispatched = np.maximum(network, ready) + t.dispatch[layer]
        gpu = np.maximum(gpu, combined) + _column(t.shared[layer])
        if other_layer == layers or half == 0:
            gpu = np.maximum(gpu, combined) + _column(t.lm_head)
            gpu = np.maximum(gpu, gpu.max(axis=0) + t.host)
        other_layer %= layers
        gpu = np.maximum(gpu, combined) + _column(t.attn0[other_layer])
        gpu = np.maximum(gpu, dispatched) + _column(t.experts[layer])
        network = np.maximum(dispatched, gpu.max(axis=0)) + t.combine[layer]
        gpu = gpu + _column(t.attn1[other_layer])
        ready, combined = gpu.max(axis=0), network
    return np.concatenate([gpu, network[np.newaxis], ready[np.newaxis], combined[np.newaxis]])


def _unit_vectors(size: int) -> Floats:
    return np.where(np.eye(size, dtype=bool), 0.0, NEVER)


def eigenvalue(matrix: Floats) -> Fraction:
    """Return the largest cycle mean of a max-plus matrix by Karp's theorem, exactly.

    The walks start at a source from which every entry is reached at no cost, so that every
    strongly connected part is seen.
    """
    size = len(matrix)
    heaviest = [np.zeros(size)]
    for _ in range(size):
        heaviest.append((matrix + heaviest[-1]).max(axis=1))
    best = None
    for v in range(size):
        last = heaviest[size][v]
        if last == NEVER:
            continue
        least = min(
            Fraction(int(last - heaviest[k][v]), size - k)
            for k in range(size)
            if heaviest[k][v] != NEVER
        )
        best = least if best is None else max(best, least)
    assert best is not None
    return best
