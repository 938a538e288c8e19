"""Every printed cell of the Step-3 report's tables 1 to 7, figure 4 and sections 3 and 6.

A row is (id, printed text, how to compute it). The value is computed from the cards, rounded half
up to the digits that the report prints, and must equal them. Where the report rounded or truncated
on the way, that step stands in the row's formula with a comment; no tolerance is widened.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from functools import cache, partial
from typing import NamedTuple

import pytest

from sim.explain import theory
from sim.foundation.units import DTYPE_BYTES
from sim.inputs import cards
from sim.inputs.attention import Attention, Gqa, LinearAttention, Mfa, Mla
from sim.inputs.hardware import Accelerator
from sim.inputs.model import ModelCard, MoeFfn

K8, K32 = 8 * 1024, 32 * 1024
TPOT_S = 50e-3  # the report's target, section 3

MODELS = {
    "DSv3": "deepseek-v3",
    "Qwen3 MoE": "qwen3-235b-a22b",
    "Llama 4 M": "llama4-maverick",
    "MM M1": "minimax-m1",
    "Pangu Pro": "pangu-pro-moe",
    "Step-3": "step3",
}
ACCELERATORS = {"H800": "h800", "H20": "h20", "A800": "a800", "910B": "ascend-910b"}


class Row(NamedTuple):
    id: str
    printed: str
    compute: Callable[[], float]


@cache
def model(short: str) -> ModelCard:
    return cards.model(MODELS[short])


@cache
def card(short: str) -> Accelerator:
    return cards.accelerator(ACCELERATORS.get(short, short.lower()))


def on_model(quantity: Callable[..., float], short: str, *context: int) -> float:
    return quantity(model(short), *context)


def known(value: float | None) -> float:
    assert value is not None
    return value


def rounded(value: float, like: str) -> Decimal:
    """Return `value` with as many digits as `like` shows, halves rounded up."""
    return _to_place(value, like, ROUND_HALF_UP)


def truncated(value: float, like: str) -> float:
    """Return `value` cut off after as many digits as `like` shows, where the report did so."""
    return float(_to_place(value, like, ROUND_DOWN))


def _to_place(value: float, like: str, rounding: str) -> Decimal:
    place = Decimal((0, (1,), int(Decimal(like).as_tuple().exponent)))
    return Decimal(repr(float(value))).quantize(place, rounding=rounding)


def printed_float(value: float, like: str) -> float:
    """Return `value` as the report printed it, where it went on with the printed number."""
    return float(rounded(value, like))


# Tables 2 and 3: bytes and FLOPs per decoded token.
# columns: KV bytes 8K, attention 8K, linear, FFN (FLOPs), KV bytes 32K, attention 32K
TABLES_2_3 = {
    "DSv3": ("2.88e+08", "1.47e+11", "2.28e+10", "4.84e+10", "1.15e+09", "5.89e+11"),
    "Qwen3 MoE": ("7.89e+08", "2.52e+10", "1.34e+10", "2.84e+10", "3.15e+09", "1.01e+11"),
    "Llama 4 M": ("1.01e+09", "8.05e+09", "6.04e+09", "2.42e+10", "2.21e+09", "1.41e+10"),
    "MM M1": ("9.23e+08", "3.42e+09", "3.75e+10", "5.44e+10", "1.93e+09", "1.15e+10"),
    "Pangu Pro": ("8.05e+08", "8.05e+09", "6.04e+09", "2.38e+10", "3.22e+09", "3.22e+10"),
    "Step-3": ("2.56e+08", "3.27e+10", "2.07e+10", "5.33e+10", "1.02e+09", "1.31e+11"),
}


def tables_2_3() -> Iterator[Row]:
    for m, (kv8, att8, lin, ffn, kv32, att32) in TABLES_2_3.items():
        yield Row(f"T2.{m}.kv", kv8, partial(on_model, theory.kv_bytes, m, K8))
        yield Row(f"T2.{m}.att", att8, partial(on_model, theory.attention_flops, m, K8))
        yield Row(f"T2.{m}.lin", lin, partial(on_model, theory.linear_flops, m))
        yield Row(f"T2.{m}.ffn", ffn, partial(on_model, theory.ffn_flops, m))
        yield Row(f"T3.{m}.kv", kv32, partial(on_model, theory.kv_bytes, m, K32))
        yield Row(f"T3.{m}.att", att32, partial(on_model, theory.attention_flops, m, K32))


# Tables 4 and 5. columns: FLOP per byte, USD per FLOP, USD per byte
TABLES_4_5 = {
    "H800": ("591", "2.80e-19", "1.66e-16"),
    "H20": ("74", "7.51e-19", "5.56e-17"),
    "A800": ("156", "6.68e-19", "1.04e-16"),
    "910B": ("175", "6.65e-19", "1.16e-16"),
}


def roofline_ratio(a: str) -> float:
    return card(a).cost_flops_per_s() / card(a).hbm_bytes_per_s


def usd_per_byte(a: str) -> float:
    return known(card(a).usd_per_byte())


def usd_per_flop(a: str) -> float:
    value = known(card(a).usd_per_flop())
    # 2.806e-19 unrounded: the report cut H800's off; the other three cells are rounded.
    return truncated(value, "2.80e-19") if a == "H800" else value


def price_910b() -> float:
    """The report scales A800's price by the BF16 peaks."""
    ratio = card("910B").peak_flops_per_s("bf16") / card("A800").peak_flops_per_s("bf16")
    return known(card("A800").usd_per_hour) * ratio


