"""A small study: a model of two layers, two cells, a few shapes, a second of work."""

from __future__ import annotations

from pathlib import Path

from tests import tiny

STUDY = """
kind: study
name: small
set:
  workload.arrivals: {{kind: closed, requests_per_gpu: 1}}
  workload.lengths.prompt: {{kind: uniform, low: 500, high: 1500}}
  workload.lengths.output: {{kind: fixed, tokens: 200}}
  software.glue_us_per_layer: {{value: 5, source: test}}
  software.host_gap_us_per_step: {{value: 50, source: test}}
  routing:
    kind: power_law
    alpha: 1.01
    per_step:
      placement: {{kind: eplb, every_steps: 1000, window_steps: 5, hierarchical: false}}
  noise: {{tasks: [{{server: gpu, law: {{kind: lognormal, cv: {{value: 0.03, source: test}}}}}}]}}
screen:
  routing: {{kind: balanced}}
sides:
  AFD:
    base: step3-2a2f
    set:
      deployment.attention.gpus_per_instance: 2
      deployment.attention.lm_head_tp: 1
      deployment.ffn.gpus_per_instance: 2
    axes:
      - deployment.attention.instances: [1, 2, 4]
      - deployment.ffn.instances: [1, 2]
    constraints: [gpus <= 8]
  EP:
    base: dsv3-ep128
    set: {{deployment.gpus: 4, deployment.lm_head_tp: 1}}
    axes:
      - deployment.gpus: [2, 4, 8]
      - deployment.redundant_experts: [0, 3, 8]
dimensions:
  model:
    Loaded: {{set: {{model: {model}}}}}
  pace:
    fast: {{set: {{slo.tpot_ms: 0.9}}}}
    slow: {{set: {{slo.tpot_ms: 1.5}}}}
shortlist: {{probe: 3, search: 2, reconsider: 4}}
pairs: 3
indifference: 0.02
counterfactuals:
  - name: no jitter
    by: simulation
    sides:
      AFD: {{set: {{noise: null}}}}
      EP: {{set: {{noise: null}}}}
  - name: free network
    where: {{pace: [slow]}}
    sides:
      AFD: {{free: [link, a2f, a2f_in, f2a, f2a_in]}}
"""


def write(folder: Path, *changes: tuple[str, str]) -> Path:
    """Write the study and its model into `folder`, texts replaced, and return the study's path."""
    text = STUDY.format(model=tiny.write_loaded_model(folder))
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "study.yaml"
    path.write_text(text)
    return path
