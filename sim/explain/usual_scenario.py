"""Usual scenario: a deployment of a model on a card where only these two are named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sim.deployments import compile_deployment
from sim.foundation.errors import InfeasibleError
from sim.inputs import cards
from sim.inputs.documents.document import Document
from sim.inputs.hardware import Accelerator
from sim.inputs.model import ModelCard, MoeFfn
from sim.inputs.scenario import Scenario, from_document

BATCH = 64
CONTEXT = 4096
SOFTWARE = "ideal"
_MOST_GPUS = 1024


@dataclass(frozen=True)
class ModelOnCard:
    """What of a deployment was asked for; None: what is usual."""

    model: str
    accelerator: str
    software: str | None = None
    batch: int | None = None
    """Requests on each GPU."""
    context: int | None = None
    """Tokens of each request."""
    ep: int | None = None
    """GPUs of the EP group."""
    precision: str | None = None
    """Number format of all weights but those of embedding and LM head."""
    kv: str | None = None
    """Number format of the KV cache."""


def usual_scenario(
    asked: ModelOnCard, overrides: Iterable[str] = ()
) -> tuple[Scenario, tuple[str, ...]]:
    """Return an EP scenario of a model on a card, and what it takes that was not asked for.

    EP spans the fewest whole servers, doubled from one, that hold weights and KV. Raises
    ScenarioError for unknown names.
    """
    model, card = cards.model(asked.model), cards.accelerator(asked.accelerator)
    data = _data(asked, model, card)
    assumed = list(_assumed(asked, model, data))

    def scenario(gpus: int) -> Scenario:
        shape = data["deployment"] | {"gpus": gpus, "redundant_experts": _copies(model, gpus)}
        document = Document(f"{asked.model} on {asked.accelerator}", data | {"deployment": shape})
        for assignment in overrides:
            document.set(assignment)
        return from_document(document)

    if asked.ep is not None:
        found = scenario(asked.ep)
        refused = _refusal(found)
        return found, (*assumed, *([f"a shape whose run is refused: {refused}"] if refused else ()))
    gpus = card.node.gpus
    first = scenario(gpus)
    found, refused = first, ""
    while gpus <= _MOST_GPUS:
        found = scenario(gpus)
        reason = _refusal(found)
        if not reason:
            break
        refused, gpus = refused or reason, 2 * gpus
    else:
        return first, (*assumed, f"EP {first.gpu_count()}, one server; a run is refused: {refused}")
    spans = f"EP {found.gpu_count()}, the fewest whole servers that hold weights and KV"
    return found, (*assumed, spans)


def _refusal(scenario: Scenario) -> str:
    """Return the first reason why a scenario cannot run; empty if it can."""
    try:
        compile_deployment(scenario)
    except InfeasibleError as error:
        return str(error).splitlines()[0]
    return ""


def _copies(model: ModelCard, gpus: int) -> int:
    """Return the redundant experts with which the experts of a model divide over GPUs."""
    ffns = (ffn for ffn in model.ffn.values() if isinstance(ffn, MoeFfn))
    return max((-ffn.experts % gpus for ffn in ffns), default=0)


def _data(asked: ModelOnCard, model: ModelCard, card: Accelerator) -> dict[str, Any]:
    prompt, output = ({"kind": "fixed", "tokens": n} for n in (_context(asked, model), 1))
    narrow = "fp8" if "fp8" in card.flops_per_s else "bf16"
    return {
        "name": f"{model.name}-{card.name}",
        "model": asked.model,
        "deployment": {
            "kind": "ep",
            "accelerator": asked.accelerator,
            "moe_kernel": "fused",
            "overlap": "none",
            "dispatch_dtype": narrow,
            "combine_dtype": "bf16",
            "lm_head_tp": 1,
            "fabric": "rdma",
        },
        "routing": {"kind": "balanced"},
        "precision": _precision(asked, model, narrow),
        "software": asked.software or SOFTWARE,
        "memory": {"utilisation": 0.9, "activation_reserve_gb": 4.0, "kv_block_tokens": 64},
        "workload": {
            "arrivals": {"kind": "closed", "requests_per_gpu": asked.batch or BATCH},
            "lengths": {
                "kind": "drawn",
                "prompt": prompt,
                "output": output,
            },
        },
        "slo": {"tpot_ms": 50},
        "simulation": {"seed": 0},
    }


def _context(asked: ModelOnCard, model: ModelCard) -> int:
    return asked.context or min(CONTEXT, model.max_context_tokens or CONTEXT)


def _precision(asked: ModelOnCard, model: ModelCard, narrow: str) -> dict[str, str]:
    formats = {"gemm": narrow, "kv": "card", "lm_head": "bf16"}
    if asked.precision is not None:
        formats["gemm"] = asked.precision
    elif model.checkpoint is not None:
        formats = model.checkpoint.precision()
    return formats if asked.kv is None else formats | {"kv": asked.kv}


def _assumed(asked: ModelOnCard, model: ModelCard, data: dict[str, Any]) -> Iterator[str]:
    """Yield what is taken where nothing was asked for."""
    if asked.batch is None:
        yield f"{BATCH} requests a GPU"
    if asked.context is None:
        yield f"{_context(asked, model):,} tokens of context"
    if asked.precision is None:
        of = "the checkpoint's" if model.checkpoint else "those that the card multiplies"
        named = ", ".join(f"{part} {dtype}" for part, dtype in data["precision"].items())
        yield f"formats {of} ({named})"
    if asked.software is None:
        yield f"software {SOFTWARE}: the first measured kernel of any engine"
    yield "balanced routing, fused experts, no overlap"
