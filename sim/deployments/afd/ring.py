"""The AFD ring: the program of attention and FFN instances that pass micro-batches around.

A layer of a micro-batch runs through these stages (Step-3 report, section 7 and figure 7):

    attention ─ [o_exchange ─ o_proj ─ o_reduce] ─ a2f ─ a2f_in ─ all_gather ─ experts
        ▲                                                                        │
        └────────────── f2a_in ─ f2a ─ reduce_scatter ◄──────────────────────────┘

The stages in brackets exist with `o_proj_tp` > 1, all_gather and reduce_scatter where the GPUs of
an FFN instance work together. A transfer occupies the sender's link (a2f, f2a), a NIC or NVLink,
and the receiver's (a2f_in, f2a_in) at once: the receiving side begins when the last sender has
begun, and the data is there when both have finished and the fabric's latency has passed.

Where transfers go over NVLink, an FFN instance's links carry its collectives as well: the way in
takes turns of a2f_in and all_gather, the way out of reduce_scatter and f2a.

A kernel that receives, computes and sends makes one stage of all that is between attention and
attention:

    attention ─ [o_exchange ─ o_proj ─ o_reduce] ─ experts ─ (answer) ─ attention

It begins when all attention GPUs have their tokens ready. The answer is the way back of its last
results, in which the FFN GPUs are free.

Attention GPUs may compute FFNs of their own, in `shared`, which follows attention: shared experts
beside the trip, or a dense FFN in place of it. A layer without an FFN goes on with the attention of
the next. A GPU runs such a layer and the next one after the other, so that the micro-batch leaves
as early as it can; where GPUs share output projections, other micro-batches fill these waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, product
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.engines.program import KEPT, Link, PoolKind, Program, ProgramBuilder, Way

Key = tuple[str, int, int]
Ints = NDArray[np.int64]

_O_PROJ = ("o_exchange", "o_proj", "o_reduce")
_OWN = ("attention", "shared", "lm_head")
_WAYS: dict[str, Way] = {"a2f": "out", "a2f_in": "in", "f2a": "out", "f2a_in": "in"}


@dataclass(frozen=True)
class Ring:
    """What of an AFD deployment decides its program."""

    layer_kinds: tuple[int, ...]
    micro_batches: int
    attention_gpus: int
    ffn_instances: int
    o_proj_groups: int = 0
    """Groups of attention GPUs that share an output projection; 0: none is shared."""
    half_duplex: bool = False
    nvlink_turns: bool = False
    """Whether all-gather and reduce-scatter of an FFN instance take turns on one link."""
    collectives: bool = True
    """Whether FFN instances gather and scatter; one of a single GPU does not."""
    link: Literal["nic", "nvlink"] = "nic"
    """What transfers go over. NVLink carries the collectives of FFN instances as well: then the
    switch gathers and scatters, and each takes one way of the link (no turns, full duplex)."""
    transfers: bool = True
    """Whether transfers are stages of their own; False: `experts` receives and sends as well."""
    shared: bool = False
    """Whether attention GPUs compute FFNs of their own; no output projection is shared then."""
    stays: frozenset[int] = frozenset()
    """Kinds of layers that do not leave the attention GPUs."""

    @property
    def one_link(self) -> bool:
        """Whether transfers and collectives of FFN instances share the ways of a link."""
        return self.collectives and self.link == "nvlink"

    @property
    def goes_on(self) -> bool:
        """Whether a GPU goes on with the next layer where one stays."""
        return bool(self.stays) and not self.o_proj_groups

    @cached_property
    def rounds(self) -> tuple[int, ...]:
        """The round of each layer, and of the LM head: layers share one where a GPU goes on."""
        ends = [not (self.goes_on and kind in self.stays) for kind in self.layer_kinds]
        return tuple(accumulate(ends, initial=0))

    @property
    def last_of_attention(self) -> str:
        """The last stage of a layer that does not leave the attention GPUs."""
        return "shared" if self.shared else "o_reduce" if self.o_proj_groups else "attention"

    def has(self, stage: str) -> bool:
        """Return whether a layer has the stage."""
        if stage in _WAYS:
            return self.transfers
        if stage == "shared":
            return self.shared
        if stage in ("all_gather", "reduce_scatter"):
            return self.collectives
        return self.o_proj_groups > 0 or stage not in _O_PROJ


class Lags(NamedTuple):
    """How many micro-batches ahead the first of two stages that share a server runs."""

    o_proj: int = 0
    """attention before o_proj on a GPU, o_exchange before o_reduce on its NVLink."""
    nvlink: int = 0
    """all_gather before reduce_scatter on an FFN instance's NVLink, where they take turns."""
    nic: int = 0
    """sending before receiving on a half-duplex link."""
    tail: int = 0
    """lm_head before the next step's first attention on a GPU."""
    inward: int = 0
    """a2f_in before all_gather on the way into an FFN instance, where they share it."""


