"""Shape: the deployment of an operating point, EP or AFD, and what was assumed about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sim.experiments.accuracy import words
from sim.experiments.accuracy.points import OperatingPoint
from sim.experiments.accuracy.words import Unclear
from sim.inputs import cards
from sim.inputs.model import MoeFfn


@dataclass
class Notes:
    """What is said of a row while its scenario is made."""

    assumptions: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def assume(self, text: str) -> None:
        self.assumptions.append(text)


def deployment(
    point: OperatingPoint, model: str, engine: str, precision: Mapping[str, Any], notes: Notes
) -> dict[str, Any]:
    """Return the deployment as YAML holds it. Raises Unclear where the row tells too little."""
    if point.gpus is None:
        raise Unclear("gpus_attention: the number of GPUs is not given")
    if point.deployment == "afd":
        if point.gpus_ffn is None:
            raise Unclear("gpus_ffn: the number of FFN GPUs is not given")
        return _afd(point, model, engine, notes)
    if point.deployment != "ep":
        raise Unclear(f"deployment: {point.deployment or 'not given'}")
    return _ep(point, model, engine, precision, notes)


def unsettled_card(point: OperatingPoint) -> list[dict[str, Any]]:
    """Return what a row leaves open of its cards, as a scenario states doubt; nothing if named."""
    possible = words.possible_cards(point.hardware_attention)
    if not possible:
        return []
    paths = ["deployment.accelerator"]
    if point.deployment == "afd":
        paths = ["deployment.attention.accelerator", "deployment.ffn.accelerator"]
    source = f"{point.hardware_attention}: {point.source}"[:300]
    one_of = [dict.fromkeys(paths, card) for card in possible]
    return [{"name": "card", "source": source, "one_of": one_of}]


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
        "dispatch_dtype": _dispatched(precision, narrow, wide),
        "combine_dtype": _combined(point, precision),
        "lm_head_tp": tensor,
        "attention_tp": tensor,
        "fabric": "rdma",
    }


def _dispatched(precision: Mapping[str, Any], narrow: bool, wide: bool) -> str:
    """Return the format of dispatch: that of the experts' activations, if engines send it."""
    if precision["gemm"] == "int8":
        return "int8"
    return "nvfp4" if narrow else "bf16" if wide else "fp8"


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
        return "fused_ep"
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
    if engine == "vllm-ascend":
        return _in_stream(point, model, card, ffn_card, size, overlapped, notes)
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


def _in_stream(
    point: OperatingPoint,
    model: str,
    card: str,
    ffn_card: str,
    size: int,
    micro_batches: int,
    notes: Notes,
) -> dict[str, Any]:
    """Return afd-plugin's shape: each attention rank sends whole BF16 tokens to one FFN rank.

    FFN ranks route, dispatch among themselves, compute and combine. One stream sends, receives and
    computes (afd_plugin/connectors/npu/camp2p.py, afd_plugin/v1/worker/npu/ubatching.py @2e4378f).
    """
    attention, ffn = point.gpus_attention, point.gpus_ffn
    assert attention is not None
    assert ffn is not None
    return {
        "kind": "afd",
        "attention": {
            "accelerator": card,
            "instances": attention // size,
            "gpus_per_instance": size,
            "o_proj_tp": 1,
            "lm_head_tp": 1,
        },
        "ffn": {
            "accelerator": ffn_card,
            "instances": 1,
            "gpus_per_instance": ffn,
            "parallelism": "ep",
            "moe_kernel": "fused",
            "collectives": "all_to_all",
            "redundant_experts": _copies(point, model, ffn, notes),
        },
        "micro_batches": micro_batches,
        "a2f": "broadcast",
        "a2f_dtype": "bf16",
        "f2a_dtype": "bf16",
        "duplex": "full",
        "fabric": "unified-bus",
        "transfers": "in_stream",
    }
