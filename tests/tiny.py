"""A tiny model and small scenarios around it: few layers, few GPUs, constant stage times."""

from __future__ import annotations

from pathlib import Path

from sim.inputs import scenario
from sim.inputs.scenario import Scenario

# One dense and two MoE layers; the window is shorter than any prompt below, so the context that
# a layer reads stays the same from token to token.
MODEL = """
kind: model
name: tiny
title: Tiny
hidden: 1024
vocab: 4096
source: test
attention:
  swa:
    kind: gqa
    query_heads: 8
    kv_heads: 1
    head_dim: 128
    window: 64
    kv_dtype: bf16
    source: test
ffn:
  dense: {kind: dense, intermediate: 4096, source: test}
  moe:
    kind: moe
    experts: 8
    top_k: 2
    expert_intermediate: 512
    shared: 1
    shared_intermediate: 512
    source: test
layers:
  - {repeat: 1, pattern: [{attention: swa, ffn: dense}]}
  - {repeat: 2, pattern: [{attention: swa, ffn: moe}]}
"""
LAYERS = 3
WINDOW = 64

# Two layers whose attention reads whole contexts, so that what a GPU holds decides its time.
LOADED_MODEL = """
kind: model
name: loaded
title: Loaded
hidden: 2048
vocab: 1024
source: test
attention:
  full: {kind: gqa, query_heads: 16, kv_heads: 8, head_dim: 128, kv_dtype: bf16, source: test}
ffn:
  moe:
    kind: moe
    experts: 16
    top_k: 4
    expert_intermediate: 4096
    shared: 0
    shared_intermediate: 0
    source: test
layers:
  - {repeat: 2, pattern: [{attention: full, ffn: moe}]}
"""

# The same with an FFN whose time grows with every token.
DENSE_MODEL = LOADED_MODEL.replace("name: loaded", "name: dense").replace(
    LOADED_MODEL[LOADED_MODEL.index("  moe:") : LOADED_MODEL.index("layers:")],
    "  moe: {kind: dense, intermediate: 16384, source: test}\n",
)

# Nothing but kernels and transfers: loads decide, not constants.
BARE = (
    "simulation.engine=recurrence",
    "software=ideal",
)
# The same with EP's kernels slowed beside the all-to-all, which targets and rates of tests suit.
SLOWED = (*BARE, "software.overlap_slowdown={value: 1.189, source: test}")


def write_model(folder: Path) -> Path:
    """Write the tiny model card into `folder` and return its path."""
    path = folder / "tiny.yaml"
    path.write_text(MODEL)
    return path


def write_loaded_model(folder: Path) -> Path:
    """Write the card of the model with heavy attention into `folder` and return its path."""
    path = folder / "loaded.yaml"
    path.write_text(LOADED_MODEL)
    return path


def write_dense_model(folder: Path) -> Path:
    """Write the card of the model with heavy attention and a dense FFN; return its path."""
    path = folder / "dense.yaml"
    path.write_text(DENSE_MODEL)
    return path


def load(model: Path, base: str, *overrides: str) -> Scenario:
    """Return step3-2a2f or dsv3-ep128, made small around `model`."""
    settings = [
        f"model={model}",
        "simulation.engine=event",
        "routing={kind: balanced}",
        "workload.arrivals={kind: closed, concurrency: 24}",
        "workload.lengths.prompt={kind: fixed, tokens: 100}",
        "workload.lengths.output={kind: fixed, tokens: 40}",
    ]
    if base == "step3-2a2f":
        settings += [
            "deployment.attention.gpus_per_instance=2",
            "deployment.attention.lm_head_tp=1",
            "deployment.ffn.gpus_per_instance=2",
        ]
    else:
        settings += ["deployment.gpus=4", "deployment.lm_head_tp=1"]
    return scenario.load(base, [*settings, *overrides])
