"""AFD: how long each stage of the ring takes, what it holds in memory and what it costs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from math import inf, lcm
from typing import ClassVar

import numpy as np

from sim.deployments import glue
from sim.deployments.afd import ffn as ffn_side
from sim.deployments.afd import reach
from sim.deployments.afd.ffn import FfnStages
from sim.deployments.afd.links import AfdLinks
from sim.deployments.afd.ring import Ring, choose_lags, lags_by_load, program
from sim.deployments.batch import GpuTokens, in_groups
from sim.deployments.course import Pass
from sim.deployments.deployment import Deployment
from sim.deployments.experts import Spread
from sim.deployments.host import host_us
from sim.deployments.kvcache import GpuMemory
from sim.deployments.layers import Attended, LayerTimer
from sim.deployments.steps import Durations, slowest
from sim.deployments.streams import mixed
from sim.deployments.weights import attention_bytes, ffn_bytes, moe_ffns, vocab_bytes
from sim.engines.program import Program
from sim.foundation.errors import InfeasibleError, together
from sim.foundation.nanoseconds import Ns, from_us, whole_ns
from sim.foundation.units import DTYPE_BYTES
from sim.inputs import cards
from sim.inputs.deployment import Afd
from sim.inputs.model import DenseFfn, Layer, MoeFfn
from sim.inputs.noise import ServerKind
from sim.inputs.scenario import Scenario
from sim.inputs.software import Compute
from sim.kernels import ops, served
from sim.kernels.timed import Timed
from sim.variation.expert_loads import Loads


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
        self._lumped = self._one_kernel or deployment.in_stream
        """Whether transfers are no stages of their own."""
        self._composed = self._one_kernel and not self.ffn_timer.experts.is_measured
        """Whether it was not measured, and takes as long as its parts one after the other."""
        if self._composed:
            self.ffn_timer = replace(self.ffn_timer, moe_kernel=served.MASKED)
        together(
            lambda: reach.check_sharing(deployment.attention, attention),
            lambda: reach.check_sharing(deployment.ffn, ffn),
            lambda: reach.check_transfers(deployment, attention, ffn, self.fabric),
            lambda: reach.check_collectives(deployment, ffn),
            lambda: reach.check_one_kernel(deployment, self.model, self.fabric),
            lambda: reach.check_in_stream(deployment, scenario.routing),
            self._check_ffns,
            lambda: self._links.goodput(self.attention_timer),
            lambda: self._links.goodput(self.ffn_timer),
            *[partial(self.spread, ffn) for ffn in moe_ffns(self.model)],
        )
        without_kv = self.memory(attention, "attention", self._attention_weights())
        self.attention_memory = self.with_stated_kv(without_kv)
        weights = ffn_side.weights_bytes(self.model, scenario.precision, deployment)
        self.ffn_memory = self.memory(ffn, "FFN", weights)

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
                "nothing is left for FFN GPUs; give it FFNs, or leave dense out of "
                "attention.computes"
            )

    def _stays(self, layer: Layer) -> bool:
        """Return whether a layer does not leave the attention GPUs."""
        ffn = self.model.found_ffn(layer)
        dense = isinstance(ffn, DenseFfn) and "dense" in self.afd.attention.computes
        return dense or ffn is None

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
        collectives = afd.ffn.gpus_together > 1 and not afd.in_stream
        return Ring(
            layer_kinds=self.course.sequence,
            micro_batches=afd.micro_batches,
            attention_gpus=self.attention_gpus,
            ffn_instances=self._links.servers,
            o_proj_groups=shared if afd.attention.o_proj_tp > 1 else 0,
            half_duplex=afd.duplex == "half",
            nvlink_turns=collectives
            and not self.ffn_timer.table.accelerator.node.in_network_collectives,
            collectives=collectives,
            link="nic" if self.fabric.medium == "nic" else "nvlink",
            transfers=not self._lumped,
            shared=bool(afd.attention.computes),
            stays=frozenset(i for i, kind in enumerate(self.kinds) if self._stays(kind.layer)),
        )

    @cached_property
    def _usual_kinds(self) -> tuple[int, int]:
        """The most frequent kind of layer in a step that has a trip, and that of the LM head."""
        leaving = [kind for kind in self.kinds if not self._stays(kind.layer)]
        return self.kinds.index(max(leaving, key=self.uses)), len(self.kinds)

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
            if pool.side == "ffn" and (pool.kind != "nvlink" or self._ring.one_link):
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

    def attended(self, of: Attended, tokens: GpuTokens) -> dict[str, Timed]:
        """Return the durations of an attention but for its core, with `tokens` a GPU."""
        timer, name = self.beside(self.attention_timer, of.crowded), of.name
        tp = self.afd.attention.o_proj_tp
        before, after = mixed(timer, tokens)
        front = timer.before_core(name, tokens) + timer.after_core(name, tokens) + before
        if of.ffn:
            front += after
        software, attention = self.scenario.software, self.model.attention[name]
        front += glue.layer_ns(software, tokens.each, 1 if of.ffn else 1 / 2)
        if of.ffn and self.afd.ffn.routes:
            front = front.lasting(front.ns - glue.router_ns(software, tokens.each))
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
        ffn = self.model.found_ffn(kind.layer)
        if isinstance(ffn, MoeFfn) and ffn.latent is not None:
            # What comes back counts in the attention of its own layer, not of the next.
            beside = self.beside(self.attention_timer, self.crowded(kind.layer))
            down, up = beside.latent(ffn, tokens)
            attended = attended | {"attention": attended["attention"] + down + up}
        if ffn is None or self._one_kernel or self._stays(kind.layer):
            return attended
        visited = self._links.visited(ffn, tokens.each)
        row, accelerator = self._links.row(ffn), self.attention_timer.table.accelerator
        summing = glue.sum_ns(self.scenario.software, accelerator, row, visited, tokens.each)
        summed = attended["attention"] + summing
        links = self._links.of_attention(ffn, tokens.each, visited)
        if self.afd.in_stream:
            return attended | {"attention": summed + links["a2f"] + links["f2a_in"]}
        return attended | {"attention": summed} | links

    def _computed(self, layer: Layer, tokens: GpuTokens) -> Timed:
        """Return the time of the FFNs that attention GPUs compute themselves."""
        timer = self.beside(self.attention_timer, self.crowded(layer))
        ffn = self.model.found_ffn(layer)
        columns = 0
        if isinstance(ffn, DenseFfn):
            columns = ffn.intermediate if self._stays(layer) else 0
        elif ffn is not None and "shared" in self.afd.attention.computes:
            columns = ffn.shared * ffn.shared_intermediate
        time = timer.dense(columns, *tokens.own, gated=ffn is not None and ffn.gated)
        return time.lasting(self._slowed("shared", time.ns))

    def joint(self, kind: Pass, tokens: GpuTokens) -> dict[str, Timed]:
        """Return the durations of the FFN side and of its links."""
        if self._stays(kind.layer):
            return {}
        ffn = self.model.ffn_of(kind.layer)
        return self._ffn.expected(str(kind.layer.ffn), ffn, tokens, self.draws(kind.layer))

    def joint_load(self, requests: GpuTokens) -> Hashable:
        """Return the requests of all GPUs, and those of the GPUs that the fullest rank talks to."""
        total = int(requests.total()[0])
        return total, float(self._links.rails(requests)[0])

    @property
    def gpus_sharing(self) -> int:
        return max(self.afd.attention.o_proj_tp, self.lm_head_ranks if self.drafts else 1)

    @cached_property
    def delays_ns(self) -> dict[str, int]:
        # Kernels that send and receive have the latency in their own time.
        way, ns = "answer" if self._lumped else "link", self._latency_ns
        ns = 0 if self.afd.in_stream else ns
        return {way: ns, "host": from_us(host_us(self.scenario), "the host gap")}

    @property
    def _latency_ns(self) -> int:
        return from_us(self.fabric.latency_us, "a message")

    def alone(self, layer: Layer) -> bool:
        """Return whether there are no transfers of other micro-batches beside a layer."""
        return self._alone

    @property
    def _single(self) -> bool:
        return self.afd.micro_batches == 1

    @property
    def _alone(self) -> bool:
        """Whether no transfer runs while a GPU computes."""
        return self._single or self.afd.in_stream

    @property
    def communication_sms(self) -> float:
        """SMs that transfers take: NICs take none."""
        return 0.0 if self.fabric.medium == "nic" else super().communication_sms

    def _slowed(self, stage: Compute, time: Ns) -> Ns:
        slowdown = self._slowdown(stage)
        return time if slowdown == 1 else whole_ns(time * slowdown, stage)

    def _slowdown(self, stage: Compute) -> float:
        return 1.0 if self._alone else self.scenario.software.slowdown(stage)

    @property
    def _links(self) -> AfdLinks:
        return AfdLinks(self.afd, self.fabric, self.attention_timer, self.ffn_timer)

    @property
    def _ffn(self) -> FfnStages:
        beside = self.communication_sms > 0 and not self._alone and not self._one_kernel
        return FfnStages(
            self._links,
            self.beside(self.ffn_timer, beside),
            1.0 if self._one_kernel else self._slowdown("experts"),
            self._one_kernel,
            self._composed,
            self._latency_ns,
            self.scenario.software,
        )

    def spread(self, ffn: MoeFfn) -> Spread:
        return ffn_side.spread_over(self.afd.ffn, ffn)

    @property
    def expert_nodes(self) -> int:
        return ffn_side.expert_nodes(self.afd.ffn, self.ffn_timer.table.accelerator.node.gpus)

    def routed(self, ffn: MoeFfn, tokens: Ns, loads: Loads) -> dict[str, Timed]:
        return self._ffn.drawn(ffn, tokens, loads)

    def check_memory(self) -> None:
        together(self.ffn_memory.kv_capacity_bytes, super().check_memory)

    def _attention_weights(self) -> float:
        side, precision = self.afd.attention, self.scenario.precision
        projections = attention_bytes(self.model, precision, side.o_proj_tp, self.drafts)
        own = (1 if name in side.computes else inf for name in ("shared", "dense"))
        ffns = ffn_bytes(self.model, precision, lambda _ffn: 0.0, *own)
        return projections + ffns + vocab_bytes(self.model, precision, side.lm_head_tp)
