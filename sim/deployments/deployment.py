"""What every deployment has: a model on GPUs with KV, weights that fit, times and a price."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from sim.deployments.expected_load import ExpectedLoad
from sim.deployments.kvcache import GpuMemory, Transfer, kv_layout
from sim.deployments.layers import Batch, Core, LayerTimer, Ns, Pass, Spread, passes
from sim.engines.program import Program, Times
from sim.foundation.errors import InfeasibleError
from sim.foundation.nanoseconds import from_us
from sim.inputs import cards
from sim.inputs.deployment import MoeKernel
from sim.inputs.hardware import Accelerator
from sim.inputs.model import Layer, MoeFfn
from sim.inputs.noise import ServerKind
from sim.inputs.scenario import Scenario
from sim.inputs.software import Compute
from sim.kernels import kernel_table
from sim.variation.expert_loads import Loads

# Times of this many different distributions of requests over GPUs are kept.
_KEPT_BATCHES = 1024


# An attention and the tokens of a request that go through it at once.
_Attended = tuple[str, int]


class _Prepared(NamedTuple):
    """What the requests of a micro-batch decide, whatever their context."""

    rest: Times
    """The durations of all but the cores."""
    usage_ns: list[dict[kernel_table.Status, float]]
    """What their look-ups count as, by table."""
    around: list[tuple[Pass, Ns]]
    """By kind of layer: what runs beside the core in its stage."""
    cores: list[tuple[_Attended, Core]]


class Deployment(ABC):
    """A scenario compiled for an engine. Engines see `program`, the scheduler sees the rest."""

    breakdown: ClassVar[dict[str, tuple[str | tuple[str, ...], ...]]]
    """Stages (or delays) whose times add up to each per-layer column of the results; of stages in
    an inner tuple, which run at once, the longest counts."""

    core_stage: ClassVar[Compute]
    """Stage that the attention core is part of."""

    sides: ClassVar[dict[str, str]]
    """Groups of like GPUs, and the attribute that times their kernels."""

    def __init__(self, scenario: Scenario, attention_gpus: int, micro_batches: int) -> None:
        self.scenario = scenario
        self.attention_gpus = attention_gpus
        self.micro_batches = micro_batches
        self.model = cards.model(scenario.model)
        speculation = scenario.speculation
        self.passes = passes(self.model, speculation)
        """Layers as a step goes through them; a drafting one comes last, and several times."""
        self.kinds: list[Pass] = list(dict.fromkeys(self.passes))
        number = {kind: place for place, kind in enumerate(self.kinds)}
        self.sequence = tuple(number[each] for each in self.passes)
        """Places in `kinds` of the layers in their order."""
        self.last_positions = 1
        """Tokens of each request whose LM head ends a step."""
        if speculation is not None and speculation.draft_layer is not None:
            self.model = self.model.with_layer(speculation.draft_layer)
        elif speculation is not None:
            self.last_positions = speculation.positions
        written = speculation.positions if speculation else 1
        blocks = scenario.memory.kv_block_tokens
        self.stated_kv_tokens = scenario.memory.stated_kv_tokens()
        layout = kv_layout(self.model, scenario.precision.kv, blocks, written)
        self.layout = replace(layout, full_context_only=self.stated_kv_tokens is not None)
        self.expected = ExpectedLoad(scenario, self.layout, attention_gpus, micro_batches)
        self.tables: list[kernel_table.KernelTable] = []
        self._kept: dict[bytes, _Prepared] = {}
        self.draws_experts = False
        """Whether `times` leaves out what depends on where tokens go, for `routed_ns` to add."""

    @property
    def drafts(self) -> bool:
        """Whether the last layer of `model` drafts."""
        return self.passes[-1].drafts_after > 0

    @property
    def lanes(self) -> int:
        """Requests in flight that are one on each attention GPU in each micro-batch."""
        return self.attention_gpus * self.micro_batches

    def layer_ns(
        self, program: Program, values: Ns, delays_ns: Ns
    ) -> dict[str, NDArray[np.float64]]:
        """Return the mean time of a layer by column of `breakdown`, slowest server, ns.

        `values` and `delays_ns` are those of many `Times` of `program`, one a row.
        """
        stage_ns = program.layer_mean_of(values)
        stage_ns |= dict(zip(program.delays, delays_ns.T.astype(np.float64), strict=True))
        nothing = np.zeros(len(values))
        return {
            column: sum((_longest(stage_ns, stages, nothing) for stages in parts), nothing)
            for column, parts in self.breakdown.items()
        }

    @property
    @abstractmethod
    def program(self) -> Program:
        """Servers, static order and dependencies."""

    @abstractmethod
    def one_of_each(self, rows: Mapping[tuple[str, int], Ns]) -> Program:
        """Return the program with one server in each pool: what like servers do together.

        Its static order is the one that suits durations `rows` by (stage, layer kind).
        """

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
        """Return the deployment with times that leave out what `routed_ns` has."""
        _ = self.program  # in the static order that suits the expected load, and shared
        other = copy(self)
        other._kept, other.draws_experts = {}, True
        return other

    @abstractmethod
    def spread(self, ffn: MoeFfn) -> Spread:
        """Return how the experts lie on ranks. Raises InfeasibleError if uneven."""

    @property
    @abstractmethod
    def expert_nodes(self) -> int:
        """Nodes over which the ranks of experts lie."""

    @abstractmethod
    def routed_ns(self, ffn: MoeFfn, tokens: Ns, loads: Loads) -> dict[str, Ns]:
        """Return, by stage, the durations of what depends on where tokens go (layers × servers).

        `tokens` are those of each attention GPU, `loads` where they go in all layers with `ffn`. A
        rank that has to load weights does so before the first of them.
        """

    def uses(self, kind: Pass) -> int:
        """Return how often a step goes through layers of a kind."""
        return self._uses[kind]

    @cached_property
    def _uses(self) -> Counter[Pass]:
        return Counter(self.passes)

    def draft_ns(self, kind: Pass, requests: Ns, lm_head_tp: int) -> Ns:
        """Return what a drafting layer takes before its attention: LM head and projection."""
        timer, uses = self.core_timer, self.uses(kind)
        head = timer.lm_head(requests * kind.drafts_after, lm_head_tp, uses)
        return head + timer.draft_projection(requests * kind.positions, uses)

    def draws(self, layer: Layer) -> bool:
        """Return whether what depends on where tokens go is left out of a layer's times."""
        return self.draws_experts and isinstance(self.model.ffn[layer.ffn], MoeFfn)

    @abstractmethod
    def around_core(self, requests: Ns) -> dict[tuple[str, int], Ns]:
        """Return the durations by (stage, layer kind) with `requests` on each attention GPU.

        Of `core_stage`, that is what runs there besides the core, not yet slowed.
        """

    @abstractmethod
    def slowed(self, layer: Layer, stage: Compute, time: Ns) -> Ns:
        """Return the time of a stage of `layer` that may run beside communication."""

    @abstractmethod
    def delays_ns(self) -> dict[str, int]:
        """Return the latencies of a step that holds requests."""

    def times(self, batch: Batch) -> Times:
        """Return the durations of one step of a micro-batch that holds `batch`.

        All but the cores depend on the requests alone, which change more rarely than the context:
        they are kept, with the usage that their look-ups count as.
        """
        if batch.is_empty():
            return self._nothing
        asked = batch.requests.tobytes()
        if asked not in self._kept:
            if len(self._kept) >= _KEPT_BATCHES:
                self._kept.clear()
            self._kept[asked] = self._prepared(batch.requests)
        kept = self._kept[asked]
        for table, spent in zip(self.tables, kept.usage_ns, strict=True):
            table.add_usage(spent)
        core_ns = {of: core.time(batch.kv_tokens[core.window]) for of, core in kept.cores}
        values = kept.rest.values.copy()
        for (kind, around), (first, last) in zip(kept.around, self._core_bounds, strict=True):
            core = core_ns[kind.layer.attention, kind.positions]
            values[first:last] = self.slowed(kind.layer, self.core_stage, around + core)
        return Times(values, kept.rest.bounds, kept.rest.delays_ns)

    def on_cards(
        self, change: Callable[[Accelerator], Accelerator], sides: Collection[str]
    ) -> Self:
        """Return the deployment, static order included, with other cards timing some sides."""

        def changed(side: str, table: kernel_table.KernelTable) -> kernel_table.KernelTable:
            if side not in sides:
                return table
            return kernel_table.KernelTable(change(table.accelerator), table.curves, table.sha256)

        return self.with_tables(changed)

    def with_tables(
        self, table_of: Callable[[str, kernel_table.KernelTable], kernel_table.KernelTable]
    ) -> Self:
        """Return the deployment, static order included, with `table_of` each side's table."""
        other = copy(self)
        other._kept, other.tables = {}, []
        for side, name in self.sides.items():
            timer: LayerTimer = getattr(self, name)
            timer = replace(timer, table=table_of(side, timer.table))
            setattr(other, name, timer)
            other.tables.append(timer.table)
        return other

    def durations(self, batch: Batch) -> dict[tuple[str, int], Ns]:
        """Return the durations by (stage, layer kind), before there is a program."""
        rows = self.around_core(batch.requests)
        cores = self._cores(batch.requests)
        core_ns = {of: core.time(batch.kv_tokens[core.window]) for of, core in cores}
        for number, kind in enumerate(self.kinds):
            around = rows[self.core_stage, number]
            core = core_ns[kind.layer.attention, kind.positions]
            time = self.slowed(kind.layer, self.core_stage, around + core)
            rows[self.core_stage, number] = time
        return rows

    def _prepared(self, requests: Ns) -> _Prepared:
        """Return the times of a micro-batch with `requests` on each GPU as far as they decide."""
        program = self.program
        before = [dict(table.usage_ns) for table in self.tables]
        rest = program.times(self.around_core(requests), self.delays_ns())
        tables = zip(self.tables, before, strict=True)
        spent = [table.usage_since(then) for table, then in tables]
        for table, then in zip(self.tables, before, strict=True):
            table.usage_ns.update(then)
        rows = [program.row(rest, self.core_stage, kind) for kind in range(len(self.kinds))]
        around = [(kind, row.copy()) for kind, row in zip(self.kinds, rows, strict=True)]
        return _Prepared(rest, spent, around, self._cores(requests))

    def _cores(self, requests: Ns) -> list[tuple[_Attended, Core]]:
        """Return the cores by attention and tokens of a request that attend at once."""
        timer = self.core_timer
        return [(of, timer.core(*of, requests, n)) for of, n in self.attention_uses.items()]

    @cached_property
    def attention_uses(self) -> Counter[_Attended]:
        """How often a step goes through each attention, by tokens of a request at once."""
        return Counter((each.layer.attention, each.positions) for each in self.passes)

    @cached_property
    def _core_bounds(self) -> list[tuple[int, int]]:
        """First value, and the one after the last, of the cores of each kind of layer."""
        program = self.program
        stage = [stage.name for stage in program.stages].index(self.core_stage)
        return [program.slot_bounds[program.slot(stage, k)] for k in range(len(self.kinds))]

    @cached_property
    def _nothing(self) -> Times:
        """The durations of a step without requests."""
        return self.program.times({}, dict.fromkeys(self.program.delays, 0))

    @abstractmethod
    def cards_and_gpus(self) -> list[tuple[str, int]]:
        """Return how many GPUs of which card the deployment rents."""

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
                f"KV comes from prefill over NICs, and the fabric {fabric.name} is none of NICs: "
                "leave admission.kv_transfer out, or take a fabric of NICs"
            )
        latency_ns = from_us(transfer.latency_us, "a KV transfer")
        return Transfer(line_rate * fabric.goodput * transfer.nic_share, latency_ns)

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
        total = 0.0
        for name, gpus in self.cards_and_gpus():
            price = cards.accelerator(name).usd_per_hour
            if price is None:
                return None
            total += price * gpus
        return total

    def timer(self, accelerator: Accelerator, moe_kernel: MoeKernel) -> LayerTimer:
        """Return the layer timer of a card with its shipped calibration, if it has one."""
        table = kernel_table.load(accelerator, cards.calibration(accelerator.name))
        self.tables.append(table)
        load = self.scenario.routing.load()
        return LayerTimer(self.model, self.scenario.precision, load, moe_kernel, table)

    def memory(self, accelerator: Accelerator, role: str, weights_bytes: float) -> GpuMemory:
        """Return how a GPU's memory is spent."""
        memory = self.scenario.memory
        reserve = memory.activation_reserve_gb * 1e9
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


def _longest(
    stage_ns: Mapping[str, NDArray[np.float64]],
    stages: str | tuple[str, ...],
    nothing: NDArray[np.float64],
) -> NDArray[np.float64]:
    names = (stages,) if isinstance(stages, str) else stages
    return np.asarray(np.max([stage_ns.get(name, nothing) for name in names], axis=0))