STAGES = (
    *("attention", "o_exchange", "o_proj", "o_reduce", "shared", "a2f", "a2f_in"),
    *("all_gather", "experts", "reduce_scatter", "f2a", "f2a_in", "lm_head"),
)


# Times of which waits consist: of stages, of the longer stage of a transfer there and back, of the
# longest stage but the LM head, and a link's latency.
_TIMES = (*STAGES, "there", "back", "any", "latency")


def choose_lags(ring: Ring, stage_ns: dict[str, int], latency_ns: int, host_ns: int) -> Lags:
    """Return the static order that promises the shortest period for the given stage times.

    Two stages x and y of a micro-batch share a server, with others between them. Running x `lag`
    micro-batches ahead of y lets the middle overlap with x, but makes y wait for a later
    micro-batch's x. Each circuit of waits bounds the period from below (its time over the number
    of micro-batches it spans); the lags with the smallest bound win, the smallest lags on a tie.
    A circuit that spans no micro-batch would wait for itself: such lags are out of the question.

    Where two steps meet, `tail` more micro-batches run their LM heads before the first one begins
    its next step. That fills the host gap of the first, but holds it up by as many turns.
    """
    times_ns = {stage: np.array([ns]) for stage, ns in stage_ns.items()}
    return lags_by_load(ring, times_ns, latency_ns, np.array([host_ns]))[0]


def lags_by_load(
    ring: Ring, stage_ns: Mapping[str, Ints], latency_ns: int, host_ns: Ints
) -> list[Lags]:
    """Return the same by load; stage times may be those of all loads."""
    t = np.zeros((len(_TIMES), len(host_ns)), dtype=np.int64)
    row = dict(zip(_TIMES, t, strict=True))  # views
    for stage, ns in stage_ns.items():
        row[stage][:] = ns
    np.maximum(row["a2f"], row["a2f_in"], out=row["there"])
    np.maximum(row["f2a"], row["f2a_in"], out=row["back"])
    t[: len(STAGES) - 1].max(axis=0, out=row["any"])
    row["latency"][:] = latency_ns
    choices, parts, spans = _waits(ring)
    turns_ns = (parts @ t / spans[..., np.newaxis]).max(axis=1)
    best = turns_ns.argmin(axis=0)
    turn_ns = np.take_along_axis(turns_ns, best[np.newaxis], axis=0)
    tail = np.arange(ring.micro_batches)[:, np.newaxis]
    bare_gap_ns = row["attention"] + row["lm_head"] + host_ns - (tail + 1) * turn_ns
    turns_apart = (ring.micro_batches - 1) // (tail + 1)
    held_up_ns = np.maximum(tail * turn_ns, host_ns + turns_apart * np.maximum(0, bare_gap_ns))
    tails = held_up_ns.argmin(axis=0)
    return [
        choices[choice]._replace(tail=tail)
        for choice, tail in zip(best.tolist(), tails.tolist(), strict=True)
    ]


@lru_cache(maxsize=KEPT)
def _waits(ring: Ring) -> tuple[list[Lags], Ints, Ints]:
    """Return the lags that are possible, the least first, and the circuits of waits of each.

    A circuit has a row that says how often each of the times is part of it (in the order of
    `_TIMES`), and the micro-batches that it spans.
    """
    m = ring.micro_batches
    one = dict(zip(_TIMES, np.eye(len(_TIMES), dtype=np.int64), strict=True))
    possible = {}
    for o_proj, nvlink, nic, inward in product(
        range(m if ring.o_proj_groups else 1),
        range(m if ring.nvlink_turns else 1),
        range(m if ring.half_duplex else 1),
        range(m if ring.one_link else 1),
    ):
        lags = Lags(o_proj, nvlink, nic, inward=inward)
        circuits = _circuits(ring, one, lags)
        if all(span > 0 for _time, span in circuits):
            possible[lags] = circuits
    parts = np.array([[time for time, _span in circuits] for circuits in possible.values()])
    spans = np.array([[span for _time, span in circuits] for circuits in possible.values()])
    return list(possible), parts, spans


