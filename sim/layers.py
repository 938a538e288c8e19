"""Layer times: what the layers of a model cost on a card, as the kernel table has it (DESIGN §3).

The deployments put these together; all results are whole nanoseconds, one value per GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim import ops
from sim.errors import InfeasibleError
from sim.kernels import KernelTable
from sim.kvcache import kv_dtype
from sim.model import DenseFfn, LinearAttention, Mla, ModelCard, MoeFfn, Projection
from sim.scenario import Precision
from sim.units import DTYPE_BYTES, NS_PER_US

Ns = NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """What a micro-batch holds at a step boundary, per attention GPU."""

    requests: NDArray[np.int64]
    """Requests on each GPU."""
    kv_tokens: Mapping[int | None, NDArray[np.int64]]
    """Context tokens on each GPU that a layer with this attention window reads."""

    @classmethod
    def even(cls, gpus: int, requests: float, ctx: float, windows: Iterable[int | None]) -> Batch:
        """Return a batch of as many like requests of `ctx` context tokens on every GPU."""
        each = max(1, round(requests))
        seen = {w: each * round(ctx if w is None else min(ctx, w)) for w in {None, *windows}}
        kv_tokens = {window: np.full(gpus, tokens) for window, tokens in seen.items()}
        return cls(np.full(gpus, each), kv_tokens)

    def is_empty(self) -> bool:
        """Return whether no request is in the micro-batch."""
        return not self.requests.any()


@dataclass(frozen=True)
class LayerTimer:
    """Times the parts of a model's layers on one kind of GPU."""

    model: ModelCard
    precision: Precision
    table: KernelTable

    def _gemms(self, projections: Iterable[Projection], m: ArrayLike, ways: int, uses: int) -> Ns:
        """Return the time of projections one after the other, output columns cut `ways` ways."""
        tile = self.table.accelerator.gemm_tile_rows
        total = np.zeros(np.shape(m), dtype=np.int64)
        for n, k, groups in projections:
            op = ops.gemm(self.precision.gemm, m, n * groups / ways, k, tile)
            total = total + self.table.duration_ns(op, uses)
        return total

    def before_core(self, name: str, requests: ArrayLike, uses: int) -> Ns:
        """Return the time of the projections before the core of attention `name`."""
        projections = self.model.attention[name].before_core(self.model.hidden)
        return self._gemms(projections, requests, 1, uses)

    def after_core(self, name: str, requests: ArrayLike, tp: int, uses: int) -> Ns:
        """Return the time of the projections after the core, shared by `tp` GPUs.

        Each of the `tp` GPUs then multiplies the rows of all of them with its share of the
        weights; `requests` are the rows that it multiplies.
        """
        projections = self.model.attention[name].after_core(self.model.hidden)
        return self._gemms(projections, requests, tp, uses)

    def core(self, name: str, batch: Batch, uses: int) -> Ns:
        """Return the time of the attention core of a layer with attention `name`."""
        attention = self.model.attention[name]
        tile = self.table.accelerator.query_tile_rows
        dtype = kv_dtype(self.model, name, self.precision.kv)
        if isinstance(attention, LinearAttention):
            op = ops.attention_linear(
                dtype, attention.state_elements(), attention.core_flops(0), batch.requests
            )
        elif isinstance(attention, Mla):
            op = ops.attention_mla(
                dtype,
                attention.query_heads,
                attention.kv_lora,
                attention.rope,
                batch.requests,
                batch.kv_tokens[None],
                tile,
            )
        else:
            op = ops.attention_gqa(
                dtype,
                attention.query_heads,
                attention.kv_heads,
                attention.head_dim,
                batch.requests,
                batch.kv_tokens[attention.window],
                tile,
            )
        return self.table.duration_ns(op, uses)

    def router(self, name: str, requests: ArrayLike, uses: int) -> Ns:
        """Return the time of the expert router in front of FFN `name`; none before a dense one."""
        ffn = self.model.ffn[name]
        if isinstance(ffn, DenseFfn):
            return np.zeros(np.shape(requests), dtype=np.int64)
        tile = self.table.accelerator.gemm_tile_rows
        op = ops.gemm(self.precision.lm_head, requests, ffn.experts, self.model.hidden, tile)
        return self.table.duration_ns(op, uses)

    def dense(self, intermediate: float, tokens: ArrayLike, uses: int) -> Ns:
        """Return the time of a gated FFN of `intermediate` columns over `tokens` rows."""
        if intermediate == 0:
            return np.zeros(np.shape(tokens), dtype=np.int64)
        hidden = self.model.hidden
        tile = self.table.accelerator.gemm_tile_rows
        dtype = self.precision.gemm
        up = ops.gemm(dtype, tokens, 2 * intermediate, hidden, tile)
        down = ops.gemm(dtype, tokens, hidden, intermediate, tile)
        return self.table.duration_ns(up, uses) + self.table.duration_ns(down, uses)

    def experts(
        self, ffn: MoeFfn, held: int, copies: int, slices: int, tokens: ArrayLike, uses: int
    ) -> Ns:
        """Return the time of the routed experts on a GPU under uniform routing.

        `tokens` are all tokens of the micro-batch, `held` the experts on the GPU among `copies`
        physical ones, each cut in `slices`. Only experts that are hit are read: the expected
        number is held·(1 − (1 − k/copies)^tokens).
        """
        rows = np.asarray(tokens, dtype=np.float64)
        share = ffn.top_k / copies
        active = held * -np.expm1(rows * np.log1p(-min(share, 1 - 1e-12)))
        op = ops.moe(
            self.precision.gemm,
            self.model.hidden,
            ffn.expert_intermediate / slices,
            active,
            rows * share * held,
            self.table.accelerator.gemm_tile_rows,
        )
        return self.table.duration_ns(op, uses)

    def lm_head(self, requests: NDArray[np.int64], tp: int) -> Ns:
        """Return the time of the LM head shared by `tp` neighbouring GPUs, gathering included."""
        rows = requests.reshape(-1, tp).sum(axis=1)
        accelerator = self.table.accelerator
        op = ops.gemm(
            self.precision.lm_head,
            rows,
            self.model.vocab / tp,
            self.model.hidden,
            accelerator.gemm_tile_rows,
        )
        time = self.table.duration_ns(op)
        if tp > 1:
            full = rows * self.model.hidden * DTYPE_BYTES["bf16"]
            time = time + self.table.duration_ns(ops.collective("all_gather", "bf16", tp, full))
        return whole_ns(np.repeat(time, tp))


def whole_ns(time_ns: ArrayLike) -> Ns:
    """Return times rounded to whole ns."""
    return np.rint(time_ns).astype(np.int64)


def us(value: float, requests: NDArray[np.int64]) -> Ns:
    """Return `value` µs as ns on every GPU that has requests, 0 elsewhere."""
    return np.where(requests > 0, round(value * NS_PER_US), 0)


def split_evenly(total: int, parts: int, what: str, remedy: str) -> int:
    """Return total/parts. Raises InfeasibleError with the remedy if it is no whole number."""
    if total % parts:
        raise InfeasibleError(f"{total} {what} do not divide over {parts} GPUs: {remedy}")
    return total // parts
