"""Starting points: what the shapes of both kinds of deployment start from, for a question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sim.foundation.errors import ScenarioError
from sim.inputs import cards
from sim.inputs.documents.document import Document
from sim.inputs.hardware import Accelerator
from sim.inputs.model import ModelCard
from sim.inputs.scenario import Scenario, from_document
from sim.study.question import Question
from sim.study.schema import Settings
from sim.sweeps.shapes.choices import copies, routed_experts

# Prompts lie between these shares of their mean, as in the study: GPUs hold unequal contexts.
_SHORTEST, _LONGEST = 0.5, 1.5

# Engines that people run, by architecture: of EP the better one counts, shape by shape. AFD is
# Step-3's on Hopper and FastAFD's on Blackwell: no others are published with figures.
_ENGINES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "hopper": (("deepseek", "sglang"), "step3"),
    "blackwell": (("deepseek", "trtllm"), "fastafd"),
    "davinci": (("vllm-ascend",), "vllm-ascend"),
}
_OTHERS = (("vllm",), "step3")

# Between GPUs of a rack DeepSeek's kernels have no NIC to wait for, hence no hook: beside another
# micro-batch they keep their SMs.
_WITHOUT_HOOK = {
    "exchange": None,
    "communication_sms": {
        "value": 24,
        "source": "taken as FastAFD's, 24 of 152 SMs of a GB200 (github.com/linsj20/FastAFD)",
    },
}

_SKEW = {
    "kind": "power_law",
    "alpha": 0.6,
    "per_step": {
        "placement": {
            "kind": "eplb",
            "every_steps": 100_000,
            "window_steps": 20,
            "hierarchical": False,
        }
    },
}
SCREEN: Settings = {"routing": {"kind": "balanced"}}
"""What stands for drawn loads in the first screen."""
SCREEN_AGAIN: Settings = {"routing": {"kind": "power_law", "alpha": 0.6, "eplb": True}}
"""The same in the second."""

_JITTER = {
    "kind": "lognormal",
    "cv": {
        "value": 0.03,
        "source": "fitted to Step-3's report (arXiv 2507.19427, section 7); docs/study.md",
    },
}


@dataclass(frozen=True)
class StartingPoint:
    """One way of deployment on some of the cards."""

    kind: str
    first: Scenario
    """Its shapes are settings for this scenario."""
    data: Settings
    """The same as YAML holds it."""

    @property
    def drafts(self) -> bool:
        return self.first.speculation is not None

    @property
    def cards(self) -> frozenset[str]:
        return frozenset(name for name, _gpus in self.first.deployment.gpus_by_card())

    def with_arrivals(self, settings: Settings, arrivals: Settings) -> Scenario:
        """Return a shape at which requests arrive."""
        written = self.written(settings, arrivals)
        return from_document(Document(self.first.name, written))

    def written(self, settings: Settings, arrivals: Settings) -> Settings:
        """Return a shape under a load as a scenario file holds it."""
        workload: Settings = {"workload.arrivals": arrivals}
        if arrivals["kind"] == "trace":
            workload = {"workload": {"arrivals": arrivals}}
        document = Document(self.first.name, self.data).changed({**settings, **workload}, "shape")
        return dict(document.data)


def sides(question: Question) -> list[StartingPoint]:
    """Return what the shapes of EP and AFD start from, on each card and pair of cards.

    With an acceptance each comes without drafts and with them. Raises ScenarioError with every
    mistake of the question.
    """
    found: list[StartingPoint] = []
    for each in question.gpus:
        card = cards.accelerator(each.card)
        for engine in _engines(question, card)[0]:
            found += _sides(question, _ep(question, card), engine, card)
    names = [each.card for each in question.gpus]
    for attention, ffn in _pairs(names):
        engine = _engines(question, cards.accelerator(ffn))[1]
        shape = _afd(question, cards.accelerator(attention), cards.accelerator(ffn))
        found += _sides(question, shape, engine, cards.accelerator(ffn))
    return found


def assumptions(question: Question) -> list[str]:
    """Return what the question left open and what is taken, in words."""
    told = [
        f"prompts from {_SHORTEST:g} to {_LONGEST:g} times their mean, outputs of "
        f"{question.output:,} tokens",
        f"{_experts(question)}3 % jitter on kernels and transfers",
        "90 % of the memory",
        _drafted(question),
    ]
    if question.precision is None:
        told.append("formats of the checkpoint")
    if question.software is None:
        engines = {name for each in question.gpus for name in _named(question, each.card)}
        told.append(f"engines {', '.join(sorted(engines))}")
    return told


def _experts(question: Question) -> str:
    if not routed_experts(cards.model(question.model)):
        return ""
    return "popular experts (power law 0.6) with EPLB's replicas, "


def _drafted(question: Question) -> str:
    if question.acceptance is not None:
        return (
            f"a draft is accepted with a probability of {question.acceptance:g} if those before it "
            "are, whichever it is"
        )
    if cards.model(question.model).draft_layer is None:
        return "no drafts: the model card has no layer that drafts"
    return "no drafts: how many are accepted depends on the requests; --acceptance states it"


def _named(question: Question, card: str) -> Iterator[str]:
    ep, afd = _engines(question, cards.accelerator(card))
    yield from (*ep, afd)


def _engines(question: Question, card: Accelerator) -> tuple[tuple[str, ...], str]:
    if question.software is not None:
        return (question.software,), question.software
    return _ENGINES.get(card.architecture, _OTHERS)


def _pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the cards of attention and of FFN GPUs: one for both, or two either way."""
    return [(name, name) for name in names] + [(a, b) for a in names for b in names if a != b]