def _circuits(ring: Ring, t: dict[str, Ints], lags: Lags) -> list[tuple[Ints, int]]:
    """Return (time, micro-batches spanned) of the circuits of waits in the ring.

    The whole ring is one, and so is every server. Where x runs `lag` ahead of y, there is one
    from x through the middle to y and back to x, `lag` + 1 later; and the ring has a short cut
    from x to the y of `lag` earlier, which leaves the middle out.
    """
    m, o_proj, nvlink, nic = ring.micro_batches, lags.o_proj, lags.nvlink, lags.nic
    ffn = t["all_gather"] + t["experts"] + t["reduce_scatter"]
    ways = 2 if ring.transfers else 1
    trip = t["there"] + ffn + t["back"] + ways * t["latency"]
    round_ns = t["attention"] + t["o_exchange"] + t["o_proj"] + t["o_reduce"] + trip
    circuits = [(t["any"], 1)]
    if ring.shared:
        circuits.append((t["attention"] + t["shared"], 1))
    near, far = [(0 * trip, 0)], [(0 * trip, 0)]
    if ring.o_proj_groups:
        for x, middle, y in (STAGES[0:3], STAGES[1:4]):
            circuits += [(t[x] + t[middle] + t[y], o_proj + 1), (t[x] + t[y], 1)]
            near.append((t[middle], o_proj))
    if ring.nvlink_turns:
        circuits += [(ffn, nvlink + 1), (ffn - t["experts"], 1)]
        far.append((t["experts"], nvlink))
    if ring.one_link:
        inward = t["a2f_in"] + t["all_gather"]
        circuits += [(inward + t["latency"], lags.inward + 1), (inward, 1)]
        circuits.append((t["reduce_scatter"] + t["f2a"], 1))
        far.append((t["there"] - t["a2f_in"] + t["latency"], lags.inward))
    if ring.half_duplex:
        circuits += [(trip, nic + 1), (t["a2f"] + t["f2a_in"], 1), (t["a2f_in"] + t["f2a"], 1)]
        far.append((ffn + t["latency"], nic))
        if ring.nvlink_turns:
            circuits.append((trip - t["experts"], nic + 1 - nvlink))
    for (near_ns, near_lag), (far_ns, far_lag) in product(near, far):
        circuits.append((round_ns - near_ns - far_ns, m - near_lag - far_lag))
    return circuits


@lru_cache(maxsize=KEPT)
def program(ring: Ring, lags: Lags) -> Program:
    """Return the program of an AFD deployment with the given static order."""
    way = "link" if ring.transfers else "answer"
    build = ProgramBuilder(ring.layer_kinds, ring.micro_batches, (way, "host"))
    pools = _pools(build, ring)
    for stage, pool in pools.items():
        if ring.has(stage):
            build.stage(stage, pool, _WAYS.get(stage, ""))
    for layer in range(build.layers):
        for j in range(ring.micro_batches):
            _add_layer(build, ring, layer, j)
    for j in range(ring.micro_batches):
        build.node("lm_head", build.layers, j, _answers(build, ring, build.layers, j))
    _set_orders(build, ring, lags, pools)
    return build.build("lm_head", "host")


def _pools(build: ProgramBuilder, ring: Ring) -> dict[str, int]:
    """Return the pool of each stage; that of a stage which the ring has not means nothing."""
    gpus, instances = ring.attention_gpus, ring.ffn_instances
    groups, link = ring.o_proj_groups, ring.link

    def on(side: str, kind: PoolKind, servers: int, way: Way = "") -> int:
        name = f"{side}.{kind}_{way}" if way else f"{side}.{kind}"
        return build.pool(side if kind == "gpu" else name, kind, servers, side, way)

    attention = on("attention", "gpu", gpus)
    nvlink_a = on("attention", "nvlink", groups) if groups else attention
    if not ring.transfers:
        a_out = a_in = f_out = f_in = attention
    elif ring.half_duplex:
        a_out = a_in = on("attention", link, gpus)
        f_out = f_in = on("ffn", link, instances)
    else:
        a_out, a_in = on("attention", link, gpus, "out"), on("attention", link, gpus, "in")
        f_in, f_out = on("ffn", link, instances, "in"), on("ffn", link, instances, "out")
    if not ring.collectives or ring.one_link:
        gather, scatter = f_in, f_out
    elif ring.nvlink_turns:
        gather = scatter = on("ffn", "nvlink", instances)
    else:
        gather = on("ffn", "nvlink", instances, "in")
        scatter = on("ffn", "nvlink", instances, "out")
    ffn = on("ffn", "gpu", instances)
    pools = (
        *(attention, nvlink_a, attention, nvlink_a, attention, a_out, f_in),
        *(gather, ffn, scatter, f_out, a_in, attention),
    )
    return dict(zip(STAGES, pools, strict=True))


