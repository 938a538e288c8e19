"""Layer times: what the layers of a model cost on a card, as the kernel table has it (DESIGN §3).

The deployments put these together; all results are whole nanoseconds, one value per GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from sim.deployments.batch import GpuTokens
from sim.deployments.experts import EngineKernels, ExpertsTimer
from sim.deployments.projections import ProjectionTimer
from sim.foundation.nanoseconds import Ns
from sim.foundation.units import DTYPE_BYTES
from sim.inputs.attention import Projection
from sim.inputs.model import ModelCard, MoeFfn
from sim.inputs.scenario import Precision
from sim.kernels import cores, ops, served
from sim.kernels.core_line import CoreLine
from sim.kernels.kernel_table import KernelTable
from sim.kernels.timed import Timed

# Times of this many different loads are kept; few are those of a closed loop.
_MOST_KEPT = 1 << 16
_FEW_KEPT = 64

# Totals that are asked together.
_TOGETHER = 32


class Attended(NamedTuple):
    """An attention as a layer goes through it."""

    name: str
    positions: int
    """Tokens of a request that go through it at once."""
    crowded: bool
    """Whether communication takes SMs beside it."""
    ffn: bool = True
    """Whether an FFN follows; else the next layer's attention does."""


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

    @cached_property
    def _gemms(self) -> ProjectionTimer:
        return ProjectionTimer(self.model.hidden, self.precision, self.table)

    @cached_property
    def experts(self) -> ExpertsTimer:
        """What times the experts."""
        return ExpertsTimer(self._gemms, self.load, self.moe_kernel, self.chosen, self.kernels)

    def dense(
        self, intermediate: float, tokens: ArrayLike, alike: Ns | None = None, gated: bool = True
    ) -> Timed:
        """Return the time of an FFN of `intermediate` columns over `tokens` rows."""
        return self._gemms.ffn(intermediate, tokens, alike, gated)

    def before_core(self, name: str, tokens: GpuTokens) -> Timed:
        """Return the time of the projections before the core of attention `name`."""
        return self._gemms.timed("attention", self._projections[name].before, *tokens.own)

    def after_core(self, name: str, tokens: GpuTokens) -> Timed:
        """Return the time between core and output projection (MLA's absorption of V)."""
        return self._gemms.timed("attention", self._projections[name].after, *tokens.own)

    def output(self, name: str, rows: GpuTokens, tp: int) -> Timed:
        """Return the time of the output projection of `rows`, its heads shared by `tp` GPUs."""
        output = self._projections[name].output
        return self._gemms.timed("o_proj", [output._replace(k=output.k // tp)], *rows.own)

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
        down, up = (self._gemms.timed("dense", [each], *tokens.own) for each in both)
        return down, up

    def draft_projection(self, tokens: GpuTokens) -> Timed:
        """Return the time of a drafting layer's projection of 2·hidden to hidden."""
        hidden = self.model.hidden
        return self._gemms.timed("attention", [(hidden, 2 * hidden, 1)], *tokens.own)

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
