"""Expert load: the tokens of every expert in each layer of a step, and on which rank they land.

Draws come from streams keyed by seed, purpose, step and micro-batch; the layer and the expert are
places in the stream. What a rebalancing sees is what was drawn in the steps before it.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Hashable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.foundation.errors import ScenarioError
from sim.foundation.streams import stream
from sim.inputs.routing import Balanced, EplbPlacement, Groups, RoundRobin, Routing
from sim.kernels import eplb
from sim.kernels.hottest_rank import Held, hottest_factors
from sim.kernels.load_loops import by_slot
from sim.variation.popularity import popularity

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# Steps of unlike micro-batches lie at most this many periods of a drift or a placement apart.
_KEPT = 3
# Shapes of one size that are simulated one after the other meet the same loads: the last draws of
# the process are kept, as many bytes of them.
_MOST_BYTES = 1 << 25
_kept_draws: dict[Hashable, Ints] = {}


class ExpertGrid(NamedTuple):
    """The experts of some like layers and the ranks that hold them."""

    layers: tuple[int, ...]
    """Layers as a step goes through them, from 0; a drafting one comes after the model's."""
    experts: int
    top_k: int
    copies: int
    """Slots of experts on all ranks: experts and their replicas."""
    ranks: int
    nodes: int
    """Nodes that the ranks lie on, equally many on each."""
    zero: int = 0
    """Experts beside them that cost nothing and lie nowhere."""

    def computed(self) -> float:
        """Return how many of the experts that a token chooses lie on ranks, on average."""
        return Held(self.copies, self.ranks, self.experts, self.zero).computed(self.top_k)


class Loads(NamedTuple):
    """What one micro-batch brings to the experts in one step."""

    tokens: Ints
    """Tokens by layer, rank and slot."""
    moved: Ints
    """Experts, over all layers, whose weights each rank has to load before it begins."""


class _PlacedExperts(NamedTuple):
    slots: Ints
    """Expert in each slot, layers × copies, rank after rank."""
    replicas: Ints
    number: Ints


