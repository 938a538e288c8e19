"""EPLB: which experts get replicas, and which rank holds which replica, from measured loads.

The scheme is DeepSeek's expert-parallel load balancer (DeepSeek-V3 report, arXiv 2412.19437,
section 3.4): replicas go one by one to the expert with most tokens per replica; replicas are then
packed, heaviest first, each on the lightest rank that has a slot left. In the hierarchical form
whole expert groups are packed on nodes first, and both steps happen inside each node, so that
group-limited routing keeps a token's traffic on few nodes. All layers are balanced at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def replica_counts(weights: Floats, copies: int) -> Ints:
    """Return how many replicas each expert gets (rows × experts); each row sums to `copies`."""
    counts = np.ones(weights.shape, dtype=np.int64)
    rows, each = np.arange(len(weights)), weights.copy()
    for _ in range(copies - weights.shape[1]):
        most = each.argmax(axis=1)
        counts[rows, most] += 1
        each[rows, most] = weights[rows, most] / counts[rows, most]
    return counts


def packed(weights: Floats, packs: int) -> Ints:
    """Return the pack of each item (rows × items): equally many in each, loads as even as can be.

    Heaviest first, each into the lightest pack that has room; the first one on a tie.
    """
    rows, each = np.arange(len(weights)), weights.shape[1] // packs
    load = np.zeros((len(weights), packs))  # infinite where there is no room
    items = np.zeros((len(weights), packs), dtype=np.int64)
    found = np.empty(weights.shape, dtype=np.int64)
    for item in np.argsort(-weights, axis=1, kind="stable").T:
        pack = load.argmin(axis=1)
        items[rows, pack] += 1
        load[rows, pack] += np.where(items[rows, pack] < each, weights[rows, item], np.inf)
        found[rows, item] = pack
    return found


def balanced(weights: Floats, copies: int, ranks: int, groups: int = 1, nodes: int = 1) -> Ints:
    """Return the expert in each slot (layers × copies), rank after rank, for `weights` by expert.

    With several `nodes`, each takes as many of the expert `groups` and of the replicas as the
    others, and the replicas of an expert stay on the node of its group. `groups` and `ranks`
    should be multiples of `nodes`, experts of `groups`, `copies` of `ranks`.
    """
    layers, experts = weights.shape
    by_group = weights.reshape(layers, groups, -1)
    node_of_group = packed(by_group.sum(axis=-1), nodes)
    groups_in_order = np.argsort(node_of_group, axis=1, kind="stable")
    each = experts // groups
    ids = groups_in_order[:, :, np.newaxis] * each + np.arange(each)
    ids = ids.reshape(layers * nodes, experts // nodes)
    layer = np.repeat(np.arange(layers), nodes)[:, np.newaxis]
    loads = weights[layer, ids]
    counts = replica_counts(loads, copies // nodes)
    slots = np.repeat(ids.reshape(-1), counts.reshape(-1)).reshape(layers * nodes, -1)
    per_replica = np.repeat((loads / counts).reshape(-1), counts.reshape(-1))
    rank = packed(per_replica.reshape(slots.shape), ranks // nodes)
    in_order = np.argsort(rank, axis=1, kind="stable")
    return np.take_along_axis(slots, in_order, axis=1).reshape(layers, copies)


def replicas(slots: Ints, experts: int) -> tuple[Ints, Ints]:
    """Return how many replicas the expert of each slot has, and the number of this one."""
    layers, copies = slots.shape
    keys = (slots + np.arange(layers)[:, np.newaxis] * experts).reshape(-1)
    counts = np.bincount(keys, minlength=layers * experts)
    in_order = np.argsort(keys, kind="stable")
    number = np.empty(len(keys), dtype=np.int64)
    number[in_order] = np.arange(len(keys)) - np.repeat(np.cumsum(counts) - counts, counts)
    return counts[keys].reshape(layers, copies), number.reshape(layers, copies)


def rank_loads(weights: Floats, slots: Ints, ranks: int) -> Floats:
    """Return the load of each rank (layers × ranks); replicas share an expert's evenly."""
    many, _number = replicas(slots, weights.shape[1])
    each = np.take_along_axis(weights, slots, axis=1) / many
    return np.asarray(each.reshape(len(weights), ranks, -1).sum(axis=-1))
