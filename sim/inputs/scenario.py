"""The scenario schema: one frozen, validated description of a run.

The docstring under a field is its help in `afdsim schema`, in editors and in docs/scenario.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from sim.foundation.errors import ScenarioError, SimError
from sim.foundation.units import DType, WeightFormat
from sim.inputs import cards
from sim.inputs.admission import Admission
from sim.inputs.arrivals import ClosedLoop
from sim.inputs.base import Strict
from sim.inputs.deployment import UNDIVIDED, DeploymentShape
from sim.inputs.documents.document import Document, Loc, read
from sim.inputs.documents.places import loc_of
from sim.inputs.naming import Name, titles
from sim.inputs.noise import EmpiricalNoise, Noise
from sim.inputs.prices import Price
from sim.inputs.references import bad_references
from sim.inputs.routing import MeasuredRouting, Routing
from sim.inputs.software import Software
from sim.inputs.software.figures import or_profile
from sim.inputs.software.resolution import stated, write_out
from sim.inputs.sourced import Unsettled
from sim.inputs.speculation import RecordedAcceptance, Speculation
from sim.inputs.workload import Workload

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
LEAST_STEPS = 20
Percentile = Annotated[float, Field(gt=0, lt=100)]


Part = Literal["attention", "o_proj", "dense", "experts"]


class Precision(Strict):
    """Number formats of weights, by part of the model, and of KV.

    fp8 has a scale for each block of 128 × 128 weights, fp8_tensor one for a tensor; mxfp4 is
    multiplied by FP8 activations, mxfp4_bf16 by BF16 ones; int4 by BF16, int4_fp8 by FP8 ones;
    int4_group32 has four times the scales of int4. A card without units for a format computes it in
    BF16.
    """

    gemm: WeightFormat
    """Format of the parts that have none of their own."""
    attention: WeightFormat | None = None
    """Format of projections, that of a drafting layer included; absent: `gemm`."""
    o_proj: WeightFormat | None = None
    """Format of output projections; absent: as `attention`."""
    dense: WeightFormat | None = None
    """Format of dense FFNs and shared experts; absent: `gemm`."""
    experts: WeightFormat | None = None
    """Format of routed experts; absent: `gemm`."""
    kv: Literal["card", "bf16", "fp8", "int8", "nvfp4"]
    """Format of the KV cache and of the attention core; card: as the model card says. nvfp4 is
    widened to FP8 before it is multiplied."""
    lm_head: DType
    """Format of embedding, router and LM head."""

    def of(self, part: Part) -> WeightFormat:
        attention = self.attention or self.gemm
        own = {
            "attention": attention,
            "o_proj": self.o_proj or attention,
            "dense": self.dense or self.gemm,
            "experts": self.experts or self.gemm,
        }
        return own[part]


class Memory(Strict):
    """Shares of a GPU's memory, and limits that a serving engine states."""

    stated_elsewhere = ("utilisation",)

    utilisation: Share
    """Share of the memory that may be used, required unless the software profile states it. The
    memory is what the device reports (`hbm_bytes` of its card, as nvidia-smi prints it), not the
    gigabytes of the data sheet. The rest holds the driver and the CUDA context."""
    activation_reserve_gb: Annotated[float, Field(ge=0)]
    """Activations, workspaces and communication buffers per GPU, GB; CUDA graphs come on top
    (`software.graphs`)."""
    kv_block_tokens: PositiveInt
    """Tokens of one KV block."""
    kv_tokens: PositiveInt | None = None
    """KV of an attention GPU as its engine prints it, tokens, instead of the KV that the shares
    leave: vLLM's `GPU KV cache size` and SGLang's `max_total_num_tokens`, each of one data-parallel
    rank. The tokens count in layers that see the whole context; windows and constant states then
    have memory of their own. Refused only if these tokens and the weights exceed the memory."""
    kv_blocks: PositiveInt | None = None
    """KV of an attention GPU in blocks of `kv_block_tokens` (vLLM's `# GPU blocks`), instead of
    `kv_tokens`."""
    max_running_requests: PositiveInt | None = None
    """Most requests that an attention GPU decodes at once, over all micro-batches; further requests
    wait. vLLM's `max_num_seqs` and TensorRT-LLM's `max_batch_size` are of one data-parallel rank,
    which is an attention GPU here, and so is the `max_running_requests` that SGLang prints.
    `--max-running-requests` of SGLang is of all ranks together: divide by `--dp-size`."""

    @model_validator(mode="after")
    def _check(self) -> Memory:
        if self.kv_tokens is not None and self.kv_blocks is not None:
            raise ValueError("kv_tokens and kv_blocks state the same limit: leave one of them out")
        return self

    def stated_kv_tokens(self) -> int | None:
        """Return the KV of an attention GPU that the engine states; None if it does not."""
        if self.kv_blocks is not None:
            return self.kv_blocks * self.kv_block_tokens
        return self.kv_tokens


