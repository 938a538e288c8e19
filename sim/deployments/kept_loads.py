"""Kept loads: what the requests of a micro-batch decide of a step, whatever their context.

A closed loop holds few distributions of requests over GPUs, and each is asked once. In an open loop
hardly any step holds one that was there before: its times are put together from what each GPU and
all of them decide, which was there before.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import cached_property
from typing import ClassVar, NamedTuple, Protocol

import numpy as np

from sim.deployments.batch import GpuTokens
from sim.deployments.core_stages import CoreStages
from sim.deployments.course import Pass
from sim.deployments.kept_times import JointTimes, KeptTimes, put_together
from sim.deployments.layers import Attended
from sim.engines.program import Program, Times
from sim.foundation.nanoseconds import Ns
from sim.inputs.model import Layer
from sim.inputs.software import Compute
from sim.kernels.core_line import CoreLine
from sim.kernels.ops import Floats
from sim.kernels.timed import Timed

# Times of this many different distributions of requests over GPUs are kept.
_KEPT_BATCHES = 1024

# A load with more than this many distributions changes all the time.
_FEW_BATCHES = 16

# What all GPUs decide is kept for this many loads.
_KEPT_LOADS = 1 << 14


class Around(NamedTuple):
    """What surrounds the cores of a step."""

    values: Ns
    """`Times.values` without the cores."""
    usage_ns: Floats


_Durations = tuple[dict[tuple[str, int], Ns], Floats]
"""By stage and kind of layer, with their usage."""


class Asked(Protocol):
    """What a deployment is asked for (see `StepTimer`)."""

    kinds: tuple[Pass, ...]
    core_stage: ClassVar[Compute]
    attention_tp: int

    @property
    def program(self) -> Program: ...

    @property
    def nothing(self) -> Times: ...

    @property
    def lm_head_ranks(self) -> int: ...

    @property
    def gpus_sharing(self) -> int: ...

    @property
    def attention_uses(self) -> Mapping[Attended, int]: ...

    def attended_in(self, kind: Pass) -> Attended: ...

    def slowdown(self, layer: Layer, stage: Compute) -> float: ...

    def joint_load(self, requests: GpuTokens) -> Hashable: ...

    def own_durations(self, requests: GpuTokens) -> _Durations: ...

    def joint_durations(self, requests: GpuTokens) -> _Durations: ...

    def around_core(self, requests: GpuTokens) -> _Durations: ...

    def head(self, requests: GpuTokens) -> Timed: ...

    def core_line(self, of: Attended) -> tuple[int | None, CoreLine]: ...

    @property
    def delays_ns(self) -> dict[str, int]: ...

    def bounds(self, stage: str, kind: int) -> tuple[int, int]: ...


class KeptLoads:
    """Asks a deployment once for each load that it holds."""

    def __init__(self, site: Asked) -> None:
        self._site = site
        self._batches: dict[bytes, Around] = {}
        self._joint: dict[Hashable, JointTimes] = {}
        """By `StepTimer.joint_load`."""

    def around(self, requests: Ns) -> Around:
        """Return what a step takes with `requests` on each GPU, in values of its own."""
        asked = requests.tobytes()
        kept = self._batches.get(asked)
        if kept is None:
            if len(self._batches) >= _FEW_BATCHES and self._site.gpus_sharing == 1:
                return self._recalled(requests)
            if len(self._batches) >= _KEPT_BATCHES:
                self._batches.clear()
            kept = self._batches[asked] = self._asked(requests)
        return Around(kept.values.copy(), kept.usage_ns.copy())

    def _asked(self, requests: Ns) -> Around:
        site, tokens = self._site, GpuTokens(requests)
        durations, usage_ns = site.around_core(tokens)
        values = site.program.times(durations, site.delays_ns).values
        return Around(values, usage_ns)

    def _recalled(self, requests: Ns) -> Around:
        """Return the same, put together from what was asked of other distributions of requests."""
        tokens = GpuTokens(requests)
        load = self._site.joint_load(tokens)
        joint = self._joint.get(load)
        if joint is None:
            if len(self._joint) >= _KEPT_LOADS:
                self._joint.clear()
            joint = self._joint[load] = self._asked_jointly(tokens)
        values = self._site.nothing.values.copy()
        return Around(values, put_together(requests, joint, (self._own, self._head), values))

    def _asked_jointly(self, tokens: GpuTokens) -> JointTimes:
        rows, usage_ns = self._site.joint_durations(tokens)
        placed = [(*self._site.bounds(*key), row) for key, row in rows.items()]
        return JointTimes.of(placed, usage_ns)

    @cached_property
    def _own(self) -> KeptTimes:
        """What each GPU decides, by its requests: its LM head too, if it has one alone."""
        site = self._site
        rows_of_one, _usage_ns = site.own_durations(GpuTokens(np.array([1])))
        slots = list(rows_of_one)
        firsts = [site.bounds(*slot)[0] for slot in slots]
        alone = site.lm_head_ranks == 1
        if alone:
            firsts.append(self._head_slot)

        def time(requests: int) -> tuple[Ns, Floats]:
            tokens = GpuTokens(np.array([requests]))
            rows, usage_ns = site.own_durations(tokens)
            own_ns = [int(rows[slot][0]) for slot in slots]
            if alone:
                head = site.head(tokens)
                own_ns.append(int(head.ns[0]))
                usage_ns = usage_ns + head.usage_ns
            return np.array(own_ns), usage_ns

        return KeptTimes(firsts, 1, time)

    @cached_property
    def _head(self) -> KeptTimes:
        """The LM head by the requests of the GPUs that share it; nothing if none do."""
        site, ranks = self._site, self._site.lm_head_ranks

        def time(requests: int) -> tuple[Ns, Floats]:
            timed = site.head(GpuTokens(np.append(requests, np.zeros(ranks - 1, dtype=np.int64))))
            return timed.ns[:1], timed.usage_ns

        return KeptTimes([self._head_slot] if ranks > 1 else [], ranks, time)

    @property
    def _head_slot(self) -> int:
        return self._site.bounds("lm_head", len(self._site.kinds))[0]

    @cached_property
    def cores(self) -> list[CoreStages]:
        """The stages with the cores, attention by attention."""
        site, stage = self._site, self._site.core_stage
        found: dict[Attended, list[tuple[int, float]]] = {}
        for number, kind in enumerate(site.kinds):
            slot = site.bounds(stage, number)[0], site.slowdown(kind.layer, stage)
            found.setdefault(site.attended_in(kind), []).append(slot)
        uses = site.attention_uses
        return [
            CoreStages(stage, *site.core_line(of), uses[of] * site.attention_tp, found[of])
            for of in uses
        ]
