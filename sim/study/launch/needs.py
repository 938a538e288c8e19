"""Needs: what a scenario asks of whichever engine serves it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from sim.inputs import cards
from sim.inputs.arrivals import ClosedLoop
from sim.inputs.model import MoeFfn
from sim.inputs.routing import EplbPlacement, Popularities
from sim.inputs.scenario import Part, Scenario
from sim.study.launch.parts import Option

_PARTS: tuple[Part, ...] = ("attention", "o_proj", "dense", "experts")


class Sized(NamedTuple):
    """A number with the keys of the scenario that it comes from."""

    value: int
    source: str


@dataclass(frozen=True)
class Needs:
    """What a scenario asks of an engine with so many data-parallel ranks of attention."""

    scenario: Scenario
    dp: int

    @cached_property
    def requests(self) -> Sized | None:
        """Most requests of a data-parallel rank; None if the scenario states none."""
        stated = self.scenario.memory.max_running_requests
        if stated is not None:
            return Sized(stated, "memory.max_running_requests")
        arrivals = self.scenario.workload.arrivals
        if not isinstance(arrivals, ClosedLoop):
            return None
        key = "concurrency" if arrivals.concurrency is not None else "requests_per_gpu"
        in_flight = arrivals.requests_in_flight(self.scenario.gpu_count())
        return Sized(-(-in_flight // self.dp), f"workload.arrivals.{key}")

    @cached_property
    def captured(self) -> Sized | None:
        """Most requests of a rank in a CUDA graph; None where no batch is stated."""
        if self.requests is None:
            return None
        graphs = self.scenario.software.graphs
        if graphs is None:
            return self.requests
        most = int(graphs.largest_batch) * self.scenario.deployment.micro_batches
        if most >= self.requests.value:
            return self.requests
        return Sized(most, "software.graphs.largest_batch")

    @property
    def positions(self) -> int:
        """Tokens of a request that go through the model in a step."""
        speculation = self.scenario.speculation
        return 1 if speculation is None else speculation.positions

    def context(self) -> Sized:
        """Return the longest context, prompt and output together."""
        workload = self.scenario.workload
        key = "lengths" if workload.lengths is not None else "arrivals"
        return Sized(workload.law.longest_context(), f"workload.{key}: prompt + output")

    def kv_option(
        self, name: str, known: Mapping[str, str], engine: str, cannot: list[str]
    ) -> list[Option]:
        """Return the option of an engine that states the format of KV.

        `known` are the engine's words by format. Of other formats, or several, `cannot` is told.
        """
        formats = self._kv_formats()
        if len(formats) == 1 and formats[0] in known:
            return [Option(name, known[formats[0]], self._kv_source)]
        if formats:
            told = f"{engine} has no option for KV in {' and '.join(formats)}"
            cannot.append(f"{self._kv_source}: {told}")
        return []

    @property
    def kv_tokens(self) -> Sized | None:
        """KV of an attention GPU, tokens; None if the scenario states none."""
        memory = self.scenario.memory
        tokens = memory.stated_kv_tokens()
        if tokens is None:
            return None
        return Sized(tokens, f"memory.{'kv_blocks' if memory.kv_tokens is None else 'kv_tokens'}")

    def _kv_formats(self) -> list[str]:
        """Return the formats of what attention keeps per token, each once."""
        model, kv = cards.model(self.scenario.model), self.scenario.precision.kv
        kinds = (model.attention[layer.attention] for layer in model.layer_counts)
        return sorted({kind.cache_dtype(kv) for kind in kinds if kind.kept_elements()})

    @property
    def _kv_source(self) -> str:
        if self.scenario.precision.kv == "card":
            return f"precision.kv: kv_dtype of {self.scenario.model}"
        return "precision.kv"

    @property
    def placement(self) -> EplbPlacement | None:
        """How EPLB places experts anew while it runs; None if it does not."""
        per_step = self.scenario.routing.per_step
        placement = None if per_step is None else per_step.placement
        return placement if isinstance(placement, EplbPlacement) else None

    @property
    def balanced_by(self) -> str | None:
        """The key that says that EPLB places experts; None if none does."""
        routing = self.scenario.routing
        if isinstance(routing, Popularities) and routing.eplb:
            return "routing.eplb"
        return None if self.placement is None else "routing.per_step.placement"

    def experts(self) -> set[int]:
        """Return how many routed experts the model's layers have."""
        ffns = cards.model(self.scenario.model).ffn.values()
        return {ffn.experts for ffn in ffns if isinstance(ffn, MoeFfn)}

    def reserved_share(self) -> float:
        """Return the share of a GPU's memory for activations and CUDA graphs."""
        memory, graphs = self.scenario.memory, self.scenario.software.graphs
        held = 0.0 if graphs is None else float(graphs.bytes or 0)
        card = cards.accelerator(self.scenario.deployment.attention_gpus().accelerator)
        return float((memory.activation_reserve_gb * 1e9 + held) / card.hbm_bytes)

    def cannot(self) -> list[str]:
        """Return what no engine takes from this scenario, a sentence each."""
        told = [
            "prefill is not in the scenario: this instance prefills for itself until prefill "
            "instances and a KV connector are added",
            "the checkpoint, the addresses of nodes and the names of network interfaces are not in "
            "the scenario",
            "precision: the checkpoint decides on formats of weights; take one with "
            f"{self._weights()}",
        ]
        if self.requests is None:
            kind = self.scenario.workload.arrivals.kind
            told.append(
                f"workload.arrivals of kind {kind} states no batch, nor does "
                "memory.max_running_requests: the engine's own caps of requests and sizes of CUDA "
                "graphs hold"
            )
        return told

    def _weights(self) -> str:
        """Return the formats of weights in words, by part where they differ."""
        precision = self.scenario.precision
        formats = {part: precision.of(part) for part in _PARTS}
        if len(set(formats.values())) == 1:
            return f"all in {formats['experts']}"
        return ", ".join(f"{part} in {dtype}" for part, dtype in formats.items())
