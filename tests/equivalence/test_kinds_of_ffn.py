"""Each kind of FFN under each engine: the same bytes, and the bound is their steady state."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.deployments import compile_deployment
from sim.engines.bound import BoundEngine
from sim.inputs.scenario import load
from tests import tiny
from tests.equivalence.test_bound import steady_ns
from tests.equivalence.test_scenarios import compare

MOE = "kind: moe, experts: 8, top_k: 2, expert_intermediate: 512, source: test"
KINDS = {
    "ungated": f"{MOE}, shared: 1, shared_intermediate: 512, gated: false",
    "latent": f"{MOE}, shared: 2, shared_intermediate: 768, latent: 256, gated: false",
    "zero": f"{MOE}, shared: 0, shared_intermediate: 0, zero_experts: 4",
}
SMALL = {
    "step3-2a2f": (
        "deployment.attention.gpus_per_instance=2",
        "deployment.attention.lm_head_tp=1",
        "deployment.ffn.gpus_per_instance=2",
    ),
    "dsv3-ep128": ("deployment.gpus=4", "deployment.lm_head_tp=1"),
}
SIDES = [
    ("step3-2a2f", ("deployment.attention.computes=[shared]",)),
    ("step3-2a2f", ("deployment.a2f=routed", "deployment.ffn.parallelism=tp_ep")),
    ("dsv3-ep128", ()),
    ("dsv3-ep128", ("deployment.exchange=gather",)),
]
DRAWN = "per_step: {placement: {kind: contiguous}}"
LOADS = ("{kind: uniform}", f"{{kind: power_law, alpha: 0.6, {DRAWN}}}")


def sets(folder: Path, kind: str, base: str, *more: str) -> list[str]:
    """Return settings of a model of one dense and two layers with the FFN `kind`."""
    before = tiny.MODEL[tiny.MODEL.index("  moe:") : tiny.MODEL.index("layers:")]
    path = folder / f"{kind}.yaml"
    path.write_text(tiny.MODEL.replace(before, f"  moe: {{{KINDS[kind]}}}\n"))
    return [
        f"model={path}",
        "workload.arrivals={kind: closed, concurrency: 40}",
        "workload.lengths={kind: drawn, prompt: {kind: uniform, low: 1, high: 900}, "
        "output: {kind: geometric, mean: 12, max_tokens: 60}}",
        "simulation.max_steps=20",
        *SMALL[base],
        *more,
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("base", "more"), SIDES)
@pytest.mark.parametrize("routing", LOADS)
def test_engines_agree_on_every_kind(
    kind: str, base: str, more: tuple[str, ...], routing: str, tmp_path: Path
) -> None:
    settings = sets(tmp_path, kind, base, f"routing={routing}", *more)
    assert compare(base, settings) is not None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("base", "more"), SIDES)
def test_the_bound_is_the_steady_state(
    kind: str, base: str, more: tuple[str, ...], tmp_path: Path
) -> None:
    settings = sets(tmp_path, kind, base, "routing={kind: balanced}", *more)
    site = compile_deployment(load(base, settings))
    times = [site.times(site.expected.batch_of(20)) for _ in range(site.micro_batches)]
    assert BoundEngine(site.program).step_ns(times) == steady_ns(site.program, times)