def _sides(
    question: Question, deployment: Settings, engine: str, card: Accelerator
) -> Iterator[StartingPoint]:
    plain = _data(question, deployment, engine, card)
    several = [plain]
    if question.acceptance is not None:
        several += [plain | {"speculation": _speculation(question.model, question.acceptance)}]
    for data in several:
        # A document of its own: reading a scenario writes the figures of its profile into it.
        first = from_document(Document(str(data["name"]), dict(data)))
        yield StartingPoint(deployment["kind"], first, data)


def _data(question: Question, deployment: Settings, engine: str, card: Accelerator) -> Settings:
    software: Any = engine
    rack = card.node.scale_up_domain_gpus > card.node.gpus
    if engine == "deepseek" and rack:
        software = {"profile": engine, **_WITHOUT_HOOK}
    prompt = question.context - question.output / 2
    if prompt < 1:
        raise ScenarioError(
            f"context {question.context:,}: a mean context holds half of an output, "
            f"{question.output / 2:g} tokens; write a longer context or a smaller --output"
        )
    low, high = (max(1, round(share * prompt)) for share in (_SHORTEST, _LONGEST))
    data: Settings = {
        "name": f"{question.title}-{deployment['kind']}",
        "description": f"{question.title}, {question.context:,} tokens of context",
        "model": question.model,
        "deployment": deployment,
        "routing": _SKEW,
        "precision": _precision(question),
        "software": software,
        "memory": {"utilisation": 0.9, "activation_reserve_gb": 4.0, "kv_block_tokens": 64},
        "admission": {"split": "rows"},
        "workload": {
            "arrivals": {"kind": "closed", "requests_per_gpu": 1},
            "lengths": {
                "kind": "drawn",
                "prompt": {"kind": "uniform", "low": low, "high": high},
                "output": {"kind": "fixed", "tokens": question.output},
            },
        },
        "slo": {"tpot_ms": question.tpot_ms},
        "simulation": {"seed": question.seed},
        "noise": {"tasks": [{"server": kind, "law": _JITTER} for kind in ("gpu", "nic", "nvlink")]},
    }
    if question.prices:
        data["prices"] = dict(question.prices)
    return data


def _speculation(model: str, acceptance: float) -> Settings:
    layer = cards.model(model).draft_layer
    assert layer is not None
    p = {"value": acceptance, "source": "stated with --acceptance"}
    return {
        "drafts": 1,
        "draft_layer": {"attention": layer.attention, "ffn": layer.ffn},
        "acceptance": {"kind": "constant", "p": p},
    }


def _precision(question: Question) -> Settings:
    model = cards.model(question.model)
    formats: Settings = {"gemm": "fp8", "kv": "card", "lm_head": "bf16"}
    if model.checkpoint is not None:
        formats = dict(model.checkpoint.precision())
    if question.precision is not None:
        # Published checkpoints of 4 bits keep their attention in BF16.
        narrow = question.precision not in ("bf16", "fp8", "fp8_tensor")
        formats = {
            "gemm": question.precision,
            **({"attention": "bf16"} if narrow else {}),
            "kv": formats["kv"],
            "lm_head": formats["lm_head"],
        }
    return formats | ({} if question.kv is None else {"kv": question.kv})


def _wire(question: Question) -> str:
    """Return the format of activations on the wire: FP8 where the weights are FP8."""
    return "fp8" if str(_precision(question)["gemm"]).startswith("fp8") else "bf16"


def _ep(question: Question, card: Accelerator) -> Settings:
    return {
        "kind": "ep",
        "accelerator": card.name,
        "gpus": card.node.gpus,
        "redundant_experts": _filling(cards.model(question.model), card.node.gpus),
        "moe_kernel": "fused",
        "overlap": "none",
        "dispatch_dtype": _wire(question),
        "combine_dtype": "bf16",
        "lm_head_tp": 1,
        "fabric": "rdma",
    }


def _afd(question: Question, attention: Accelerator, ffn: Accelerator) -> Settings:
    return {
        "kind": "afd",
        "attention": {
            "accelerator": attention.name,
            "instances": 1,
            "gpus_per_instance": attention.node.gpus,
            "o_proj_tp": 1,
            "lm_head_tp": attention.node.gpus,
        },
        "ffn": {
            "accelerator": ffn.name,
            "instances": 1,
            "gpus_per_instance": ffn.node.gpus,
            "parallelism": "tp_ep",
            "moe_kernel": "masked",
        },
        "micro_batches": 3,
        "a2f": "routed",
        "a2f_dtype": _wire(question),
        "f2a_dtype": "bf16",
        "duplex": "full",
        "fabric": "rdma",
    }


def _filling(model: ModelCard, gpus: int) -> int:
    """Return the copies of experts with which they divide over GPUs."""
    return copies(routed_experts(model), gpus)[0]
