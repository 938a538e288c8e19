"""What every deployment has: a model on GPUs with KV, weights that fit, times and a price."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from copy import copy
from dataclasses import replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from sim.deployments.batch import GpuTokens
from sim.deployments.course import Pass
from sim.deployments.expected_load import ExpectedLoad
from sim.deployments.experts import Spread
from sim.deployments.kvcache import GpuMemory, Transfer, kv_layout
from sim.deployments.layers import LayerTimer
from sim.deployments.steps import StepTimer
from sim.engines.program import Program
from sim.foundation.errors import InfeasibleError
from sim.foundation.nanoseconds import Ns, from_us
from sim.foundation.units import DTYPE_BYTES
from sim.inputs import cards
from sim.inputs.deployment import MoeKernel
from sim.inputs.hardware import Accelerator, Fabric
from sim.inputs.model import ModelCard, MoeFfn
from sim.inputs.noise import ServerKind
from sim.inputs.routing import Routing
from sim.inputs.scenario import Precision, Scenario
from sim.inputs.software import Software
from sim.kernels import kernel_table, ops
from sim.kernels.kernel_table import KernelTable
from sim.kernels.ops import Floats
from sim.kernels.timed import NO_USAGE, Timed
from sim.variation.expert_loads import Loads


class Deployment(StepTimer):
    """A scenario compiled for an engine. Engines see `program`, the scheduler sees the rest."""

    breakdown: ClassVar[dict[str, tuple[str | tuple[str, ...], ...]]]
    """Stages (or delays) whose times add up to each per-layer column of the results; of stages in
    an inner tuple, which run at once, the longest counts."""

    sides: ClassVar[dict[str, str]]
    """Groups of like GPUs, and the attribute that times their kernels."""

    fabric: Fabric
    """What carries its transfers."""

    def __init__(self, scenario: Scenario, attention_gpus: int, micro_batches: int) -> None:
        attention_tp = scenario.deployment.attention_gpus().tp
        super().__init__(scenario, _cut(cards.model(scenario.model), attention_tp), attention_tp)
        self.attention_gpus = attention_gpus
        self.micro_batches = micro_batches
        speculation = scenario.speculation
        written = speculation.positions if speculation else 1
        blocks = scenario.memory.kv_block_tokens
        self.stated_kv_tokens = scenario.memory.stated_kv_tokens()
        stated = self.stated_kv_tokens is not None
        self.layout = kv_layout(self.model, scenario.precision.kv, blocks, written, stated)
        self.expected = ExpectedLoad(scenario, self.layout, attention_gpus, micro_batches)

    @property
    def lanes(self) -> int:
        """Requests in flight that are one on each attention GPU in each micro-batch."""
        return self.attention_gpus * self.micro_batches

    def layer_ns(
        self, program: Program, slowest: Ns, delays_ns: Ns
    ) -> dict[str, NDArray[np.float64]]:
        """Return the mean time of a layer by column of `breakdown`, slowest server, ns.

        `slowest` are times by slot of many steps of `program`, one a row; `delays_ns` theirs.
        """
        stage_ns = program.layer_mean_of(slowest)
        stage_ns |= dict(zip(program.delays, delays_ns.T.astype(np.float64), strict=True))
        nothing = np.zeros(len(slowest))
        return {
            column: sum((_longest(stage_ns, stages, nothing) for stages in parts), nothing)
            for column, parts in self.breakdown.items()
        }

    @property
    def ordering_usage_ns(self) -> Floats:
        """Kernel time by status of the look-ups that choose the static order, which runs count."""
        return NO_USAGE

    @property
    @abstractmethod
    def neighbours(self) -> int:
        """Attention GPUs that do something together: a multiple of all such groups."""

    def one_of_each(self, slowest: Mapping[tuple[str, int], int]) -> Program:
        """Return the program with one server in each pool: what like servers do together.

        Its static order is the one that suits durations of the slowest servers, by stage and kind
        of layer.
        """
        of_load = {key: np.array([[ns]]) for key, ns in slowest.items()}
        return self.one_of_each_by_load(of_load, np.array([self.delays_ns["host"]]))[0]

    @abstractmethod
    def one_of_each_by_load(
        self, slowest: Mapping[tuple[str, int], Ns], host_ns: Ns
    ) -> list[Program]:
        """Return the same by load: durations are loads × 1 or 1, `host_ns` those of the host."""

    @abstractmethod
    def server_name(self, pool: int, server: int) -> str:
        """Return what people call a server of a pool: GPUs by instance and rank, a0.g3."""

    def devices(self) -> list[dict[ServerKind, int]]:
        """Return, by pool, how many devices of which kind stand behind each of its servers."""
        return [{pool.kind: 1} for pool in self.program.pools]

    @property
    def host_share(self) -> int:
        """Micro-batches that share one pass of the host."""
        return 1

    def without_routed(self) -> Self:
        """Return the deployment with times that leave out what `routed` has."""
        _ = self.program  # in the static order that suits the expected load, and shared
        other = self._copied()
        other.draws_experts = True
        return other

    def summed(self, timer: LayerTimer, tokens: GpuTokens) -> Timed:
        """Return the time in which GPUs that share requests sum the output of attention.

        The reduce-scatter of this sum and the all-gather before the next layer count here together.
        """
        full = tokens.each * self.model.hidden * DTYPE_BYTES["bf16"]
        tp = self.attention_tp
        return timer.table.timed(ops.collective("all_reduce", "bf16", tp, full), tokens.alike)

    @abstractmethod
    def spread(self, ffn: MoeFfn) -> Spread:
        """Return how the experts lie on ranks. Raises InfeasibleError if uneven."""

    @property
    @abstractmethod
    def expert_nodes(self) -> int:
        """Nodes over which the ranks of experts lie."""

    @abstractmethod
    def routed(self, ffn: MoeFfn, tokens: Ns, loads: Loads) -> dict[str, Timed]:
        """Return, by stage, the durations of what depends on where tokens go (layers × servers).

        `tokens` are those of each attention GPU, `loads` where they go in all layers with `ffn`. A
        rank that has to load weights does so before the first of them.
        """

    def with_software(self, software: Software) -> Self:
        """Return the deployment, static order and memory included, under other figures."""
        return self._otherwise({"software": software})

    def with_routing(self, routing: Routing) -> Self:
        """Return the deployment, static order included, with tokens that choose otherwise."""
        other = self._otherwise({"routing": routing})
        for name in self.sides.values():
            setattr(other, name, replace(getattr(self, name), load=routing.load()))
        return other

    def with_fabric(self, fabric: Fabric) -> Self:
        """Return the deployment, static order included, over another fabric."""
        other = self._otherwise({})
        other.fabric = fabric
        return other

    def _otherwise(self, parts: Mapping[str, object]) -> Self:
        """Return the deployment with other parts of its scenario, in its own static order."""
        other = self._copied()
        for kept in ("delays_ns", "_delays_ns", "_largest_graph", "attention_uses"):
            vars(other).pop(kept, None)
        other.scenario = self.scenario.model_copy(update=dict(parts))
        return other

    def _copied(self) -> Self:
        """Return a copy that keeps no times."""
        other = copy(self)
        vars(other).pop("_loads", None)
        return other

    def on_cards(
        self, change: Callable[[Accelerator], Accelerator], sides: Collection[str]
    ) -> Self:
        """Return the deployment, static order included, with other cards timing some sides."""

        def changed(side: str, table: KernelTable) -> KernelTable:
            if side not in sides:
                return table
            return KernelTable(change(table.accelerator), table.curves, table.sha256)

        return self.with_tables(changed)

    def with_tables(self, table_of: Callable[[str, KernelTable], KernelTable]) -> Self:
        """Return the deployment, static order included, with `table_of` each side's table."""
        other = self._copied()
        for side, name in self.sides.items():
            timer: LayerTimer = getattr(self, name)
            setattr(other, name, replace(timer, table=table_of(side, timer.table)))
        return other

    def of_kind(self, kind: Pass) -> Self:
        """Return the deployment with layers of one kind alone, to ask what they take."""
        other = self._copied()
        vars(other).pop("attention_uses", None)
        other.kinds = (kind,)
        return other

    def with_precision(self, precision: Precision) -> Self:
        """Return the deployment, static order and memory included, with other number formats."""
        other = self._copied()
        for name in self.sides.values():
            setattr(other, name, replace(getattr(self, name), precision=precision))
        return other

    def table_hashes(self) -> dict[str, str]:
        """Return the SHA-256 of the calibration table of each accelerator; empty without one."""
        tables = [getattr(self, name).table for name in self.sides.values()]
        return {table.accelerator.name: table.sha256 for table in tables}

    @abstractmethod
    def kv_memory(self) -> GpuMemory:
        """Return the memory of a GPU that holds KV."""

    @abstractmethod
    def kv_remedy(self) -> str:
        """Return how more room for KV is made."""

    def kv_transfer(self) -> Transfer | None:
        """Return how KV comes from prefill; None if it comes with the request.

        Raises InfeasibleError if it should come over NICs that the card does not have, or of which
        no fabric tells the goodput.
        """
        transfer = self.scenario.admission.kv_transfer
        if transfer is None:
            return None
        accelerator = self.kv_memory().accelerator
        line_rate = accelerator.node.nic_bytes_per_s_per_gpu()
        if line_rate is None:
            raise InfeasibleError(
                f"{accelerator.name} has no NICs on its card: leave admission.kv_transfer out"
            )
        fabric = self.fabric
        if fabric.medium != "nic":
            raise InfeasibleError(
                f"KV comes from prefill over NICs, and fabric {fabric.name} has no NICs: "
                "leave admission.kv_transfer out, or take a fabric of NICs"
            )
        latency_ns = from_us(transfer.latency_us, "a KV transfer")
        return Transfer(line_rate * fabric.goodput * transfer.nic_share, latency_ns)

    def check_routing(self) -> None:
        """Refuse measured routing that does not fit the model. Raises ScenarioError."""
        ffns = [self.model.found_ffn(each.layer) for each in self.course.passes]
        self.scenario.routing.check(
            {number: ffn.experts for number, ffn in enumerate(ffns) if isinstance(ffn, MoeFfn)}
        )

    def check_memory(self) -> None:
        """Refuse a shape whose weights or mean KV do not fit. Raises InfeasibleError."""
        memory = self.kv_memory()
        memory.kv_capacity_bytes()
        in_flight = self.expected.in_flight()
        requests = 1.0 if in_flight is None else in_flight / self.attention_gpus
        running = self.scenario.memory.max_running_requests
        if running is not None and requests > running:
            raise InfeasibleError(
                f"{requests:.4g} requests are in flight per {memory.role} GPU, "
                f"memory.max_running_requests is {running}: lower the batch to {running} requests "
                f"per {memory.role} GPU or raise memory.max_running_requests"
            )
        memory.check_kv(requests * self.expected.claimed_bytes(), requests, self.kv_remedy())

    def usd_per_hour(self) -> float | None:
        """Return the rent of the deployment, USD per hour; None if a card has no price."""
        return self.scenario.usd_per_hour()

    def timer(self, accelerator: Accelerator, moe_kernel: MoeKernel) -> LayerTimer:
        """Return the layer timer of a card with its shipped calibration, if it has one."""
        table = kernel_table.load(accelerator, cards.calibration(accelerator.name))
        routing, engine = self.scenario.routing, self.scenario.software.kernels
        chosen = routing.experts if routing.kind == "balanced" else None
        precision, load = self.scenario.precision, routing.load()
        return LayerTimer(self.model, precision, load, moe_kernel, table, chosen, engine)

    def memory(self, accelerator: Accelerator, role: str, weights_bytes: float) -> GpuMemory:
        """Return how a GPU's memory is spent."""
        memory = self.scenario.memory
        graphs = self.scenario.software.graphs
        held = 0.0 if graphs is None else float(graphs.bytes or 0)
        reserve = memory.activation_reserve_gb * 1e9 + held
        return GpuMemory(accelerator, role, weights_bytes, reserve, memory.utilisation)

    def with_stated_kv(self, memory: GpuMemory) -> GpuMemory:
        """Return the memory of a GPU with the KV that the engine states, if it does.

        Raises InfeasibleError if it states tokens and no layer sees the whole context.
        """
        if self.stated_kv_tokens is None:
            return memory
        per_token = self.layout.bytes_per_token.get(None, 0.0)
        if not per_token:
            raise InfeasibleError(
                f"{self.model.name} has no layer that sees the whole context: memory.kv_tokens and "
                "memory.kv_blocks count nothing here; leave them out"
            )
        return replace(memory, stated_kv_bytes=self.stated_kv_tokens * per_token)


def _cut(model: ModelCard, ways: int) -> ModelCard:
    """Return the model with its heads over `ways` GPUs. Raises InfeasibleError if uneven."""
    try:
        return model.cut(ways)
    except ValueError as error:
        raise InfeasibleError(f"{model.name}: {error}: choose another tensor parallelism") from None


def _longest(
    stage_ns: Mapping[str, NDArray[np.float64]],
    stages: str | tuple[str, ...],
    nothing: NDArray[np.float64],
) -> NDArray[np.float64]:
    if isinstance(stages, str):
        return stage_ns.get(stages, nothing)
    return np.asarray(np.max([stage_ns.get(name, nothing) for name in stages], axis=0))