def tables_4_5() -> Iterator[Row]:
    for a, (ratio, flop, byte) in TABLES_4_5.items():
        yield Row(f"T4.{a}.ratio", ratio, partial(roofline_ratio, a))
        yield Row(f"T5.{a}.uflop", flop, partial(usd_per_flop, a))
        yield Row(f"T5.{a}.ubyte", byte, partial(usd_per_byte, a))
    yield Row("T4.910B.usd", "0.67", price_910b)


# Table 6, USD per 1M tokens. columns: attention 8K, attention 32K, FFN
TABLE_6 = {
    ("DSv3", "H800"): ("0.054", "0.197", "0.014"),
    ("DSv3", "H20"): ("0.128", "0.460", "0.036"),
    ("DSv3", "A800"): ("0.114", "0.409", "0.032"),
    ("DSv3", "910B"): ("0.113", "0.407", "0.032"),
    ("Qwen3 MoE", "H800"): ("0.135", "0.527", "0.008"),
    ("Qwen3 MoE", "H20"): ("0.054", "0.185", "0.021"),
    ("Qwen3 MoE", "A800"): ("0.091", "0.338", "0.019"),
    ("Qwen3 MoE", "910B"): ("0.101", "0.376", "0.019"),
    ("Llama 4 M", "H800"): ("0.169", "0.369", "0.007"),
    ("Llama 4 M", "H20"): ("0.060", "0.128", "0.018"),
    ("Llama 4 M", "A800"): ("0.109", "0.235", "0.016"),
    ("Llama 4 M", "910B"): ("0.121", "0.262", "0.016"),
    ("MM M1", "H800"): ("0.164", "0.330", "0.015"),
    ("MM M1", "H20"): ("0.079", "0.135", "0.041"),
    ("MM M1", "A800"): ("0.121", "0.226", "0.036"),
    ("MM M1", "910B"): ("0.132", "0.249", "0.036"),
    ("Pangu Pro", "H800"): ("0.135", "0.536", "0.007"),
    ("Pangu Pro", "H20"): ("0.049", "0.183", "0.018"),
    ("Pangu Pro", "A800"): ("0.088", "0.340", "0.016"),
    ("Pangu Pro", "910B"): ("0.098", "0.379", "0.016"),
    ("Step-3", "H800"): ("0.048", "0.176", "0.015"),
    ("Step-3", "H20"): ("0.040", "0.114", "0.040"),
    ("Step-3", "A800"): ("0.040", "0.120", "0.036"),
    ("Step-3", "910B"): ("0.043", "0.133", "0.035"),
}


def attention_usd(m: str, a: str, ctx: int) -> float:
    return known(theory.attention_usd_per_1m(model(m), ctx, card(a)))


def ffn_usd(m: str, a: str) -> float:
    return known(theory.ffn_usd_per_1m(model(m), card(a)))


def table_6() -> Iterator[Row]:
    for (m, a), (att8, att32, ffn) in TABLE_6.items():
        yield Row(f"T6.{m}.att8k.{a}", att8, partial(attention_usd, m, a, K8))
        yield Row(f"T6.{m}.att32k.{a}", att32, partial(attention_usd, m, a, K32))
        yield Row(f"T6.{m}.ffn.{a}", ffn, partial(ffn_usd, m, a))


def decode_usd_910b(m: str, ctx: int) -> float:
    # Figure 4 adds table 6's printed cells; unrounded, 8K gives 0.1135 (Pangu) and 0.0789 (Step-3).
    attention = printed_float(attention_usd(m, "910B", ctx), "0.001")
    return attention + printed_float(ffn_usd(m, "910B"), "0.001")


