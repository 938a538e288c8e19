"""Setup: the scenario of an operating point, what was assumed, and what cannot be expressed.

A row is a closed loop of so many requests that all have the row's mean context. What the row does
not know is assumed, by the rules of docs/accuracy.md; each assumption is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from sim.experiments.accuracy import shape, words
from sim.experiments.accuracy.points import OperatingPoint
from sim.experiments.accuracy.shape import Notes
from sim.experiments.accuracy.words import Unclear
from sim.foundation.errors import ScenarioError
from sim.foundation.printable import printable
from sim.inputs import cards
from sim.inputs.documents.document import Document
from sim.inputs.lengths import Fixed, prompt_under
from sim.inputs.scenario import Scenario, from_document

# A row was measured, so its memory sufficed: the shape is refused only if weights and KV exceed
# what the device has.
MEMORY = {"utilisation": 1.0, "activation_reserve_gb": 0.0, "kv_block_tokens": 64}
_OUTPUT_TOKENS = 1024
# What ranks lose by agreeing on the host where the next step is scheduled while GPUs compute.
_ASYNC = {
    "value": 0.0,
    "source": "async-scheduling: true in the recipes of served vLLM (NVIDIA/srt-slurm, "
    "recipes/vllm/kimi-k2.5)",
}
# Host work of a step that engines hide behind kernels, where nothing hides it, µs.
_UNHIDDEN_US = 5000
_UNHIDDEN = (
    "the profile's gap and 5 ms of scheduling that no kernel hides, as InferSim adds to every "
    "decode step of SGLang (github.com/alibaba/InferSim, models/model.py)"
)
# What a rank of SGLang loses when requests come from prefill.
_IDLE = {
    "value": 1.0,
    "source": "a rank of a decode server that takes requests in joins the step with an idle batch "
    "(github.com/sgl-project/sglang, PR 12839: «Decode (dp0) + Prebuilt (dp1) -> Decode (dp0) + "
    "Idle (dp1)»)",
}
# Power laws of expert loads that no one balances: from 0.6 over 1.01 to 1.2 in what aiconfigurator
# measures kernels under. Texts of few topics ask for few experts, random tokens for more of them.
_RANDOM, _NATURAL, _ONE_TEXT = 0.6, 1.01, 1.2


@dataclass(frozen=True)
class Setup:
    """What becomes of a row before it is predicted."""

    point: OperatingPoint
    scenario: dict[str, Any] | None
    """As YAML holds it; None if the row cannot be expressed."""
    why_not: str
    assumptions: tuple[str, ...]
    left_out: tuple[str, ...]
    """What the row had and the scenario has not."""

    def validated(self) -> Scenario:
        """Return the scenario. Raises ScenarioError as a file of it would."""
        if self.scenario is None:
            raise ScenarioError(f"{self.point.id}: {self.why_not}")
        return from_document(Document(self.point.id, self.scenario))

    def yaml(self) -> str:
        """Return the scenario as a file that `afdsim run` takes, assumptions as comments in front.

        Raises ScenarioError where there is none.
        """
        self.validated()
        notes = [*self.assumptions, *(f"left out: {text}" for text in self.left_out)]
        comments = "".join(f"# {printable(note)}\n" for note in notes)
        return comments + yaml.safe_dump(self.scenario, sort_keys=False, allow_unicode=True)


def setup(point: OperatingPoint, software: str | None = None) -> Setup:
    """Return the scenario of a row, or why there is none.

    `software` is a profile to take instead of the one of the row's framework.
    """
    notes = Notes()
    try:
        scenario = _scenario(point, software, notes)
    except Unclear as why:
        return Setup(point, None, str(why), tuple(notes.assumptions), tuple(notes.left_out))
    return Setup(point, scenario, "", tuple(notes.assumptions), tuple(notes.left_out))


def _scenario(point: OperatingPoint, software: str | None, notes: Notes) -> dict[str, Any]:
    requests, context = point.requests_per_gpu, point.context_tokens_mean
    if point.measured_ms is None:
        raise Unclear("measured: neither a TPOT nor tokens/s/GPU with a batch is given")
    if requests is None:
        raise Unclear("requests_per_gpu: the batch is not given")
    if context is None:
        raise Unclear("context_tokens_mean: the context is not given")
    model = words.model(point.model)
    engine = words.framework(point.framework)
    if engine is None:
        engine = "sglang"
        notes.assume("framework: unknown; sglang is taken")
    precision = _precision(point, model, engine, notes)
    deployment = shape.deployment(point, model, engine, precision, notes)
    gpus = point.gpus
    assert gpus is not None
    scenario: dict[str, Any] = {
        "name": point.id,
        "description": f"{point.model}, {point.framework}: {point.source}"[:500],
        "model": model,
        "deployment": deployment,
        "routing": _routing(point, software or engine, notes),
        "precision": precision,
        "software": _software(point, software or engine, precision, notes),
        "memory": dict(MEMORY),
        "workload": {
            "arrivals": {"kind": "closed", "concurrency": max(1, round(requests * gpus))},
            "lengths": _lengths(point, context),
        },
        "slo": {"tpot_ms": float(f"{point.measured_ms:.4g}")},
        "simulation": {"seed": 0, "engine": "bound"},
    }
    if unsettled := shape.unsettled_card(point):
        scenario["doubt"] = unsettled
    if engine == "sglang" and point.clock == "served TPOT" and words.disaggregated(point.source):
        scenario["admission"] = {"idle_step_share": _IDLE}
        notes.assume("admission: requests come from prefill one by one, and cost their rank a step")
    _tell_left_out(point, notes)
    drafts = words.drafts(point.mtp)
    if not point.mtp or point.mtp.startswith("unknown"):
        notes.assume("mtp: unknown; no drafts are taken")
    if drafts is not None:
        scenario["speculation"] = _speculation(model, drafts)
    return scenario


def _tell_left_out(point: OperatingPoint, notes: Notes) -> None:
    """Tell what a row says of its run that no scenario has."""
    note = point.uncertainty_note.lower()
    if point.batch_is == "upper_bound":
        notes.assume("requests_per_gpu: the client's concurrency, an upper bound")
    if "prefill interleaved" in note:
        notes.left_out.append("prompts, which this server computes between decode steps")
    if words.of_whole_benchmark(point.source):
        notes.left_out.append("the end of the benchmark, in which 13 % of all slots stay empty")
    if "simulated" in point.mtp:
        notes.left_out.append("mtp: the run doubled its batch instead of drafting")


def _software(
    point: OperatingPoint, profile: str, precision: Mapping[str, Any], notes: Notes
) -> str | dict[str, Any]:
    """Return the profile, with what the row says of its kernels and its host."""
    stated: dict[str, Any] = {}
    if kernels := words.moe_backend(point.uncertainty_note):
        stated["kernels"] = {"moe": {precision["gemm"]: list(kernels)}}
    known = cards.software(profile)
    vllm = words.framework(point.framework) == "vllm"
    if vllm and point.clock == "served TPOT":
        agreeing = ("host_us_per_further_rank", "host_us_across_servers")
        stated |= {name: _ASYNC for name in agreeing if getattr(known, name) is not None}
        if stated.keys() & set(agreeing):
            notes.assume("host: served with async scheduling, so ranks agree while GPUs compute")
    if "no overlap scheduling" in point.micro_batches_or_overlap.lower():
        gap_us = float(known.host_gap_us_per_step) + _UNHIDDEN_US
        stated["host_gap_us_per_step"] = {"value": gap_us, "source": _UNHIDDEN}
        notes.assume("host: scheduling hides behind no kernel, 5 ms more a step")
    return {"profile": profile} | stated if stated else profile


def _lengths(point: OperatingPoint, context: float) -> dict[str, Any]:
    """Return fixed lengths whose mean context in flight is the row's."""
    output = words.tokens(point.osl) or _OUTPUT_TOKENS
    output = round(output * words.mean_length(point.uncertainty_note))
    output = max(2, min(output, round(context) - 1))
    prompt = max(1, prompt_under(context, Fixed(kind="fixed", tokens=output)))
    fixed = {"prompt": prompt, "output": output}
    law = {side: {"kind": "fixed", "tokens": tokens} for side, tokens in fixed.items()}
    return {"kind": "drawn", **law}


