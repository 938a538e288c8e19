"""The EP schedule: the program of data-parallel attention with wide expert parallelism.

A layer of a micro-batch runs through attn0 (projections before the core), attn1 (core, output
projection, gate), dispatch, shared expert, experts and combine. `shared` also stands for a dense
FFN, which needs no dispatch. With `two_batch`, DeepSeek's static order of one half layer is

    issue DISPATCH(j); compute SHARED(j), ATTN-0(1−j); wait DISPATCH(j); EXPERTS(j);
    issue COMBINE(j); compute ATTN-1(1−j); wait COMBINE(j); swap j

so that one micro-batch's all-to-all hides behind the other's computation (DESIGN §4).

Layers without an FFN are attn0 and attn1 alone, and the next layer goes on with what each GPU has.
With `two_batch` they and the layer that they lead to share out one half layer: the first half of
their attention stages stands in the place of ATTN-0, the second in that of ATTN-1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from sim.engines.program import KEPT, Link, Program, ProgramBuilder

Key = tuple[str, int, int]

STAGES = ("attn0", "attn1", "dispatch", "shared", "experts", "combine", "lm_head")


@dataclass(frozen=True)
class Schedule:
    """What of an EP deployment decides its program."""

    layer_kinds: tuple[int, ...]
    gpus: int
    two_batch: bool
    without_ffn: frozenset[int] = frozenset()
    """Kinds of layers that have none; not all."""

    def leads_on(self, layer: int) -> bool:
        """Return whether the attention of the next layer, or the LM head, follows at once."""
        return self.layer_kinds[layer] in self.without_ffn

    def parts(self) -> list[list[int]]:
        """Return layers in groups that each end with an FFN, and those after the last FFN."""
        found: list[list[int]] = [[]]
        for layer in range(len(self.layer_kinds)):
            found[-1].append(layer)
            if not self.leads_on(layer):
                found.append([])
        return found


@lru_cache(maxsize=KEPT)
def program(schedule: Schedule) -> Program:
    """Return the program of an EP deployment."""
    micro_batches = 2 if schedule.two_batch else 1
    build = ProgramBuilder(schedule.layer_kinds, micro_batches, ("host",))
    gpu = build.pool("gpu", "gpu", schedule.gpus)
    network = build.pool("network", "network", 1)
    for stage in STAGES:
        build.stage(stage, network if stage in ("dispatch", "combine") else gpu)
    for layer in range(build.layers):
        for j in range(micro_batches):
            _add_layer(build, schedule, layer, j)
    for j in range(micro_batches):
        build.node("lm_head", build.layers, j, [_done(build, schedule, build.layers - 1, j)])
    if schedule.two_batch:
        parts = schedule.parts()
        _link_waits(build, [part[-1] for part in parts[:-1]])
        build.order(gpu, _two_batch_order(build, parts))
    else:
        build.order(gpu, [(key, 0) for key in build.ids if key[0] not in ("dispatch", "combine")])
    build.order(network, [(key, 0) for key in build.ids if key[0] in ("dispatch", "combine")])
    return build.build("lm_head", "host")


def _combined(build: ProgramBuilder, layer: int, j: int, steps_back: int = 0) -> Link:
    return build.link("combine", layer, j, "all", steps_back=steps_back)


def _done(build: ProgramBuilder, schedule: Schedule, layer: int, j: int) -> Link:
    """Return the link by which what follows a layer waits for it."""
    if schedule.leads_on(layer):
        return build.link("attn1", layer, j, "each")
    return _combined(build, layer, j)


def _add_layer(build: ProgramBuilder, schedule: Schedule, layer: int, j: int) -> None:
    before = [_done(build, schedule, layer - 1, j)] if layer else []
    build.node("attn0", layer, j, before, gated=layer == 0)
    build.node("attn1", layer, j, [build.link("attn0", layer, j, "each")])
    if schedule.leads_on(layer):
        return
    if schedule.two_batch:
        build.node("dispatch", layer, j, [build.link("attn1", layer, j, "all")])
        build.node("shared", layer, j, [build.link("attn1", layer, j, "each")])
    else:
        build.node("shared", layer, j, [build.link("attn1", layer, j, "each")])
        build.node("dispatch", layer, j, [build.link("shared", layer, j, "all")])
    build.node("experts", layer, j, [build.link("dispatch", layer, j, "all")])
    build.node("combine", layer, j, [build.link("experts", layer, j, "all")])


def _link_waits(build: ProgramBuilder, layers: list[int]) -> None:
    """Make each SHARED(j) wait for the COMBINE that its GPU waited for before the swap.

    `layers` are those with an FFN.
    """
    for place, layer in enumerate(layers):
        build.wait(("shared", layer, 1), _combined(build, layer, 0))
        # The last one's is of the step before.
        before = _combined(build, layers[place - 1], 1, steps_back=int(place == 0))
        build.wait(("shared", layer, 0), before)


def _two_batch_order(build: ProgramBuilder, parts: list[list[int]]) -> list[tuple[Key, int]]:
    """Return one period of a GPU: every half part, from the first SHARED(0) on.

    Step offsets say which step of its micro-batch a task belongs to: around the wrap, micro-batch
    1 ends its step behind, and micro-batch 0 begins its next step ahead of the period.
    """
    order: list[tuple[Key, int]] = []
    *parts, after = parts
    for half in range(2 * len(parts)):
        place, j = divmod(half, 2)
        layer, other = parts[place][-1], 1 - j
        ahead = place + (j == 1)
        wraps = ahead == len(parts)
        order.append((("shared", layer, j), 0))
        if wraps or ahead == 0:
            tail = [*_attention(after, other), ("lm_head", build.layers, other)]
            order += [(key, 0 if wraps else -1) for key in tail]
        part, offset = (parts[0], 1) if wraps else (parts[ahead], 0)
        attention = [(key, offset) for key in _attention(part, other)]
        order += attention[: len(part)]
        order.append((("experts", layer, j), 0))
        order += attention[len(part) :]
    return order


def _attention(layers: list[int], j: int) -> list[Key]:
    """Return the attention stages of layers, in order."""
    return [(stage, layer, j) for layer in layers for stage in ("attn0", "attn1")]