def training_usd_910b(m: str) -> float:
    """A training step costs three forward passes: one forward, and a backward of two."""
    of = model(m)
    forward = theory.attention_flops(of, K8) + theory.linear_flops(of) + theory.ffn_flops(of)
    return 1e6 * 3 * forward * known(card("910B").usd_per_flop())


def figure_4() -> list[Row]:
    return [
        Row("F4.Pangu.train", "0.076", lambda: training_usd_910b("Pangu Pro")),
        Row("F4.Step3.train", "0.213", lambda: training_usd_910b("Step-3")),
        Row("F4.Pangu Pro.dec.8K", "0.114", lambda: decode_usd_910b("Pangu Pro", K8)),
        Row("F4.Step-3.dec.8K", "0.078", lambda: decode_usd_910b("Step-3", K8)),
        Row("F4.Pangu Pro.dec.32K", "0.395", lambda: decode_usd_910b("Pangu Pro", K32)),
        Row("F4.Step-3.dec.32K", "0.168", lambda: decode_usd_910b("Step-3", K32)),
    ]


def effective_rank(m: str) -> float:
    attention = sole(model(m).attention)
    assert isinstance(attention, Gqa | Mfa | Mla | LinearAttention)
    width = attention.nope if attention.kind == "mla" else attention.head_dim
    return attention.core_heads * width


def sole(variants: dict[str, Attention]) -> Attention:
    """Return the only variant of a card that has one."""
    (variant,) = variants.values()
    return variant


def attention_design() -> list[Row]:
    return [
        Row("AI.DSv3", "512", lambda: theory.arithmetic_intensity(model("DSv3"), K8)),
        Row("AI.Qwen3MoE", "32", lambda: theory.arithmetic_intensity(model("Qwen3 MoE"), K8)),
        Row("AI.Step3", "128", lambda: theory.arithmetic_intensity(model("Step-3"), K8)),
        Row("AER.step3", "16384", lambda: effective_rank("Step-3")),
        Row("AER.dsv3", "16384", lambda: effective_rank("DSv3")),
        Row("AER.qwen", "8192", lambda: effective_rank("Qwen3 MoE")),
    ]


def stage_s() -> float:
    # 50/3 = 16.67 ms: the report cuts it to 16.6 ms and goes on with that in sections 3 and 6.
    return truncated(TPOT_S / 3 * 1e3, "16.6") * 1e-3


def combine_budget_s(stage_s: float) -> float:
    """F→A's part of the network stage: BF16 back, FP8 out."""
    return stage_s * 2 / 3


def combine_s() -> float:
    # Table 7 goes on with 11.1 ms, rounded from 16.6 · 2/3 = 11.07 ms.
    return printed_float(combine_budget_s(stage_s()) * 1e3, "11.1") * 1e-3


def minimum_sparsity(a: str) -> float:
    """The S below which the network starves the FFN.

    An expert of one-byte weights needs batch·S ≥ FLOPs / (2·bandwidth) tokens to be compute-bound;
    a node's NICs bring back at most batch = Net·combine_s / (2·hidden·layers) tokens in BF16.
    """
    step3, node = model("Step-3"), card(a).node
    assert node.nics is not None
    node_bytes_per_s = node.nics * known(node.nic_bytes_per_s)
    numbers = step3.hidden * len(step3.layer_sequence)
    return numbers * roofline_ratio(a) / (node_bytes_per_s * combine_s())


def moe(short: str) -> MoeFfn:
    ffn = model(short).ffn["moe"]
    assert isinstance(ffn, MoeFfn)
    return ffn


def experts_needed() -> float:
    ffn = moe("DSv3")
    return (ffn.experts + ffn.shared) * minimum_sparsity("H800") - ffn.shared


def table_7() -> list[Row]:
    return [
        Row("T7.H800", "0.058", lambda: minimum_sparsity("H800")),
        Row("T7.H20", "0.007", lambda: minimum_sparsity("H20")),
        Row("T7.A800", "0.031", lambda: minimum_sparsity("A800")),
        Row("T7.910B", "0.034", lambda: minimum_sparsity("910B")),
        Row(
            "T7.H800.deepep",
            "0.073",
            lambda: minimum_sparsity("H800") / cards.fabric("rdma").goodput,
        ),
        Row("T7.dsv3.experts", "14", experts_needed),
        Row("T7.step3.S", "0.08", lambda: known(theory.sparsity(model("Step-3")))),
        Row("T7.eq", "11.1", lambda: combine_budget_s(stage_s()) * 1e3),
    ]