def _precision(point: OperatingPoint, model: str, engine: str, notes: Notes) -> dict[str, Any]:
    experts = words.number_format(point.weight_format_experts)
    if experts is None:
        raise Unclear("weight_format_experts: the format of the experts is not given")
    kv = words.number_format(point.kv_format)
    if kv is None:
        kv = default_kv(engine, words.accelerator(point.hardware_attention, []), experts)
        notes.assume(f"kv_format: unknown; {kv} is taken, as recipes of {engine} do")
    attention = _attention_formats(point, model, experts, notes)
    return {"gemm": experts, **attention, "kv": kv, "lm_head": "bf16"}


def _attention_formats(
    point: OperatingPoint, model: str, experts: str, notes: Notes
) -> dict[str, str]:
    """Return the formats of projections; NVIDIA's checkpoints of 4 bits leave them in BF16.

    Where a row names the checkpoint, its card tells those of all parts besides experts.

    The output projection alone is NVFP4 in the second release of DeepSeek-R1-0528's, which
    InferenceX serves (github.com/SemiAnalysisAI/InferenceX: deepseek-r1-0528-fp4-v2).
    """
    text = point.weight_format_attention
    told = words.number_format(text)
    stored = cards.model(model).checkpoint
    if told is not None and "checkpoint" in text and stored is not None:
        parts = {part: getattr(stored, part) for part in ("o_proj", "dense")}
        return {"attention": told} | {part: dtype for part, dtype in parts.items() if dtype}
    if told is not None and "not stated" not in text:
        return {"attention": told}
    attention = "bf16" if experts in ("nvfp4", "mxfp4") else experts
    second = experts == "nvfp4" and point.model.lower().startswith("deepseek-r1-0528")
    beside = ", o_proj nvfp4" if second else ""
    notes.assume(f"weight_format_attention: not stated; {attention}{beside} is taken")
    return {"attention": attention} | ({"o_proj": "nvfp4"} if second else {})