def _answers(build: ProgramBuilder, ring: Ring, layer: int, j: int) -> list[Link]:
    """Return the links by which attention waits for all FFN instances' answers to a layer."""
    if build.layer_kinds[layer - 1] in ring.stays:
        return [build.link(ring.last_of_attention, layer - 1, j, "each")]
    if not ring.transfers:
        return [build.link("experts", layer - 1, j, "all", delay="answer")]
    return [
        build.link("f2a_in", layer - 1, j, "each", delay="link"),
        build.link("f2a", layer - 1, j, "all", delay="link"),
    ]


def _add_layer(build: ProgramBuilder, ring: Ring, layer: int, j: int) -> None:
    answers = _answers(build, ring, layer, j) if layer else []
    build.node("attention", layer, j, answers, gated=layer == 0)
    last = "attention"
    for stage in filter(ring.has, _O_PROJ):
        build.node(stage, layer, j, [build.link(last, layer, j, "each")])
        last = stage
    if ring.shared:
        build.node("shared", layer, j, [build.link(last, layer, j, "each")])
    if build.layer_kinds[layer] in ring.stays:
        return
    if not ring.transfers:
        build.node("experts", layer, j, [build.link(last, layer, j, "all")])
        return
    build.node("a2f", layer, j, [build.link(last, layer, j, "each")])
    build.node("a2f_in", layer, j, [build.link("a2f", layer, j, "all", "start")])
    arrived = [
        build.link("a2f_in", layer, j, "each", delay="link"),
        build.link("a2f", layer, j, "all", delay="link"),
    ]
    for stage in filter(ring.has, ("all_gather", "experts", "reduce_scatter", "f2a")):
        build.node(stage, layer, j, arrived)
        arrived = [build.link(stage, layer, j, "each")]
    build.node("f2a_in", layer, j, [build.link("f2a", layer, j, "all", "start")])


def _set_orders(build: ProgramBuilder, ring: Ring, lags: Lags, pools: dict[str, int]) -> None:
    lag_of = {"o_proj": lags.o_proj, "o_reduce": lags.o_proj}
    if ring.nvlink_turns:
        lag_of |= {"reduce_scatter": lags.nvlink}
    if ring.one_link:
        lag_of |= {"all_gather": lags.inward}
    if ring.half_duplex:
        lag_of |= {"f2a_in": lags.nic, "f2a": lags.nic}
    shares: dict[int, list[str]] = {index: [] for index in range(len(build.pools))}
    for stage in ("lm_head", *(stage.name for stage in build.stages[:-1])):
        shares[pools[stage]].append(stage)
    for pool, stages in shares.items():
        build.order(pool, _interleave(build, ring, stages, lag_of, lags.tail))


def _interleave(
    build: ProgramBuilder, ring: Ring, stages: list[str], lag_of: dict[str, int], tail: int
) -> list[tuple[Key, int]]:
    """Return a round robin over rounds and micro-batches in which lagging stages run that later.

    Turn k belongs to micro-batch k mod m in round k div m. The next step begins `tail` turns
    after the last round's; what a lag moves past that is left for the next period.
    """
    m, rounds = build.micro_batches, ring.rounds
    turns = rounds[-1] * m + tail
    places: list[tuple[int, int, int, Key, int]] = []
    for rank, stage in enumerate(stages):
        for name, layer, j in build.ids:
            if name == stage:
                late, turn = divmod(rounds[layer] * m + j + lag_of.get(stage, 0), turns)
                # Layers of one round, and the LM head of the step before, stand in their order.
                along = layer - late * len(rounds) if ring.goes_on and stage in _OWN else 0
                places.append((turn, along, rank, (stage, layer, j), -late))
    return [(key, offset) for *_place, key, offset in sorted(places)]