TpotOf = Literal["mean", "p50", "p90", "p99"]
"""Which TPOT of the requests is meant: their mean or a percentile."""


class Slo(Strict):
    """Latency targets. A run meets its SLO when it meets every target given."""

    tpot_ms: Positive
    """Time per output token that users are promised, ms."""
    tpot_percentile: Percentile | None = None
    """Percentile of the requests' TPOT that must be within `tpot_ms`; by default their mean."""
    queue_ms: Positive | None = None
    """Wait from arrival to admission that users are promised, ms; by default no promise."""
    queue_percentile: Percentile | None = None
    """Percentile of the waits that must be within `queue_ms`; by default their mean."""
    attainment: Share | None = None
    """Share of requests that must each be within `tpot_ms` and `queue_ms`; by default no share."""

    @model_validator(mode="after")
    def _check(self) -> Slo:
        if self.queue_percentile is not None and self.queue_ms is None:
            raise ValueError("queue_percentile needs queue_ms")
        return self


class Simulation(Strict):
    """Engine, seed, replications and stopping rule."""

    seed: NonNegativeInt
    """Seed of every random stream."""
    engine: Literal["event", "recurrence", "bound"] = "recurrence"
    """recurrence: the same times without an event list, much faster; event: SimPy, the reference,
    which also runs where the recurrence cannot; bound: no simulation, but the steady state of a
    load that never changes (closed loops only)."""
    precision: Share = 0.01
    """A closed loop stops when the 95 % half-width of TPOT is below this share of TPOT."""
    min_steps: Annotated[int, Field(ge=LEAST_STEPS, le=10**6)] = LEAST_STEPS
    """Fewest decode steps of each micro-batch in a closed loop."""
    max_steps: Annotated[int, Field(ge=LEAST_STEPS, le=10**6)] = 2000
    """Most decode steps of each micro-batch in a closed loop."""
    replications: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Number of runs, each with its own seed derived from `seed`. With two or more, figures are
    means over the runs and intervals come from their spread."""

    @model_validator(mode="after")
    def _check(self) -> Simulation:
        if self.engine == "bound" and self.replications > 1:
            raise ValueError("engine bound draws nothing: write replications 1")
        if self.min_steps > self.max_steps:
            raise ValueError(f"min_steps {self.min_steps} exceeds max_steps {self.max_steps}")
        return self


class Scenario(Strict):
    """One deployment of one model under one workload."""

    name: Name
    """Name of the scenario in tables and of its folder of results."""
    description: str = ""
    """What the scenario stands for and where its numbers come from."""
    model: str
    """Model card, a file in scenarios/models/."""
    deployment: DeploymentShape
    """Where attention and experts run."""
    routing: Routing
    """How evenly tokens choose experts; the rank with most tokens sets the pace."""
    precision: Precision
    software: Annotated[Software, Field(json_schema_extra=or_profile)]
    """What the serving engine adds to kernels: the name of a profile, or a mapping of figures that
    may name a profile for the others."""
    memory: Memory
    workload: Workload
    admission: Admission = Admission()
    """How requests enter."""
    slo: Slo
    simulation: Simulation
    noise: Noise | None = None
    """Random disturbances; absent: none."""
    speculation: Speculation | None = None
    """Tokens drafted ahead (multi-token prediction); absent: one token a request and step."""
    prices: dict[str, Price] | None = None
    """Rent of one accelerator by the name of its card, USD/h, in place of the price on the card.
    Costs appear where all accelerators of the deployment have a price. `--price CARD=USD` sets
    one."""
    doubt: list[Unsettled] = Field(default_factory=list)
    """What is not known of this deployment beside the ranges of its figures, as the card of a
    publication that names none. It widens prediction intervals and changes no other figure."""

    @model_validator(mode="after")
    def _check(self) -> Scenario:
        if self.simulation.engine == "bound" and self.workload.arrivals.kind != "closed":
            raise ValueError(
                "simulation.engine bound knows no arrivals: write workload.arrivals of kind closed"
            )
        strangers = self.software.strangers(self.deployment.kind, self.deployment.beside)
        if strangers:
            raise ValueError("; ".join(strangers))
        places = self.noise.places() if self.noise is not None else []
        if any(place.side not in self.deployment.noise_sides for place in places):
            kind = self.deployment.kind.upper()
            raise ValueError(f"noise: side exists only under AFD; leave it out under {kind}")
        return self

    def with_settings(self, settings: Mapping[str, Any]) -> Scenario:
        """Return this scenario with values by dotted path, e.g. `{"slo.tpot_ms": 50}`.

        Raises ScenarioError with every mistake, as a file of it would.
        """
        return from_document(self.document().changed(settings, self.name))

    def value_at(self, path: str) -> Any:
        """Return the value at a dotted path, None where there is none."""
        return self.document().get(loc_of(path))

    def settled(self, settings: Mapping[str, Any]) -> Scenario:
        """Return this scenario with a possibility of what is unsettled, and no doubt stated."""
        return self.with_settings({**settings, "doubt": []})

    def document(self) -> Document:
        """Return this scenario as a document of it would be read."""
        return Document(self.name, self.model_dump() | {"software": stated(self.software)})

    def with_batch(self, requests: int) -> Scenario:
        """Return this scenario with a closed loop of `requests` requests in flight."""
        closed = ClosedLoop(kind="closed", concurrency=requests)
        # No check of a scenario as a whole fails for a closed loop: its workload's are enough.
        workload = self.workload.replaced(arrivals=closed)
        return self.model_copy(update={"workload": workload})

    def gpu_count(self) -> int:
        return self.deployment.gpu_count()

    def usd_per_hour(self) -> float | None:
        """Return the rent of all accelerators, USD per hour; None if one has no price."""
        total = 0.0
        for name, gpus in self.deployment.gpus_by_card():
            card = cards.accelerator(name)
            price = (self.prices or {}).get(card.name, card.usd_per_hour)
            if price is None:
                return None
            total += price * gpus
        return total

    def tokens_per_step(self) -> float:
        """Return the tokens that a request emits in a step, in the mean."""
        return 1.0 if self.speculation is None else self.speculation.tokens_per_step()

    def measured_files(self) -> list[str]:
        """Return the CSV files of measured noise, routing and acceptance that it names."""
        laws = [task.law for task in self.noise.tasks] if self.noise is not None else []
        named = [law.path for law in laws if isinstance(law, EmpiricalNoise)]
        if isinstance(self.routing, MeasuredRouting):
            named.append(self.routing.path)
        if self.speculation is not None:
            law = self.speculation.acceptance
            named += [law.path] if isinstance(law, RecordedAcceptance) else []
        return [path for path in named if path is not None]


Fits = Callable[["Scenario"], object]


def load(name: str | Path, overrides: Iterable[str] = (), fits: Fits | None = None) -> Scenario:
    """Return the scenario at a path, or of a name in scenarios/ (one's own first, then packaged).

    `overrides` are `path=value` assignments made before validation. Raises ScenarioError with
    every mistake of the scenario and of the names it refers to. Its name and description say what
    was overwritten.
    """
    document = read(cards.find(cards.SCENARIOS, str(name), "scenario"))
    before, chosen = Document(document.name, document.data), list(overrides)
    for assignment in chosen:
        document.set(assignment)
    titles.of_scenario(document, before, chosen)
    return from_document(document, fits)


def from_document(
    document: Document, fits: Fits | None = None, known: Mapping[str, Any] = {}
) -> Scenario:
    """Return the scenario of a parsed document. Raises ScenarioError with every mistake.

    `fits` raises SimError for a shape that cannot run. It is asked only where the numbers of a
    deployment do not divide, so that all that is wrong with its shape is told at once. `known` are
    parts that were validated before; known software has the figures of its profile.
    """
    problems = [] if "software" in known else write_out(document)
    scenario: Scenario | None = None
    try:
        scenario = document.validate(Scenario, known)
    except ScenarioError as error:
        problems += error.problems
    misnamed = bad_references(document)
    problems += misnamed
    if scenario is None and not misnamed and fits is not None:
        problems += _misfits(document, fits)
    if scenario is not None and not problems:
        problems += _bad_possibilities(scenario, document)
    if scenario is None or problems:
        raise ScenarioError(problems)
    return scenario


def _bad_possibilities(scenario: Scenario, document: Document) -> list[str]:
    """Return a problem for each possibility of what is unsettled that is no scenario."""
    problems = []
    for number, unsettled in enumerate(scenario.doubt):
        for place, settings in enumerate(unsettled.one_of):
            loc: Loc = ("doubt", number, "one_of", place)
            try:
                settled = scenario.settled(settings)
            except ScenarioError as error:
                problems += [document.problem(loc, f"no scenario: {e}") for e in error.problems]
                continue
            gpus, stated = settled.gpu_count(), scenario.gpu_count()
            if gpus != stated:
                told = f"should leave the number of GPUs, {stated} (got {gpus})"
                problems.append(document.problem(loc, told))
    return problems


def _misfits(document: Document, fits: Fits) -> list[str]:
    """Return what else is wrong with a deployment whose own numbers do not divide.

    Nothing where more than that is wrong with the scenario.
    """
    try:
        fits(Scenario.model_validate(document.data, context=UNDIVIDED))
    except ValidationError:
        return []
    except SimError as error:
        lines = str(error).splitlines()
        return [document.problem_together(("deployment",), line) for line in lines]
    return []