def default_kv(engine: str, card: str, experts: str) -> str:
    """Return the KV format of an engine whose row does not tell one.

    TensorRT-LLM's recipes, SGLang's on Blackwell (attention backend trtllm_mla) and checkpoints of
    4 bits have FP8; vLLM, and SGLang on Hopper (flashinfer), keep the type of the activations
    (recipes of NVIDIA/srt-slurm: b200-fp8, b200-fp4, h200, trtllm, at c88ef731).
    """
    blackwell = cards.accelerator(card).architecture.startswith("blackwell")
    told = engine == "trtllm" or experts in ("nvfp4", "mxfp4")
    return "fp8" if told or (engine == "sglang" and blackwell) else "bf16"


def _routing(point: OperatingPoint, profile: str, notes: Notes) -> dict[str, Any]:
    if point.routing.lower().startswith("balanced"):
        forced = None
        if point.deployment == "afd" and point.gpus_ffn is not None:
            forced = words.forced_experts(point.source, point.gpus_ffn)
        if forced is None:
            return {"kind": "balanced"}
        notes.assume(f"routing: forced over {forced} experts, four of each FFN rank")
        return {"kind": "balanced", "experts": forced}
    if not point.routing:
        notes.assume("routing: unknown; taken as served traffic")
    if not words.placed_by_load(point.routing, point.redundant_experts):
        alpha, of = _NATURAL, "traffic"
        if "random" in point.routing.lower():
            alpha, of = _RANDOM, "random tokens"
        elif words.of_one_text(point.source):
            alpha, of = _ONE_TEXT, "windows of one novel"
        notes.assume(f"routing: a power law of {alpha:g}, {of} that no one balances")
        return {"kind": "power_law", "alpha": alpha}
    served = cards.software(profile).routing_imbalance
    alpha = _NATURAL if served is None else float(served)
    notes.assume(f"routing: a power law of {alpha:g}, evened out by EPLB with the copies there are")
    return {"kind": "power_law", "alpha": alpha, "eplb": True}


def _speculation(model: str, drafts: words.Drafts) -> dict[str, Any]:
    card = cards.model(model)
    layer = card.draft_layer or card.layer_sequence[-1]
    p = {"value": drafts.p, "source": "the operating point"}
    return {
        "drafts": drafts.count,
        "draft_layer": {"attention": layer.attention, "ffn": layer.ffn},
        "acceptance": {"kind": "constant", "p": p},
    }
