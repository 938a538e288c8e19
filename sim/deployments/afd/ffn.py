"""FFN side: how experts lie on its GPUs, how long they take and what they weigh."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import inf

import numpy as np

from sim.deployments import glue
from sim.deployments.afd.links import AfdLinks
from sim.deployments.batch import GpuTokens, in_groups
from sim.deployments.experts import Spread, split_evenly
from sim.deployments.layers import LayerTimer
from sim.deployments.weights import experts_bytes, ffn_bytes
from sim.foundation.nanoseconds import Ns, whole_ns
from sim.foundation.units import NS_PER_S
from sim.inputs.deployment import Afd, FfnSide
from sim.inputs.model import DenseFfn, ModelCard, MoeFfn
from sim.inputs.scenario import Precision
from sim.inputs.software import Software
from sim.kernels import ops
from sim.kernels.timed import Timed
from sim.variation.expert_loads import Loads, visits


@dataclass(frozen=True)
class FfnStages:
    """The stages of an AFD deployment's FFN side, with those of its links."""

    links: AfdLinks
    timer: LayerTimer
    """Times the experts with the SMs that transfers beside them leave."""
    slowdown: float
    """How many times longer the experts take for what communicates beside them."""
    one_kernel: bool
    """Whether the kernel of the experts receives and sends as well."""
    composed: bool
    """Whether it was not measured, and takes as long as its parts one after the other."""
    answer_ns: int
    """Latency of the last results' way back."""
    software: Software

    @property
    def _side(self) -> FfnSide:
        return self.links.afd.ffn

    @property
    def _shares(self) -> bool:
        """Whether FFN GPUs compute the shared experts."""
        return "shared" not in self.links.afd.attention.computes

    def expected(
        self, name: str, ffn: MoeFfn | DenseFfn, tokens: GpuTokens, draws: bool
    ) -> dict[str, Timed]:
        """Return the durations of a layer with `ffn`, a key of the model's, and of its links.

        `draws` leaves out what depends on where tokens go.
        """
        timed = self._ffn(name, ffn, tokens, draws) | self.links.of_ffn(ffn, tokens)
        if self.links.afd.in_stream:
            return self._in_stream(timed)
        return self._in_one(timed) if self.one_kernel else timed

    def _ffn(
        self, name: str, ffn: MoeFfn | DenseFfn, by_gpu: GpuTokens, draws: bool
    ) -> dict[str, Timed]:
        """Return the durations on FFN GPUs with tokens `by_gpu` of the attention GPUs."""
        gpus, tokens = self._side.gpu_count(), by_gpu.total()
        time = Timed(np.zeros_like(tokens))
        if isinstance(ffn, DenseFfn) and self._side.routes:
            own = self.links.rails(by_gpu)
            return {"experts": self.timer.dense(ffn.intermediate, own, gated=ffn.gated).on(gpus)}
        if isinstance(ffn, DenseFfn):
            slices = partial(self.timer.dense, ffn.intermediate / gpus, gated=ffn.gated)
            time = self.timer.by_total(("dense", name), tokens, slices).on(gpus)
        elif not draws:
            time = self.timer.by_total(("experts", name), tokens, partial(self._experts, ffn))
        if draws and self.links.follow_routing:
            return {}
        arriving = ops.floats(tokens) * self.links.visits(ffn)
        experts = time.lasting(self._slowed(time.ns))
        if self._side.routes:
            assert isinstance(ffn, MoeFfn)
            own = self.links.rails(by_gpu)
            routing = glue.router_ns(self.software, np.ceil(own).astype(np.int64))
            experts = experts.lasting(experts.ns + routing)
            return {"experts": experts} | self.links.exchanges(ffn, own)
        return {"experts": experts} | self.links.collectives(ffn, arriving, tokens, gpus)

    def _experts(self, ffn: MoeFfn, tokens: Ns) -> Timed:
        """Return the time of the slowest rank of each server."""
        spread, servers = spread_over(self._side, ffn), self.links.servers
        timed = self.timer.experts.expected(ffn, spread, tokens, self._shares)
        ns = timed.ns
        if ns.shape[-1] >= servers:
            ns = in_groups(ns, ns.shape[-1] // servers).max(axis=-1)
        return timed.lasting(ns).on(self._side.gpu_count())

    def drawn(self, ffn: MoeFfn, tokens: Ns, loads: Loads) -> dict[str, Timed]:
        """Return the durations of the experts, and of transfers where they follow the routing.

        A server takes as long as its slowest rank, and gets the tokens that have an expert in it
        (layers × servers).
        """
        spread, servers = spread_over(self._side, ffn), self.links.servers
        total = float(tokens.sum())
        ranks = self.timer.experts.drawn(ffn, spread, loads.tokens, total, self._shares)
        ranks_ns = self._slowed(ranks.ns)
        ranks_ns[0] += self._loading_ns(ffn, spread, loads.moved)
        layers = len(ranks_ns)
        if spread.ranks == 1:
            return {"experts": ranks.lasting(np.repeat(ranks_ns, servers, axis=1))}
        slowest = ranks_ns.reshape(layers, servers, -1).max(axis=-1)
        timed = {"experts": ranks.lasting(slowest)}
        if self.links.follow_routing:
            pairs = loads.tokens.reshape(layers, servers, -1).sum(axis=-1)
            visited = visits(pairs, ffn.experts, ffn.top_k, ffn.zero_experts)
            timed |= self.links.drawn(ffn, tokens, visited)
        return self._in_one(timed) if self.one_kernel else timed

    @staticmethod
    def _in_stream(timed: dict[str, Timed]) -> dict[str, Timed]:
        """Return how long FFN GPUs take to receive, gather, compute, scatter and send in turn."""
        first, *others = timed.values()
        return {"experts": sum(others, first)}

    def _in_one(self, timed: dict[str, Timed]) -> dict[str, Timed]:
        """Return how long FFN GPUs are busy with a kernel that receives, computes and sends.

        Such a kernel was measured until its results could be used; FFN GPUs are free as soon as
        they have sent them. One that was not measured receives, computes and sends in turn.
        """
        if "experts" not in timed:
            return {}
        experts = timed["experts"]
        if self.composed:
            return {"experts": timed["a2f_in"] + experts + timed["f2a"]}
        return {"experts": experts.lasting(np.maximum(experts.ns - self.answer_ns, 0))}

    def _loading_ns(self, ffn: MoeFfn, spread: Spread, moved: Ns) -> Ns:
        """Return how long the GPUs of each rank take to load their parts of `moved` experts."""
        elements = moved * (ffn.expert_weights(self.timer.model.hidden) / spread.slices)
        n_bytes = elements * experts_bytes(self.timer.precision)
        goodput = self.links.goodput(self.links.ffn)
        return whole_ns(n_bytes / goodput * NS_PER_S, "moving experts")

    def _slowed(self, time: Ns) -> Ns:
        return time if self.slowdown == 1 else whole_ns(time * self.slowdown, "experts")


def spread_over(side: FfnSide, ffn: MoeFfn) -> Spread:
    """Return how the experts lie on the FFN side. Raises InfeasibleError if uneven."""
    ranks, copies = _ranks(side), ffn.experts + side.redundant_experts
    remedy = f"set redundant_experts to {-ffn.experts % ranks}, or choose other FFN instances"
    split_evenly(copies, ranks, "experts and copies", remedy)
    return Spread(copies, ranks, side.gpu_count() // ranks, elsewhere=True)


def _ranks(side: FfnSide) -> int:
    """Return the parts of the FFN side that hold experts of their own."""
    return {"tp": 1, "tp_ep": side.instances, "ep": side.gpu_count()}[side.parallelism]


def expert_nodes(side: FfnSide, node_gpus: int) -> int:
    """Return the nodes that hold experts of their own, of `node_gpus` each.

    An instance counts as one node unless several share it. 1 if the FFN GPUs do not fill whole
    nodes.
    """
    if side.parallelism == "tp":
        return 1
    if side.gpus_per_instance >= node_gpus:
        return side.instances
    return side.gpu_count() // node_gpus if side.gpu_count() % node_gpus == 0 else 1


def weights_bytes(model: ModelCard, precision: Precision, afd: Afd) -> float:
    """Return bytes of weights on an FFN GPU."""
    side, computes = afd.ffn, afd.attention.computes
    gpus = side.gpu_count()

    def held(ffn: MoeFfn) -> float:
        spread = spread_over(side, ffn)
        return spread.copies / spread.ranks / spread.slices

    # The GPUs that slice the same experts share their shared expert.
    slices = inf if "shared" in computes else gpus // _ranks(side)
    dense = 1 if side.routes else gpus
    return ffn_bytes(model, precision, held, slices, inf if "dense" in computes else dense)
