"""Setup: the scenario of an operating point, what was assumed, and what cannot be expressed.

A row is a closed loop of so many requests that all have the row's mean context. What the row does
not know is assumed, by the rules of docs/accuracy.md; each assumption is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from sim.experiments.accuracy import words
from sim.experiments.accuracy.points import OperatingPoint
from sim.experiments.accuracy.words import Unclear
from sim.foundation.errors import ScenarioError
from sim.foundation.printable import printable
from sim.inputs import cards
from sim.inputs.documents.document import Document
from sim.inputs.model import MoeFfn
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


@dataclass
class Notes:
    """What is said of a row while its scenario is made."""

    assumptions: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def assume(self, text: str) -> None:
        self.assumptions.append(text)


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
    precision = _precision(point, engine, notes)
    deployment = _deployment(point, model, engine, precision, notes)
    gpus = point.gpus
    assert gpus is not None
    scenario = {
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
    """Return fixed lengths whose mean context in flight, P + (D − 1)/2, is the row's."""
    output = words.tokens(point.osl) or _OUTPUT_TOKENS
    output = round(output * words.mean_length(point.uncertainty_note))
    output = max(2, min(output, round(context) - 1))
    prompt = max(1, round(context - (output - 1) / 2))
    fixed = {"prompt": prompt, "output": output}
    law = {side: {"kind": "fixed", "tokens": tokens} for side, tokens in fixed.items()}
    return {"kind": "drawn", **law}


def _precision(point: OperatingPoint, engine: str, notes: Notes) -> dict[str, Any]:
    experts = words.number_format(point.weight_format_experts)
    if experts is None:
        raise Unclear("weight_format_experts: the format of the experts is not given")
    kv = words.number_format(point.kv_format)
    if kv is None:
        kv = default_kv(engine, words.accelerator(point.hardware_attention, []), experts)
        notes.assume(f"kv_format: unknown; {kv} is taken, as recipes of {engine} do")
    attention = _attention_formats(point, experts, notes)
    return {"gemm": experts, **attention, "kv": kv, "lm_head": "bf16"}


def _attention_formats(point: OperatingPoint, experts: str, notes: Notes) -> dict[str, str]:
    """Return the formats of projections; NVIDIA's checkpoints of 4 bits leave them in BF16.

    The output projection alone is NVFP4 in the second release of DeepSeek-R1-0528's, which
    InferenceX serves (github.com/SemiAnalysisAI/InferenceX: deepseek-r1-0528-fp4-v2).
    """
    text = point.weight_format_attention
    told = words.number_format(text)
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
        return {"kind": "balanced"}
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
    last = cards.model(model).layer_sequence[-1]
    p = {"value": drafts.p, "source": "the operating point"}
    return {
        "drafts": drafts.count,
        "draft_layer": {"attention": last.attention, "ffn": last.ffn},
        "acceptance": {"kind": "constant", "p": p},
    }


def _deployment(
    point: OperatingPoint, model: str, engine: str, precision: Mapping[str, Any], notes: Notes
) -> dict[str, Any]:
    if point.gpus is None:
        raise Unclear("gpus_attention: the number of GPUs is not given")
    if point.deployment == "afd":
        if point.gpus_ffn is None:
            raise Unclear("gpus_ffn: the number of FFN GPUs is not given")
        return _afd(point, model, engine, notes)
    if point.deployment != "ep":
        raise Unclear(f"deployment: {point.deployment or 'not given'}")
    return _ep(point, model, engine, precision, notes)


