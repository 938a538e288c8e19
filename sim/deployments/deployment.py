"""What every deployment has: a model on GPUs with KV, weights that fit, times and a price."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from sim.deployments.course import Pass, course
from sim.deployments.expected_load import ExpectedLoad
from sim.deployments.kept_loads import KeptLoads
from sim.deployments.kvcache import GpuMemory, Transfer, kv_layout
from sim.deployments.layers import (
    Attended,
    Batch,
    GpuTokens,
    LayerTimer,
    Ns,
    Spread,
)
from sim.engines.program import Program, Times
from sim.foundation.errors import InfeasibleError
from sim.foundation.nanoseconds import from_us, whole_ns
from sim.foundation.units import DTYPE_BYTES
from sim.inputs import cards
from sim.inputs.deployment import MoeKernel
from sim.inputs.hardware import Accelerator
from sim.inputs.model import Layer, ModelCard, MoeFfn
from sim.inputs.noise import ServerKind
from sim.inputs.scenario import Precision, Scenario
from sim.inputs.software import Compute
from sim.kernels import kernel_table, ops
from sim.kernels.core_line import CoreLine
from sim.kernels.kernel_table import KernelTable
from sim.kernels.ops import Floats
from sim.kernels.timed import NO_USAGE, Timed
from sim.variation.expert_loads import Loads


class Durations(NamedTuple):
    """What takes how long in a step of a micro-batch."""

    rows: dict[tuple[str, int], Ns]
    """By stage and kind of layer, one value per server, ns."""
    usage_ns: Floats
    """Kernel time of the whole step by status (`sim.kernels.timed`)."""


class Step(NamedTuple):
    """The same for an engine."""

    times: Times
    usage_ns: Floats


class Deployment(ABC):
    """A scenario compiled for an engine. Engines see `program`, the scheduler sees the rest."""

    breakdown: ClassVar[dict[str, tuple[str | tuple[str, ...], ...]]]
    """Stages (or delays) whose times add up to each per-layer column of the results; of stages in
    an inner tuple, which run at once, the longest counts."""

    first_stage: ClassVar[str]
    """Stage that a layer begins with."""

    core_stage: ClassVar[Compute]
    """Stage that the attention core is part of."""

    sides: ClassVar[dict[str, str]]
    """Groups of like GPUs, and the attribute that times their kernels."""

    def __init__(self, scenario: Scenario, attention_gpus: int, micro_batches: int) -> None:
        self.scenario = scenario
        self.attention_gpus = attention_gpus
        self.micro_batches = micro_batches
        self.attention_tp = scenario.deployment.attention_gpus().tp
        """GPUs that stand behind an attention GPU: they share its requests and divide its heads."""
        self.model = _cut(cards.model(scenario.model), self.attention_tp)
        speculation = scenario.speculation
        self.course = course(self.model, speculation)
        self.kinds = self.course.kinds
        self.last_positions = 1
        """Tokens of each request whose LM head ends a step."""
        if speculation is not None and speculation.draft_layer is not None:
            self.model = self.model.with_layer(speculation.draft_layer)
        elif speculation is not None:
            self.last_positions = speculation.positions
        written = speculation.positions if speculation else 1
        blocks = scenario.memory.kv_block_tokens
        self.stated_kv_tokens = scenario.memory.stated_kv_tokens()
        stated = self.stated_kv_tokens is not None
        self.layout = kv_layout(self.model, scenario.precision.kv, blocks, written, stated)
        self.expected = ExpectedLoad(scenario, self.layout, attention_gpus, micro_batches)
        self.draws_experts = False
        """Whether `times` leaves out what depends on where tokens go, for `routed` to add."""

    @property
    def drafts(self) -> bool:
        """Whether the last layer of `model` drafts."""
        return self.course.passes[-1].drafts_after > 0

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
    @abstractmethod
    def program(self) -> Program:
        """Servers, static order and dependencies."""

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

    @property
    @abstractmethod
    def core_timer(self) -> LayerTimer:
        """Times the attention core."""

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

    def uses(self, kind: Pass) -> int:
        """Return how often a step goes through layers of a kind."""
        return self.course.uses[kind]

    @property
    @abstractmethod
    def lm_head_tp(self) -> int:
        """GPUs that share the LM head."""

    def _draft(self, kind: Pass, requests: GpuTokens) -> Timed:
        """Return what a drafting layer takes before its attention: LM head and projection."""
        timer = self.core_timer
        rows = requests.times(kind.drafts_after)
        head = timer.lm_head(rows, self.lm_head_tp, self.lm_head_ranks)
        return head + timer.draft_projection(requests.times(kind.positions))

    def draws(self, layer: Layer) -> bool:
        """Return whether what depends on where tokens go is left out of a layer's times."""
        return self.draws_experts and isinstance(self.model.found_ffn(layer), MoeFfn)

    @abstractmethod
    def attended(self, of: Attended, tokens: GpuTokens) -> dict[str, Timed]:
        """Return the durations of an attention by stage, `tokens` on each attention GPU.

        They leave out the core, and are those of `core_stage` before they are slowed.
        """

    @abstractmethod
    def own(self, kind: Pass, tokens: GpuTokens, attended: dict[str, Timed]) -> dict[str, Timed]:
        """Return the durations in a layer that each attention GPU's own tokens decide.

        By stage; those of its attention are `attended`. Usage is that of all these GPUs.
        """

    @abstractmethod
    def joint(self, kind: Pass, tokens: GpuTokens) -> dict[str, Timed]:
        """Return the durations in a layer that the tokens of all attention GPUs decide.

        By stage. Usage is that of all GPUs.
        """

    @abstractmethod
    def joint_load(self, requests: GpuTokens) -> Hashable:
        """Return what of `requests` decides the durations of `joint`."""

    def around_core(self, requests: GpuTokens) -> Durations:
        """Return the durations of all but the cores, with `requests` on each attention GPU."""
        parts = self.own_durations(requests), self.joint_durations(requests)
        head = self.head(requests)
        rows = parts[0].rows | parts[1].rows | {("lm_head", len(self.kinds)): head.ns}
        return Durations(rows, parts[0].usage_ns + parts[1].usage_ns + head.usage_ns)

    def own_durations(self, requests: GpuTokens) -> Durations:
        """Return what of them each attention GPU's own requests decide."""
        rows: dict[tuple[str, int], Ns] = {}
        usage_ns = NO_USAGE
        attentions = {
            of: self.attended(of, requests.times(of.positions)) for of in self.attention_uses
        }
        for number, kind in enumerate(self.kinds):
            attended = attentions[self.attended_in(kind)]
            if kind.drafts_after:
                first = attended[self.first_stage] + self._draft(kind, requests)
                attended = attended | {self.first_stage: first}
            for stage, timed in self.own(kind, requests.times(kind.positions), attended).items():
                rows[stage, number] = timed.ns
                usage_ns = usage_ns + timed.usage_ns * (self.uses(kind) * self.attention_tp)
        return Durations(rows, usage_ns)

    def joint_durations(self, requests: GpuTokens) -> Durations:
        """Return what of them the requests of all attention GPUs decide."""
        rows: dict[tuple[str, int], Ns] = {}
        usage_ns = NO_USAGE
        for number, kind in enumerate(self.kinds):
            for stage, timed in self.joint(kind, requests.times(kind.positions)).items():
                rows[stage, number] = timed.ns
                usage_ns = usage_ns + timed.usage_ns * self.uses(kind)
        return Durations(rows, usage_ns)

    def head(self, requests: GpuTokens) -> Timed:
        """Return the time of the LM head that ends a step."""
        rows = requests.times(self.last_positions)
        return self.core_timer.lm_head(rows, self.lm_head_tp, self.lm_head_ranks)

    @property
    def lm_head_ranks(self) -> int:
        """Attention GPUs, or groups that share requests, that share the LM head."""
        return self.lm_head_tp // self.attention_tp

    def summed(self, timer: LayerTimer, tokens: GpuTokens) -> Timed:
        """Return the time in which GPUs that share requests sum the output of attention.

        The reduce-scatter of this sum and the all-gather before the next layer count here together.
        """
        full = tokens.each * self.model.hidden * DTYPE_BYTES["bf16"]
        tp = self.attention_tp
        return timer.table.timed(ops.collective("all_reduce", "bf16", tp, full), tokens.alike)

    @property
    @abstractmethod
    def gpus_sharing(self) -> int:
        """Attention GPUs that share what `own` times, their neighbours; 1: each works alone."""

    @abstractmethod
    def alone(self, layer: Layer) -> bool:
        """Return whether nothing communicates beside the stages of a layer."""

    @property
    def communication_sms(self) -> float:
        """SMs that communication takes from what runs beside it."""
        return float(self.scenario.software.communication_sms or 0)

    def crowded(self, layer: Layer) -> bool:
        """Return whether communication takes SMs beside the stages of a layer."""
        return self.communication_sms > 0 and not self.alone(layer)

    def beside(self, timer: LayerTimer, crowded: bool) -> LayerTimer:
        """Return a timer of kernels that have the SMs which communication leaves."""
        return timer.without_sms(self.communication_sms) if crowded else timer

    def slowdown(self, layer: Layer, stage: Compute) -> float:
        """Return how many times longer a stage of `layer` takes for what communicates beside it."""
        return 1.0 if self.alone(layer) else self.scenario.software.slowdown(stage)

    def slowed(self, layer: Layer, stage: Compute, time: Ns) -> Ns:
        """Return the time of a stage of `layer` that may run beside communication."""
        slowdown = self.slowdown(layer, stage)
        return time if slowdown == 1 else whole_ns(time * slowdown, stage)

    @property
    @abstractmethod
    def delays_ns(self) -> dict[str, int]:
        """Latencies of a step that holds requests."""

    @property
    def ordering_usage_ns(self) -> Floats:
        """Kernel time by status of the look-ups that choose the static order, which runs count."""
        return NO_USAGE

    def times(self, batch: Batch) -> Times:
        """Return the durations of one step of a micro-batch that holds `batch`."""
        return self.step(batch).times

    def step(self, batch: Batch) -> Step:
        """Return the same, with the kernel time by status.

        All but the cores depend on the requests alone, which change more rarely than the context:
        they are kept.
        """
        if batch.is_empty():
            return Step(self.nothing, NO_USAGE)
        if batch.taking is not None:
            rows, usage_ns = self.durations(batch)
            return Step(self.program.times(rows, self.delays_ns), usage_ns)
        values, usage_ns = self._loads.around(batch.requests)
        for core in self._loads.cores:
            core.add(batch, values, usage_ns)
        if batch.most > self._largest_graph:
            values = self.launched(batch.requests, values)
        times = Times(values, self.program.slot_bounds, self._delays_ns)
        return Step(times, usage_ns)

    def launched(self, requests: Ns, ns: Ns) -> Ns:
        """Return times of stages as the host launches them, with `requests` on each attention GPU.

        All ranks take the same way: a batch of one beyond the largest graph makes every stage last
        longer.
        """
        graphs = self.scenario.software.graphs
        if graphs is None or np.maximum.reduce(requests, axis=None) <= self._largest_graph:
            return ns
        eager = requests.max(axis=-1, keepdims=True) > self._largest_graph
        return np.where(eager, whole_ns(ns * float(graphs.beyond), "a step without graphs"), ns)

    @cached_property
    def _largest_graph(self) -> float:
        """Requests in the largest graph, ∞ where no graph limits them.

        A plain number: NumPy compares with it 30 times faster than with a sourced one.
        """
        graphs = self.scenario.software.graphs
        return np.inf if graphs is None else float(graphs.largest_batch)

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

    def durations(self, batch: Batch) -> Durations:
        """Return the durations of one step of a micro-batch, before there is a program.

        Of several loads at once, where the batch has them along a first axis.
        """
        requests = GpuTokens(batch.requests, batch.alike, batch.taking)
        rows, usage_ns = self.around_core(requests)
        core_ns = {}
        for of in self.attention_uses:
            window, line = self.core_line(of)
            timed = line.timed(batch.requests, batch.kv_tokens[window], batch.alike)
            core_ns[of] = timed.ns
            usage_ns = usage_ns + timed.usage_ns * (self.attention_uses[of] * self.attention_tp)
        for number, kind in enumerate(self.kinds):
            around = rows[self.core_stage, number]
            time = around + core_ns[self.attended_in(kind)]
            time = self.slowed(kind.layer, self.core_stage, time)
            rows[self.core_stage, number] = time
        rows = {stage: self.launched(batch.requests, ns) for stage, ns in rows.items()}
        return Durations(rows, usage_ns)

    @cached_property
    def _delays_ns(self) -> tuple[int, ...]:
        return tuple(self.delays_ns[name] for name in self.program.delays)

    def bounds(self, stage: str, kind: int) -> tuple[int, int]:
        """Return the first value, and the one after the last, of a stage in a kind of layer."""
        program = self.program
        number = [stage.name for stage in program.stages].index(stage)
        return program.slot_bounds[program.slot(number, kind)]

    def _copied(self) -> Self:
        """Return a copy that keeps no times."""
        other = copy(self)
        vars(other).pop("_loads", None)
        return other

    @cached_property
    def _loads(self) -> KeptLoads:
        return KeptLoads(self)

    def core_line(self, of: Attended) -> tuple[int | None, CoreLine]:
        """Return the context that the cores of an attention read of a request, and their times.

        None: they read all of it.
        """
        return self.beside(self.core_timer, of.crowded).core_line(of.name, of.positions)

    @cached_property
    def attention_uses(self) -> Counter[Attended]:
        """How often a step goes through each attention."""
        uses: Counter[Attended] = Counter()
        for kind in self.kinds:
            uses[self.attended_in(kind)] += self.uses(kind)
        return uses

    def attended_in(self, kind: Pass) -> Attended:
        """Return the attention of a layer."""
        layer = kind.layer
        return Attended(layer.attention, kind.positions, self.crowded(layer), layer.ffn is not None)

    @cached_property
    def nothing(self) -> Times:
        """Durations of a step without requests."""
        return self.program.times({}, dict.fromkeys(self.program.delays, 0))

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
        fabric = cards.fabric(self.scenario.deployment.fabric)
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


def slowest(rows: Mapping[tuple[str, int], Ns]) -> dict[tuple[str, int], int]:
    """Return the durations of the slowest servers."""
    return {key: int(ns.max()) for key, ns in rows.items()}


def _longest(
    stage_ns: Mapping[str, NDArray[np.float64]],
    stages: str | tuple[str, ...],
    nothing: NDArray[np.float64],
) -> NDArray[np.float64]:
    if isinstance(stages, str):
        return stage_ns.get(stages, nothing)
    return np.asarray(np.max([stage_ns.get(name, nothing) for name in stages], axis=0))
