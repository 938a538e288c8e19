"""Settings in words: `no overlap`, `2 micro-batches`, `single-GPU FFN`.

One vocabulary for every table that tells shapes and points apart: sweeps, studies, recommendations.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sim.foundation.printable import excerpt

_LONGEST = 40
_OTHER = "{}"

_ON_EITHER_SIDE: Mapping[str, Mapping[Any, str]] = {
    "redundant_experts": {0: "no replicas", _OTHER: "+{} replicas"},
    "moe_kernel": {_OTHER: "{} experts"},
    "attention_tp": {_OTHER: "attention TP{}"},
    "tp": {_OTHER: "attention TP{}"},
    "lm_head_tp": {_OTHER: "LM head TP{}"},
    "o_proj_tp": {_OTHER: "output projection TP{}"},
}
# Words by path: of one value, or of any other.
_SAID: Mapping[str, Mapping[Any, str]] = {
    "base": {_OTHER: "from {}"},
    "model": {_OTHER: "{}"},
    "software": {_OTHER: "{}"},
    "software.profile": {_OTHER: "{}"},
    "deployment.accelerator": {_OTHER: "{}"},
    "deployment.attention.accelerator": {_OTHER: "attention on {}"},
    "deployment.ffn.accelerator": {_OTHER: "FFN on {}"},
    "deployment.fabric": {_OTHER: "over {}"},
    "deployment.micro_batches": {1: "1 micro-batch", _OTHER: "{} micro-batches"},
    "deployment.overlap": {"none": "no overlap", "two_batch": "two-batch overlap"},
    "deployment.a2f": {_OTHER: "{} to the FFN"},
    "deployment.duplex": {_OTHER: "{} duplex"},
    "deployment.transfers": {"beside": "transfers beside", "in_stream": "transfers in stream"},
    "deployment.ffn.gpus_per_instance": {1: "single-GPU FFN", _OTHER: "FFN of {} GPUs"},
    "deployment.ffn.parallelism": {_OTHER: "{}"},
    "deployment.ffn.collectives": {"none": "no collectives", _OTHER: "{} collectives"},
    "deployment.attention.gpus_per_instance": {
        1: "single-GPU attention",
        _OTHER: "attention of {} GPUs",
    },
    "workload.context": {_OTHER: "context {}"},
    "workload.lengths.prompt.tokens": {_OTHER: "prompt {}"},
    "workload.lengths.output.tokens": {_OTHER: "output {}"},
    "workload.arrivals.concurrency": {_OTHER: "{} in flight"},
    "workload.arrivals.requests_per_gpu": {_OTHER: "{} requests/GPU"},
    "workload.arrivals.requests_per_s": {_OTHER: "{} requests/s"},
    "routing.kind": {_OTHER: "{} routing"},
    "precision.kv": {_OTHER: "KV {}"},
    "precision.gemm": {_OTHER: "weights {}"},
    "slo.tpot_ms": {_OTHER: "TPOT within {} ms"},
    "speculation": {None: "no drafts"},
    "speculation.drafts": {1: "1 draft", _OTHER: "{} drafts"},
    "simulation.engine": {_OTHER: "{} engine"},
    **{
        f"deployment.{side}{key}": words
        for side in ("", "attention.", "ffn.")
        for key, words in _ON_EITHER_SIDE.items()
    },
}
_COMPUTES = "deployment.attention.computes"

IN_SHAPE = ("deployment.attention.instances", "deployment.ffn.instances", "deployment.gpus")
"""Paths that the name of a shape tells: 2A4F, EP64."""

# What shapes do not say of themselves.
_USUAL: Mapping[str, tuple[Any, ...]] = {
    "deployment.fabric": ("rdma",),
    "deployment.attention.tp": (1,),
    "deployment.attention_tp": (1,),
    "deployment.redundant_experts": (0,),
    "deployment.ffn.redundant_experts": (0,),
    "deployment.moe_kernel": ("masked",),
    "deployment.ffn.moe_kernel": ("masked",),
    "deployment.ffn.collectives": ("nccl", "nvls"),
}
# What follows from a width, or from a kernel.
_FOLLOWS = ("deployment.lm_head_tp", "deployment.attention.lm_head_tp", _COMPUTES)
_ATTENTION_GPUS, _FFN_GPUS = (f"deployment.{x}.gpus_per_instance" for x in ("attention", "ffn"))


def described(shape: str, settings: Mapping[str, Any]) -> str:
    """Return a shape and its settings in a line, the usual unsaid: `4A32F, single-GPU FFN`."""
    told = {path: value for path, value in settings.items() if not _goes_unsaid(path, settings)}
    words = short_names(told)
    return ", ".join([shape, *(said(path, told[path], words[path]) for path in told)])


def _goes_unsaid(path: str, settings: Mapping[str, Any]) -> bool:
    value = settings[path]
    if path == _ATTENTION_GPUS:
        return bool(value != 1)
    if path == _FFN_GPUS:
        return bool(value != 1 and value == settings.get(_ATTENTION_GPUS))
    inner = path.startswith("software.") and path != "software.profile"
    return inner or path in (*IN_SHAPE, *_FOLLOWS) or value in _USUAL.get(path, ())


def said(path: str, value: Any, name: str) -> str:
    """Return a value in words; where a path has none of its own, after its `name`."""
    text = in_text(value)
    if path == _COMPUTES and isinstance(value, list):
        return f"{' and '.join(map(str, value)) or 'no'} FFN on attention GPUs"
    words = _SAID.get(path, {})
    if isinstance(value, str | int | float) or value is None:
        template = words.get(value) or (words.get(_OTHER) if value is not None else None)
        if template is not None:
            return template.format(text)
    return f"no {name}" if value is None else f"{name} {text}"


def in_text(value: object) -> str:
    """Return a value as people read it, short."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:,.6g}"
    return excerpt(value if isinstance(value, str) else json.dumps(value, default=str), _LONGEST)


def leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the values inside of a value by path: of a mapping, each of its own."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(f"{path}.{key}", inner)
    else:
        yield path, value


def from_table(value: Any) -> Any:
    """Return what a table holds as JSON text, a mapping or a list; other values as they are."""
    if isinstance(value, str) and value.startswith(("{", "[")):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Return names of paths, each the shortest end that tells it from the others."""
    known = list(paths)
    found = {}
    for path in known:
        parts = path.split(".")
        for count in range(1, len(parts) + 1):
            end = parts[-count:]
            if sum(other.split(".")[-count:] == end for other in known) == 1:
                break
        found[path] = " ".join(end).replace("_", " ")
    return found