class ExpertLoads:
    """Draws the loads of the experts of some layers, step by step."""

    def __init__(self, routing: Routing, grid: ExpertGrid, tokens: int, seed: int) -> None:
        """Prepare for micro-batches of about `tokens` tokens.

        Raises ScenarioError if the groups do not fit the experts or the file not the model.
        """
        assert routing.per_step is not None
        self._routing, self._grid, self._seed = routing, grid, seed
        self._per_step = routing.per_step
        if self._per_step.groups is not None:
            _check_groups(self._per_step.groups, grid)
        experts = grid.layers, grid.experts, grid.computed()
        self._starts = popularity(routing, *experts, tokens, seed)
        digest = hashlib.blake2b()
        for first, shares in self._starts.items():
            digest.update(f"{first}".encode() + np.ascontiguousarray(shares).data)
        self._law = digest.digest(), self._per_step.drift, self._per_step.groups, experts, seed
        everyone = np.tile(np.arange(grid.experts), (len(grid.layers), 1))
        self._drifted = {0: everyone}
        self._seen: deque[tuple[int, Ints]] = deque()
        self._placed = {0: self._first_placement(tokens)}

    def drawn(self, tokens: int, micro_batch: int, step: int) -> Loads:
        """Return the loads of a micro-batch of `tokens` tokens in one step."""
        placement, moved = self._per_step.placement, np.zeros(self._grid.ranks, dtype=np.int64)
        epoch = 0
        if isinstance(placement, EplbPlacement):
            epoch = step // placement.every_steps
            if epoch > max(self._placed):
                moved = self._rebalance(placement, epoch, step)
        counts = self._counts(tokens, micro_batch, step)
        if isinstance(placement, EplbPlacement):
            self._seen.append((step, counts))
        placed = self._placed[max(e for e in self._placed if e <= max(epoch, min(self._placed)))]
        tokens_by_slot = np.empty_like(placed.slots)
        by_slot(counts, placed.slots, placed.replicas, placed.number, tokens_by_slot)
        return Loads(tokens_by_slot.reshape(len(counts), self._grid.ranks, -1), moved)

    def shares(self, step: int) -> Floats:
        """Return the popularity of each expert in a step (layers × experts)."""
        start = self._starts[max(first for first in self._starts if first <= step)]
        drift = self._per_step.drift
        if drift is None:
            return start
        epoch = max(step // drift.every_steps, min(self._drifted))
        while max(self._drifted) < epoch:
            self._drift_on(drift.share)
        return np.take_along_axis(start, self._drifted[epoch], axis=1)

    def _drift_on(self, share: float) -> None:
        """Let the experts of the next epoch take the popularities of others."""
        last = max(self._drifted)
        places = self._drifted[last].copy()
        rng = stream(self._seed, "expert-drift", last + 1, *self._grid.layers)
        chosen = rng.random(places.shape).argsort(axis=1)[:, : round(share * places.shape[1])]
        moving = np.take_along_axis(places, np.roll(chosen, 1, axis=1), axis=1)
        np.put_along_axis(places, chosen, moving, axis=1)
        self._drifted[last + 1] = places
        self._drifted.pop(last + 1 - _KEPT, None)

    def _counts(self, tokens: int, micro_batch: int, step: int) -> Ints:
        """Return the tokens of each expert (layers × experts).

        They sum to tokens · top_k, less what falls on experts that cost nothing.
        """
        grid = self._grid
        if isinstance(self._routing, Balanced):
            each, more = divmod(round(tokens * grid.computed()), grid.experts)
            even = each + (np.arange(grid.experts) < more)
            return np.tile(even, (len(grid.layers), 1))
        key = self._law, tokens, micro_batch, step
        if key not in _kept_draws:
            rng = stream(self._seed, "expert-load", step, micro_batch, *grid.layers)
            drawn = self._draw(self.shares(step), tokens, rng)
            _keep(key, drawn)
        return _kept_draws[key]

    def _draw(self, shares: Floats, tokens: int, rng: np.random.Generator) -> Ints:
        grid = self._grid
        zero = grid.zero / (grid.experts + grid.zero)
        return draw(shares, tokens, grid.top_k, self._per_step.groups, rng, zero)

    def _first_placement(self, tokens: int) -> _PlacedExperts:
        grid, placement = self._grid, self._per_step.placement
        in_order = np.arange(grid.copies) % grid.experts
        if isinstance(placement, RoundRobin):
            in_order = in_order.reshape(-1, grid.ranks).T.reshape(-1)
        slots = np.tile(in_order, (len(grid.layers), 1))
        if isinstance(placement, EplbPlacement):
            rng = stream(self._seed, "expert-window", *grid.layers)
            window = tokens * placement.window_steps
            counts = self._draw(self.shares(0), window, rng)
            slots = self._better(slots, counts.astype(np.float64), placement)
        return _PlacedExperts(slots, *eplb.replicas(slots, grid.experts))

    def _rebalance(self, placement: EplbPlacement, epoch: int, step: int) -> Ints:
        """Balance anew by the last window; return how many experts each rank has to load."""
        while self._seen and self._seen[0][0] < step - placement.window_steps:
            self._seen.popleft()
        before = self._placed[max(self._placed)].slots
        slots = before
        if self._seen:
            weights = np.sum([counts for _step, counts in self._seen], axis=0)
            slots = self._better(before, np.asarray(weights, dtype=np.float64), placement)
        self._placed[epoch] = _PlacedExperts(slots, *eplb.replicas(slots, self._grid.experts))
        for old in sorted(self._placed)[:-_KEPT]:
            del self._placed[old]
        return self._new_experts(before, slots)

    def _better(self, before: Ints, weights: Floats, placement: EplbPlacement) -> Ints:
        """Return the balanced slots of the layers whose hottest rank gets lighter by them."""
        grid, groups = self._grid, self._per_step.groups
        count, nodes = (groups.count if groups else 1), grid.nodes
        if not placement.hierarchical or count % nodes or grid.ranks % nodes:
            count = nodes = 1
        after = eplb.balanced(weights, grid.copies, grid.ranks, count, nodes)
        hottest = [
            eplb.rank_loads(weights, slots, grid.ranks).max(axis=1) for slots in (before, after)
        ]
        return np.where((hottest[1] < hottest[0])[:, np.newaxis], after, before)

    def _new_experts(self, before: Ints, after: Ints) -> Ints:
        """Return how many experts of all layers each rank holds that it did not hold before."""
        grid = self._grid
        held = np.zeros((2, len(grid.layers), grid.ranks, grid.experts), dtype=np.bool_)
        layer = np.arange(len(grid.layers))[:, np.newaxis]
        rank = np.arange(grid.copies) // (grid.copies // grid.ranks)
        for when, slots in enumerate((before, after)):
            held[when, layer, rank, slots] = True
        new: Ints = (held[1] & ~held[0]).sum(axis=(0, 2), dtype=np.int64)
        return new


def draw(
    shares: Floats,
    tokens: int,
    top_k: int,
    groups: Groups | None,
    rng: np.random.Generator,
    zero: float = 0.0,
) -> Ints:
    """Return the tokens of each expert in one draw (layers × experts); rows sum to tokens · top_k.

    The share `zero` of all choices, by chance, falls on none of them. It does not go with groups.

    Every choice of a token falls on an expert with the probability of its share, and no expert
    gets a token twice as far as counts tell. With groups, a token first chooses its groups: a set
    of them with a probability in proportion to the product of their shares.
    """
    layers, experts = shares.shape
    pairs = tokens * top_k
    if zero > 0:
        every = np.append(shares * (1 - zero), np.full((layers, 1), zero), axis=1)
        costing = np.ascontiguousarray(rng.multinomial(pairs, every)[:, :-1])
        return _capped(costing, tokens, shares, rng)
    if groups is None or groups.chosen == groups.count:
        return _capped(rng.multinomial(pairs, shares), tokens, shares, rng)
    by_group = shares.reshape(layers, groups.count, -1).sum(axis=-1)
    sets = np.array(list(combinations(range(groups.count), groups.chosen)))
    weights = by_group[:, sets].prod(axis=-1)
    of_set = rng.multinomial(tokens, weights / weights.sum(axis=1, keepdims=True))
    inside = by_group[:, sets]
    split = rng.multinomial(of_set * top_k, inside / inside.sum(axis=-1, keepdims=True))
    has_group = (sets[:, :, np.newaxis] == np.arange(groups.count)).astype(np.int64)
    in_group = np.einsum("lsc,scg->lg", split, has_group)
    within = shares.reshape(layers, groups.count, -1)
    within = within / within.sum(axis=-1, keepdims=True)
    counts = rng.multinomial(in_group, within).reshape(layers, experts)
    return _capped(counts, tokens, shares, rng)


def _capped(counts: Ints, tokens: int, shares: Floats, rng: np.random.Generator) -> Ints:
    """Return counts of which none exceeds `tokens`: what does goes to others, by their shares."""
    over = np.maximum(counts - tokens, 0)
    while over.any():
        counts = counts - over
        room = np.where(counts < tokens, shares, 0.0)
        rest = room / room.sum(axis=1, keepdims=True)
        counts = counts + rng.multinomial(over.sum(axis=1), rest)
        over = np.maximum(counts - tokens, 0)
    return np.asarray(counts, dtype=np.int64)


def _keep(key: Hashable, drawn: Ints) -> None:
    """Keep a draw in place of the oldest ones."""
    drawn.setflags(write=False)
    held = sum(each.nbytes for each in _kept_draws.values())
    while _kept_draws and held + drawn.nbytes > _MOST_BYTES:
        held -= _kept_draws.pop(next(iter(_kept_draws))).nbytes
    _kept_draws[key] = drawn


def visits(pairs: Floats, experts: int, top_k: int, zero: float = 0.0) -> Floats:
    """Return the share of tokens that visit each place, given the pairs that land there.

    Places are along the last axis. A place with the share q of all pairs counts as q · `experts`
    alike experts. Of all of these, and `zero` that lie nowhere, a token chooses `top_k` different
    ones.
    """
    elsewhere = experts * (1 - pairs / pairs.sum(axis=-1, keepdims=True)) + zero
    taken: Sequence[int] = range(top_k)
    missed = [np.maximum(elsewhere - i, 0) / (experts + zero - i) for i in taken]
    return np.asarray(1 - np.prod(missed, axis=0))


def hottest_visits(load: str, tokens: Ints, held: Held, top_k: int) -> Floats:
    """Return the share of tokens that visit the hottest rank, for each of `tokens`.

    The hottest is as much above the mean as its pairs are beyond those of uniform routing, which
    has a hottest rank of its own: measured exchanges contain it.
    """
    copies, ranks = held.copies, held.ranks
    zero = held.zero * copies / (held.experts or copies)
    alike = float(visits(np.ones(ranks), copies, top_k, zero)[0])
    if ranks == 1:
        return np.full(tokens.shape, alike)
    hot = excess(load, tokens, held, top_k)
    rest = (ranks - hot) / (ranks - 1)
    pairs = np.stack([hot, *[rest] * (ranks - 1)], axis=-1)
    return np.where(hot > 1, visits(pairs, copies, top_k, zero)[..., 0], alike)


def excess(load: str, tokens: Ints, held: Held, top_k: int) -> Floats:
    """Return the pairs of the hottest rank over those of uniform routing; at least 1."""
    hot = hottest_factors(load, tokens, held, top_k)
    return np.maximum(hot / hottest_factors("uniform", tokens, held, top_k), 1.0)


def _check_groups(groups: Groups, grid: ExpertGrid) -> None:
    if grid.zero:
        raise ScenarioError(
            "routing.per_step.groups: a model with experts that cost nothing chooses without "
            "groups; leave groups out"
        )
    if grid.experts % groups.count:
        raise ScenarioError(
            f"routing.per_step.groups.count: {grid.experts} experts do not divide over "
            f"{groups.count} groups"
        )
    if grid.top_k > groups.chosen * (grid.experts // groups.count):
        raise ScenarioError(
            f"routing.per_step.groups.chosen: {groups.chosen} groups have fewer than the "
            f"{grid.top_k} experts of a token"
        )
