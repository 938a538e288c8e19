"""EPLB: replicas add up, groups stay together, and loads get no worse than they were."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.kernels import eplb
from sim.kernels.eplb import Floats


@st.composite
def cases(draw: st.DrawFn) -> tuple[Floats, int, int, int, int]:
    """Draw weights, copies, ranks, groups and nodes that divide as they should."""
    nodes = draw(st.sampled_from((1, 2, 4)))
    ranks = nodes * draw(st.integers(1, 4))
    groups = nodes * draw(st.integers(1, 3))
    each = draw(st.integers(1, 6))
    experts = groups * each
    held = -(-experts // ranks) + draw(st.integers(0, 2))
    layers = draw(st.integers(1, 4))
    seed = draw(st.integers(0, 2**32))
    weights = np.random.default_rng(seed).pareto(
        draw(st.sampled_from((0.5, 1, 5))), (layers, experts)
    )
    return weights + 0.01, held * ranks, ranks, groups, nodes


@settings(max_examples=100, deadline=None)
@given(cases())
def test_every_expert_has_its_replicas_on_its_node(
    case: tuple[Floats, int, int, int, int],
) -> None:
    weights, copies, ranks, groups, nodes = case
    layers, experts = weights.shape
    slots = eplb.balanced(weights, copies, ranks, groups, nodes)
    assert slots.shape == (layers, copies)
    many, number = eplb.replicas(slots, experts)
    node = np.arange(copies) // (copies // nodes)
    for layer in range(layers):
        counts = np.bincount(slots[layer], minlength=experts)
        assert counts.min() >= 1
        assert (many[layer] == counts[slots[layer]]).all()
        numbered = set(zip(slots[layer].tolist(), number[layer].tolist(), strict=True))
        assert numbered == {(e, i) for e in range(experts) for i in range(counts[e])}
        group = slots[layer] // (experts // groups)
        for one in range(groups):
            assert len(set(node[group == one].tolist())) == 1
        by_node = [len(set(group[node == one].tolist())) for one in range(nodes)]
        assert by_node == [groups // nodes] * nodes


@settings(max_examples=100, deadline=None)
@given(cases())
def test_balancing_is_deterministic_and_layer_by_layer(
    case: tuple[Floats, int, int, int, int],
) -> None:
    weights, *shape = case
    slots = eplb.balanced(weights, *shape)
    assert (slots == eplb.balanced(weights.copy(), *shape)).all()
    for layer, row in enumerate(weights):
        assert (eplb.balanced(row[np.newaxis], *shape)[0] == slots[layer]).all()


@settings(max_examples=100, deadline=None)
@given(cases())
def test_no_pack_is_heavier_than_the_lightest_by_more_than_an_item(
    case: tuple[Floats, int, int, int, int],
) -> None:
    weights, copies, _ranks, _groups, _nodes = case
    counts = eplb.replica_counts(weights, copies)
    assert (counts.sum(axis=1) == copies).all()
    each = weights / counts
    # The last replica went to the hottest: taking one away makes it no lighter than the others.
    before = np.where(counts > 1, weights / np.maximum(counts - 1, 1), np.inf)
    assert (before >= each.max(axis=1, keepdims=True) - 1e-12).all()


def test_known_loads_are_packed_as_by_hand() -> None:
    # Two experts of 8 and 4 beside two of 2; two replicas go to the first, then its halves tie
    # with the second: 8/2 = 4, so one more goes to expert 0 again (first on a tie) or stays.
    weights = np.array([[8.0, 4.0, 2.0, 2.0]])
    assert eplb.replica_counts(weights, 5).tolist() == [[2, 1, 1, 1]]
    assert eplb.replica_counts(weights, 6).tolist() == [[3, 1, 1, 1]]
    assert eplb.packed(weights, 2).tolist() == [[0, 1, 1, 0]]
    slots = eplb.balanced(weights, 6, 2)
    assert eplb.rank_loads(weights, slots, 2)[0] == pytest.approx([8, 8], abs=0.7)


def test_skewed_loads_get_lighter() -> None:
    weights = np.random.default_rng(0).pareto(1.0, (58, 256))
    in_order = np.tile(np.arange(288) % 256, (58, 1))
    even = weights.sum(axis=1) / 144
    before = eplb.rank_loads(weights, in_order, 144).max(axis=1) / even
    after = eplb.rank_loads(weights, eplb.balanced(weights, 288, 144), 144).max(axis=1) / even
    assert (after < before).all()
    assert after.mean() < 3
    assert before.mean() > 30
