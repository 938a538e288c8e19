"""Links: how long tokens travel between attention and FFN GPUs, and inside an FFN instance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.deployments.layers import GpuTokens, LayerTimer, Ns, in_groups
from sim.deployments.links import payload_bytes_per_s
from sim.foundation.nanoseconds import whole_ns
from sim.foundation.units import DTYPE_BYTES, NS_PER_S
from sim.inputs.deployment import Afd
from sim.inputs.hardware import Fabric
from sim.inputs.model import DenseFfn, MoeFfn
from sim.kernels import ops, served
from sim.kernels.hottest_rank import Held
from sim.kernels.timed import Timed
from sim.variation.expert_loads import hottest_visits, visits


@dataclass(frozen=True)
class AfdLinks:
    """Transfers between the sides of an AFD deployment, and collectives of its FFN instances."""

    afd: Afd
    fabric: Fabric
    attention: LayerTimer
    ffn: LayerTimer

    def goodput(self, timer: LayerTimer) -> float:
        """Return the payload that a GPU of a side sends or receives, B/s."""
        return payload_bytes_per_s(timer.table.accelerator, self.fabric)

    @property
    def servers(self) -> int:
        """FFN GPUs, or groups of them that work together."""
        return self.afd.ffn.gpu_count() // self.afd.ffn.gpus_together

    @property
    def follow_routing(self) -> bool:
        """Whether a token goes only to the FFN servers that host one of its experts."""
        return self.afd.a2f == "routed" and self.afd.ffn.parallelism != "tp"

    def visits(self, ffn: MoeFfn | DenseFfn) -> float:
        """Return the probability that a token goes to a given FFN server."""
        if not self.follow_routing or isinstance(ffn, DenseFfn):
            return 1.0
        return float(visits(np.ones(self.servers), ffn.experts, ffn.top_k)[0])

    def visited(self, ffn: MoeFfn | DenseFfn, tokens: Ns) -> ops.Floats:
        """Return to how many FFN servers an attention GPU sends each of its `tokens`, summed."""
        return ops.floats(tokens) * self.visits(ffn) * self.servers

    def of_attention(self, visited: ops.Floats) -> dict[str, Timed]:
        """Return how long the links of attention GPUs are busy.

        A GPU sends each of its tokens to every server that wants it: `visited` of them together.
        """
        goodput = self.goodput(self.attention)
        return {
            "a2f": Timed(whole_ns(visited * self._there / goodput * NS_PER_S, "a2f")),
            "f2a_in": Timed(whole_ns(visited * self._back / goodput * NS_PER_S, "f2a_in")),
        }

    def of_ffn(self, ffn: MoeFfn | DenseFfn, tokens: GpuTokens) -> dict[str, Timed]:
        """Return how long the links of FFN GPUs are busy.

        The ranks of an instance share the tokens that come, and the fullest rank sets the pace.
        """
        fullest, goodput = self._fullest(ffn, tokens), self.goodput(self.ffn)
        return {
            "a2f_in": Timed(whole_ns(fullest * self._there / goodput * NS_PER_S, "a2f_in")),
            "f2a": Timed(whole_ns(fullest * self._back / goodput * NS_PER_S, "f2a")),
        }

    def drawn(self, tokens: Ns, visited: ops.Floats) -> dict[str, Timed]:
        """Return the times of links by layer, given the share of tokens that visit a server.

        `tokens` are those of each attention GPU, `visited` is layers × servers.
        """
        each = GpuTokens(tokens).apart(self.afd.attention.tp).each
        sent = visited.sum(axis=1, keepdims=True) * each
        fullest = visited * self.rails(GpuTokens(tokens))
        there, back = float(self._there), float(self._back)
        a_ns = NS_PER_S / self.goodput(self.attention)
        f_ns = NS_PER_S / self.goodput(self.ffn)
        collectives = self.collectives(visited * tokens.sum(), self.afd.ffn.gpus_together)
        return {stage: timed.together() for stage, timed in collectives.items()} | {
            "a2f": Timed(whole_ns(sent * there * a_ns, "a2f")),
            "a2f_in": Timed(whole_ns(fullest * there * f_ns, "a2f_in")),
            "f2a": Timed(whole_ns(fullest * back * f_ns, "f2a")),
            "f2a_in": Timed(whole_ns(sent * back * a_ns, "f2a_in")),
        }

    def collectives(self, arriving: ops.Floats, gpus: int) -> dict[str, Timed]:
        """Return the times of all-gather and reduce-scatter of the tokens that arrive, if any."""
        g, table = self.afd.ffn.gpus_together, self.ffn.table
        if g == 1:
            return {}
        gathered = arriving * self._there
        summed = arriving * self.ffn.model.hidden * DTYPE_BYTES[self.afd.f2a_dtype]
        kind = self.afd.ffn.collectives
        summing = served.NCCL if kind == served.COPY_ENGINE else kind
        # A collective's time goes by its bytes; BF16 is the format that was measured.
        gather = ops.collective("all_gather", "bf16", g, gathered, kind)
        scatter = ops.collective("reduce_scatter", "bf16", g, summed, summing)
        return {
            "all_gather": table.timed(gather).on(gpus),
            "reduce_scatter": table.timed(scatter).on(gpus),
        }

    def rails(self, tokens: GpuTokens) -> ops.Floats:
        """Return the most tokens that one rank of an FFN instance exchanges, by load (… × 1)."""
        g, tp = self.afd.ffn.gpus_together, self.afd.attention.tp
        if g > 1 and tp > 1:
            alike = None if tokens.alike is None else np.repeat(tokens.alike, tp, axis=-1)
            tokens = GpuTokens(np.repeat(tokens.apart(tp).each, tp, axis=-1), alike, tokens.taking)
        rails = rail_load(g, tokens)
        return rails if tokens.taking is None else rails * tokens.taking

    def _fullest(self, ffn: MoeFfn | DenseFfn, tokens: GpuTokens) -> ops.Floats:
        """Return the tokens of the fullest rank that visit its server, the hottest of all."""
        rails, load = self.rails(tokens), self.ffn.load
        if load in served.EVEN or isinstance(ffn, DenseFfn) or not self.follow_routing:
            return rails * self.visits(ffn)
        copies = ffn.experts + self.afd.ffn.redundant_experts
        held = Held(copies, self.servers, ffn.experts)
        return rails * hottest_visits(load, tokens.total(), held, ffn.top_k)

    @property
    def _there(self) -> ops.Floats:
        """Bytes of a token on its way to the FFN."""
        return ops.activation_bytes(self.ffn.model.hidden, self.afd.a2f_dtype)

    @property
    def _back(self) -> ops.Floats:
        """Bytes of its result."""
        return ops.activation_bytes(self.ffn.model.hidden, self.afd.f2a_dtype)


def rail_load(ranks: int, tokens: GpuTokens) -> ops.Floats:
    """Return the most tokens that one of an FFN instance's `ranks` exchanges with attention GPUs.

    Same-rank rails: attention GPU i talks to rank i mod `ranks`; where an instance has more ranks
    than there are attention GPUs, each GPU spreads its tokens over several. By load (… × 1).
    """
    each, gpus = tokens.each, tokens.each.shape[-1]
    if tokens.alike is not None:
        each = each * tokens.alike
    if gpus < ranks:
        sharing = np.bincount(np.arange(ranks) % gpus, minlength=gpus)
        return np.asarray((each / sharing).max(axis=-1, keepdims=True))
    if gpus % ranks:
        each = np.append(each, np.zeros((*each.shape[:-1], -gpus % ranks), np.int64), axis=-1)
    by_rank = in_groups(each, ranks).sum(axis=-2)
    return np.asarray(by_rank.max(axis=-1, keepdims=True), dtype=np.float64)
