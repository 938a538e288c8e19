"""Exchange: how EP ranks dispatch tokens to experts and combine what these return.

Ranks gather, or run an all-to-all. Masked experts stand behind DeepEP, whose dispatch lays tokens
out for them; others follow the first all-to-all that their engine names and that was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sim.deployments.layers import LayerTimer
from sim.foundation.nanoseconds import whole_ns
from sim.foundation.units import NS_PER_US
from sim.inputs.deployment import Ep
from sim.inputs.hardware import Fabric
from sim.inputs.model import MoeFfn
from sim.kernels import ops, served
from sim.kernels.timed import Timed, uncalibrated


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
        if self.ep.gpus == 1 or self.timer.experts_exchange:
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
    def sends_once(self) -> bool:
        """Return whether a token goes once to a rank that hosts several of its experts."""
        named = self._kernel("dispatch", self.ep.dispatch_dtype)
        domain = self.timer.table.accelerator.node.scale_up_domain_gpus
        return ops.exchange_kernel(named, self.ep.gpus, domain).startswith("trtllm")

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
        hidden, top_k = self.timer.model.hidden, self.ffn.top_k
        shape = self.ep.gpus, domain, most_tokens, hidden, top_k, self.copies
        return ops.a2a(direction, dtype, *shape, kernel, self.timer.load == "balanced")

    def _gathered(self, direction: ops.Direction, most_tokens: ArrayLike) -> ops.Op:
        """Return the collective that stands for dispatch or combine: all ranks have all tokens.

        Shorter ranks are padded to the fullest.
        """
        dtype, gpus = self._dtype(direction), self.ep.gpus
        hidden = self.timer.model.hidden
        full = gpus * ops.floats(most_tokens) * ops.activation_bytes(hidden, dtype)
        # NCCL moves bytes: formats narrower than BF16 as it moves integers.
        name: ops.Collective = "reduce_scatter" if direction == "combine" else "all_gather"
        return ops.collective(name, "bf16" if dtype == "bf16" else "int8", gpus, full)
