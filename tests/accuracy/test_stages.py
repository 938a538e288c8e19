"""Times of stages: a row's stage is the one that a run of its scenario takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sim.deployments import compile_deployment
from sim.experiments.accuracy import stages
from sim.experiments.accuracy.stages import StagePoint
from sim.experiments.accuracy.verdict import stage_errors
from sim.foundation.errors import ScenarioError
from sim.inputs.documents.document import Document
from sim.inputs.scenario import from_document

DISPATCH = StagePoint(
    "one", "DeepSeek-V3 shape, H200, EP8, FP8", "dispatch", "128/rank", "0", 50.0, "A"
)


def test_a_row_is_read_and_judged(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text(
        "id,run,stage,batch_or_tokens_per_gpu,value_us,grade\n"
        'one,"DeepSeek-V3 shape, H200, EP8, FP8",dispatch,128/rank,50,A\n'
        'two,"DeepSeek-V3 shape, H200, EP8, FP8",norms,128/rank,50,A\n',
        encoding="utf-8",
    )
    first, second = stages.judge(path)
    assert first.predicted_us == stages.judge_row(DISPATCH).predicted_us
    assert first.predicted_us is not None
    assert first.error == pytest.approx(first.predicted_us / 50 - 1)
    assert "norms" in second.why_not
    assert [(each.group, each.expressible) for each in stage_errors([first, second])] == [
        *(("all", 1), ("grade A", 1), ("grade A", 0)),
    ]


def test_a_stage_is_that_of_the_deployment() -> None:
    made = from_document(Document("one", stages.scenario_of(DISPATCH)))
    deployment = compile_deployment(made)
    batch = deployment.expected.batch()
    assert int(batch.requests[0]) == 128
    moe = len(deployment.kinds) - 1
    for stage in ("dispatch", "combine", "FFN experts"):
        ns = deployment.durations(batch).rows[stage.split()[-1], moe].max()
        found = stages.judge_row(replace(DISPATCH, stage=stage)).predicted_us
        assert found == pytest.approx(ns / 1e3)


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_the_way_through_the_ffn_takes_its_transfers_and_experts(micro_batches: int) -> None:
    """One micro-batch goes there, through and back; of two the slowest server sets the pace."""
    run = f"Qwen3-235B FP8, 8x GB200, 4A4F, {micro_batches} microbatch(es), balanced routing"
    row = StagePoint("one", run, "FFN unfused M2N", "96 tokens per F rank", "0", 100.0, "A")
    made = from_document(Document("one", stages.scenario_of(row)))
    deployment = compile_deployment(made)
    rows = deployment.durations(deployment.expected.batch()).rows
    there, experts, back = (rows[stage, 0].max() for stage in ("a2f", "experts", "f2a"))
    latency = deployment.delays_ns["link"]
    loop = (
        max(there, rows["a2f_in", 0].max())
        + experts
        + max(back, rows["f2a_in", 0].max())
        + 2 * latency
    )
    expected = max(loop / micro_batches, experts)
    found = stages.judge_row(row).predicted_us
    assert found is not None
    assert found == pytest.approx(expected / 1e3, rel=0.02)


def test_every_mistake_of_a_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text(
        "id,run,stage,batch_or_tokens_per_gpu,value_us,grade\none,x,dispatch,1,soon,Z\n",
        encoding="utf-8",
    )
    with pytest.raises(ScenarioError, match=r"s.csv:2: value_us.*\n.*s.csv:2: grade"):
        stages.read(path)
