"""Stages: times measured inside runs against the same stage of a scenario.

The scenario is made of what a row says of its run: model, card, layout, kernels, formats. A stage
is timed as a run times it: one kernel (dispatch, combine, experts, the core of attention), or the
way through the FFN with all else taking no time, as isolated benchmarks of it do.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sim.deployments import compile_deployment
from sim.deployments.deployment import Deployment
from sim.experiments.accuracy import words
from sim.experiments.accuracy.points import GRADES
from sim.experiments.accuracy.setup import MEMORY, default_kv
from sim.experiments.accuracy.words import Unclear
from sim.foundation.errors import ScenarioError, SimError, did_you_mean
from sim.foundation.printable import excerpt
from sim.foundation.units import NS_PER_US
from sim.inputs import csv_columns
from sim.inputs.documents.document import Document
from sim.inputs.scenario import Scenario, from_document
from sim.kernels.ops import Floats
from sim.kernels.timed import by_status
from sim.steady.state import under_load

COLUMNS = (
    *("id", "run", "stage", "what_is_included", "batch_or_tokens_per_gpu", "context_tokens"),
    *("value_us", "clock", "grade", "valid", "source", "note"),
)
_NEEDED = ("id", "run", "stage", "batch_or_tokens_per_gpu", "value_us")

# Stages and delays that are not on the way through the FFN.
_BESIDE_FFN = frozenset(
    ("attention", "o_exchange", "o_proj", "o_reduce", "attn0", "attn1", "shared", "lm_head", "host")
)
# Kernels of a scenario by what rows call them.
_KERNELS = {
    r"ffn (un)?fused( m2n)?|ffn ep( block)?": "ffn",
    r"ffn experts( \(masked grouped gemm\))?": "experts",
    r"dispatch": "dispatch",
    r"combine": "combine",
    r"dispatch\+combine( \(deepep\))?": "all-to-all",
    r"attention core( \(mla\))?": "core",
}
_STAGES = {
    "experts": ("experts",),
    "dispatch": ("dispatch",),
    "combine": ("combine",),
    "all-to-all": ("dispatch", "combine"),
}


@dataclass(frozen=True)
class StagePoint:
    """A row: the time of a stage in one layer."""

    id: str
    run: str
    stage: str
    batch: str
    context: str
    measured_us: float
    grade: str
    beside: str = ""
    """What else the row says of the run: what is included, and the note."""


@dataclass(frozen=True)
class JudgedStage:
    """A row and what became of it."""

    point: StagePoint
    predicted_us: float | None
    calibrated_share: float | None
    why_not: str
    assumptions: tuple[str, ...]

    @property
    def error(self) -> float | None:
        """Predicted over measured, less 1."""
        seen = self.predicted_us
        return None if seen is None else seen / self.point.measured_us - 1

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.point.id,
            "run": self.point.run,
            "stage": self.point.stage,
            "grade": self.point.grade or None,
            "tokens": self.point.batch,
            "measured_us": self.point.measured_us,
            "predicted_us": self.predicted_us,
            "error": self.error,
            "calibrated_share": self.calibrated_share,
            "expressible": self.predicted_us is not None,
            "why_not": self.why_not or None,
            "assumptions": list(self.assumptions),
        }


def read(path: str | Path) -> list[StagePoint]:
    """Return the rows of a file. Raises ScenarioError with every mistake: file, line, column."""
    problems: list[str] = []
    found: list[StagePoint] = []
    for place, row in csv_columns.rows(str(path), _NEEDED, problems):
        if not found and not problems:
            problems += [
                f"{path}: unknown column '{excerpt(name)}'; {did_you_mean(name, COLUMNS)}"
                for name in row
                if name not in COLUMNS
            ]
        value = csv_columns.number(row["value_us"])
        if math.isnan(value) or value <= 0:
            told = f"should be a number above 0 (got '{excerpt(row['value_us'])}')"
            problems.append(f"{place}: value_us: {told}")
        grade = row.get("grade", "")
        if grade and grade not in GRADES:
            problems.append(f"{place}: grade: should be {', '.join(GRADES)} (got '{grade}')")
        batch, context = row["batch_or_tokens_per_gpu"], row.get("context_tokens", "")
        beside = f"{row.get('what_is_included', '')}; {row.get('note', '')}"
        named = row["id"], row["run"], row["stage"], batch, context
        found.append(StagePoint(*named, value, grade, beside))
    csv_columns.raise_any(str(path), problems)
    return found


def judge(path: str | Path) -> list[JudgedStage]:
    """Return the verdict on every row. Raises ScenarioError with every mistake of the file."""
    return [judge_row(point) for point in read(path)]


def judge_row(point: StagePoint) -> JudgedStage:
    assumptions: list[str] = []
    try:
        kernel = _kernel(point.stage)
        scenario = from_document(Document(point.id, _scenario(point, assumptions)))
        ns, usage_ns = _timed(compile_deployment(scenario), scenario, kernel)
    except (Unclear, SimError) as error:
        why = "; ".join(str(error).splitlines())
        return JudgedStage(point, None, None, why, tuple(assumptions))
    known, total = by_status(usage_ns), float(usage_ns.sum())
    share = known["calibrated"] / total if total else None
    return JudgedStage(point, ns / NS_PER_US, share, "", tuple(assumptions))


def scenario_of(point: StagePoint) -> dict[str, Any]:
    """Return the scenario of a row. Raises ScenarioError where there is none."""
    try:
        _kernel(point.stage)
        return _scenario(point, [])
    except Unclear as why:
        raise ScenarioError(f"{point.id}: {why}") from None


def _kernel(stage: str) -> str:
    for pattern, kernel in _KERNELS.items():
        if re.fullmatch(pattern, stage.strip().lower()):
            return kernel
    raise Unclear(f"stage: no stage of a scenario is «{stage}»")


def _timed(deployment: Deployment, scenario: Scenario, kernel: str) -> tuple[float, Floats]:
    """Return the time of a stage in a MoE layer, ns, and the kernel time it is made of."""
    if kernel == "ffn":
        requests = deployment.expected.in_flight()
        assert requests is not None
        state = under_load(deployment, requests, free=_BESIDE_FFN)
        layers = len(deployment.course.sequence) * deployment.micro_batches
        return float(state.step_ns) / layers, state.usage_ns
    batch = deployment.expected.batch()
    if kernel == "core":
        timer, first = deployment.core_timer, deployment.kinds[-1].layer
        _window, line = timer.core_line(first.attention, 1)
        time = line.timed(batch.requests[:1], np.asarray(batch.kv_tokens[None][:1]))
        return float(time.ns.max()), time.usage_ns
    durations = deployment.durations(batch)
    kind = len(deployment.kinds) - 1
    names = _STAGES[kernel]
    return float(sum(durations.rows[name, kind].max() for name in names)), durations.usage_ns


def _scenario(point: StagePoint, assumptions: list[str]) -> dict[str, Any]:
    run = point.run.lower()
    model = words.model_in(point.run)
    card = words.accelerator_in(point.run, assumptions)
    tokens = words.first_number(point.batch)
    if tokens is None:
        raise Unclear(f"batch_or_tokens_per_gpu: «{point.batch}» gives no number")
    weights, activations = _formats(run)
    if re.match(r"bf16\b", point.beside.lower()):
        activations = "bf16"
    layout = re.search(r"\b(\d+)a(\d+)f\b", run)
    micro_batches = int(found[1]) if (found := re.search(r"(\d+) microbatch", run)) else 1
    fused, one_sided = "megamoe" in run, "nvlinkonesided" in run
    deployment: dict[str, Any]
    if "deepep normal" in run or (layout and "deepep" in run):
        raise Unclear(
            "kernels: DeepEP's normal kernels, of which none was measured for a layer of decoding"
        )
    if layout:
        attention, ffn = int(layout[1]), int(layout[2])
        requests = tokens * ffn * micro_batches
        deployment = _afd(card, (attention, ffn), micro_batches, fused)
    else:
        width = words.ways(run, "ep")
        if words.ways(run, "tp") is not None:
            raise Unclear(f"run: «{point.run}» divides attention over GPUs")
        if width is None:
            raise Unclear(f"run: «{point.run}» names neither xAyF nor EP")
        requests = tokens * width
        deployment = _ep(card, width, fused, activations)
        if one_sided:
            # Its tokens are laid out for the framework's kernel, not for DeepGEMM's masked one.
            deployment["moe_kernel"] = "fused"
    if not math.isclose(requests, round(requests), rel_tol=1e-3):
        raise Unclear(f"batch_or_tokens_per_gpu: {requests:g} tokens are no whole number")
    context = words.first_number(point.context) or 0
    profile = words.framework_in(point.run, fused)
    even = re.search("balanced|perfect", run + point.beside)
    return {
        "name": point.id,
        "model": model,
        "deployment": deployment,
        "routing": {"kind": "balanced" if even else "uniform"},
        "precision": {"gemm": weights, "kv": default_kv(profile, card, weights), "lm_head": "bf16"},
        "software": _one_sided(profile) if one_sided else profile,
        "memory": dict(MEMORY),
        "workload": {
            "arrivals": {"kind": "closed", "concurrency": max(1, round(requests))},
            "lengths": _lengths(context),
        },
        "slo": {"tpot_ms": 1000.0},
        "simulation": {"seed": 0, "engine": "bound"},
    }


def _one_sided(profile: str) -> dict[str, Any]:
    """Return the profile with TensorRT-LLM's one-sided all-to-all instead of its usual one."""
    kernels = {dtype: ["trtllm_one_sided"] for dtype in ("bf16", "fp8", "nvfp4")}
    return {"profile": profile, "kernels": {"a2a": kernels}}


