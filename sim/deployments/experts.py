"""Experts: what those of a layer take on each rank, as their load has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from sim.calibration.families import hit_experts
from sim.deployments.projections import ProjectionTimer
from sim.foundation.errors import InfeasibleError
from sim.foundation.nanoseconds import Ns, whole_ns
from sim.inputs.model import MoeFfn
from sim.kernels import ops, served
from sim.kernels.hottest_rank import Held, alike, hottest_factors, rank_op, scattered_loads
from sim.kernels.in_turn import stretch
from sim.kernels.kernel_table import KernelTable
from sim.kernels.timed import Timed

EngineKernels = Mapping[str, Mapping[str, Sequence[str]]]


class Spread(NamedTuple):
    """How routed experts lie on ranks (EP GPUs, or FFN instances that slice each expert)."""

    copies: int
    """Physical experts, redundant ones included."""
    ranks: int
    slices: int
    """Parts that each expert of a rank is cut into, one a GPU."""
    elsewhere: bool = False
    """Whether tokens come from other GPUs (AFD) than the ranks (EP)."""

    def held(self, ffn: MoeFfn) -> Held:
        return Held(self.copies, self.ranks, ffn.experts, ffn.zero_experts)


@dataclass(frozen=True)
class ExpertsTimer:
    """Times the experts of a model's layers on one kind of GPU; fields as in `LayerTimer`."""

    projections: ProjectionTimer
    load: str
    moe_kernel: str
    chosen: int | None
    kernels: EngineKernels

    @property
    def _table(self) -> KernelTable:
        return self.projections.table

    @property
    def exchanges(self) -> bool:
        """Return whether the kernel of the experts dispatches and combines as well."""
        return self.moe_kernel == served.FUSED_EP

    @cached_property
    def kernel(self) -> str:
        """Return the kernel of the experts that was measured in their number format.

        That is the first of the engine's, `moe_kernel` without an engine, and the other of masked
        and fused if it alone was measured. Raises InfeasibleError if none exchanges as well.
        """
        found = self._measured_kernel
        # A card without any measurement takes every kernel at its peaks.
        if found is None and self.exchanges and self._table.curves:
            dtype, op = self.projections.precision.of("experts"), "moe_fused_ep"
            known = {curve.dtype for curve in self._table.curves if curve.op == op}
            raise InfeasibleError(
                f"no kernel that dispatches, computes and combines was measured on "
                f"{self._table.accelerator.name} in {dtype} "
                f"(in {', '.join(sorted(known)) or 'none'}): set moe_kernel to masked or fused"
            )
        return found or self.moe_kernel

    @property
    def is_measured(self) -> bool:
        """Return whether the kernel of the experts was measured in their number format."""
        return self._measured_kernel is not None

    @cached_property
    def _measured_kernel(self) -> str | None:
        weights, op = (
            self.projections.precision.of("experts"),
            "moe_fused_ep" if self.exchanges else "moe",
        )
        dtype = served.measured_as(weights)
        own = served.kernels_of(weights) if op == "moe" else ()
        by_format = {} if self.moe_kernel == served.MASKED else self.kernels.get(op, {})
        # A kernel of several groupings of one format takes all of them.
        named = by_format.get(weights, None if own else by_format.get(dtype))
        # An engine that names none of the kernels that exchange as well has one of its own.
        others = () if self.exchanges and named is not None else served.SERVED[op]
        first = *(named or ()), *own, *([self.moe_kernel] if others else ())
        kernels = dict.fromkeys((*first, *others))
        # An engine's own may have been measured with narrower weights alone.
        narrower = ops.multiplied_as(dtype) if self.exchanges and named else ()
        asked = ((name, each) for each in (dtype, *narrower) for name in kernels)
        return next((name for name, each in asked if self._table.has_format(op, name, each)), None)

    def _with_exchange(
        self, ffn: MoeFfn, experts: ops.Op, pairs: ArrayLike, spread: Spread
    ) -> ops.Op:
        """Return the kernel that also dispatches and combines, if the experts have such a one."""
        if not self.exchanges:
            return experts
        memory_per_link = self._table.accelerator.memory_per_link()
        hidden, ranks = ffn.width(self.projections.hidden), spread.ranks
        return ops.moe_fused_ep(
            experts, hidden, pairs, ranks, memory_per_link, elsewhere=spread.elsewhere
        )

    def expected(self, ffn: MoeFfn, spread: Spread, tokens: Ns, shared: bool = False) -> Timed:
        """Return the time of the experts on each rank; the first rank is the hottest.

        `tokens` are all tokens of the micro-batch (… × 1). Only routed experts that are hit are
        read: of the `held` ones of a rank, held·(1 − (1 − k/copies)^tokens) are expected to be,
        where k leaves out chosen experts that cost nothing.
        With `shared`, each rank also runs the shared experts for its share of the tokens: as
        further experts of the same kernel where they have the same width and format, after it
        otherwise.
        """
        share = ffn.computed() / spread.copies
        held = spread.copies // spread.ranks
        pairs = tokens * share * held
        active = held * -np.expm1(tokens * np.log1p(-min(share, 1 - 1e-12)))
        if self.load == "balanced":
            used = held if self.chosen is None else held * self.chosen / ffn.experts
            active = np.minimum(used, pairs)
        fused = self._fused(ffn) if shared else 0

        def launch(kernel: str, hit: ops.Floats, hot: ops.Floats) -> ops.Op:
            """Return the experts of the hottest rank and of a mean one."""
            both = np.empty((*tokens.shape[:-1], 2))
            both[..., :1], both[..., 1:] = hot, 1.0
            routed = pairs * both
            tile_tokens = None
            if fused and self.load == "balanced":
                # The loads are known: a shared expert's differs, and is padded by itself.
                tile = ops.expert_tile_rows(kernel, self._table.accelerator.gemm_tile_rows)
                own = ops.padded(ops.per(ops.floats(routed), ops.floats(hit)), tile)
                tile_tokens = hit * own + fused * ops.padded(tokens / spread.ranks, tile)
            experts = ops.moe(
                self.projections.precision.of("experts"),
                ffn.width(self.projections.hidden),
                ffn.expert_intermediate / spread.slices,
                np.broadcast_to(hit + fused, both.shape),
                routed + fused * tokens / spread.ranks,
                self._table.accelerator.gemm_tile_rows,
                kernel,
                np.full(both.shape, float(held + fused)),
                tile_tokens,
                ffn.gated,
            )
            return self._with_exchange(ffn, experts, routed, spread)

        hot = hottest_factors(self.load, tokens, spread.held(ffn), ffn.top_k)
        op = launch(self.kernel, active, hot)
        curve, _own = self._table.serving(op)
        if curve is not None:
            # Where the slowest rank was itself measured under this load, no factor is needed.
            name = f"{curve.kernel}/{self.load}"
            if self._table.has_format(op.name, name, op.dtype):
                hit = hit_experts(name, np.asarray(float(held)), ops.floats(pairs))
                measured = launch(name, hit, np.ones(1))
                op = measured if self._table.serving(measured)[1] else op
        both = self._table.timed(op)
        if self._goes_in_turn and self.load not in served.EVEN:
            hottest = self._hottest_in_turn(ffn, spread, tokens, fused)
            both.ns[..., :1] = np.maximum(hottest, both.ns[..., 1:])
        ns = np.repeat(both.ns[..., 1:], spread.ranks, axis=-1)
        # A kernel that combines ends with the last of its peers.
        ns[..., : spread.ranks if self.exchanges else 1] = both.ns[..., :1]
        times = both.lasting(ns)
        if shared and not fused:
            columns = ffn.shared * ffn.shared_intermediate / spread.slices
            times += self.projections.ffn(columns, tokens / spread.ranks, gated=ffn.gated)
        return times

    def _fused(self, ffn: MoeFfn) -> int:
        """Return the shared experts that the kernel of the routed ones takes as further experts."""
        alike = self.projections.precision.of("dense") == self.projections.precision.of("experts")
        alike = alike and ffn.latent is None
        return ffn.shared if alike and ffn.shared_intermediate == ffn.expert_intermediate else 0

    def drawn(
        self, ffn: MoeFfn, spread: Spread, loads: Ns, tokens: float, shared: bool = False
    ) -> Timed:
        """Return the time of the experts on each rank (layers × ranks), given their loads.

        `loads` are the tokens of each expert of a rank (layers × ranks × experts). Shared experts
        are as in `expected`. Usage is that of all layers.
        """
        fused = self._fused(ffn) if shared else 0
        ranks = loads.reshape(-1, loads.shape[-1])
        first, kind, count = alike(ranks, self._expert_tile_rows)
        share = np.full((len(first), fused), tokens / spread.ranks)
        held = np.concatenate([ranks[first], share], axis=-1)
        op = self._rank_op(ffn, spread, held)
        op = self._with_exchange(ffn, op, held.sum(axis=-1), spread)
        times = self._table.timed(op, count).on(spread.slices)
        ns = times.ns[kind]
        if self._goes_in_turn:
            shared_tokens = np.full((len(ranks), fused), tokens / spread.ranks)
            known = np.concatenate([ranks, shared_tokens], axis=-1)
            ns = whole_ns(ns * self._in_turn(ffn, spread, known), "experts")
        times = times.lasting(ns.reshape(loads.shape[:-1]))
        if self.exchanges:
            times.ns[:] = times.ns.max(axis=-1, keepdims=True)
        if shared and not fused:
            columns = ffn.shared * ffn.shared_intermediate / spread.slices
            gpus = spread.ranks * spread.slices * len(loads)
            times += self.projections.ffn(columns, tokens / spread.ranks, gated=ffn.gated).on(gpus)
        return times

    @property
    def _expert_tile_rows(self) -> float:
        """Return the rows to which the kernel of the experts pads each."""
        card = self._table.accelerator
        return ops.expert_tile_rows(self.kernel, card.gemm_tile_rows)

    @property
    def _goes_in_turn(self) -> bool:
        """Return whether the kernel takes one expert after the other, as measured under skew."""
        return self.kernel == served.MASKED

    def _rank_op(self, ffn: MoeFfn, spread: Spread, loads: ops.Floats) -> ops.Op:
        """Return the experts of ranks that hold `loads` of each (… × experts)."""
        columns = ffn.expert_intermediate / spread.slices
        kind = self.projections.precision.of("experts"), ffn.width(self.projections.hidden), columns
        return rank_op(*kind, loads, self.kernel, self._expert_tile_rows, ffn.gated)

    def _hottest_in_turn(self, ffn: MoeFfn, spread: Spread, tokens: Ns, fused: int) -> Ns:
        """Return the mean time of the hottest rank over draws of its experts' loads."""
        drawn = scattered_loads(self.load, tokens, spread.held(ffn), ffn.top_k)
        alike = np.broadcast_to(tokens[..., np.newaxis] / spread.ranks, (*drawn.shape[:-1], 1))
        loads = np.concatenate([drawn, *[alike] * fused], axis=-1)
        even = self._table.timed(self._rank_op(ffn, spread, loads)).ns
        times = even * self._in_turn(ffn, spread, loads)
        return whole_ns(times.mean(axis=-1, keepdims=True), "experts")

    def _in_turn(self, ffn: MoeFfn, spread: Spread, loads: ops.Floats) -> ops.Floats:
        """Return how many times longer ranks take for not being loaded equally."""
        rows = self._expert_tile_rows
        tiles = np.ceil(loads / rows).astype(np.int64)

        def one(by_tiles: Ns) -> ops.Op:
            return self._rank_op(ffn, spread, ops.floats(by_tiles[:, np.newaxis] * rows))

        return stretch(self._table, one, tiles)


def split_evenly(total: int, parts: int, what: str, remedy: str) -> int:
    """Return total/parts. Raises InfeasibleError with the remedy if it is no whole number."""
    if total % parts:
        raise InfeasibleError(f"{total} {what} do not divide over {parts} GPUs: {remedy}")
    return total // parts
