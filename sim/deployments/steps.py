"""Steps: what takes how long in a step of a micro-batch, put together from layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Hashable, Mapping
from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np

from sim.deployments.batch import Batch, GpuTokens
from sim.deployments.course import Pass, course
from sim.deployments.kept_loads import KeptLoads
from sim.deployments.layers import Attended, LayerTimer
from sim.engines.program import Program, Times
from sim.foundation.nanoseconds import Ns, whole_ns
from sim.inputs.model import Layer, ModelCard, MoeFfn
from sim.inputs.scenario import Scenario
from sim.inputs.software import Compute
from sim.kernels.core_line import CoreLine
from sim.kernels.ops import Floats
from sim.kernels.timed import NO_USAGE, Timed


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


class StepTimer(ABC):
    """Times the steps of a model, whose layers a deployment times stage by stage."""

    first_stage: ClassVar[str]
    """Stage that a layer begins with."""

    core_stage: ClassVar[Compute]
    """Stage that the attention core is part of."""

    def __init__(self, scenario: Scenario, model: ModelCard, attention_tp: int) -> None:
        self.scenario = scenario
        self.attention_tp = attention_tp
        """GPUs that stand behind an attention GPU: they share its requests and divide its heads."""
        self.model = model
        speculation = scenario.speculation
        self.course = course(model, speculation)
        self.kinds = self.course.kinds
        self.last_positions = 1
        """Tokens of each request whose LM head ends a step."""
        if speculation is not None and speculation.draft_layer is not None:
            self.model = model.with_layer(speculation.draft_layer)
        elif speculation is not None:
            self.last_positions = speculation.positions
        self.draws_experts = False
        """Whether `times` leaves out what depends on where tokens go, for `routed` to add."""

    @property
    @abstractmethod
    def program(self) -> Program:
        """Servers, static order and dependencies."""

    @property
    @abstractmethod
    def delays_ns(self) -> dict[str, int]:
        """Latencies of a step that holds requests."""

    @property
    @abstractmethod
    def core_timer(self) -> LayerTimer:
        """Times the attention core."""

    @property
    @abstractmethod
    def lm_head_tp(self) -> int:
        """GPUs that share the LM head."""

    @property
    def lm_head_ranks(self) -> int:
        """Attention GPUs, or groups that share requests, that share the LM head."""
        return self.lm_head_tp // self.attention_tp

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

    @property
    def drafts(self) -> bool:
        """Whether the last layer of `model` drafts."""
        return self.course.passes[-1].drafts_after > 0

    def uses(self, kind: Pass) -> int:
        """Return how often a step goes through layers of a kind."""
        return self.course.uses[kind]

    def draws(self, layer: Layer) -> bool:
        """Return whether what depends on where tokens go is left out of a layer's times."""
        return self.draws_experts and isinstance(self.model.found_ffn(layer), MoeFfn)

    def attended_in(self, kind: Pass) -> Attended:
        """Return the attention of a layer."""
        layer = kind.layer
        return Attended(layer.attention, kind.positions, self.crowded(layer), layer.ffn is not None)

    @cached_property
    def attention_uses(self) -> Counter[Attended]:
        """How often a step goes through each attention."""
        uses: Counter[Attended] = Counter()
        for kind in self.kinds:
            uses[self.attended_in(kind)] += self.uses(kind)
        return uses

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

    @cached_property
    def _loads(self) -> KeptLoads:
        return KeptLoads(self)

    @cached_property
    def nothing(self) -> Times:
        """Durations of a step without requests."""
        return self.program.times({}, dict.fromkeys(self.program.delays, 0))

    @cached_property
    def _delays_ns(self) -> tuple[int, ...]:
        return tuple(self.delays_ns[name] for name in self.program.delays)

    def bounds(self, stage: str, kind: int) -> tuple[int, int]:
        """Return the first value, and the one after the last, of a stage in a kind of layer."""
        program = self.program
        number = [stage.name for stage in program.stages].index(stage)
        return program.slot_bounds[program.slot(number, kind)]

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

    def _draft(self, kind: Pass, requests: GpuTokens) -> Timed:
        """Return what a drafting layer takes before its attention: LM head and projection."""
        timer = self.core_timer
        rows = requests.times(kind.drafts_after)
        head = timer.lm_head(rows, self.lm_head_tp, self.lm_head_ranks)
        return head + timer.draft_projection(requests.times(kind.positions))

    def head(self, requests: GpuTokens) -> Timed:
        """Return the time of the LM head that ends a step."""
        rows = requests.times(self.last_positions)
        return self.core_timer.lm_head(rows, self.lm_head_tp, self.lm_head_ranks)

    def core_line(self, of: Attended) -> tuple[int | None, CoreLine]:
        """Return the context that the cores of an attention read of a request, and their times.

        None: they read all of it.
        """
        return self.beside(self.core_timer, of.crowded).core_line(of.name, of.positions)

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


def slowest(rows: Mapping[tuple[str, int], Ns]) -> dict[tuple[str, int], int]:
    """Return the durations of the slowest servers."""
    return {key: int(ns.max()) for key, ns in rows.items()}
