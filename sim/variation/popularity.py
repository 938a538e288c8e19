"""Popularity: the share of all choices that falls on each expert of a layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sim.foundation.streams import stream
from sim.inputs.routing import DirichletRouting, MeasuredRouting, PowerLaw, Routing
from sim.kernels.hottest_rank import power_law_weights

Floats = NDArray[np.float64]

_REDRAWS = 64  # popularities that give an expert more than every token are drawn again


def popularity(
    routing: Routing, layers: Sequence[int], experts: int, top_k: float, tokens: int, seed: int
) -> dict[int, Floats]:
    """Return the share of each expert in each layer (layers × experts), by first step.

    `tokens` are those of a usual micro-batch, by which a power law is truncated. No expert has a
    larger share than one of `top_k` choices of every token.
    """
    if isinstance(routing, MeasuredRouting):
        measured = routing.shares(layers, experts)
        first = min(measured)
        found = {step * (step != first): shares for step, shares in measured.items()}
        return {step: at_most(shares, 1 / top_k) for step, shares in found.items()}
    shares = np.full((len(layers), experts), 1 / experts)
    if isinstance(routing, DirichletRouting):
        rng = stream(seed, "expert-popularity", *layers)
        drawn = rng.standard_gamma(routing.concentration, shares.shape) + np.finfo(float).tiny
        shares = drawn / drawn.sum(axis=1, keepdims=True)
    elif isinstance(routing, PowerLaw):
        for row, layer in enumerate(layers):
            rng = stream(seed, "expert-popularity", layer)
            for _ in range(_REDRAWS):
                weights = power_law_weights(routing.alpha, tokens, experts, top_k, rng)
                shares[row] = weights / weights.sum()
                if shares[row].max() <= 1 / top_k:
                    break
    return {0: at_most(shares, 1 / top_k)}


def at_most(shares: Floats, most: float) -> Floats:
    """Return shares of which none exceeds `most`: the others take over, in proportion."""
    shares = shares + np.finfo(float).tiny
    for _ in range(shares.shape[1]):
        full = shares >= most
        if not (shares > most * (1 + 1e-12)).any():
            break
        rest = np.where(full, 0, shares)
        left = 1 - most * full.sum(axis=1, keepdims=True)
        shares = np.where(full, most, rest * (left / rest.sum(axis=1, keepdims=True)))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))
