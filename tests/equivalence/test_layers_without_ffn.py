"""Layers without an FFN: what follows goes on at once, under both engines and the bound."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.deployments import compile_deployment
from sim.deployments.deployment import Deployment
from sim.engines.bound import BoundEngine
from sim.engines.program import Node, Program
from sim.foundation.errors import InfeasibleError
from sim.inputs.scenario import load
from tests.equivalence.test_attention_kinds import DRAFTS, LENGTHS, SMALL
from tests.equivalence.test_bound import steady_ns
from tests.equivalence.test_scenarios import compare

AFD, EP = "step3-2a2f", "dsv3-ep128"
# As in Nemotron 3, Mamba-2 before full attention has no FFN. Here the last layer has none either.
PATTERN = (
    "{attention: m, ffn: moe}, {attention: m}, {attention: a, ffn: moe}, "
    "{attention: m}, {attention: m}, {attention: a, ffn: dense}, {attention: m}"
)
SHAPES = {
    AFD: (
        (),
        ("deployment.micro_batches=1",),
        ("deployment.duplex=half",),
        ("deployment.attention.computes=[shared, dense]",),
        ("deployment.attention.gpus_per_instance=4", "deployment.attention.o_proj_tp=2"),
        (DRAFTS.replace("a0", "a"),),
    ),
    EP: (
        (),
        ("deployment.overlap=none",),
        (DRAFTS.replace("a0", "m"),),
        ("routing={kind: dirichlet, concentration: 0.5}",),
    ),
}
CASES = [(base, more) for base, shapes in SHAPES.items() for more in shapes]


def card(folder: Path, pattern: str = PATTERN) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "alternating.yaml"
    path.write_text(f"""
kind: model
name: alternating
title: alternating
hidden: 1024
vocab: 4096
source: test
attention:
  m: {{kind: mamba2, heads: 16, head_dim: 64, state: 128, groups: 4, conv: 4, state_dtype: bf16,
      source: test}}
  a: {{kind: gqa, query_heads: 16, kv_heads: 4, head_dim: 128, kv_dtype: fp8, source: test}}
ffn:
  dense: {{kind: dense, intermediate: 4096, source: test}}
  moe: {{kind: moe, experts: 8, top_k: 2, expert_intermediate: 512, shared: 1,
        shared_intermediate: 512, source: test}}
