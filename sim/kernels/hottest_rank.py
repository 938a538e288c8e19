"""Expert loads: how many tokens each expert gets, and what that does to each rank's time.

Skewed routing is no efficiency of a kernel: the hottest rank runs the even kernel on more
tokens, and everyone waits for it. Uniform routing is uneven as well, by its own spread.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim.foundation.errors import CalibrationError
from sim.kernels import eplb, ops, served
from sim.kernels.load_loops import alike_ranks
from sim.kernels.ops import Floats, Op

Counts = NDArray[np.int64]

_POWER_LAW = re.compile(r"power_law_(\d+(?:\.\d+)?)")
_DIRICHLET = re.compile(r"dirichlet_([0-9.e+-]+)")
# The end of a load whose experts EPLB has placed by their popularities.
EPLB = "_eplb"
# Share of all tokens that one expert may get, and the range of weights when there are fewer
# pairs than experts, as aiconfigurator draws the loads it measures.
_MOST_OF_TOKENS = 0.8
_SPARSE_WEIGHTS = (0.01, 2.0)
_REDRAWS = 64  # a draw that gives an expert more than every token is drawn again
_DRAWS = 64


def draw(load: str, tokens: int, experts: int, top_k: float, rng: np.random.Generator) -> Counts:
    """Return the tokens of each expert in one draw of `load`; they sum to tokens · top_k.

    `top_k` is no whole number where some of what tokens choose costs nothing.

    "uniform" draws every (token, expert) pair alike; "balanced" gives each expert the same;
    "power_law_α" and "dirichlet_c" draw popularities from a truncated power law or a symmetric
    Dirichlet law. Raises CalibrationError for another load.
    """
    pairs = round(tokens * top_k)
    if load == "uniform":
        return np.asarray(rng.multinomial(pairs, np.full(experts, 1 / experts)), dtype=np.int64)
    if load == "balanced":
        return np.asarray(np.bincount(np.arange(pairs) % experts, minlength=experts))
    if law := _DIRICHLET.fullmatch(load):
        popularity = rng.dirichlet(np.full(experts, float(law[1])))
        return np.asarray(rng.multinomial(pairs, popularity), dtype=np.int64)
    law = _POWER_LAW.fullmatch(load)
    if law is None:
        known = "uniform, balanced, power_law_α or dirichlet_c"
        raise CalibrationError(f"load should be {known} (got {load!r})")
    return _power_law(float(law[1]), tokens, experts, top_k, rng)


def _power_law(
    alpha: float, tokens: int, experts: int, top_k: float, rng: np.random.Generator
) -> Counts:
    """Return loads proportional to draws from x^−α, none above the number of tokens."""
    pairs = round(tokens * top_k)
    for _ in range(_REDRAWS):
        weights = power_law_weights(alpha, tokens, experts, top_k, rng)
        wanted = np.rint(weights / weights.sum() * pairs)
        if wanted.max() <= tokens:
            break
    loads = np.minimum(wanted, tokens).astype(np.int64)
    order = np.argsort(-loads, kind="stable")
    turn = 0
    while (missing := pairs - int(loads.sum())) != 0:
        expert = order[turn % experts] if missing > 0 else order[-1 - turn % experts]
        if missing > 0 and loads[expert] < tokens:
            loads[expert] += 1
        elif missing < 0 and loads[expert] > 0:
            loads[expert] -= 1
        turn += 1
    return np.asarray(loads, dtype=np.int64)


def power_law_weights(
    alpha: float, tokens: int, experts: int, top_k: float, rng: np.random.Generator
) -> Floats:
    """Return draws from x^−α, truncated as the loads that were measured are, one an expert."""
    dense = tokens * top_k > experts
    low, high = (1.0, tokens * _MOST_OF_TOKENS) if dense else _SPARSE_WEIGHTS
    flat = rng.random(experts)
    if abs(alpha - 1) < 1e-9:
        return np.asarray(low * (high / low) ** flat)
    power = 1 - alpha
    return np.asarray(((high**power - low**power) * flat + low**power) ** (1 / power))


def rank_op(
    dtype: str,
    hidden: int,
    intermediate: float,
    loads: ArrayLike,
    kernel: str = served.MASKED,
    tile_rows: float = ops.MASKED_TILE_ROWS,
    gated: bool = True,
) -> Op:
    """Return the grouped FFN of each rank, given tokens per rank and expert (ranks × experts).

    `tile_rows` are those that `kernel` pads each expert to; the masked kernel's are given.
    """
    tokens = np.atleast_2d(np.asarray(loads, dtype=np.float64))
    return ops.moe(
        dtype,
        hidden,
        intermediate,
        (tokens > 0).sum(axis=-1),
        tokens.sum(axis=-1),
        tile_rows,
        kernel,
        np.full(tokens.shape[:-1], float(tokens.shape[-1])),
        ops.padded(tokens, tile_rows).sum(axis=-1),
        gated,
    )


def alike(loads: Counts, tile_rows: float) -> tuple[Counts, Counts, Counts]:
    """Return which ranks (ranks × experts) take the same time, tokens rounded up to `tile_rows`.

    These are those with as many experts hit, tokens and tiles: the first rank of each kind, the
    kind of each rank, and how many ranks there are of each.
    """
    first, kind, count = np.empty((3, len(loads)), dtype=np.int64)
    kinds = alike_ranks(np.ascontiguousarray(loads), float(tile_rows), first, kind, count)
    return first[:kinds], kind, count[:kinds]


class Held(NamedTuple):
    """How many experts lie on how many ranks."""

    copies: int
    """Slots on all ranks: experts and their replicas."""
    ranks: int
    experts: int = 0
    """Experts that the router knows; 0: as many as slots. Only EPLB tells replicas apart."""
    zero: int = 0
    """Experts beside them that cost nothing and lie nowhere."""

    def computed(self, top_k: int) -> float:
        """Return how many of the `top_k` experts that a token chooses lie on ranks, on average."""
        experts = self.experts or self.copies
        return top_k if self.zero == 0 else top_k * experts / (experts + self.zero)


@cache
def hottest_loads(
    load: str, tokens: int, held: Held, top_k: int, draws: int = _DRAWS, seed: int = 0
) -> Floats:
    """Return the loads of the hottest rank's slots in several draws (draws × slots a rank).

    Slots are spread over the ranks in order; the hottest rank is the one with most tokens. EPLB
    gives replicas and places to the experts of a drawn popularity; what is left is what whole
    slots cannot even out, and chance.
    """
    copies, ranks, chosen = held.copies, held.ranks, held.computed(top_k)
    rng = np.random.default_rng([seed, tokens, copies, top_k, ranks])
    by_slot = np.array(
        _placed(load.removesuffix(EPLB), tokens, held, chosen, draws, rng)
        if load.endswith(EPLB)
        else [draw(load, tokens, copies, chosen, rng) for _ in range(draws)]
    )
    by_rank = by_slot.reshape(draws, ranks, copies // ranks)
    loads = by_rank[np.arange(draws), by_rank.sum(axis=2).argmax(axis=1)]
    hottest: Floats = loads.astype(np.float64)
    hottest.flags.writeable = False
    return hottest


def _placed(
    load: str, tokens: int, held: Held, top_k: float, draws: int, rng: np.random.Generator
) -> Counts:
    """Return the tokens of each slot that EPLB fills (draws × copies)."""
    copies, ranks, experts = held.copies, held.ranks, held.experts
    popular = [draw(load, tokens, experts or copies, top_k, rng) for _ in range(draws)]
    weights = np.array(popular, dtype=np.float64)
    slots = eplb.balanced(weights, copies, ranks)
    many, _number = eplb.replicas(slots, weights.shape[1])
    shares = np.take_along_axis(weights, slots, axis=1) / many
    shares /= shares.sum(axis=1, keepdims=True)
    return np.asarray(rng.multinomial(round(tokens * top_k), shares), dtype=np.int64)


def hottest_factor(load: str, tokens: float, held: Held, top_k: int) -> float:
    """Return the tokens of the hottest rank over the mean rank's, expected over draws.

    The factor changes slowly with `tokens`, so it is drawn on a grid of eighths of a doubling.
    """
    return float(hottest_factors(load, np.array([tokens]), held, top_k)[0])


def hottest_factors(load: str, tokens: NDArray[Any], held: Held, top_k: int) -> Floats:
    """Return the same for each of `tokens`."""
    if load == "balanced" or held.ranks == 1:
        return np.ones(tokens.shape)
    eighths = np.rint(8 * np.log2(np.where(tokens > 0, tokens, 1)))
    grid, place = np.unique(eighths, return_inverse=True)
    factors = [_factor(load, int(each), held, top_k) for each in grid]
    return np.where(tokens > 0, np.array(factors)[place.reshape(tokens.shape)], 1.0)


def scattered_loads(load: str, tokens: NDArray[Any], held: Held, top_k: int) -> Floats:
    """Return the tokens of the hottest rank's slots in several draws (… × draws × slots).

    For each of `tokens` (… × 1), from the draws that `hottest_factors` has.
    """
    eighths = np.rint(8 * np.log2(np.maximum(tokens[..., 0], 1)))
    grid, place = np.unique(eighths, return_inverse=True)
    near = [max(1, round(2 ** (each / 8))) for each in grid]
    shares = np.array([hottest_loads(load, number, held, top_k) / number for number in near])
    return np.asarray(shares[place.reshape(eighths.shape)] * tokens[..., np.newaxis])


@cache
def _factor(load: str, eighths: int, held: Held, top_k: int) -> float:
    """Return the factor of 2^(`eighths` / 8) tokens."""
    tokens = max(1, round(2 ** (eighths / 8)))
    hottest = hottest_loads(load, tokens, held, top_k)
    return float(hottest.sum(axis=1).mean() * held.ranks / (tokens * held.computed(top_k)))
