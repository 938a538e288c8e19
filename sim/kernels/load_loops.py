"""Load loops: what drawn loads of experts bring to each rank, compiled.

A step has tens of thousands of loads: NumPy would pass over all of them a dozen times.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sim.engines.jit import compiled

Ints = NDArray[np.int64]


# Draws are kept, and not to be written to.
_COUNTS = "Array(int64, 2, 'C', readonly=True)"


@compiled(f"void({_COUNTS}, int64[:, ::1], int64[:, ::1], int64[:, ::1], int64[:, ::1])")
def by_slot(counts: Ints, slots: Ints, replicas: Ints, number: Ints, tokens: Ints) -> None:
    """Write the `tokens` of each slot, given those of each expert (`counts`), by layer.

    `slots` are the experts in them, of each of which there are `replicas`; this is its `number`.
    The tokens of an expert take turns among them.
    """
    for layer in range(slots.shape[0]):
        for slot in range(slots.shape[1]):
            here, many = counts[layer, slots[layer, slot]], replicas[layer, slot]
            tokens[layer, slot] = here if many == 1 else (here + number[layer, slot]) // many


@compiled("int64(int64[:, ::1], float64, int64[::1], int64[::1], int64[::1])")
def alike_ranks(loads: Ints, tile_rows: float, first: Ints, kind: Ints, count: Ints) -> int:
    """Write which ranks (ranks × slots) have as many tokens, tiles and slots with tokens.

    `first` and `count` are by kind, `kind` is by rank. Returns how many kinds there are.
    """
    ranks = len(loads)
    room = 4
    while room < 2 * ranks:
        room *= 2
    found = np.full(room, -1)  # a hash table of kinds
    known = np.empty((ranks, 3), dtype=np.int64)
    kinds = 0
    for rank in range(ranks):
        tokens, tiles, hit = 0, 0, 0
        for slot in range(loads.shape[1]):
            here = loads[rank, slot]
            tokens += here
            tiles += math.ceil(here / tile_rows)
            hit += here > 0
        place = (tokens * 1_000_003 + tiles * 8_191 + hit) & (room - 1)
        while True:
            at = found[place]
            if at < 0:
                at = found[place] = kinds
                known[at, 0], known[at, 1], known[at, 2] = tokens, tiles, hit
                first[at], count[at] = rank, 0
                kinds += 1
                break
            if known[at, 0] == tokens and known[at, 1] == tiles and known[at, 2] == hit:
                break
            place = (place + 1) & (room - 1)
        kind[rank] = at
        count[at] += 1
    return kinds