layers: [{{repeat: 2, pattern: [{pattern}]}}]
""")
    return path


def sets(folder: Path, base: str, *more: str, pattern: str = PATTERN) -> list[str]:
    closed = "workload.arrivals={kind: closed, concurrency: 40}"
    model, few = f"model={card(folder, pattern)}", "simulation.max_steps=20"
    return [model, "routing={kind: balanced}", closed, few, LENGTHS, *SMALL[base], *more]


def site_of(folder: Path, base: str, *more: str, pattern: str = PATTERN) -> Deployment:
    return compile_deployment(load(base, sets(folder, base, *more, pattern=pattern)))


@pytest.mark.parametrize(("base", "more"), CASES)
def test_both_engines_agree_to_the_byte(tmp_path: Path, base: str, more: tuple[str, ...]) -> None:
    assert compare(base, sets(tmp_path, base, *more)) is not None


@pytest.mark.parametrize(("base", "more"), CASES)
def test_the_bound_is_the_steady_state(tmp_path: Path, base: str, more: tuple[str, ...]) -> None:
    site = site_of(tmp_path, base, *more)
    times = [site.times(site.expected.batch_of(20)) for _ in range(site.micro_batches)]
    assert BoundEngine(site.program).step_ns(times) == steady_ns(site.program, times)


def names(program: Program, layer: int) -> set[str]:
    return {program.stages[node.stage].name for node in program.nodes if node.layer == layer}


def follows(program: Program, layer: int, stage: str) -> list[tuple[str, str]]:
    """Return stage and wiring of what the first micro-batch waits for there."""

    def name(node: Node) -> str:
        return program.stages[node.stage].name

    (node,) = (
        node
        for node in program.nodes
        if (node.layer, node.micro_batch, name(node)) == (layer, 0, stage)
    )
    return [(name(program.nodes[link.node]), link.wiring) for link in node.inputs]


def test_under_afd_the_gpu_goes_on_without_a_trip(tmp_path: Path) -> None:
    program = site_of(tmp_path, AFD).program
    assert names(program, 1) == {"attention"}
    assert follows(program, 2, "attention") == [("attention", "each")]
    (attention,) = (number for number, pool in enumerate(program.pools) if pool.name == "attention")
    order = [program.nodes[node] for node, _ in program.orders[attention]]
    turns = [(node.layer, node.micro_batch) for node in order]
    for j in range(3):
        at = turns.index((3, j))
        assert turns[at : at + 3] == [(3, j), (4, j), (5, j)], "a micro-batch leaves as it can"
        assert turns[turns.index((13, j)) + 1] == (14, j), "the LM head follows"


def test_under_ep_no_gpu_waits_for_others(tmp_path: Path) -> None:
    program = site_of(tmp_path, EP).program
    assert names(program, 1) == {"attn0", "attn1"}
    assert follows(program, 2, "attn0") == [("attn1", "each")]
    assert follows(program, 3, "attn0") == [("combine", "all")]
    assert follows(program, 14, "lm_head") == [("attn1", "each")]


@pytest.mark.parametrize("base", SMALL)
def test_a_layer_without_an_ffn_takes_its_attention(tmp_path: Path, base: str) -> None:
    """Between two layers with an FFN it adds its stages to a step of one micro-batch, no more."""
    alone = ("deployment.micro_batches=1",) if base == AFD else ("deployment.overlap=none",)
    with_ffn, without = "{attention: m, ffn: moe}", "{attention: m}"
    shorter = site_of(tmp_path, base, *alone, pattern=with_ffn)
    longer = site_of(tmp_path, base, *alone, pattern=f"{without}, {with_ffn}")
    steps = []
    for site in (shorter, longer):
        times = [site.times(site.expected.batch_of(40))]
        step_ns = BoundEngine(site.program).step_ns(times)
        assert step_ns is not None
        steps.append(step_ns)
    rows = longer.durations(longer.expected.batch_of(40)).rows
    stages = ("attention",) if base == AFD else ("attn0", "attn1")
    assert steps[1] - steps[0] == 2 * sum(int(rows[stage, 0].max()) for stage in stages)


def test_half_of_the_glue_belongs_to_the_ffn(tmp_path: Path) -> None:
    glue = "software={profile: ideal, glue_us_per_layer: {value: 30, source: test}}"
    no_glue = "software=ideal"
    for base, stages in ((AFD, ("attention",)), (EP, ("attn0", "attn1"))):
        with_glue, without = (
            site.durations(site.expected.batch()).rows
            for site in (site_of(tmp_path, base, more) for more in (glue, no_glue))
        )
        added = [
            sum(with_glue[stage, kind].max() - without[stage, kind].max() for stage in stages)
            for kind in (0, 1)
        ]
        assert added == [30_000, 15_000]


@pytest.mark.parametrize("base", SMALL)
def test_a_model_without_ffns_is_refused(tmp_path: Path, base: str) -> None:
    with pytest.raises(InfeasibleError, match="alternating has no layer"):
        site_of(tmp_path, base, pattern="{attention: m}")


def test_two_batches_share_out_the_attention_of_a_part(tmp_path: Path) -> None:
    """A part's steady state: 2 · [max(D, S + first half) + E + max(C, second half)]."""
    part = "{attention: m}, {attention: a, ffn: moe}"
    shorter, longer = (
        site_of(tmp_path / name, EP, pattern=pattern)
        for name, pattern in (("one", part), ("two", f"{part}, {part}"))
    )
    steps = []
    for site in (shorter, longer):
        times = [site.times(site.expected.batch_of(40)) for _ in range(2)]
        step_ns = BoundEngine(site.program).step_ns(times)
        assert step_ns is not None
        steps.append(step_ns)
    rows = longer.durations(longer.expected.batch_of(40)).rows
    first, second = (
        sum(int(rows[stage, kind].max()) for stage in ("attn0", "attn1")) for kind in (0, 1)
    )
    dispatch, shared, experts, combine = (
        int(rows[stage, 1].max()) for stage in ("dispatch", "shared", "experts", "combine")
    )
    of_part = 2 * (max(dispatch, shared + first) + experts + max(combine, second))
    assert steps[1] - steps[0] == 2 * of_part
