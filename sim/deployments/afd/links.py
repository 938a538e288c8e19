"""Links: how long tokens travel between attention and FFN GPUs, and inside an FFN instance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.deployments.batch import GpuTokens, in_groups
from sim.deployments.exchange import Exchange
from sim.deployments.layers import LayerTimer
from sim.deployments.links import payload_bytes_per_s
from sim.foundation.nanoseconds import Ns, from_us, whole_ns
from sim.foundation.units import DTYPE_BYTES, NS_PER_S, DType
from sim.inputs.deployment import Afd, Ep
from sim.inputs.hardware import Fabric
from sim.inputs.model import DenseFfn, MoeFfn
from sim.kernels import ops, served
from sim.kernels.hottest_rank import Held
from sim.kernels.timed import Timed
from sim.variation.expert_loads import hottest_visits, visits

# Formats to which activations are quantised before they are dispatched.
_DISPATCHED: dict[str, DType] = {"fp8": "fp8", "int8": "int8"}


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
        share = visits(np.ones(self.servers), ffn.experts, ffn.top_k, ffn.zero_experts)
        return float(share[0])

    def visited(self, ffn: MoeFfn | DenseFfn, tokens: Ns) -> ops.Floats:
        """Return to how many FFN servers an attention GPU sends each of its `tokens`, summed."""
        return ops.floats(tokens) * self.visits(ffn) * self.servers

    def of_attention(
        self, ffn: MoeFfn | DenseFfn, tokens: Ns, visited: ops.Floats
    ) -> dict[str, Timed]:
        """Return how long the links of attention GPUs are busy.

        A GPU sends each of its `tokens` to every server that wants it: `visited` of them together.
        """
        goodput, whole = self.goodput(self.attention), tokens * self.servers
        there = self._bytes(ffn, self.afd.a2f_dtype, visited, whole)
        back = self._bytes(ffn, self.afd.f2a_dtype, visited, whole)
        return {
            "a2f": Timed(self._busy_ns(there, goodput, "a2f")),
            "f2a_in": Timed(self._busy_ns(back, goodput, "f2a_in")),
        }

    def of_ffn(self, ffn: MoeFfn | DenseFfn, tokens: GpuTokens) -> dict[str, Timed]:
        """Return how long the links of FFN GPUs are busy.

        The ranks of an instance share the tokens that come, and the fullest rank sets the pace.
        """
        fullest, goodput = self._fullest(ffn, tokens), self.goodput(self.ffn)
        rails = self.rails(tokens)
        there = self._bytes(ffn, self.afd.a2f_dtype, fullest, rails)
        back = self._bytes(ffn, self.afd.f2a_dtype, fullest, rails)
        return {
            "a2f_in": Timed(self._busy_ns(there, goodput, "a2f_in")),
            "f2a": Timed(self._busy_ns(back, goodput, "f2a")),
        }

    def _busy_ns(self, n_bytes: ops.Floats, goodput: float, stage: str) -> Ns:
        """Return how long a link is busy, or a GPU that sends or receives in its own stream.

        Of two GPUs that do so each has half of the latency of a message.
        """
        ns = whole_ns(n_bytes / goodput * NS_PER_S, stage)
        if not self.afd.in_stream:
            return ns
        return np.where(n_bytes > 0, ns + from_us(self.fabric.latency_us / 2, stage), 0)

    def exchanges(self, ffn: MoeFfn, most_tokens: ops.Floats) -> dict[str, Timed]:
        """Return dispatch and combine inside an instance whose GPUs route the tokens they get."""
        side, experts = self.afd.ffn, self.ffn.precision.of("experts")
        ep = Ep(
            kind="ep",
            accelerator=side.accelerator,
            gpus=side.gpu_count(),
            redundant_experts=side.redundant_experts,
            moe_kernel=side.moe_kernel,
            overlap="none",
            dispatch_dtype=_DISPATCHED.get(experts, "bf16"),
            combine_dtype=self.afd.f2a_dtype,
            lm_head_tp=1,
            fabric=self.afd.fabric,
        )
        copies = ffn.experts + side.redundant_experts
        exchange = Exchange(ep, self.ffn, self.fabric, ffn, copies)
        return {
            "all_gather": exchange.timed("dispatch", most_tokens),
            "reduce_scatter": exchange.timed("combine", most_tokens),
        }

    def drawn(self, ffn: MoeFfn, tokens: Ns, visited: ops.Floats) -> dict[str, Timed]:
        """Return the times of links by layer, given the share of tokens that visit a server.

        `tokens` are those of each attention GPU, `visited` is layers × servers.
        """
        each = GpuTokens(tokens).apart(self.afd.attention.tp).each
        sent, rails = visited.sum(axis=1, keepdims=True) * each, self.rails(GpuTokens(tokens))
        fullest, whole = visited * rails, each * self.servers

        def there(visiting: ops.Floats, tokens: ops.Floats | Ns) -> ops.Floats:
            return self._bytes(ffn, self.afd.a2f_dtype, visiting, tokens)

        def back(visiting: ops.Floats, tokens: ops.Floats | Ns) -> ops.Floats:
            return self._bytes(ffn, self.afd.f2a_dtype, visiting, tokens)

        a_ns = NS_PER_S / self.goodput(self.attention)
        f_ns = NS_PER_S / self.goodput(self.ffn)
        total = tokens.sum()
        collectives = self.collectives(ffn, visited * total, total, self.afd.ffn.gpus_together)
        return {stage: timed.together() for stage, timed in collectives.items()} | {
            "a2f": Timed(whole_ns(there(sent, whole) * a_ns, "a2f")),
            "a2f_in": Timed(whole_ns(there(fullest, rails) * f_ns, "a2f_in")),
            "f2a": Timed(whole_ns(back(fullest, rails) * f_ns, "f2a")),
            "f2a_in": Timed(whole_ns(back(sent, whole) * a_ns, "f2a_in")),
        }

    def collectives(
        self, ffn: MoeFfn | DenseFfn, arriving: ops.Floats, tokens: Ns | int, gpus: int
    ) -> dict[str, Timed]:
        """Return the times of all-gather and reduce-scatter of the tokens that arrive, if any.

        Those `arriving` of all `tokens` want an expert of the server.
        """
        g, table = self.afd.ffn.gpus_together, self.ffn.table
        if g == 1:
            return {}
        gathered = self._bytes(ffn, self.afd.a2f_dtype, arriving, tokens)
        elements = arriving * self._width(ffn)
        if (share := self._whole_share(ffn)) > 0:
            elements = elements + tokens * share * self.ffn.model.hidden
        summed = elements * DTYPE_BYTES[self.afd.f2a_dtype]
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
        held = Held(copies, self.servers, ffn.experts, ffn.zero_experts)
        return rails * hottest_visits(load, tokens.total(), held, ffn.top_k)

    def row(self, ffn: MoeFfn | DenseFfn) -> tuple[int, DType]:
        """Return the elements of a result of the experts that comes back, and their format."""
        return self._width(ffn), self.afd.f2a_dtype

    def _width(self, ffn: MoeFfn | DenseFfn) -> int:
        hidden = self.ffn.model.hidden
        return ffn.width(hidden) if isinstance(ffn, MoeFfn) else hidden

    def _bytes(
        self,
        ffn: MoeFfn | DenseFfn,
        dtype: DType,
        visiting: ops.Floats,
        tokens: ops.Floats | Ns | int,
    ) -> ops.Floats:
        """Return bytes, one way, of the `tokens` of which so many are `visiting` experts.

        Where experts are narrower than the hidden state and FFN GPUs have shared experts as well,
        these take a whole token besides.
        """
        n_bytes = visiting * ops.activation_bytes(self._width(ffn), dtype)
        share = self._whole_share(ffn)
        if share > 0:
            hidden = self.ffn.model.hidden
            n_bytes = n_bytes + tokens * share * ops.activation_bytes(hidden, dtype)
        return np.asarray(n_bytes)

    def _whole_share(self, ffn: MoeFfn | DenseFfn) -> float:
        """Return the share of all tokens that a server takes whole beside those in latent width.

        Servers share out the tokens of shared experts, but where all of them slice each expert.
        """
        if isinstance(ffn, DenseFfn) or not self.splits(ffn):
            return 0.0
        return 1.0 if self.afd.ffn.parallelism == "tp" else 1 / self.servers

    def splits(self, ffn: MoeFfn) -> bool:
        """Return whether FFN GPUs need a token both in the width of experts and whole."""
        shares = ffn.shared > 0 and "shared" not in self.afd.attention.computes
        return shares and ffn.latent is not None


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
