"""AFD: how long each stage of the ring takes, what it holds in memory and what it costs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from math import inf, lcm
from typing import ClassVar

import numpy as np

from sim.deployments import glue
from sim.deployments.afd_ring import Ring, choose_lags, lags_by_load, program
from sim.deployments.course import Pass
from sim.deployments.deployment import Deployment, Durations, slowest
from sim.deployments.host import host_us
from sim.deployments.kvcache import GpuMemory
from sim.deployments.layers import (
    GpuTokens,
    LayerTimer,
    Ns,
    Spread,
    in_groups,
    split_evenly,
)
from sim.deployments.links import check_collectives, check_transfers, payload_bytes_per_s
from sim.deployments.weights import attention_bytes, experts_bytes, ffn_bytes, moe_ffns, vocab_bytes
from sim.engines.program import Program
from sim.foundation.errors import InfeasibleError, together
from sim.foundation.nanoseconds import from_us, whole_ns
from sim.foundation.units import DTYPE_BYTES, NS_PER_S
from sim.inputs import cards
from sim.inputs.deployment import Afd, AttentionSide, FfnSide
from sim.inputs.model import DenseFfn, Layer, MoeFfn
from sim.inputs.noise import ServerKind
from sim.inputs.scenario import Scenario
from sim.inputs.software import Compute
from sim.kernels import ops, served
from sim.kernels.timed import Timed
from sim.variation.expert_loads import Loads, hottest_visits, visits


class AfdDeployment(Deployment):
    """An AFD scenario, compiled: its program and the durations of its stages."""

    first_stage: ClassVar = "attention"
    core_stage: ClassVar[Compute] = "attention"
    breakdown: ClassVar = {
        "t_a_layer": ("attention", "o_exchange", "o_proj", "o_reduce", "shared"),
        "t_a2f_layer": (("a2f", "a2f_in"), "link"),
        "t_f_layer": ("all_gather", "experts", "reduce_scatter"),
        "t_f2a_layer": (("f2a", "f2a_in"), "link", "answer"),
    }
    sides: ClassVar = {"attention": "attention_timer", "FFN": "ffn_timer"}

    def __init__(self, scenario: Scenario) -> None:
        deployment = scenario.deployment
        assert isinstance(deployment, Afd)
        ranks = deployment.attention_gpus().ranks
        super().__init__(scenario, ranks, deployment.micro_batches)
        self.afd = deployment
        self.fabric = cards.fabric(deployment.fabric)
        attention = cards.accelerator(deployment.attention.accelerator)
        ffn = cards.accelerator(deployment.ffn.accelerator)
        self.attention_timer = self.timer(attention, deployment.ffn.moe_kernel)
        same = ffn is attention or ffn == attention
        self.ffn_timer = (
            self.attention_timer if same else self.timer(ffn, deployment.ffn.moe_kernel)
        )
        self._one_kernel = deployment.ffn.moe_kernel == served.FUSED_EP
        """Whether the kernel of the experts receives and sends as well."""
        self._composed = self._one_kernel and not self.ffn_timer.is_measured
        """Whether it was not measured, and takes as long as its parts one after the other."""
        if self._composed:
            self.ffn_timer = replace(self.ffn_timer, moe_kernel=served.MASKED)
        together(
            *[partial(self._check_domain, *sharing) for sharing in self._sharing()],
            lambda: check_transfers(self.afd, attention, ffn, self.fabric),
            lambda: check_collectives(self.afd, ffn),
            self._check_one_kernel,
            self._check_ffns,
            lambda: self._goodput(self.attention_timer),
            lambda: self._goodput(self.ffn_timer),
            *[partial(self.spread, ffn) for ffn in moe_ffns(self.model)],
        )
        without_kv = self.memory(attention, "attention", self._attention_weights())
        self.attention_memory = self.with_stated_kv(without_kv)
        self.ffn_memory = self.memory(ffn, "FFN", self._ffn_weights())

    @cached_property
    def program(self) -> Program:
        """The ring, in the static order that suits the expected load."""
        longest = slowest(self._expected_durations.rows)
        stage_ns = {stage: ns for (stage, kind), ns in longest.items() if kind in self._usual_kinds}
        lags = choose_lags(self._ring, stage_ns, self._latency_ns, self.delays_ns["host"])
        return program(self._ring, lags)

    @cached_property
    def _expected_durations(self) -> Durations:
        return self.durations(self.expected.batch())

    def _check_ffns(self) -> None:
        if all(self._stays(kind.layer) for kind in self.kinds):
            raise InfeasibleError(
                f"{self.model.name} has no layers but those that attention GPUs compute alone: "
                "nothing is left for FFN GPUs; leave dense out of attention.computes"
            )

    def _check_one_kernel(self) -> None:
        """Refuse a kernel that receives, computes and sends where it does not reach or has no part.

        Raises InfeasibleError.
        """
        if not self._one_kernel:
            return
        if self.fabric.medium != "scale_up":
            raise InfeasibleError(
                f"ffn.moe_kernel fused_ep reads and writes the memory of other GPUs over the "
                f"scale-up link, and the fabric {self.fabric.name} is of NICs: take another"
            )
        dense = [name for name, ffn in self.model.ffn.items() if isinstance(ffn, DenseFfn)]
        if dense and "dense" not in self.afd.attention.computes:
            raise InfeasibleError(
                f"{self.model.name} has layers with a dense FFN ({', '.join(dense)}), which "
                "ffn.moe_kernel fused_ep does not exchange: put dense into attention.computes"
            )

    def _stays(self, layer: Layer) -> bool:
        """Return whether a layer does not leave the attention GPUs."""
        dense = isinstance(self.model.ffn[layer.ffn], DenseFfn)
        return dense and "dense" in self.afd.attention.computes

    @property
    def _shares(self) -> bool:
        """Whether FFN GPUs compute the shared experts."""
        return "shared" not in self.afd.attention.computes

    @property
    def _servers(self) -> int:
        """FFN GPUs, or groups of them that work together."""
        return self.afd.ffn.gpu_count() // self.afd.ffn.gpus_together

    @property
    def ordering_usage_ns(self) -> ops.Floats:
        return self._expected_durations.usage_ns

    @cached_property
    def neighbours(self) -> int:
        """GPUs that share an output projection or an LM head, or talk to all ranks by turns."""
        side = self.afd.attention
        return lcm(side.o_proj_tp, self.lm_head_ranks, self.afd.ffn.gpus_together)

    def one_of_each_by_load(
        self, slowest: Mapping[tuple[str, int], Ns], host_ns: Ns
    ) -> list[Program]:
        """Return rings of one server in each pool, in the order that suits such durations."""
        stage_ns = {
            stage: ns[..., 0] for (stage, kind), ns in slowest.items() if kind in self._usual_kinds
        }
        chosen = lags_by_load(self._small_ring, stage_ns, self._latency_ns, host_ns)
        programs = {lags: program(self._small_ring, lags) for lags in set(chosen)}
        return [programs[lags] for lags in chosen]

    @cached_property
    def _small_ring(self) -> Ring:
        groups = min(self._ring.o_proj_groups, 1)
        return replace(self._ring, attention_gpus=1, ffn_instances=1, o_proj_groups=groups)

    @cached_property
    def _ring(self) -> Ring:
        afd = self.afd
        shared = afd.attention.gpu_count() // afd.attention.o_proj_tp
        collectives = afd.ffn.gpus_together > 1
        return Ring(
            layer_kinds=self.course.sequence,
            micro_batches=afd.micro_batches,
            attention_gpus=self.attention_gpus,
            ffn_instances=self._servers,
            o_proj_groups=shared if afd.attention.o_proj_tp > 1 else 0,
            half_duplex=afd.duplex == "half",
            nvlink_turns=collectives
            and not self.ffn_timer.table.accelerator.node.in_network_collectives,
            collectives=collectives,
            link="nic" if self.fabric.medium == "nic" else "nvlink",
            transfers=not self._one_kernel,
            shared=bool(afd.attention.computes),
            stays=frozenset(i for i, kind in enumerate(self.kinds) if self._stays(kind.layer)),
        )

    @cached_property
    def _usual_kinds(self) -> tuple[int, int]:
        """The kind of layer that a step goes through most often, and that of the LM head."""
        return self.kinds.index(max(self.kinds, key=self.uses)), len(self.kinds)

    def server_name(self, pool: int, server: int) -> str:
        """Return the name of a server: a0.g3, NIC out a0.g3, f1, NVLink in f1, f1.g3."""
        of, ffn = self.program.pools[pool], self.afd.ffn
        name, each = f"f{server}", self.afd.attention.gpus_per_instance
        if ffn.gpus_apart and ffn.gpus_per_instance > 1:
            name = "f{}.g{}".format(*divmod(server, ffn.gpus_per_instance))
        if of.side == "attention":
            # The NVLink of GPUs that share an output projection is named after the first of them.
            gpus = self.afd.attention.gpu_count() // of.servers
            instance, rank = divmod(server * gpus, each)
            name = f"a{instance}.g{rank}"
        link = {"nic": "NIC", "nvlink": "NVLink"}.get(of.kind, "")
        return " ".join(filter(None, (link, of.way, name)))

    def devices(self) -> list[dict[ServerKind, int]]:
        """Return the devices behind each server: an FFN instance is its GPUs in lockstep."""
        in_lockstep, found = self.afd.ffn.gpus_together, super().devices()
        for pool, devices in zip(self.program.pools, found, strict=True):
            if pool.side == "ffn" and pool.kind != "nvlink":
                devices[pool.kind] = in_lockstep
            elif pool.side == "attention" and self.attention_tp > 1:
                devices[pool.kind] = self.attention_tp
        return found

    def most_attention_instances(self) -> float:
        """Return how many attention instances a scale-up fabric can join to the FFN; else ∞."""
        if self.fabric.medium != "scale_up":
            return inf
        domain = self.ffn_timer.table.accelerator.node.scale_up_domain_gpus
        return (domain - self.afd.ffn.gpu_count()) // self.afd.attention.gpus_per_instance

    @property
    def core_timer(self) -> LayerTimer:
        return self.attention_timer

    def kv_memory(self) -> GpuMemory:
        return self.attention_memory

    def kv_remedy(self) -> str:
        return "add an attention instance"

    @property
    def lm_head_tp(self) -> int:
        return self.afd.attention.lm_head_tp

    def attended(self, name: str, tokens: GpuTokens, crowded: bool) -> dict[str, Timed]:
        """Return the durations of attention `name` but for its core, with `tokens` a GPU."""
        timer, tp = self.beside(self.attention_timer, crowded), self.afd.attention.o_proj_tp
        front = timer.before_core(name, tokens) + timer.after_core(name, tokens)
        software, attention = self.scenario.software, self.model.attention[name]
        front += glue.layer_ns(software, tokens.each)
        front += glue.attention_ns(software, timer.table.accelerator, attention, tokens.each)
        groups = tokens.together(tp)
        back = timer.output(name, groups, tp).on(tp)
        back = back.lasting(np.repeat(back.ns, tp, axis=-1))
        if self.attention_tp > 1:
            back += self.summed(timer, tokens)
        if tp == 1:
            return {"attention": front + back}
        width = self.model.attention[name].after_core(self.model.hidden)[-1].k
        sent = in_groups(tokens.each, tp).max(axis=-1) * width * DTYPE_BYTES["bf16"]
        partial = groups.each * self.model.hidden * DTYPE_BYTES["bf16"]
        exchange = ops.collective("all_to_all", "bf16", tp, sent)
        reduce = ops.collective("reduce_scatter", "bf16", tp, partial)
        return {
            "attention": front,
            "o_exchange": timer.table.timed(exchange, groups.alike).on(tp),
            "o_proj": back.lasting(self._slowed("o_proj", back.ns)),
            "o_reduce": timer.table.timed(reduce, groups.alike).on(tp),
        }

    def own(self, kind: Pass, tokens: GpuTokens, attended: dict[str, Timed]) -> dict[str, Timed]:
        """Return the durations of attention and of its GPUs' links.

        An attention GPU sends each of its tokens to every instance that wants it, and sums what
        comes back.
        """
        tokens = tokens.apart(self.attention_tp)
        if self.afd.attention.computes:
            attended = attended | {"shared": self._computed(kind.layer, tokens)}
        if self._one_kernel or self._stays(kind.layer):
            return attended
        y, hidden = self._servers, self.model.hidden
        visits = ops.floats(tokens.each) * self._visits(kind.layer)
        goodput = self._goodput(self.attention_timer)
        out = ops.activation_bytes(hidden, self.afd.a2f_dtype)
        back = ops.activation_bytes(hidden, self.afd.f2a_dtype)
        row, accelerator = (hidden, self.afd.f2a_dtype), self.attention_timer.table.accelerator
        summing = glue.sum_ns(self.scenario.software, accelerator, row, visits * y, tokens.each)
        return attended | {
            "attention": attended["attention"] + summing,
            "a2f": Timed(whole_ns(visits * y * out / goodput * NS_PER_S, "a2f")),
            "f2a_in": Timed(whole_ns(visits * y * back / goodput * NS_PER_S, "f2a_in")),
        }

    def _computed(self, layer: Layer, tokens: GpuTokens) -> Timed:
        """Return the time of the FFNs that attention GPUs compute themselves."""
        timer = self.beside(self.attention_timer, self.crowded(layer))
        ffn = self.model.ffn[layer.ffn]
        columns = 0
        if isinstance(ffn, DenseFfn):
            columns = ffn.intermediate if self._stays(layer) else 0
        elif not self._shares:
            columns = ffn.shared * ffn.shared_intermediate
        time = timer.dense(columns, *tokens)
        return time.lasting(self._slowed("shared", time.ns))

    def joint(self, kind: Pass, tokens: GpuTokens) -> dict[str, Timed]:
        """Return the durations of the FFN side and of its links.

        An FFN instance's ranks share the tokens that come, and the fullest rank sets the pace.
        """
        if self._stays(kind.layer):
            return {}
        hidden, fullest = self.model.hidden, self._fullest(kind.layer, tokens)
        goodput = self._goodput(self.ffn_timer)
        out = ops.activation_bytes(hidden, self.afd.a2f_dtype)
        back = ops.activation_bytes(hidden, self.afd.f2a_dtype)
        timed = self._ffn(kind.layer, tokens) | {
            "a2f_in": Timed(whole_ns(fullest * out / goodput * NS_PER_S, "a2f_in")),
            "f2a": Timed(whole_ns(fullest * back / goodput * NS_PER_S, "f2a")),
        }
        return self._in_one(timed) if self._one_kernel else timed

    def _in_one(self, timed: dict[str, Timed]) -> dict[str, Timed]:
        """Return how long FFN GPUs are busy with a kernel that receives, computes and sends.

        Such a kernel was measured until its results could be used; FFN GPUs are free as soon as
        they have sent them. One that was not measured receives, computes and sends in turn.
        """
        if "experts" not in timed:
            return {}
        experts = timed["experts"]
        if self._composed:
            return {"experts": timed["a2f_in"] + experts + timed["f2a"]}
        return {"experts": experts.lasting(np.maximum(experts.ns - self._latency_ns, 0))}

    def joint_load(self, requests: GpuTokens) -> Hashable:
        """Return the requests of all GPUs, and those of the GPUs that the fullest rank talks to."""
        total = int(requests.total()[0])
        return total, float(self._rails(requests)[0])

    def _rails(self, tokens: GpuTokens) -> ops.Floats:
        """Return the most tokens that one rank of an FFN instance exchanges, by load (… × 1)."""
        g, tp = self.afd.ffn.gpus_together, self.attention_tp
        if g > 1 and tp > 1:
            alike = None if tokens.alike is None else np.repeat(tokens.alike, tp, axis=-1)
            tokens = GpuTokens(np.repeat(tokens.apart(tp).each, tp, axis=-1), alike)
        return rail_load(g, tokens)

    def _fullest(self, layer: Layer, tokens: GpuTokens) -> ops.Floats:
        """Return the tokens of the fullest rank that visit its instance, the hottest of all."""
        rails = self._rails(tokens)
        ffn, load = self.model.ffn[layer.ffn], self.ffn_timer.load
        if load in served.EVEN or isinstance(ffn, DenseFfn) or not self._follows_routing():
            return rails * self._visits(layer)
        held = self.spread(ffn).held(ffn)._replace(ranks=self._servers)
        return rails * hottest_visits(load, tokens.total(), held, ffn.top_k)

    @property
    def gpus_sharing(self) -> int:
        return max(self.afd.attention.o_proj_tp, self.lm_head_ranks if self.drafts else 1)

    @cached_property
    def delays_ns(self) -> dict[str, int]:
        way = "answer" if self._one_kernel else "link"
        return {way: self._latency_ns, "host": from_us(host_us(self.scenario), "the host gap")}

    @property
    def _latency_ns(self) -> int:
        return from_us(self.fabric.latency_us, "a message")

    def alone(self, layer: Layer) -> bool:
        """Return whether there are no transfers of other micro-batches beside a layer."""
        return self._single

    @property
    def _single(self) -> bool:
        return self.afd.micro_batches == 1

    @property
    def communication_sms(self) -> float:
        """SMs that transfers take: NICs take none."""
        return 0.0 if self.fabric.medium == "nic" else super().communication_sms

    def _slowed(self, stage: Compute, time: Ns) -> Ns:
        slowdown = self.scenario.software.slowdown(stage)
        alone = self._single or slowdown == 1 or (stage == "experts" and self._one_kernel)
        return time if alone else whole_ns(time * slowdown, stage)

    @property
    def _experts_timer(self) -> LayerTimer:
        """Times the experts with the SMs that transfers beside them leave."""
        beside = self.communication_sms > 0 and not self._single and not self._one_kernel
        return self.beside(self.ffn_timer, beside)

    def _ffn(self, layer: Layer, by_gpu: GpuTokens) -> dict[str, Timed]:
        """Return the durations of the FFN side with tokens `by_gpu` of the attention GPUs."""
        timer, gpus = self._experts_timer, self.afd.ffn.gpu_count()
        tokens, ffn = by_gpu.total(), self.model.ffn[layer.ffn]
        time = Timed(np.zeros_like(tokens))
        if isinstance(ffn, DenseFfn):
            slices = partial(timer.dense, ffn.intermediate / gpus)
            time = timer.by_total(("dense", layer.ffn), tokens, slices).on(gpus)
        elif not self.draws(layer):
            what = "experts", layer.ffn
            time = timer.by_total(what, tokens, partial(self._experts, ffn))
        if self.draws(layer) and self._follows_routing():
            return {}
        arriving = ops.floats(tokens) * self._visits(layer)
        experts = time.lasting(self._slowed("experts", time.ns))
        return {"experts": experts} | self._collectives(arriving, gpus)

    def _experts(self, ffn: MoeFfn, tokens: Ns) -> Timed:
        """Return the time of the slowest rank of each instance."""
        side = self.afd.ffn
        timed = self._experts_timer.experts(ffn, self.spread(ffn), tokens, self._shares)
        ranks, y = timed.ns, self._servers
        ns = ranks
        if ranks.shape[-1] >= y:
            ns = in_groups(ranks, ranks.shape[-1] // y).max(axis=-1)
        return timed.lasting(ns).on(side.gpu_count())

    def _follows_routing(self) -> bool:
        """Return whether a token goes only to the FFN instances that host one of its experts."""
        return self.afd.a2f == "routed" and self.afd.ffn.parallelism != "tp"

    def _visits(self, layer: Layer) -> float:
        """Return the probability that a token goes to a given FFN instance."""
        ffn, y = self.model.ffn[layer.ffn], self._servers
        if not self._follows_routing() or isinstance(ffn, DenseFfn):
            return 1.0
        return float(visits(np.ones(y), ffn.experts, ffn.top_k)[0])

    def spread(self, ffn: MoeFfn) -> Spread:
        """Return how the experts lie on the FFN side. Raises InfeasibleError if uneven."""
        side, ranks = self.afd.ffn, self._ranks
        copies = ffn.experts + side.redundant_experts
        missing = -ffn.experts % ranks
        remedy = f"set redundant_experts to {missing}, or choose other FFN instances"
        split_evenly(copies, ranks, "experts and copies", remedy)
        return Spread(copies, ranks, side.gpu_count() // ranks, elsewhere=True)

    @property
    def _ranks(self) -> int:
        """Parts of the FFN side that hold experts of their own."""
        side = self.afd.ffn
        return {"tp": 1, "tp_ep": side.instances, "ep": side.gpu_count()}[side.parallelism]

    @property
    def expert_nodes(self) -> int:
        """Nodes that hold experts of their own; an instance counts as one unless several share it.

        1 if the FFN GPUs do not fill whole nodes.
        """
        side, each = self.afd.ffn, self.ffn_timer.table.accelerator.node.gpus
        if side.parallelism == "tp":
            return 1
        if side.gpus_per_instance >= each:
            return side.instances
        return side.gpu_count() // each if side.gpu_count() % each == 0 else 1

    def routed(self, ffn: MoeFfn, tokens: Ns, loads: Loads) -> dict[str, Timed]:
        """Return the durations of the experts, and of transfers where they follow the routing.

        An instance takes as long as its slowest rank, and gets the tokens that have an expert in
        it (layers × servers).
        """
        spread, y, total = self.spread(ffn), self._servers, float(tokens.sum())
        timer = self._experts_timer
        ranks = timer.drawn_experts(ffn, spread, loads.tokens, total, self._shares)
        ranks_ns = self._slowed("experts", ranks.ns)
        ranks_ns[0] += self._loading_ns(ffn, spread, loads.moved)
        layers = len(ranks_ns)
        if spread.ranks == 1:
            return {"experts": ranks.lasting(np.repeat(ranks_ns, y, axis=1))}
        timed = {"experts": ranks.lasting(ranks_ns.reshape(layers, y, -1).max(axis=-1))}
        if self.afd.a2f == "routed":
            pairs = loads.tokens.reshape(layers, y, -1).sum(axis=-1)
            timed |= self._drawn_transfers(tokens, visits(pairs, ffn.experts, ffn.top_k))
        return self._in_one(timed) if self._one_kernel else timed

    def _drawn_transfers(self, tokens: Ns, visited: ops.Floats) -> dict[str, Timed]:
        """Return the times of links by layer, given the share of tokens that visit an instance.

        `visited` is layers × instances.
        """
        g, hidden = self.afd.ffn.gpus_together, self.model.hidden
        out = float(ops.activation_bytes(hidden, self.afd.a2f_dtype))
        back = float(ops.activation_bytes(hidden, self.afd.f2a_dtype))
        each = GpuTokens(tokens).apart(self.attention_tp).each
        sent = visited.sum(axis=1, keepdims=True) * each
        fullest = visited * self._rails(GpuTokens(tokens))
        a_ns = NS_PER_S / self._goodput(self.attention_timer)
        f_ns = NS_PER_S / self._goodput(self.ffn_timer)
        collectives = self._collectives(visited * tokens.sum(), g)
        return {stage: timed.together() for stage, timed in collectives.items()} | {
            "a2f": Timed(whole_ns(sent * out * a_ns, "a2f")),
            "a2f_in": Timed(whole_ns(fullest * out * f_ns, "a2f_in")),
            "f2a": Timed(whole_ns(fullest * back * f_ns, "f2a")),
            "f2a_in": Timed(whole_ns(sent * back * a_ns, "f2a_in")),
        }

    def _loading_ns(self, ffn: MoeFfn, spread: Spread, moved: Ns) -> Ns:
        """Return how long the GPUs of each rank take to load their parts of `moved` experts."""
        elements = moved * (ffn.expert_weights(self.model.hidden) / spread.slices)
        n_bytes = elements * experts_bytes(self.scenario.precision)
        return whole_ns(n_bytes / self._goodput(self.ffn_timer) * NS_PER_S, "moving experts")

    def _collectives(self, arriving: ops.Floats, gpus: int) -> dict[str, Timed]:
        """Return the times of all-gather and reduce-scatter of the tokens that arrive, if any."""
        g, table = self.afd.ffn.gpus_together, self.ffn_timer.table
        if g == 1:
            return {}
        gathered = arriving * ops.activation_bytes(self.model.hidden, self.afd.a2f_dtype)
        summed = arriving * self.model.hidden * DTYPE_BYTES[self.afd.f2a_dtype]
        kind = self.afd.ffn.collectives
        summing = served.NCCL if kind == served.COPY_ENGINE else kind
        # A collective's time goes by its bytes; BF16 is the format that was measured.
        gather = ops.collective("all_gather", "bf16", g, gathered, kind)
        scatter = ops.collective("reduce_scatter", "bf16", g, summed, summing)
        return {
            "all_gather": table.timed(gather).on(gpus),
            "reduce_scatter": table.timed(scatter).on(gpus),
        }

    def _goodput(self, timer: LayerTimer) -> float:
        return payload_bytes_per_s(timer.table.accelerator, self.fabric)

    def check_memory(self) -> None:
        together(self.ffn_memory.kv_capacity_bytes, super().check_memory)

    def _sharing(self) -> tuple[tuple[AttentionSide | FfnSide, LayerTimer, int], ...]:
        """Return the sides with the most GPUs of each that share work over the scale-up link."""
        attention, ffn = self.afd.attention, self.afd.ffn
        ways = max(attention.o_proj_tp, attention.lm_head_tp, attention.tp)
        return (
            (attention, self.attention_timer, ways),
            (ffn, self.ffn_timer, ffn.gpus_together),
        )

    def _check_domain(self, side: AttentionSide | FfnSide, timer: LayerTimer, ways: int) -> None:
        domain = timer.table.accelerator.node.scale_up_domain_gpus
        if ways > domain:
            raise InfeasibleError(
                f"{ways} {side.accelerator} GPUs should share work over a scale-up link that "
                f"joins {domain}: make the instance or the tensor parallelism smaller"
            )

    def _attention_weights(self) -> float:
        side, precision = self.afd.attention, self.scenario.precision
        projections = attention_bytes(self.model, precision, side.o_proj_tp, self.drafts)
        own = (1 if name in side.computes else inf for name in ("shared", "dense"))
        ffns = ffn_bytes(self.model, precision, lambda _ffn: 0.0, *own)
        return projections + ffns + vocab_bytes(self.model, precision, side.lm_head_tp)

    def _ffn_weights(self) -> float:
        gpus = self.afd.ffn.gpu_count()

        def held(ffn: MoeFfn) -> float:
            spread = self.spread(ffn)
            return spread.copies / spread.ranks / spread.slices

        # The GPUs that slice the same experts share their shared expert.
        slices = gpus // self._ranks if self._shares else inf
        dense = inf if "dense" in self.afd.attention.computes else gpus
        return ffn_bytes(self.model, self.scenario.precision, held, slices, dense)


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