def _lengths(context: float) -> dict[str, Any]:
    law = {"prompt": max(1, round(context)), "output": 2}
    return {
        "kind": "drawn",
        **{side: {"kind": "fixed", "tokens": tokens} for side, tokens in law.items()},
    }


def _formats(run: str) -> tuple[str, str]:
    """Return the format of weights and of dispatched activations."""
    if found := re.search(r"\b(mxfp4|nvfp4|fp8)x(mx)?(fp8|bf16)\b", run):
        return found[1], found[3]
    told = words.number_format(run)
    return told or "fp8", told or "fp8"


def _afd(card: str, shape: tuple[int, int], micro_batches: int, fused: bool) -> dict[str, Any]:
    attention, ffn = shape
    return {
        "kind": "afd",
        "attention": {
            "accelerator": card,
            "instances": attention,
            "gpus_per_instance": 1,
            "o_proj_tp": 1,
            "lm_head_tp": 1,
        },
        "ffn": {
            "accelerator": card,
            "instances": ffn,
            "gpus_per_instance": 1,
            "parallelism": "ep",
            "moe_kernel": "fused_ep" if fused else "masked",
            "redundant_experts": 0,
        },
        "micro_batches": micro_batches,
        "a2f": "routed",
        "a2f_dtype": "fp8",
        "f2a_dtype": "bf16",
        "duplex": "full",
        "fabric": "nvlink",
    }


def _ep(card: str, width: int, fused: bool, dispatched: str) -> dict[str, Any]:
    return {
        "kind": "ep",
        "accelerator": card,
        "gpus": width,
        "redundant_experts": 0,
        "moe_kernel": "fused_ep" if fused else "masked",
        "overlap": "none",
        "dispatch_dtype": dispatched,
        "combine_dtype": "bf16",
        "lm_head_tp": 1,
        "fabric": "rdma",
    }
