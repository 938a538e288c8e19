"""What tells points apart: axes, entries of one family, bases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sim.inputs.naming.settings import described
from sim.sweeps.labels import fronts, labels
from sim.sweeps.points import Row, columns, row
from sim.sweeps.sweep import load

FAMILY = """
kind: sweep
name: entries
set: {slo.tpot_ms: 60}
families:
  - family: AFD
    base: step3-2a2f
    axes: [{deployment.micro_batches: [2, 3]}]
  - family: AFD
    base: step3-2a2f
    set: {deployment.ffn.gpus_per_instance: 1, deployment.ffn.parallelism: ep, routing: null}
  - family: EP
    base: dsv3-ep128
  - family: EP
    base: dsv3-ep8-h200
"""


def rows_of(path: Path, text: str) -> list[Row]:
    path.write_text(text, encoding="utf-8")
    outcome = {"status": "refused", "reason": "x"}
    return [row(point, outcome) for point in load(path).points]


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    return rows_of(tmp_path / "s.yaml", FAMILY.replace(", routing: null", ""))


def test_entries_of_a_family_are_told_apart_by_what_they_set_and_start_from(
    rows: list[Row],
) -> None:
    assert labels(rows) == [
        "2A2F, FFN of 8 GPUs, tp_ep, 2 micro-batches",
        "2A2F, FFN of 8 GPUs, tp_ep, 3 micro-batches",
        "2A2F, single-GPU FFN, ep, 3 micro-batches",
        "EP128, from dsv3-ep128",
        "EP8, from dsv3-ep8-h200",
    ]


def test_a_table_read_back_is_told_as_the_rows_are(rows: list[Row]) -> None:
    for each in rows[:2]:
        each["set.deployment.attention.computes"] = ["dense"]
    rows[2]["set.deployment.attention.computes"] = []
    told = labels(rows)
    assert told[0].endswith("2 micro-batches, dense FFN on attention GPUs")
    assert told[2].endswith("no FFN on attention GPUs")
    table = columns(rows)
    again = [dict(zip(table, cells, strict=True)) for cells in zip(*table.values(), strict=True)]
    assert labels(again) == told


def test_entries_with_families_of_their_own_have_the_columns_of_their_axes_alone(
    tmp_path: Path,
) -> None:
    text = FAMILY.replace(", routing: null", "")
    for number in range(4):
        text = text.replace(
            "family: AFD\n" if number < 2 else "family: EP\n", f"family: F{number}\n", 1
        )
    found = rows_of(tmp_path / "s.yaml", text)
    names = {name for each in found for name in each if name.startswith("set.")}
    assert names == {"set.deployment.micro_batches"}


def test_a_front_is_described(rows: list[Row]) -> None:
    for number, each in enumerate(rows):
        each |= {"status": "ok", "tokens_per_s_per_user": 20.0 - number, "tgs": 100.0 * number}
    found = fronts(rows)
    assert list(found) == ["AFD", "EP"]
    assert [each["described"] for each in found["EP"]] == [
        "EP8, from dsv3-ep8-h200",
        "EP128, from dsv3-ep128",
    ]
    assert found["AFD"][0].keys() >= {"point", "gpus", "tpot_ms_mean", "tgs"}


@pytest.mark.parametrize(
    ("shape", "settings", "line"),
    [
        (
            "4A32F",
            {
                "deployment.attention.instances": 4,
                "deployment.attention.gpus_per_instance": 8,
                "deployment.attention.lm_head_tp": 8,
                "deployment.attention.tp": 1,
                "deployment.attention.computes": [],
                "deployment.micro_batches": 2,
                "deployment.ffn.gpus_per_instance": 1,
                "deployment.ffn.redundant_experts": 0,
                "deployment.ffn.moe_kernel": "masked",
                "deployment.fabric": "rdma",
            },
            "4A32F, 2 micro-batches, single-GPU FFN",
        ),
        ("EP64", {"deployment.gpus": 64, "deployment.overlap": "none"}, "EP64, no overlap"),
        (
            "EP64",
            {"software": "sglang", "software.exchange": None, "deployment.redundant_experts": 32},
            "EP64, sglang, +32 replicas",
        ),
        (
            "7A1F",
            {
                "deployment.attention.gpus_per_instance": 4,
                "deployment.ffn.gpus_per_instance": 4,
                "deployment.ffn.moe_kernel": "fused_ep",
                "deployment.fabric": "nvlink",
                "deployment.attention.tp": 2,
                "precision.experts": "nvfp4",
            },
            "7A1F, fused_ep experts, over nvlink, attention TP2, experts nvfp4",
        ),
    ],
)
def test_a_shape_says_what_is_not_usual(shape: str, settings: dict[str, Any], line: str) -> None:
    assert described(shape, settings) == line
