"""GPUs that share requests: what each holds, projects and reads, and the sum of the output."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest

from sim.decoding.run import simulate
from sim.deployments import compile_deployment
from sim.deployments.batch import GpuTokens
from sim.deployments.deployment import Deployment
from sim.foundation.errors import InfeasibleError, ScenarioError
from sim.inputs import cards
from sim.inputs.model import ModelCard
from sim.inputs.scenario import load
from sim.kernels import ops
from sim.metrics import summary

QWEN = cards.model("qwen3-235b-a22b")
DSV3 = cards.model("deepseek-v3")
FEW = "workload.arrivals={kind: closed, concurrency: 1536}"
EP = ("qwen3-ep16", "deployment.accelerator=h200-sxm", "deployment.overlap=none")


def site(name: str, *sets: str) -> Deployment:
    return compile_deployment(load(name, list(sets)))


def ep(tp: int, *more: str) -> Deployment:
    return site(*EP, f"deployment.attention_tp={tp}", "routing={kind: balanced}", *more)


def afd(tp: int, *more: str) -> Deployment:
    return site("step3-2a2f", FEW, f"deployment.attention.tp={tp}", *more)


@pytest.mark.parametrize("ways", [2, 4, 8])
@pytest.mark.parametrize("model", [QWEN, DSV3, cards.model("step3"), cards.model("minimax-m1")])
def test_gpus_divide_heads_and_repeat_what_has_none(model: ModelCard, ways: int) -> None:
    for name, attention in model.attention.items():
        part = attention.cut(ways)
        core, whole = part.core_flops(4096), attention.core_flops(4096)
        assert core == whole / ways
        output, all_of_it = (of.after_core(model.hidden)[-1].weights() for of in (part, attention))
        assert output == all_of_it / ways
        kept, before = (sum(of.kept_bytes("card").values()) for of in (part, attention))
        assert part.state_bytes() == attention.state_bytes() / ways
        heads = {"gqa": getattr(attention, "kv_heads", 0), "linear": ways}.get(attention.kind, 1)
        assert kept == before / min(ways, heads), name


def test_a_rank_is_a_group_with_all_its_requests() -> None:
    one, four = ep(1), ep(4)
    assert (one.attention_gpus, four.attention_gpus) == (16, 4)
    assert four.expected.batch().requests.tolist() == [128] * 4
    assert four.program.pools[0].servers == 4
    assert four.server_name(0, 3) == "n1.g4"
    # Qwen3 has four KV heads: each GPU keeps one.
    assert four.layout.bytes_per_token[None] == one.layout.bytes_per_token[None] / 4
    attention = QWEN.attention["gqa"].weights(QWEN.hidden) * 94 * (1 - 1 / 4)
    held = [of.kv_memory().weights_bytes for of in (one, four)]
    assert held[0] - held[1] == pytest.approx(attention)


def test_attention_is_that_of_a_part_of_the_heads_and_the_sum_of_outputs() -> None:
    deployment = ep(4)
    batch, timer = deployment.expected.batch(), deployment.core_timer
    tokens = GpuTokens(batch.requests)
    rows = deployment.durations(batch).rows
    software = deployment.scenario.software
    core = timer.core_line("gqa", 1)[1].timed(batch.requests, batch.kv_tokens[None]).ns
    output = timer.output("gqa", tokens, 1).ns
    full = 128 * QWEN.hidden * 2
    summed = timer.table.timed(ops.collective("all_reduce", "bf16", 4, full)).ns
    half = round(software.glue_us_per_layer * 1000 / 2)
    assert rows["attn1", 0].tolist() == (core + output + summed + half).tolist()
    assert timer.model.attention["gqa"] == QWEN.attention["gqa"].cut(4)


@pytest.mark.parametrize("requests", [512, 509])
def test_each_gpu_dispatches_its_part_of_the_tokens(requests: int) -> None:
    four = ep(4, f"workload.arrivals={{kind: closed, concurrency: {requests}}}")
    one = ep(1, f"workload.arrivals={{kind: closed, concurrency: {requests}}}")
    most = ceil(ceil(requests / 4) / 4)
    assert int(one.expected.batch_of(requests).requests.max()) == most
    times = [of.durations(of.expected.batch_of(requests)).rows for of in (one, four)]
    for stage in ("dispatch", "combine", "experts"):
        assert times[0][stage, 0].max() == times[1][stage, 0].max()


@pytest.mark.parametrize("name", ["ep", "afd"])
def test_engines_agree(name: str) -> None:
    of = {
        "ep": (*EP, "deployment.attention_tp=2", "deployment.overlap=two_batch"),
        "afd": ("step3-2a2f", FEW, "deployment.attention.tp=2"),
    }[name]
    found = [
        summary.summary(
            simulate(load(of[0], [*of[1:], "simulation.max_steps=20", f"simulation.engine={e}"]))
        )
        for e in ("event", "recurrence")
    ]
    assert found[0]["tpot_ms_mean"] == found[1]["tpot_ms_mean"]
    assert found[0]["tgs"] == found[1]["tgs"] > 0


def test_attention_gpus_send_their_part_of_the_tokens_under_afd() -> None:
    rows = [of.durations(of.expected.batch()).rows for of in (afd(1), afd(2))]
    for stage in ("a2f", "a2f_in", "experts", "f2a", "f2a_in"):
        assert rows[0][stage, 1].max() == rows[1][stage, 1].max()
    assert len(rows[1]["attention", 1]) == len(rows[0]["attention", 1]) / 2
    # Step-3 has one KV head, which both GPUs read whole.
    assert np.mean(rows[1]["attention", 1]) > np.mean(rows[0]["attention", 1])


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (("qwen3-ep16", "deployment.attention_tp=3"), "attention_tp 3 does not divide 16 gpus"),
        (("qwen3-ep16", "deployment.attention_tp=16"), "does not divide lm_head_tp 8.*set it to"),
        (
            ("step3-2a2f", "deployment.attention.tp=8", "deployment.attention.o_proj_tp=8"),
            "set o_proj_tp to 1",
        ),
    ],
)
def test_groups_that_do_not_fit_are_mistakes(sets: tuple[str, ...], said: str) -> None:
    with pytest.raises(ScenarioError, match=said):
        load(sets[0], list(sets[1:]))


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(InfeasibleError, match="64 query heads do not divide over 24 GPUs"):
        site(
            *("qwen3-ep16", "deployment.gpus=24", "deployment.redundant_experts=16"),
            *("deployment.lm_head_tp=24", "deployment.attention_tp=24"),
        )
    with pytest.raises(InfeasibleError, match=r"attention\.tp is 2: its sum of the output"):
        site(
            *("dsv3-afd-gb200", "deployment.attention.tp=2"),
        )
