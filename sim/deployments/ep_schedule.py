"""The EP schedule: the program of data-parallel attention with wide expert parallelism.

A layer of a micro-batch runs through attn0 (projections before the core), attn1 (core, output
projection, gate), dispatch, shared expert, experts and combine. `shared` also stands for a dense
FFN, which needs no dispatch. With `two_batch`, DeepSeek's static order of one half layer is

    issue DISPATCH(j); compute SHARED(j), ATTN-0(1−j); wait DISPATCH(j); EXPERTS(j);
    issue COMBINE(j); compute ATTN-1(1−j); wait COMBINE(j); swap j

so that one micro-batch's all-to-all hides behind the other's computation (DESIGN §4).
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
            _add_layer(build, layer, j, schedule.two_batch)
    for j in range(micro_batches):
        build.node("lm_head", build.layers, j, [_combined(build, build.layers - 1, j)])
    if schedule.two_batch:
        _link_waits(build)
        build.order(gpu, _two_batch_order(build))
    else:
        build.order(gpu, [(key, 0) for key in build.ids if key[0] not in ("dispatch", "combine")])
    build.order(network, [(key, 0) for key in build.ids if key[0] in ("dispatch", "combine")])
    return build.build("lm_head", "host")


def _combined(build: ProgramBuilder, layer: int, j: int, steps_back: int = 0) -> Link:
    return build.link("combine", layer, j, "all", steps_back=steps_back)


def _add_layer(build: ProgramBuilder, layer: int, j: int, two_batch: bool) -> None:
    before = [_combined(build, layer - 1, j)] if layer else []
    build.node("attn0", layer, j, before, gated=layer == 0)
    build.node("attn1", layer, j, [build.link("attn0", layer, j, "each")])
    if two_batch:
        build.node("dispatch", layer, j, [build.link("attn1", layer, j, "all")])
        build.node("shared", layer, j, [build.link("attn1", layer, j, "each")])
    else:
        build.node("shared", layer, j, [build.link("attn1", layer, j, "each")])
        build.node("dispatch", layer, j, [build.link("shared", layer, j, "all")])
    build.node("experts", layer, j, [build.link("dispatch", layer, j, "all")])
    build.node("combine", layer, j, [build.link("experts", layer, j, "all")])


def _link_waits(build: ProgramBuilder) -> None:
    """Make each SHARED(j) wait for the COMBINE that its GPU waited for before the swap."""
    for layer in range(build.layers):
        build.wait(("shared", layer, 1), _combined(build, layer, 0))
        if layer:
            build.wait(("shared", layer, 0), _combined(build, layer - 1, 1))
        else:
            build.wait(("shared", 0, 0), _combined(build, build.layers - 1, 1, steps_back=1))


def _two_batch_order(build: ProgramBuilder) -> list[tuple[Key, int]]:
    """Return one period of a GPU: every half layer, from the first SHARED(0) on.

    Step offsets say which step of its micro-batch a task belongs to: around the wrap, micro-batch
    1 ends its step behind, and micro-batch 0 begins its next step ahead of the period.
    """
    order: list[tuple[Key, int]] = []
    for half in range(2 * build.layers):
        layer, j = divmod(half, 2)
        other = 1 - j
        ahead = layer + (j == 1)
        wraps = ahead == build.layers
        order.append((("shared", layer, j), 0))
        if wraps:
            order.append((("lm_head", build.layers, other), 0))
        elif ahead == 0:
            order.append((("lm_head", build.layers, other), -1))
        next_layer, offset = (0, 1) if wraps else (ahead, 0)
        order.append((("attn0", next_layer, other), offset))
        order.append((("experts", layer, j), 0))
        order.append((("attn1", next_layer, other), offset))
    return order
