"""Exchange: how EP ranks dispatch tokens to experts and combine what these return.

Ranks gather, or run an all-to-all. Masked experts stand behind DeepEP, whose dispatch lays tokens
out for them; others follow the first all-to-all that their engine names and that was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from sim.deployments.layers import LayerTimer
from sim.foundation.nanoseconds import Ns, whole_ns
from sim.foundation.units import NS_PER_US
from sim.inputs.deployment import Ep
from sim.inputs.hardware import Fabric
from sim.inputs.model import MoeFfn
from sim.kernels import ops, served
from sim.kernels.hottest_rank import Held
from sim.kernels.timed import Timed, uncalibrated
from sim.variation.expert_loads import excess, hottest_visits


@dataclass(frozen=True)
class Exchange:
    """The all-to-all of an EP group over experts of one kind."""

    ep: Ep
    timer: LayerTimer
    fabric: Fabric
    ffn: MoeFfn
    copies: int

    def timed(self, direction: ops.Direction, most_tokens: ArrayLike) -> Timed:
        """Return the time of dispatch or combine on all GPUs, by the tokens of the fullest rank.

        A single GPU holds all experts and exchanges nothing; some kernels of experts exchange too.
        """
        if self._is_none:
            return Timed(np.zeros(np.shape(most_tokens), dtype=np.int64))
        if self.ep.exchange == "gather":
            gathered = self._gathered(direction, most_tokens)
            return self.timer.table.timed(gathered).on(self.ep.gpus)
        dtype = self._dtype(direction)
        kernel = self._kernel(direction, dtype)
        table = self.timer.table
        op = self._op(direction, dtype, kernel, most_tokens)
        time = table.timed(op)
        if direction == "dispatch" and kernel == served.TRTLLM_NVLINK:
            time += table.timed(self._op("prepare", "bf16", kernel, most_tokens))
        if op.medium == self.fabric.medium and table.serving(op)[0] is None:
            # No one measured this card's all-to-all: it moves its bytes as the fabric would.
            slower = table.accelerator.default_efficiency / self.fabric.goodput
            as_fabric = time.ns * slower + self.fabric.latency_us * NS_PER_US
            time = uncalibrated(whole_ns(as_fabric, op.name))
        return time.on(self.ep.gpus)

    @property
    def _width(self) -> int:
        """Elements of a token as the experts take it."""
        return self.ffn.width(self.timer.model.hidden)

    @property
    def sends_once(self) -> bool:
        """Return whether a token goes once to a rank that hosts several of its experts."""
        named = self._kernel("dispatch", self.ep.dispatch_dtype)
        domain = self.timer.table.accelerator.node.scale_up_domain_gpus
        return ops.exchange_kernel(named, self.ep.gpus, domain).startswith("trtllm")

    def fullest(self, held: Held, total: Ns, most: Ns) -> Ns | ops.Floats:
        """Return the tokens that would load the fullest rank under uniform routing.

        That rank sends most, or hosts the hottest experts: what arrives there, and what leaves it
        on the way back, takes as long as everyone waits. TensorRT-LLM's kernels send a token to a
        rank once, however many of its experts lie there.
        """
        load, top_k = self.timer.load, self.ffn.top_k
        if load in served.EVEN or self.ep.exchange == "gather" or self._is_none:
            return most
        if self.sends_once:
            alike = hottest_visits("uniform", total, held, top_k)
            ratio = hottest_visits(load, total, held, top_k) / alike
        else:
            ratio = excess(load, total, held, top_k)
        return np.maximum(ops.floats(most), ratio * total / self.ep.gpus)

    def turns(self, most: Ns, at_once: float | None) -> list[tuple[Ns, Ns]]:
        """Return where each turn begins and ends, in tokens of the fullest rank, which has `most`.

        DeepEP's low-latency kernels, before masked experts, take as many tokens of a rank `at_once`
        as their buffers are allocated for; None: all.
        """
        masked = self.timer.moe_kernel == served.MASKED and self.ep.exchange == "all_to_all"
        if at_once is None or not masked or self._is_none:
            return [(np.zeros_like(most), most)]
        number = max(1, -(-int(most.max()) // int(at_once)))
        return list(pairwise(np.minimum(most, int(at_once) * turn) for turn in range(number + 1)))

    @property
    def _is_none(self) -> bool:
        """Return whether nothing is exchanged apart from the experts."""
        return self.ep.gpus == 1 or self.timer.experts.exchanges

    def _dtype(self, direction: ops.Direction) -> str:
        return self.ep.combine_dtype if direction == "combine" else self.ep.dispatch_dtype

    def _kernel(self, direction: ops.Direction, dtype: str) -> str:
        """Return the engine's kernel; empty for what is usual on the card.

        DeepEP lays tokens out for masked kernels, others for the framework's own.
        """
        named, table = self.timer.kernels.get("a2a", {}).get(dtype, ()), self.timer.table
        masked = self.timer.moe_kernel == served.MASKED
        fits = (name for name in named if name.startswith("deepep") == masked)
        return next((n for n in fits if table.has_format(f"a2a_{direction}", n, dtype)), "")

    def _op(
        self, direction: ops.Direction, dtype: str, kernel: str, most_tokens: ArrayLike
    ) -> ops.Op:
        domain = self.timer.table.accelerator.node.scale_up_domain_gpus
        shape = self.ep.gpus, domain, most_tokens, self._width, self.ffn.computed(), self.copies
        return ops.a2a(direction, dtype, *shape, kernel, self.timer.load == "balanced")

    def _gathered(self, direction: ops.Direction, most_tokens: ArrayLike) -> ops.Op:
        """Return the collective that stands for dispatch or combine: all ranks have all tokens.

        Shorter ranks are padded to the fullest.
        """
        dtype, gpus = self._dtype(direction), self.ep.gpus
        full = gpus * ops.floats(most_tokens) * ops.activation_bytes(self._width, dtype)
        # NCCL moves bytes: formats narrower than BF16 as it moves integers.
        name: ops.Collective = "reduce_scatter" if direction == "combine" else "all_gather"
        return ops.collective(name, "bf16" if dtype == "bf16" else "int8", gpus, full)


def between(amount: Ns, most: Ns, begin: Ns, end: Ns) -> Ns:
    """Return what of an `amount` goes with the fullest rank's tokens from `begin` to `end`."""
    whole = np.maximum(most, 1)
    return np.asarray(amount * end // whole - amount * begin // whole)


def one_after_the_other(turns: Sequence[dict[str, Timed]]) -> dict[str, Timed]:
    """Return how long each stage takes in all turns together."""
    first, *others = turns
    return {stage: sum((turn[stage] for turn in others), first[stage]) for stage in first}
