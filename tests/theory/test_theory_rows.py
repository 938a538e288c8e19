"""The theory rows: their keys, their nulls, and how they grow with context."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.explain import theory
from sim.inputs import cards
from sim.inputs.attention import Gqa, LinearAttention
from sim.inputs.model import DenseFfn, Layer, LayerGroup, ModelCard

NAMES = [path.stem for path in sorted(cards.packaged(cards.MODELS).glob("*.yaml"))]
SHIPPED = {name: cards.model(name) for name in NAMES}
contexts = st.integers(min_value=1, max_value=1 << 20)
counts = st.integers(min_value=1, max_value=64)


def small_model(attention: Gqa | LinearAttention) -> ModelCard:
    return ModelCard(
        kind="model",
        name="small",
        title="Small",
        hidden=128,
        vocab=1000,
        attention={"a": attention},
        ffn={"f": DenseFfn(kind="dense", intermediate=256, source="test")},
        layers=[LayerGroup(repeat=3, pattern=[Layer(attention="a", ffn="f")])],
        source="test",
    )


@st.composite
def windowed_models(draw: st.DrawFn) -> tuple[ModelCard, int]:
    window, kv_heads = draw(st.integers(min_value=1, max_value=1 << 16)), draw(counts)
    attention = Gqa(
        kind="gqa",
        query_heads=kv_heads * draw(counts),
        kv_heads=kv_heads,
        head_dim=draw(st.sampled_from([64, 128, 256])),
        window=window,
        kv_dtype=draw(st.sampled_from(["fp8", "bf16", "nvfp4"])),
        source="test",
    )
    return small_model(attention), window


@given(name=st.sampled_from(NAMES), ctx=contexts, more=contexts)
def test_bytes_and_flops_never_shrink_with_context(name: str, ctx: int, more: int) -> None:
    model = SHIPPED[name]
    assert theory.kv_bytes(model, ctx + more) >= theory.kv_bytes(model, ctx)
    assert theory.attention_flops(model, ctx + more) >= theory.attention_flops(model, ctx)


@given(drawn=windowed_models(), beyond=contexts)
def test_a_window_saturates(drawn: tuple[ModelCard, int], beyond: int) -> None:
    model, window = drawn
    for quantity in (theory.kv_bytes, theory.attention_flops):
        assert quantity(model, window + beyond) == quantity(model, window)
        assert quantity(model, window - 1) < quantity(model, window)


@given(ctx=contexts, beyond=contexts)
def test_a_linear_state_is_constant_and_both_read_and_written(ctx: int, beyond: int) -> None:
    attention = LinearAttention(
        kind="linear",
        heads=4,
        head_dim=16,
        state_dtype="fp32",
        flops_per_state_element=10,
        projections=5,
        source="test",
    )
    model = small_model(attention)
    assert theory.kv_bytes(model, ctx) == theory.kv_bytes(model, ctx + beyond)
    assert theory.kv_bytes(model, ctx) == 2 * 3 * attention.state_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_active_parameters_never_exceed_all(name: str) -> None:
    assert theory.active_params(SHIPPED[name]) < theory.total_params(SHIPPED[name])


def test_rows_serialise_under_the_documented_keys() -> None:
    models, accelerators = [SHIPPED["step3"]], [cards.accelerator("h800")]
    (row,) = theory.theory(models, [8192], accelerators)
    plain = json.loads(json.dumps(row.to_dict()))
    assert list(plain) == [
        "model",
        "context",
        "kv_bytes",
        "attention_flops",
        "linear_flops",
        "ffn_flops",
        "total_params",
        "active_params",
        "arithmetic_intensity",
        "sparsity",
        "costs",
        "afd_usd_per_1m",
        "afd_attention_accelerator",
        "afd_ffn_accelerator",
    ]
    (cost,) = plain["costs"]
    assert list(cost) == ["accelerator", "attention_usd_per_1m", "ffn_usd_per_1m"]


def test_one_row_per_model_and_context_in_the_given_order() -> None:
    models = [SHIPPED["qwen3-32b"], SHIPPED["step3"]]
    rows = theory.theory(models, [8192, 32768], [])
    assert [(row.model, row.context) for row in rows] == [
        ("qwen3-32b", 8192),
        ("qwen3-32b", 32768),
        ("step3", 8192),
        ("step3", 32768),
    ]


def test_afd_takes_the_cheapest_card_for_each_part() -> None:
    accelerators = [cards.accelerator(name) for name in ("h800", "h20", "l20", "a800")]
    (row,) = theory.theory([SHIPPED["qwen3-235b-a22b"]], [8192], accelerators)
    assert (row.afd_attention_accelerator, row.afd_ffn_accelerator) == ("h20", "h800")
    attention = theory.attention_usd_per_1m(SHIPPED[row.model], 8192, accelerators[1])
    ffn = theory.ffn_usd_per_1m(SHIPPED[row.model], accelerators[0])
    assert attention is not None
    assert ffn is not None
    assert row.afd_usd_per_1m == attention + ffn


def test_a_card_without_a_price_has_no_costs() -> None:
    (row,) = theory.theory([SHIPPED["step3"]], [8192], [cards.accelerator("h100-sxm")])
    assert row.costs == (theory.Cost("h100-sxm", None, None),)
    assert row.afd_usd_per_1m is None
    assert row.afd_attention_accelerator is None
    assert row.afd_ffn_accelerator is None


def test_a_dense_model_has_no_sparsity() -> None:
    assert theory.sparsity(SHIPPED["qwen3-32b"]) is None