def layer_us() -> float:
    # Section 6 goes on with 272 µs, rounded from 16.6 ms / 61 = 272.1 µs.
    return printed_float(stage_s() / len(model("Step-3").layer_sequence) * 1e6, "272")


def l20_stage_mb() -> float:
    return card("l20").hbm_bytes_per_s * layer_us() * 1e-6 / 1e6


def linear_weights_mb() -> float:
    """FP8 attention weights of one layer and card, the output projection split over the node."""
    step3 = model("Step-3")
    attention = sole(step3.attention)
    output = sum(p.weights() for p in attention.after_core(step3.hidden))
    weights = attention.weights(step3.hidden) - output * (1 - 1 / card("l20").node.gpus)
    return weights * DTYPE_BYTES["fp8"] / 1e6


def kv_room_mb() -> float:
    # 235 − 67 from the printed megabytes; unrounded it is 168.4 MB, and the context 329K.
    return printed_float(l20_stage_mb(), "235") - printed_float(linear_weights_mb(), "67")


def l20_context_ktokens() -> float:
    attention = sole(model("Step-3").attention)
    assert isinstance(attention, Mfa)
    per_token = attention.kept_elements()[None] * DTYPE_BYTES[attention.kv_dtype]
    return kv_room_mb() * 1e6 / per_token / 1e3


def l20_batch() -> float:
    # 328K / 8K with both K's alike, although 328K counts thousands and 8K is 8192 tokens.
    return printed_float(l20_context_ktokens(), "328") / (K8 / 1024)


def l20_ffn_mb() -> float:
    # 117.5 MB: the report reserves half the bandwidth for the FFN and cuts the half megabyte off.
    return truncated(l20_stage_mb() * 0.5, "117")


def l20_ffn_gb() -> float:
    return l20_ffn_mb() * len(model("Step-3").layer_sequence) / 1e3


def l20_server_gb() -> float:
    # 7.1 GB as printed × 8; unrounded, 57.1 GB.
    return printed_float(l20_ffn_gb(), "7.1") * card("l20").node.gpus


def l20_servers() -> float:
    ffn_gb = theory.ffn_params(model("Step-3")) * DTYPE_BYTES["fp8"] / 1e9  # the report: 300 GB
    return math.ceil(ffn_gb / l20_server_gb())


def l20_cards() -> float:
    return l20_servers() * card("l20").node.gpus


def l4_cards() -> float:
    # L4 has 0.35 of L20's bandwidth, which the report calls one third: 3 cards for one.
    return l20_cards() * round(card("l20").hbm_bytes_per_s / card("l4").hbm_bytes_per_s)


def stages_and_l20() -> list[Row]:
    return [
        Row("S3.stage", "16.6", lambda: stage_s() * 1e3),
        Row("S3.stage4", "12.5", lambda: TPOT_S / 4 * 1e3),
        Row("S6.layer", "272", layer_us),
        Row("S6.l20", "235", l20_stage_mb),
        Row("S6.lin", "67", linear_weights_mb),
        Row("S6.kv", "168", kv_room_mb),
        Row("S6.ctx", "328", l20_context_ktokens),
        Row("S6.b", "41", l20_batch),
        Row("S6.l20f", "117", l20_ffn_mb),
        Row("S6.61", "7.1", l20_ffn_gb),
        Row("S6.srv", "56.8", l20_server_gb),
        Row("S6.nsrv", "6", l20_servers),
        Row("S6.cards", "48", l20_cards),
        Row("S6.l4", "144", l4_cards),
    ]


def table_1() -> list[Row]:
    return [
        Row("T1.total", "316", lambda: theory.total_params(model("Step-3")) / 1e9),
        Row("T1.act", "38", lambda: theory.active_params(model("Step-3")) / 1e9),
    ]


def all_rows() -> tuple[Row, ...]:
    return (
        *tables_2_3(),
        *tables_4_5(),
        *table_6(),
        *figure_4(),
        *attention_design(),
        *table_7(),
        *stages_and_l20(),
        *table_1(),
    )


ROWS = all_rows()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_cell_has_the_printed_digits(row: Row) -> None:
    assert rounded(row.compute(), row.printed) == Decimal(row.printed)


def test_every_printed_cell_stands_once() -> None:
    ids = [row.id for row in ROWS]
    assert len(ids) == len(set(ids)) == 157


@pytest.mark.parametrize(
    ("value", "like", "expected"),
    [(2.885e8, "2.88e+08", "2.89e8"), (0.0545, "0.054", "0.055"), (591.4, "591", "591")],
)
def test_rounding_keeps_the_printed_place(value: float, like: str, expected: str) -> None:
    assert rounded(value, like) == Decimal(expected)