def _ep(
    point: OperatingPoint, model: str, engine: str, precision: Mapping[str, Any], notes: Notes
) -> dict[str, Any]:
    gpus = point.gpus
    assert gpus is not None
    width = words.ways(point.expert_parallel, "ep")
    ranks = words.ways(point.attention_parallel, "dp")
    tensor = words.ways(point.attention_parallel, "tp") or 1
    if width is None:
        raise Unclear(f"expert_parallel: '{point.expert_parallel}' gives no width")
    if (ranks or width // tensor) * tensor != gpus or width != gpus:
        raise Unclear(
            f"attention_parallel: '{point.attention_parallel}' with '{point.expert_parallel}' on "
            f"{gpus} GPUs; only DP × TP = EP = GPUs is expressed"
        )
    overlapped = words.micro_batches(point.micro_batches_or_overlap)
    if overlapped is None:
        notes.assume("micro_batches_or_overlap: unknown; no overlap is taken")
    kernel = _moe_kernel(point, engine)
    card = words.accelerator(point.hardware_attention, notes.assumptions)
    exchange = _exchange(engine, card, kernel, gpus)
    narrow = precision["gemm"] == "nvfp4" and kernel == "fused"
    wide = exchange == "gather"
    return {
        "kind": "ep",
        "accelerator": card,
        "gpus": gpus,
        "redundant_experts": _copies(point, model, gpus, notes),
        "moe_kernel": kernel,
        "exchange": exchange,
        "overlap": "two_batch" if overlapped == 2 else "none",
        "dispatch_dtype": "nvfp4" if narrow else "bf16" if wide else "fp8",
        "combine_dtype": _combined(point, precision),
        "lm_head_tp": tensor,
        "attention_tp": tensor,
        "fabric": "rdma",
    }


def _exchange(engine: str, card: str, kernel: str, gpus: int) -> str:
    """Return how ranks exchange tokens.

    SGLang gathers where its recipe names no all-to-all backend. TensorRT-LLM takes its NVLink
    kernels where all links are up, on x86 nodes too (CommunicationFactory in
    tensorrt_llm/_torch/modules/fused_moe/communication).
    """
    domain = cards.accelerator(card).node.scale_up_domain_gpus
    gathers = engine == "sglang" and kernel == "fused" and gpus <= domain
    return "gather" if gathers else "all_to_all"


def _combined(point: OperatingPoint, precision: Mapping[str, Any]) -> str:
    """Return the format of combine; what rows call low precision is NVFP4 where the experts are."""
    low = "low-precision combine" in point.uncertainty_note.lower()
    return "nvfp4" if low and precision["gemm"] == "nvfp4" else "bf16"


def _moe_kernel(point: OperatingPoint, engine: str) -> str:
    """Return the experts' kernel: DeepGEMM masked behind DeepEP, else the framework's fused one."""
    if "wideep" in point.uncertainty_note.lower() and not point.hardware_attention.startswith("gb"):
        raise Unclear(
            "kernels: WIDEEP between x86 nodes runs DeepEP's normal kernels (recipes "
            "set TRTLLM_FORCE_ALLTOALL_METHOD), which have no CUDA graphs; neither was measured"
        )
    if "megamoe" in point.micro_batches_or_overlap.lower():
        raise Unclear("micro_batches_or_overlap: a kernel that dispatches, computes and combines")
    told = f"{point.framework_version} {point.uncertainty_note}".lower()
    wide = (point.gpus or 0) > 8
    deepep = "deepep" in told or engine == "deepseek" or (engine == "sglang" and wide)
    return "masked" if deepep else "fused"


def _copies(point: OperatingPoint, model: str, ranks: int, notes: Notes) -> int:
    """Return the redundant experts; where unknown, the fewest that divide evenly."""
    told = words.redundant_experts(point.redundant_experts)
    if told is not None:
        return told
    experts = [ffn.experts for ffn in cards.model(model).ffn.values() if isinstance(ffn, MoeFfn)]
    fewest = next((n for n in range(ranks) if all((e + n) % ranks == 0 for e in experts)), 0)
    notes.assume(f"redundant_experts: unknown; {fewest} are taken")
    return fewest


def _afd(point: OperatingPoint, model: str, engine: str, notes: Notes) -> dict[str, Any]:
    """Return an AFD shape: Step-3's where its FFN instances have several GPUs, else M-to-N.

    Step-3 broadcasts over NICs, and its NVLink switches multicast and reduce (NVLS, section 7.1 of
    its report); M-to-N (MegaScale-Infer, FastAFD) sends a token over the scale-up
    link to the FFN GPUs that host its experts, each an instance of its own.
    """
    attention, ffn = point.gpus_attention, point.gpus_ffn
    assert attention is not None
    assert ffn is not None
    card = words.accelerator(point.hardware_attention, notes.assumptions)
    ffn_card = words.accelerator(point.hardware_ffn, [])
    node = cards.accelerator(card).node.gpus
    switch = cards.accelerator(ffn_card).node.in_network_collectives
    each = words.gpus_of_instance(point.expert_parallel) or 1
    broadcast = each > 1
    size = each if broadcast else node
    if attention % size or ffn % each:
        raise Unclear(f"gpus_attention: {attention} and {ffn} GPUs do not divide into instances")
    overlapped = words.micro_batches(point.micro_batches_or_overlap)
    if overlapped is None:
        overlapped = 3 if broadcast else 2
        notes.assume(f"micro_batches_or_overlap: unknown; {overlapped} micro-batches are taken")
    fused = engine == "fastafd" and not broadcast
    return {
        "kind": "afd",
        "attention": {
            "accelerator": card,
            "instances": attention // size,
            "gpus_per_instance": size,
            "o_proj_tp": 1,
            "lm_head_tp": size if broadcast else 1,
        },
        "ffn": {
            "accelerator": ffn_card,
            "instances": ffn // each,
            "gpus_per_instance": each,
            "parallelism": "tp_ep" if broadcast else "ep",
            "moe_kernel": "fused_ep" if fused else "masked",
            "collectives": "nvls" if broadcast and switch else "nccl",
            "redundant_experts": _copies(point, model, ffn // each, notes),
        },
        "micro_batches": overlapped,
        "a2f": "broadcast" if broadcast else "routed",
        "a2f_dtype": "fp8",
        "f2a_dtype": "bf16",
        "duplex": "full",
        "fabric": "rdma" if broadcast else "nvlink",
    }
