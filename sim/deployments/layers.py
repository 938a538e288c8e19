"""Layer times: what the layers of a model cost on a card, as the kernel table has it (DESIGN §3).

The deployments put these together; all results are whole nanoseconds, one value per GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim.calibration.families import hit_experts
from sim.deployments.kept_times import all_and_most
from sim.foundation.errors import InfeasibleError
from sim.foundation.nanoseconds import from_us, whole_ns
from sim.foundation.units import DTYPE_BYTES
from sim.inputs.attention import Projection
from sim.inputs.model import ModelCard, MoeFfn
from sim.inputs.scenario import Part, Precision
from sim.kernels import cores, ops, served
from sim.kernels.core_line import CoreLine
from sim.kernels.hottest_rank import Held, alike, hottest_factors, rank_op, scattered_loads
from sim.kernels.in_turn import stretch
from sim.kernels.kernel_table import KernelTable
from sim.kernels.timed import Timed

Ns = NDArray[np.int64]
EngineKernels = Mapping[str, Mapping[str, Sequence[str]]]

# Times of this many different loads are kept; few are those of a closed loop.
_MOST_KEPT = 1 << 16
_FEW_KEPT = 64

# Totals that are asked together.
_TOGETHER = 32


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


class Attended(NamedTuple):
    """An attention as a layer goes through it."""

    name: str
    positions: int
    """Tokens of a request that go through it at once."""
    crowded: bool
    """Whether communication takes SMs beside it."""
    ffn: bool = True
    """Whether an FFN follows; else the next layer's attention does."""


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
class LayerTimer:
    """Times the parts of a model's layers on one kind of GPU."""

    model: ModelCard
    precision: Precision
    load: str
    """Expert load, in the words of `sim.kernels.hottest_rank`: balanced, uniform, power_law_α,
    power_law_α_eplb."""
    moe_kernel: str
    """Kernel of the routed experts: masked, fused or fused_ep."""
    table: KernelTable
    chosen: int | None = None
    """Experts that get tokens under a balanced load; None: all."""
    kernels: EngineKernels = field(default_factory=dict)
    """Kernels of the serving engine, by op and number format, the best first."""
    _lines: dict[tuple[str, int], CoreLine] = field(default_factory=dict, init=False, compare=False)
    _kept: dict[tuple[Hashable, int], Timed] = field(
        default_factory=dict, init=False, compare=False
    )
    _crowded: dict[float, LayerTimer] = field(default_factory=dict, init=False, compare=False)

    def once(self, what: Hashable, load: Ns, time: Callable[[], Timed]) -> Timed:
        """Return `time()`, asked once for each `load`; `what` names all else it depends on."""
        if load.ndim > 1:
            return time()
        key = what, int(load[0])
        if key not in self._kept:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[key] = time()
            self._kept[key].ns.setflags(write=False)
        return self._kept[key]

    def by_total(self, what: Hashable, total: Ns, time: Callable[[Ns], Timed]) -> Timed:
        """Return `time(total)`, asked once for each `total`; `what` names all else it depends on.

        Once there were many, totals near each other are asked together: in an open loop they change
        at nearly every step, and a look-up of many takes little longer than one.
        """
        number = int(total.flat[0])
        if total.ndim > 1 or number < _TOGETHER or len(self._kept) < _FEW_KEPT:
            return self.once(what, total, partial(time, total))
        if (what, number) not in self._kept:
            first = number // _TOGETHER * _TOGETHER
            found = time(np.arange(first, first + _TOGETHER)[:, np.newaxis])
            found.ns.setflags(write=False)
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            for place in range(_TOGETHER):
                timed = Timed(found.ns[place], found.usage_ns[place])
                self._kept[what, first + place] = timed
        return self._kept[what, number]

    def without_sms(self, taken: float) -> LayerTimer:
        """Return a timer of kernels that lack `taken` SMs of the card."""
        if taken not in self._crowded:
            self._crowded[taken] = replace(self, table=self.table.without_sms(taken))
        return self._crowded[taken]

    @property
    def experts_exchange(self) -> bool:
        """Return whether the kernel of the experts dispatches and combines as well."""
        return self.moe_kernel == served.FUSED_EP

    @cached_property
    def experts_kernel(self) -> str:
        """Return the kernel of the experts that was measured in their number format.

        That is the first of the engine's, `moe_kernel` without an engine, and the other of masked
        and fused if it alone was measured. Raises InfeasibleError if none exchanges as well.
        """
        found = self._measured_kernel
        # A card without any measurement takes every kernel at its peaks.
        if found is None and self.experts_exchange and self.table.curves:
            dtype, op = self.precision.of("experts"), "moe_fused_ep"
            known = {curve.dtype for curve in self.table.curves if curve.op == op}
            raise InfeasibleError(
                f"no kernel that dispatches, computes and combines was measured on "
                f"{self.table.accelerator.name} in {dtype} (in {', '.join(sorted(known)) or 'none'}"
                "): set moe_kernel to masked or fused"
            )
        return found or self.moe_kernel

    @property
    def is_measured(self) -> bool:
        """Return whether the kernel of the experts was measured in their number format."""
        return self._measured_kernel is not None

    @cached_property
    def _measured_kernel(self) -> str | None:
        weights, op = (
            self.precision.of("experts"),
            "moe_fused_ep" if self.experts_exchange else "moe",
        )
        dtype = served.measured_as(weights)
        own = served.kernels_of(weights) if op == "moe" else ()
        by_format = {} if self.moe_kernel == served.MASKED else self.kernels.get(op, {})
        # A kernel of several groupings of one format takes all of them.
        named = by_format.get(weights, None if own else by_format.get(dtype))
        # An engine that names none of the kernels that exchange as well has one of its own.
        others = () if self.experts_exchange and named is not None else served.SERVED[op]
        first = *(named or ()), *own, *([self.moe_kernel] if others else ())
        kernels = dict.fromkeys((*first, *others))
        # An engine's own may have been measured with narrower weights alone.
        narrower = ops.multiplied_as(dtype) if self.experts_exchange and named else ()
        asked = ((name, each) for each in (dtype, *narrower) for name in kernels)
        return next((name for name, each in asked if self.table.has_format(op, name, each)), None)

    def _with_exchange(
        self, ffn: MoeFfn, experts: ops.Op, pairs: ArrayLike, spread: Spread
    ) -> ops.Op:
        """Return the kernel that also dispatches and combines, if the experts have such a one."""
        if not self.experts_exchange:
            return experts
        memory_per_link = self.table.accelerator.memory_per_link()
        hidden, ranks = ffn.width(self.model.hidden), spread.ranks
        return ops.moe_fused_ep(
            experts, hidden, pairs, ranks, memory_per_link, elsewhere=spread.elsewhere
        )

    def _gemms(
        self,
        part: Part,
        projections: Iterable[tuple[float, float, int]],
        m: ArrayLike,
        alike: Ns | None = None,
    ) -> Timed:
        """Return the time of projections of a part one after the other."""
        tile, dtype = self.table.accelerator.gemm_tile_rows, self.precision.of(part)
        shapes = tuple(projections)

        def time(rows: ops.Floats) -> Timed:
            total = Timed(np.zeros(rows.shape, dtype=np.int64))
            for n, k, groups in shapes:
                total += self.table.timed(ops.gemm(dtype, rows, n, k, tile, groups=groups))
            return total

        return self.table.timed_each((dtype, shapes), m, time, alike)

    def before_core(self, name: str, tokens: GpuTokens) -> Timed:
        """Return the time of the projections before the core of attention `name`."""
        return self._gemms("attention", self._projections[name].before, *tokens.own)

    def after_core(self, name: str, tokens: GpuTokens) -> Timed:
        """Return the time between core and output projection (MLA's absorption of V)."""
        return self._gemms("attention", self._projections[name].after, *tokens.own)

    def output(self, name: str, rows: GpuTokens, tp: int) -> Timed:
        """Return the time of the output projection of `rows`, its heads shared by `tp` GPUs."""
        output = self._projections[name].output
        return self._gemms("o_proj", [output._replace(k=output.k // tp)], *rows.own)

    @cached_property
    def _projections(self) -> dict[str, _Projections]:
        found, hidden = {}, self.model.hidden
        for name, attention in self.model.attention.items():
            *after, output = attention.after_core(hidden)
            found[name] = _Projections(attention.before_core(hidden), after, output)
        return found

    def core_line(self, name: str, positions: int) -> tuple[int | None, CoreLine]:
        """Return the context that cores of attention `name` read of a request, and their times.

        Of each request `positions` tokens attend to the same context. Zero context takes the time
        of a launch.
        """
        attention = self.model.attention[name]
        if (name, positions) not in self._lines:
            core_op = partial(self._core_op, name, positions)
            linear = cores.core_op(attention.core(positions).op).linear
            self._lines[name, positions] = CoreLine(self.table, core_op, linear)
        return attention.core(positions).window, self._lines[name, positions]

    def _core_op(
        self, name: str, positions: int, requests: ArrayLike, kv_tokens: ArrayLike
    ) -> ops.Op:
        attention = self.model.attention[name]
        core, dtype = attention.core(positions), attention.cache_dtype(self.precision.kv)
        tile = self.table.accelerator.query_tile_rows
        op = cores.core_op(core.op).build(dtype, *core.sizes, requests, kv_tokens, tile)
        named = self.kernels.get(op.name, {}).get(dtype, ())
        if attention.measured_whole:
            return self._of_engine(op, named)
        kernel = next((each for each in named if self.table.has_format(op.name, each, dtype)), None)
        return op if kernel is None else replace(op, kernel=kernel)

    def _of_engine(self, op: ops.Op, named: Iterable[str]) -> ops.Op:
        """Return the core of a block as the first engine runs it whose blocks were measured.

        Its curve is what projections of one format left of them.
        """
        for engine in (*named, *served.engines(op.name, op.kernel)):
            if engine in self.table.engines(op.name):
                return replace(op, kernel=f"{engine}/{self.precision.of('attention')}")
        return op

    def latent(self, ffn: MoeFfn, tokens: GpuTokens) -> tuple[Timed, Timed]:
        """Return the time of the projections to the width of experts, and back from it."""
        if ffn.latent is None:
            nothing = Timed(np.zeros_like(tokens.each))
            return nothing, nothing
        hidden = self.model.hidden
        both = (ffn.latent, hidden, 1), (hidden, ffn.latent, 1)
        down, up = (self._gemms("dense", [each], *tokens.own) for each in both)
        return down, up

    def dense(
        self, intermediate: float, tokens: ArrayLike, alike: Ns | None = None, gated: bool = True
    ) -> Timed:
        """Return the time of an FFN of `intermediate` columns over `tokens` rows."""
        if intermediate == 0:
            return Timed(np.zeros(np.shape(tokens), dtype=np.int64))
        hidden = self.model.hidden
        both = ((1 + gated) * intermediate, hidden, 1), (hidden, intermediate, 1)
        return self._gemms("dense", both, tokens, alike)

    def experts(self, ffn: MoeFfn, spread: Spread, tokens: Ns, shared: bool = False) -> Timed:
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
                tile = ops.expert_tile_rows(kernel, self.table.accelerator.gemm_tile_rows)
                own = ops.padded(ops.per(ops.floats(routed), ops.floats(hit)), tile)
                tile_tokens = hit * own + fused * ops.padded(tokens / spread.ranks, tile)
            experts = ops.moe(
                self.precision.of("experts"),
                ffn.width(self.model.hidden),
                ffn.expert_intermediate / spread.slices,
                np.broadcast_to(hit + fused, both.shape),
                routed + fused * tokens / spread.ranks,
                self.table.accelerator.gemm_tile_rows,
                kernel,
                np.full(both.shape, float(held + fused)),
                tile_tokens,
                ffn.gated,
            )
            return self._with_exchange(ffn, experts, routed, spread)

        hot = hottest_factors(self.load, tokens, spread.held(ffn), ffn.top_k)
        op = launch(self.experts_kernel, active, hot)
        curve, _own = self.table.serving(op)
        if curve is not None:
            # Where the slowest rank was itself measured under this load, no factor is needed.
            name = f"{curve.kernel}/{self.load}"
            if self.table.has_format(op.name, name, op.dtype):
                hit = hit_experts(name, np.asarray(float(held)), ops.floats(pairs))
                measured = launch(name, hit, np.ones(1))
                op = measured if self.table.serving(measured)[1] else op
        both = self.table.timed(op)
        if self._goes_in_turn and self.load not in served.EVEN:
            hottest = self._hottest_in_turn(ffn, spread, tokens, fused)
            both.ns[..., :1] = np.maximum(hottest, both.ns[..., 1:])
        ns = np.repeat(both.ns[..., 1:], spread.ranks, axis=-1)
        # A kernel that combines ends with the last of its peers.
        ns[..., : spread.ranks if self.experts_exchange else 1] = both.ns[..., :1]
        times = both.lasting(ns)
        if shared and not fused:
            columns = ffn.shared * ffn.shared_intermediate / spread.slices
            times += self.dense(columns, tokens / spread.ranks, gated=ffn.gated)
        return times

    def _fused(self, ffn: MoeFfn) -> int:
        """Return the shared experts that the kernel of the routed ones takes as further experts."""
        alike = self.precision.of("dense") == self.precision.of("experts")
        alike = alike and ffn.latent is None
        return ffn.shared if alike and ffn.shared_intermediate == ffn.expert_intermediate else 0

    def drawn_experts(
        self, ffn: MoeFfn, spread: Spread, loads: Ns, tokens: float, shared: bool = False
    ) -> Timed:
        """Return the time of the experts on each rank (layers × ranks), given their loads.

        `loads` are the tokens of each expert of a rank (layers × ranks × experts). Shared experts
        are as in `experts`. Usage is that of all layers.
        """
        fused = self._fused(ffn) if shared else 0
        ranks = loads.reshape(-1, loads.shape[-1])
        first, kind, count = alike(ranks, self._expert_tile_rows)
        share = np.full((len(first), fused), tokens / spread.ranks)
        held = np.concatenate([ranks[first], share], axis=-1)
        op = self._rank_op(ffn, spread, held)
        op = self._with_exchange(ffn, op, held.sum(axis=-1), spread)
        times = self.table.timed(op, count).on(spread.slices)
        ns = times.ns[kind]
        if self._goes_in_turn:
            shared_tokens = np.full((len(ranks), fused), tokens / spread.ranks)
            known = np.concatenate([ranks, shared_tokens], axis=-1)
            ns = whole_ns(ns * self._in_turn(ffn, spread, known), "experts")
        times = times.lasting(ns.reshape(loads.shape[:-1]))
        if self.experts_exchange:
            times.ns[:] = times.ns.max(axis=-1, keepdims=True)
        if shared and not fused:
            columns = ffn.shared * ffn.shared_intermediate / spread.slices
            gpus = spread.ranks * spread.slices * len(loads)
            times += self.dense(columns, tokens / spread.ranks, gated=ffn.gated).on(gpus)
        return times

    @property
    def _expert_tile_rows(self) -> float:
        """Return the rows to which the kernel of the experts pads each."""
        card = self.table.accelerator
        return ops.expert_tile_rows(self.experts_kernel, card.gemm_tile_rows)

    @property
    def _goes_in_turn(self) -> bool:
        """Return whether the kernel takes one expert after the other, as measured under skew."""
        return self.experts_kernel == served.MASKED

    def _rank_op(self, ffn: MoeFfn, spread: Spread, loads: ops.Floats) -> ops.Op:
        """Return the experts of ranks that hold `loads` of each (… × experts)."""
        columns = ffn.expert_intermediate / spread.slices
        kind = self.precision.of("experts"), ffn.width(self.model.hidden), columns
        return rank_op(*kind, loads, self.experts_kernel, self._expert_tile_rows, ffn.gated)

    def _hottest_in_turn(self, ffn: MoeFfn, spread: Spread, tokens: Ns, fused: int) -> Ns:
        """Return the mean time of the hottest rank over draws of its experts' loads."""
        drawn = scattered_loads(self.load, tokens, spread.held(ffn), ffn.top_k)
        alike = np.broadcast_to(tokens[..., np.newaxis] / spread.ranks, (*drawn.shape[:-1], 1))
        loads = np.concatenate([drawn, *[alike] * fused], axis=-1)
        even = self.table.timed(self._rank_op(ffn, spread, loads)).ns
        times = even * self._in_turn(ffn, spread, loads)
        return whole_ns(times.mean(axis=-1, keepdims=True), "experts")

    def _in_turn(self, ffn: MoeFfn, spread: Spread, loads: ops.Floats) -> ops.Floats:
        """Return how many times longer ranks take for not being loaded equally."""
        rows = self._expert_tile_rows
        tiles = np.ceil(loads / rows).astype(np.int64)

        def one(by_tiles: Ns) -> ops.Op:
            return self._rank_op(ffn, spread, ops.floats(by_tiles[:, np.newaxis] * rows))

        return stretch(self.table, one, tiles)

    def draft_projection(self, tokens: GpuTokens) -> Timed:
        """Return the time of a drafting layer's projection of 2·hidden to hidden."""
        hidden = self.model.hidden
        return self._gemms("attention", [(hidden, 2 * hidden, 1)], *tokens.own)

    def lm_head(self, tokens: GpuTokens, tp: int, ranks: int) -> Timed:
        """Return the time of the LM head shared by `tp` neighbouring GPUs, gathering included.

        Their tokens are those of `ranks` ranks, each of which has them on all of its GPUs.
        """
        dtype, vocab, hidden = self.precision.lm_head, self.model.vocab, self.model.hidden
        tile = self.table.accelerator.gemm_tile_rows

        def time(rows: ops.Floats) -> Timed:
            total = self.table.timed(ops.gemm(dtype, rows, vocab / tp, hidden, tile))
            if ranks > 1:
                full = rows * hidden * DTYPE_BYTES["bf16"]
                total += self.table.timed(ops.collective("all_gather", "bf16", ranks, full))
            return total

        rows, alike = tokens.together(ranks).own
        what = ("lm_head", dtype, vocab, hidden, tp, ranks)
        shared = self.table.timed_each(what, rows, time, alike).on(tp)
        return shared.lasting(np.repeat(shared.ns, ranks, axis=-1))


class _Projections(NamedTuple):
    """Projections of an attention, as they stand to its core."""

    before: Sequence[Projection]
    after: Sequence[Projection]
    output: Projection


def us(value: float, requests: Ns) -> Ns:
    """Return `value` µs as ns on every GPU that has requests, 0 elsewhere."""
    return np.where(requests > 0, from_us(value, "glue of a layer"), 0)


def split_evenly(total: int, parts: int, what: str, remedy: str) -> int:
    """Return total/parts. Raises InfeasibleError with the remedy if it is no whole number."""
    if total % parts:
        raise InfeasibleError(f"{total} {what} do not divide over {parts} GPUs: {remedy}")
    return total // parts
