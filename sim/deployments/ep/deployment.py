"""EP: how long each stage of colocated expert parallelism takes, what it holds and costs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import cached_property, partial
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from sim.deployments import glue
from sim.deployments.batch import GpuTokens, in_groups
from sim.deployments.course import Pass
from sim.deployments.deployment import Deployment
from sim.deployments.ep import reach
from sim.deployments.ep.schedule import Schedule, program
from sim.deployments.exchange import Exchange, between, one_after_the_other
from sim.deployments.experts import Spread, split_evenly
from sim.deployments.host import host_us
from sim.deployments.kept_times import all_and_most
from sim.deployments.kvcache import GpuMemory
from sim.deployments.layers import Attended, LayerTimer
from sim.deployments.links import check_domain
from sim.deployments.streams import mixed
from sim.deployments.weights import attention_bytes, experts_bytes, ffn_bytes, moe_ffns, vocab_bytes
from sim.engines.program import Program
from sim.foundation.errors import InfeasibleError, together
from sim.foundation.nanoseconds import Ns, from_us, whole_ns
from sim.foundation.units import NS_PER_S
from sim.inputs import cards
from sim.inputs.deployment import Ep
from sim.inputs.model import DenseFfn, Layer, MoeFfn
from sim.inputs.noise import ServerKind
from sim.inputs.scenario import Scenario
from sim.inputs.software import Compute
from sim.kernels import ops
from sim.kernels.hottest_rank import hottest_factor
from sim.kernels.kernel_table import bytes_per_s
from sim.kernels.timed import Timed
from sim.variation.expert_loads import Loads

_DIRECTIONS: tuple[ops.Direction, ...] = ("dispatch", "combine")


class EpDeployment(Deployment):
    """An EP scenario, compiled: its program and the durations of its stages."""

    first_stage: ClassVar = "attn0"
    core_stage: ClassVar[Compute] = "attn1"
    breakdown: ClassVar = {
        "t_a_layer": ("attn0", "attn1"),
        "t_a2f_layer": ("dispatch",),
        "t_f_layer": ("shared", "experts"),
        "t_f2a_layer": ("combine",),
    }
    sides: ClassVar = {"EP": "layer_timer"}

    def __init__(self, scenario: Scenario) -> None:
        deployment = scenario.deployment
        assert isinstance(deployment, Ep)
        ranks = deployment.attention_gpus().ranks
        super().__init__(scenario, ranks, deployment.micro_batches)
        self.ep = deployment
        self.fabric = cards.fabric(deployment.fabric)
        card = cards.accelerator(deployment.accelerator)
        self.layer_timer = self.timer(card, deployment.moe_kernel)
        accelerator = self.layer_timer.table.accelerator
        together(
            lambda: reach.check_lm_head(deployment, accelerator),
            lambda: check_domain(accelerator, deployment.gpus, self.fabric),
            lambda: reach.check_nics(deployment, accelerator),
            lambda: self.layer_timer.experts.kernel,
            lambda: reach.check_exchange(deployment, accelerator),
            lambda: self._without_ffn,
            *[partial(self._copies, ffn) for ffn in moe_ffns(self.model)],
        )
        self._memory = self.with_stated_kv(self.memory(accelerator, "EP", self._weights()))

    @cached_property
    def _without_ffn(self) -> frozenset[int]:
        """Kinds of layers that have no FFN. Raises InfeasibleError if all are."""
        kinds = [number for number, kind in enumerate(self.kinds) if kind.layer.ffn is None]
        if len(kinds) == len(self.kinds):
            raise InfeasibleError(f"{self.model.name} has no layer with an FFN: EP has no experts")
        return frozenset(kinds)

    @cached_property
    def program(self) -> Program:
        """The schedule."""
        return self._program(self.attention_gpus)

    @property
    def neighbours(self) -> int:
        return self.lm_head_ranks

    def one_of_each_by_load(
        self, slowest: Mapping[tuple[str, int], Ns], host_ns: Ns
    ) -> list[Program]:
        """Return the schedule of one GPU; its order does not depend on durations."""
        return [self._program(1)] * len(host_ns)

    def _program(self, gpus: int) -> Program:
        two_batch = self.ep.overlap == "two_batch"
        return program(Schedule(self.course.sequence, gpus, two_batch, self._without_ffn))

    def server_name(self, pool: int, server: int) -> str:
        """Return the name of a server: a GPU by its node and its rank there, or the network."""
        of = self.program.pools[pool]
        first = server * self.attention_tp
        node, rank = divmod(first, self.layer_timer.table.accelerator.node.gpus)
        return f"n{node}.g{rank}" if of.kind == "gpu" else of.name

    def devices(self) -> list[dict[ServerKind, int]]:
        """Return the devices behind each server: the all-to-all runs over every GPU's link."""
        found = super().devices()
        inside = self.ep.gpus <= self.layer_timer.table.accelerator.node.scale_up_domain_gpus
        for pool, devices in zip(self.program.pools, found, strict=True):
            if pool.kind == "network":
                devices["nvlink" if inside else "nic"] = self.ep.gpus
            else:
                devices[pool.kind] = self.attention_tp
        return found

    @property
    def host_share(self) -> int:
        """Micro-batches that share one pass of the host: those of a step."""
        return self.ep.micro_batches

    @property
    def core_timer(self) -> LayerTimer:
        return self.layer_timer

    @property
    def lm_head_tp(self) -> int:
        return self.ep.lm_head_tp

    def attended(self, of: Attended, tokens: GpuTokens) -> dict[str, Timed]:
        """Return what runs before the core of an attention and after it, `tokens` a GPU."""
        timer, name = self.beside(self.layer_timer, of.crowded), of.name
        software, attention = self.scenario.software, self.model.attention[name]
        # Norm and rope stand before the core, quantisation and routing after it.
        half = glue.layer_ns(software, tokens.each, 1 / 2)
        block = glue.attention_ns(software, timer.table.accelerator, attention, tokens.each)
        before, after = mixed(timer, tokens)
        attn1 = timer.after_core(name, tokens) + timer.output(name, tokens, 1)
        if self.attention_tp > 1:
            attn1 += self.summed(timer, tokens)
        if of.ffn:
            attn1 += after + half
        return {"attn0": timer.before_core(name, tokens) + before + half + block, "attn1": attn1}

    def own(self, kind: Pass, tokens: GpuTokens, attended: dict[str, Timed]) -> dict[str, Timed]:
        """Return the durations of attention and dense FFNs, those without experts."""
        layer, tokens = kind.layer, tokens.apart(self.attention_tp)
        timer, ffn = self.beside(self.layer_timer, self.crowded(layer)), self.model.found_ffn(layer)
        if isinstance(ffn, DenseFfn):
            dense = timer.dense(ffn.intermediate, *tokens.own, gated=ffn.gated)
            return attended | {"shared": dense}
        if ffn is None:
            attn0 = attended["attn0"]
            return attended | {"attn0": attn0.lasting(self.slowed(layer, "attn0", attn0.ns))}
        columns = ffn.shared * ffn.shared_intermediate
        shared = timer.dense(columns, *tokens.own, gated=ffn.gated)
        if ffn.latent is not None:
            # What comes back counts in the attention of its own layer, not of the next.
            down, up = timer.latent(ffn, tokens)
            attended = attended | {
                "attn0": attended["attn0"] + up,
                "attn1": attended["attn1"] + down,
            }
        exchange = self.scenario.software.exchange
        if exchange is not None and not self.alone(layer):
            # What is sent and received beside a stage is part of it.
            attended = attended | {
                "attn0": attended["attn0"] + glue.exchange_ns(exchange.dispatch, tokens.each),
                "attn1": attended["attn1"] + glue.exchange_ns(exchange.combine, tokens.each),
            }
        stages: tuple[tuple[Compute, Timed], ...] = (
            ("attn0", attended["attn0"]),
            ("shared", shared),
        )
        return attended | {
            stage: time.lasting(self.slowed(layer, stage, time.ns)) for stage, time in stages
        }

    def joint(self, kind: Pass, tokens: GpuTokens) -> dict[str, Timed]:
        """Return the durations of experts and all-to-all."""
        ffn = self.model.found_ffn(kind.layer)
        if not isinstance(ffn, MoeFfn) or self.draws(kind.layer):
            return {}
        total, most = tokens.total(), tokens.apart(self.attention_tp).most()
        parts = [
            self._turn(str(kind.layer.ffn), ffn, between(total, most, *turn), turn[1] - turn[0])
            for turn in self._turns(ffn, most)
        ]
        return one_after_the_other(parts)

    def _turn(self, name: str, ffn: MoeFfn, total: Ns, most: Ns) -> dict[str, Timed]:
        """Return the same of tokens that go at once."""
        timer, gpus = self.layer_timer, self.ep.gpus
        experts = timer.by_total(
            ("experts", name),
            total,
            lambda totals: self._by_rank(timer.experts.expected(ffn, self.spread(ffn), totals)).on(
                gpus
            ),
        )
        fullest = self._exchange(ffn).fullest(self.spread(ffn).held(ffn), total, most)
        load = most if fullest is most else total
        sizes = () if fullest is most else (int(most.flat[0]),)
        return {"experts": experts} | {
            direction: timer.once(
                (direction, name, *sizes),
                load,
                partial(self._all_to_all, direction, ffn, fullest),
            )
            for direction in _DIRECTIONS
        }

    def _by_rank(self, experts: Timed) -> Timed:
        """Return the time of the slowest of the GPUs that share requests."""
        tp = self.attention_tp
        return experts if tp == 1 else experts.lasting(in_groups(experts.ns, tp).max(axis=-1))

    def joint_load(self, requests: GpuTokens) -> Hashable:
        """Return the requests of all GPUs, and those of the GPU that has most."""
        return all_and_most(requests.each)

    @property
    def gpus_sharing(self) -> int:
        return self.lm_head_ranks if self.drafts else 1

    @cached_property
    def delays_ns(self) -> dict[str, int]:
        """Latencies of a step that holds requests.

        The micro-batches of a step share one pass of the host, so each bears its part.
        """
        gap_us = host_us(self.scenario) / self.host_share
        return {"host": from_us(gap_us, "the host gap")}

    def kv_memory(self) -> GpuMemory:
        return self._memory

    def kv_remedy(self) -> str:
        return "use a narrower KV format"

    def spread(self, ffn: MoeFfn) -> Spread:
        return Spread(self._copies(ffn), self.ep.gpus, 1)

    @property
    def expert_nodes(self) -> int:
        """Nodes over which the GPUs lie; 1 if they do not fill whole ones."""
        each = self.layer_timer.table.accelerator.node.gpus
        return self.ep.gpus // each if self.ep.gpus % each == 0 else 1

    def routed(self, ffn: MoeFfn, tokens: Ns, loads: Loads) -> dict[str, Timed]:
        """Return the durations of experts, dispatch and combine (layers × servers).

        The rank that sends or receives most sets the all-to-all. Its calibrated time is that of
        uniform routing, which has a fullest rank of its own: only what is beyond it counts.
        """
        total, most = tokens.sum(), GpuTokens(tokens).apart(self.attention_tp).most()
        parts = [
            self._routed_turn(
                ffn,
                int(between(total, most, *turn)[0]),
                float((turn[1] - turn[0])[0]),
                between(loads.tokens, most, *turn),
            )
            for turn in self._turns(ffn, most)
        ]
        timed = one_after_the_other(parts)
        timed["experts"].ns[0] += self._loading_ns(ffn, loads.moved)
        return timed | {"experts": self._by_rank(timed["experts"])}

    def _routed_turn(self, ffn: MoeFfn, total: int, sent: float, loads: Ns) -> dict[str, Timed]:
        """Return the same of tokens that go at once, of which a rank sends at most `sent`."""
        spread = self.spread(ffn)
        experts = self.layer_timer.experts.drawn(ffn, spread, loads, float(total))
        usual = hottest_factor("uniform", total, spread.held(ffn), ffn.top_k)
        pairs = loads.sum(axis=-1).max(axis=-1)
        most = np.maximum(pairs / (ffn.computed() * usual), sent)
        if self.ep.exchange == "gather":  # whoever hosts the experts
            most = np.full_like(most, sent)
        there = self._all_to_all("dispatch", ffn, most)
        back = self._all_to_all("combine", ffn, most)
        return {
            "experts": experts,
            "dispatch": there.lasting(there.ns[:, np.newaxis]),
            "combine": back.lasting(back.ns[:, np.newaxis]),
        }

    def _loading_ns(self, ffn: MoeFfn, moved: Ns) -> Ns:
        """Return how long each GPU takes to load the weights of `moved` experts."""
        accelerator = self.layer_timer.table.accelerator
        elements = moved * float(ffn.expert_weights(self.model.hidden))
        n_bytes = elements * experts_bytes(self.scenario.precision)
        inside = self.ep.gpus <= accelerator.node.scale_up_domain_gpus
        medium: ops.Medium = "scale_up" if inside else "nic"
        goodput = self.fabric.goodput if self.fabric.medium == medium else 1.0
        moved_per_s = bytes_per_s(accelerator, medium) * goodput
        return whole_ns(n_bytes / moved_per_s * NS_PER_S, "moving experts")

    def _all_to_all(self, direction: ops.Direction, ffn: MoeFfn, most_tokens: ArrayLike) -> Timed:
        """Return the time of dispatch or combine, by the tokens of the rank that has most."""
        return self._exchange(ffn).timed(direction, most_tokens)

    def _turns(self, ffn: MoeFfn, most: Ns) -> list[tuple[Ns, Ns]]:
        """Return where each turn of an exchange begins and ends, in tokens of the fullest rank."""
        return self._exchange(ffn).turns(most, self.scenario.software.tokens_per_exchange)

    def _exchange(self, ffn: MoeFfn) -> Exchange:
        return Exchange(self.ep, self.layer_timer, self.fabric, ffn, self._copies(ffn))

    def alone(self, layer: Layer) -> bool:
        """Return whether there is no all-to-all of another micro-batch beside a layer."""
        alone = self.ep.overlap == "none" or not self._exchanges
        return alone or isinstance(self.model.found_ffn(layer), DenseFfn)

    @property
    def _exchanges(self) -> bool:
        """Return whether tokens are exchanged apart from the experts."""
        return self.ep.gpus > 1 and not self.layer_timer.experts.exchanges

    def _copies(self, ffn: MoeFfn) -> int:
        """Return the physical experts. Raises InfeasibleError if they do not divide."""
        copies = ffn.experts + self.ep.redundant_experts
        missing = -ffn.experts % self.ep.gpus
        remedy = f"set redundant_experts to {missing} or to {missing + self.ep.gpus}"
        split_evenly(copies, self.ep.gpus, "experts and copies", remedy)
        return copies

    def _weights(self) -> float:
        model, precision = self.model, self.scenario.precision
        experts = ffn_bytes(model, precision, lambda ffn: self._copies(ffn) // self.ep.gpus, 1, 1)
        attention = attention_bytes(model, precision, 1, self.drafts)
        return experts + attention + vocab_bytes(model, precision, self.ep.lm_head_tp)
