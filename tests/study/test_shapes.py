"""Shapes: what people built is among them, and each can be written as a scenario."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sim.inputs import scenario
from sim.inputs.variants import Variants
from sim.sweeps.shapes import shapes, with_copies, with_drafts
from sim.sweeps.shapes.choices import copies

# Deployments that were published, by what tells their shape.
BUILT = {
    "step3-2a2f": {"attention.instances": 2, "ffn.parallelism": "tp_ep", "micro_batches": 3},
    "qwen3-fastafd-7a1f": {"attention.instances": 7, "ffn.moe_kernel": "fused_ep"},
    "qwen3-fastafd-17a1f": {"attention.instances": 17, "ffn.moe_kernel": "fused_ep"},
    "dsv3-ep128": {"gpus": 128, "overlap": "two_batch", "moe_kernel": "masked"},
    "dsv3-ep144": {"gpus": 144, "overlap": "two_batch", "moe_kernel": "masked"},
    "dsv3-ep8-h200": {"gpus": 8, "overlap": "none", "moe_kernel": "fused"},
}


@pytest.mark.parametrize("name", BUILT)
def test_what_people_built_is_among_the_shapes(name: str) -> None:
    base = scenario.load(name)
    told = {f"deployment.{path}": value for path, value in BUILT[name].items()}
    assert any(told.items() <= shape.items() for shape in shapes(base, 256))


@pytest.mark.parametrize("name", ["dsv3-afd", "qwen3-fastafd-3a1f", "qwen3-ep16"])
def test_shapes_are_scenarios_within_their_gpus(name: str) -> None:
    base = scenario.load(name)
    variants, found = Variants(base.document()), [*shapes(base, 64)]
    assert len({str(sorted(each.items(), key=str)) for each in found}) == len(found)
    for settings in found:
        assert variants.with_settings(settings).gpu_count() <= 64


@pytest.mark.parametrize("name", ["dsv3-afd", "dsv3-ep128"])
def test_copies_fill_the_slots_of_all_ranks(name: str) -> None:
    base = scenario.load(name)
    every: list[Any] = [*with_copies(base)]
    assert len(every) > 1
    assert all(base.with_settings(each).gpu_count() == base.gpu_count() for each in every)


def test_shapes_begin_with_the_fewest_drafts() -> None:
    base = scenario.load("dsv3-ep16-h200-mtp")
    assert {shape["speculation.drafts"] for shape in shapes(base, 16)} == {1}
    assert [*with_drafts(base)] == [{"speculation.drafts": 2}, {"speculation.drafts": 3}]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("speculation", None),
        ("speculation.draft_layer", None),
        (
            "speculation.acceptance",
            {"kind": "by_position", "p": [{"value": p, "source": "test"} for p in (0.8, 0.6)]},
        ),
    ],
)
def test_drafts_stay_where_one_probability_is_not_all(path: str, value: Any) -> None:
    base = scenario.load("dsv3-ep16-h200-mtp").with_settings({path: value})
    assert not any("speculation" in each for shape in shapes(base, 16) for each in shape)
    assert [*with_drafts(base)] == []


@pytest.mark.parametrize("ranks", [1, 7, 24, 144, 300])
def test_copies_begin_with_the_fewest(ranks: int) -> None:
    found = copies(256, ranks)
    assert found[0] == math.ceil(256 / ranks) * ranks - 256
    assert found == sorted(set(found))
    assert all((256 + each) % ranks == 0 for each in found)


@pytest.mark.parametrize("name", ["dsv3-afd", "dsv3-ep128"])
@pytest.mark.parametrize("gpus", [16, 40, 80, 88, 1000])
def test_some_shapes_of_either_kind_take_all_gpus(name: str, gpus: int) -> None:
    base = scenario.load(name)
    variants = Variants(base.document())
    assert gpus == max(variants.with_settings(each).gpu_count() for each in shapes(base, gpus))
