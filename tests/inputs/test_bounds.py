"""Figures of cards outside of anything that was ever built: told with file, line and unit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from sim.foundation.errors import ScenarioError
from sim.inputs import cards, scenario, sourced
from sim.inputs.documents.document import parse, read
from sim.inputs.hardware import Accelerator, Fabric
from sim.inputs.model import ModelCard
from sim.inputs.software import Software
from sim.inputs.sourced import Sourced

SHIPPED = [
    (folder, name)
    for folder in (cards.ACCELERATORS, cards.FABRICS, cards.MODELS)
    for name in cards.names(folder)
]
KINDS: list[type[Sourced]] = [
    kind
    for kind in vars(sourced).values()
    if isinstance(kind, type) and issubclass(kind, Sourced) and kind.most is not None
]


def told(text: str, kind: type[BaseModel]) -> tuple[str, ...]:
    with pytest.raises(ScenarioError) as caught:
        parse(text, "card.yaml").validate(kind)
    return caught.value.problems


def card_text(folder: str, name: str) -> str:
    return cards.find(folder, name, "card").read_text()


@pytest.mark.parametrize(("folder", "name"), SHIPPED)
def test_shipped_cards_lie_within_the_bounds(folder: str, name: str) -> None:
    cards.check(folder, name, "card")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("bf16", "989", "989 FLOP/s? Should be from 1e12 to 1e17 FLOP/s; if TFLOP/s is meant, "),
        ("bf16", "989", "write 9.89e14"),
        ("fp8", "1.98", "if PFLOP/s is meant, write 1.98e15"),
        ("hbm_bytes_per_s", "3350", "3350 B/s? Should be from 1e10 to 1e15 B/s; if GB/s is meant"),
        ("hbm_bytes_per_s", "3350", "write 3.35e12"),
        ("hbm_bytes", "80", "80 B? Should be from 1e9 to 1e13 B; if GB is meant, write 8e10"),
        ("hbm_bytes", "81559", "if MiB is meant, write 8.55208e10"),
        ("scale_up_bytes_per_s", "1.0", "1 B/s? Should be from 1e8 to 1e14 B/s"),
        ("scale_up_bytes_per_s", "400", "if GB/s is meant, write 4e11"),
        ("nic_bytes_per_s", "50", "if GB/s is meant, write 5e10"),
        ("usd_per_hour", "1.0e+9", "1e9 USD/h? Should be from 0.001 to 10000 USD/h"),
        ("query_tile_rows", "4096", "4096 rows? Should be from 1 to 1024 rows"),
        ("gemm_tile_rows", "0.5", "0.5 rows?"),
        ("default_efficiency", "75", "75? Should be from 0.001 to 1; if a percentage is meant, "),
        ("default_efficiency", "75", "write 0.75"),
    ],
)
def test_a_figure_in_another_unit_is_told_with_its_place_and_how_it_is_written(
    key: str, value: str, said: str
) -> None:
    text, count = re.subn(
        rf"(\n *{key}: {{value: )[^,]+", rf"\g<1>{value}", card_text("hardware", "h800")
    )
    assert count == 1
    (line,) = told(text, Accelerator)
    number = next(n for n, row in enumerate(text.splitlines(), 1) if f"{key}: " in row)
    assert re.match(rf"card\.yaml:{number}:\d+: [\w.]*{key}\.value: ", line)
    assert said in line


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("latency_us", "5.0e-6", "5e-6 µs? Should be from 0.01 to 100000 µs"),
        ("latency_us", "5.0e-6", "if a time in seconds is meant, write 5"),
        ("goodput", "80", "if a percentage is meant, write 0.8"),
    ],
)
def test_a_fabric_in_another_unit(key: str, value: str, said: str) -> None:
    text = re.sub(rf"({key}: {{value: )[^,]+", rf"\g<1>{value}", card_text(cards.FABRICS, "rdma"))
    (line,) = told(text, Fabric)
    assert said in line


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden", 0),
        ("hidden", 10**7),
        ("vocab", 10**12),
        ("query_heads", 10**6),
        ("v", 10**7),
        ("kv_lora", -1),
        ("experts", 10**9),
        ("expert_intermediate", 10**9),
        ("repeat", 10**12),
    ],
)
def test_a_model_of_impossible_size(key: str, value: int) -> None:
    text = card_text(cards.MODELS, "deepseek-v3")
    text = re.sub(rf"(\b{key}:) \d+", rf"\1 {value}", text, count=1)
    assert any(
        f"{key}: should be" in line and f"(got {value})" in line for line in told(text, ModelCard)
    )


def test_a_peak_for_bf16_is_needed_for_all_formats_without_one() -> None:
    text, count = re.subn(r"\n  bf16: .*", "", card_text("hardware", "h800"))
    assert count == 1
    (line,) = told(text, Accelerator)
    assert re.match(r"card\.yaml:\d+:\d+: flops_per_s: bf16: missing; add this key", line)


def test_every_wrong_figure_of_a_card_is_told_at_once() -> None:
    text = re.sub(r"value: [^,]+", "value: 1.0e+300", card_text("hardware", "h800"))
    assert len(told(text, Accelerator)) == text.count("1.0e+300")


@given(st.sampled_from(KINDS), st.floats(min_value=1e-300, max_value=1e300))
def test_a_remedy_lies_within_the_bounds(kind: type[Sourced], value: float) -> None:
    assert kind.least is not None
    assert kind.most is not None
    try:
        assert kind._in_range(value) == value
    except ValueError as error:
        assert not kind.least <= value <= kind.most
        for remedy in re.findall(r"write (\S+)", str(error)):
            assert 0.99 * kind.least <= float(remedy) <= 1.01 * kind.most
    else:
        assert kind.least <= value <= kind.most


@pytest.mark.parametrize(
    ("kind", "path", "bounds"),
    [
        (Accelerator, ("flops_per_s", "additionalProperties"), (1e12, 1e17)),
        (Accelerator, ("hbm_bytes",), (1e9, 1e13)),
        (Software, ("glue_us_per_layer",), (0, 1e6)),
    ],
)
def test_the_schema_has_unit_and_bounds(
    kind: type[BaseModel], path: tuple[str, ...], bounds: tuple[float, float]
) -> None:
    node: Any = kind.model_json_schema()["properties"]
    for part in path:
        node = node[part]
    value = node["properties"]["value"]
    assert (value["minimum"], value["maximum"]) == bounds
    assert value["description"]


def test_a_new_card_may_write_its_figures_as_data_sheets_do(tmp_path: Path) -> None:
    text = card_text("hardware", "h800")
    text = re.sub(r"value: [0-9.]+e\+[0-9]+", lambda found: found[0].replace("e+", "e"), text)
    text = text.replace("8.0e10", "80e9")
    assert "e+" not in text
    path = tmp_path / "own.yaml"
    path.write_text(text)
    setting = f"deployment.attention.accelerator={path}"
    scenario.load("step3-2a2f", [setting])
    assert read(path).validate(Accelerator) == cards.accelerator("h800")


def test_a_pause_that_may_be_zero_has_a_remedy_as_well() -> None:
    said = "1e9 µs? Should be from 0 to 1e6 µs; if a time in nanoseconds is meant, write 1e6"
    with pytest.raises(ScenarioError, match=re.escape(said)):
        scenario.load("qwen3-ep16", ["software.host_gap_us_per_step.value=1e9"])
