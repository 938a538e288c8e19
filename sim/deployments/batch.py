"""Batches: what a micro-batch holds at a step boundary, as requests, context and tokens of GPUs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.deployments.kept_times import all_and_most
from sim.foundation.nanoseconds import Ns
from sim.kernels import ops


@dataclass(frozen=True)
class Batch:
    """What a micro-batch holds at a step boundary, per attention GPU."""

    requests: NDArray[np.int64]
    """Requests on each GPU."""
    kv_tokens: Mapping[int | None, NDArray[np.int64]]
    """Context tokens on each GPU that a layer with this attention window reads."""
    alike: Ns | None = None
    """GPUs that stand behind each of these; None: itself alone."""
    taking: ops.Floats | None = None
    """Share of the GPUs that take a step, by load (… × 1); the others sit it out. None: all."""

    @classmethod
    def spread(cls, gpus: int, requests: int, ctx: float, windows: Iterable[int | None]) -> Batch:
        """Return a batch of like requests of `ctx` context tokens, as even as can be on `gpus`."""
        each = requests // gpus + (np.arange(gpus) < requests % gpus)
        return cls(each, _context(each, ctx, windows))

    @classmethod
    def representative(
        cls, gpus: Ns, block: int, requests: Ns, ctx: float, windows: Iterable[int | None]
    ) -> Batch:
        """Return such batches, one for each of `requests` on `gpus`; some GPUs stand for all.

        GPUs work in blocks of `block` neighbours, and blocks that hold the same do the same.
        There are three kinds: the fullest, one that has both counts of requests, the rest.
        """
        blocks, more = gpus // block, requests % gpus
        if (blocks == 1).all():
            each = (requests // gpus)[:, np.newaxis] + (np.arange(block) < more[:, np.newaxis])
            return cls(each, _context(each, ctx, windows))
        full = more // block
        alike = np.stack([full, np.ones_like(full), blocks - 1 - full], axis=-1)
        # A kind that no block is of stands for none, and holds what the middle one does.
        place = np.stack([np.zeros_like(full), full, blocks - 1], axis=-1)
        place = np.where(alike > 0, place, full[:, np.newaxis])
        gpu = (place[..., np.newaxis] * block + np.arange(block)).reshape(len(requests), -1)
        each = (requests // gpus)[:, np.newaxis] + (gpu < more[:, np.newaxis])
        return cls(each, _context(each, ctx, windows), np.repeat(alike, block, axis=-1))

    @cached_property
    def most(self) -> int:
        """Requests of the fullest GPU, of a single load."""
        return all_and_most(self.requests)[1]

    def is_empty(self) -> bool:
        """Return whether no request is in the micro-batch."""
        return not np.count_nonzero(self.requests)


def _context(each: Ns, ctx: float, windows: Iterable[int | None]) -> dict[int | None, Ns]:
    """Return the tokens of `ctx` that GPUs with `each` requests read, by attention window."""
    seen = {w: round(ctx if w is None else min(ctx, w)) for w in {None, *windows}}
    return {window: each * tokens for window, tokens in seen.items()}


class GpuTokens(NamedTuple):
    """Tokens of a micro-batch on each attention GPU; along the last axis, of several loads."""

    each: Ns
    alike: Ns | None = None
    """GPUs that stand behind each; None: itself alone."""
    taking: ops.Floats | None = None
    """Share of the GPUs that take the step (… × 1), while the others have nothing; None: all."""

    @property
    def own(self) -> tuple[Ns, Ns | None]:
        """The tokens of each GPU that takes the step, and the GPUs behind each."""
        return self.each, self.alike

    def times(self, factor: int) -> GpuTokens:
        return self if factor == 1 else self._replace(each=self.each * factor)

    def total(self) -> Ns:
        """Return the tokens of all GPUs, by load (… × 1)."""
        all_tokens = self.each if self.alike is None else self.each * self.alike
        every = np.add.reduce(all_tokens, axis=-1, keepdims=True)
        return every if self.taking is None else np.rint(every * self.taking).astype(np.int64)

    def most(self) -> Ns:
        """Return the tokens of the fullest GPU, by load (… × 1)."""
        return np.maximum.reduce(self.each, axis=-1, keepdims=True)

    def apart(self, ways: int) -> GpuTokens:
        """Return the tokens of the fullest of `ways` GPUs that share out those of each."""
        return self if ways == 1 else self._replace(each=-(-self.each // ways))

    def together(self, ways: int) -> GpuTokens:
        """Return the tokens of each `ways` neighbours together."""
        if ways == 1:
            return self
        alike = None if self.alike is None else np.ascontiguousarray(self.alike[..., ::ways])
        return GpuTokens(in_groups(self.each, ways).sum(axis=-1), alike, self.taking)


def in_groups(each: Ns, ways: int) -> Ns:
    """Return values of GPUs with those of each `ways` neighbours along an axis of their own."""
    return each.reshape(*each.shape[:-1], -1, ways)
