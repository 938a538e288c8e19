"""Every shipped card loads, names its sources, and has the published shape."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from sim.explain import theory
from sim.foundation.units import DTYPE_BYTES
from sim.inputs import cards
from sim.inputs.attention import Mfa
from sim.inputs.documents.document import read
from sim.inputs.hardware import Accelerator, Fabric
from sim.inputs.model import ModelCard
from sim.inputs.software.card import SoftwareProfile
from sim.inputs.sourced import Sourced

MODELS = [path.stem for path in sorted(cards.packaged(cards.MODELS).glob("*.yaml"))]
ACCELERATORS = [path.stem for path in sorted(cards.packaged(cards.ACCELERATORS).glob("*.yaml"))]
FABRICS = [path.stem for path in sorted(cards.packaged(cards.FABRICS).glob("*.yaml"))]
SOFTWARE = [path.stem for path in sorted(cards.packaged(cards.SOFTWARE).glob("*.yaml"))]
ALL = [
    *((cards.MODELS, name) for name in MODELS),
    *((cards.ACCELERATORS, name) for name in ACCELERATORS),
    *((cards.FABRICS, name) for name in FABRICS),
    *((cards.SOFTWARE, name) for name in SOFTWARE),
]


def blocks(data: Any) -> Iterator[dict[str, Any]]:
    if isinstance(data, dict):
        yield data
    for child in data.values() if isinstance(data, dict) else data:
        if isinstance(child, dict | list):
            yield from blocks(child)


@pytest.mark.parametrize(("folder", "name"), ALL, ids=lambda value: value)
def test_card_loads_under_its_file_name(folder: str, name: str) -> None:
    load: dict[str, Callable[[str], ModelCard | Accelerator | Fabric | SoftwareProfile]] = {
        cards.MODELS: cards.model,
        cards.ACCELERATORS: cards.accelerator,
        cards.FABRICS: cards.fabric,
        cards.SOFTWARE: cards.software,
    }
    assert load[folder](name).name == name


@pytest.mark.parametrize("name", ACCELERATORS)
def test_memory_is_what_the_device_reports(name: str) -> None:
    memory = cards.accelerator(name).hbm_bytes
    told = re.search(r"([\d,]+) Mi?B", memory.source)
    assert told is not None
    assert float(memory) == float(told[1].replace(",", "")) * 2**20


@pytest.mark.parametrize(("folder", "name"), ALL, ids=lambda value: value)
def test_every_figure_and_every_block_names_its_source(folder: str, name: str) -> None:
    data = read(cards.packaged(folder) / f"{name}.yaml").data
    sourced = [block for block in blocks(data) if "value" in block or "kind" in block]
    if folder != cards.MODELS:  # hardware cards carry a source beside each figure instead
        sourced = [block for block in sourced if "value" in block] + [
            block for block in blocks(data) if "gpus" in block
        ]
        bare = [
            key
            for block in blocks(data)
            for key, value in block.items()
            if isinstance(value, float) and key not in ("value", "low", "high")
        ]
        assert not bare
    assert sourced
    for block in sourced:
        assert len(block["source"]) > 10


# Published layer counts: dense FFNs, MoE layers.
LAYERS = {
    "step3": (5, 56),
    "deepseek-v3": (3, 58),
    "kimi-k2": (1, 60),
    "qwen3-235b-a22b": (0, 94),
    "qwen3-32b": (64, 0),
    "llama4-maverick": (24, 24),
    "minimax-m1": (0, 80),
    "ernie-4.5-300b": (3, 51),
    "pangu-pro-moe": (0, 48),
    "deepseek-v2-lite": (1, 26),
    "deepseek-v3.2": (3, 58),
    "deepseek-v4-flash": (0, 43),
    "deepseek-v4-pro": (0, 61),
    "kimi-k2.5": (1, 60),
    "glm-5.2": (3, 75),
    "qwen3.5-397b-a17b": (0, 60),
    "qwen3-coder-480b-a35b": (0, 62),
    "minimax-m2.5": (0, 62),
    "gpt-oss-120b": (0, 36),
    "step-3.7-flash": (3, 42),
}


@pytest.mark.parametrize("name", MODELS)
def test_layer_counts(name: str) -> None:
    sequence = cards.model(name).layer_sequence
    dense = sum(layer.ffn == "dense" for layer in sequence)
    assert (dense, len(sequence) - dense) == LAYERS[name]


def test_step3_is_dense_in_its_first_four_layers_and_the_last() -> None:
    sequence = cards.model("step3").layer_sequence
    dense = [index for index, layer in enumerate(sequence) if layer.ffn == "dense"]
    assert dense == [0, 1, 2, 3, 60]


def test_llama4_interleaves_experts_and_full_attention() -> None:
    for index, layer in enumerate(cards.model("llama4-maverick").layer_sequence):
        assert layer.ffn == ("moe" if index % 2 == 1 else "dense")
        assert layer.attention == ("full" if index % 4 == 3 else "chunked")


def test_minimax_attends_fully_in_every_eighth_layer() -> None:
    for index, layer in enumerate(cards.model("minimax-m1").layer_sequence):
        assert layer.attention == ("full" if index % 8 == 7 else "lightning")


class Published(NamedTuple):
    """Parameters in billions as published; the count must round to the published digits."""

    total: float
    active: float | None
    """None: published to so few digits that rounding alone is more than 2 %."""
    digits: tuple[int, int]
    """Decimals (negative: zeros) to which total and active were published."""
    vocabulary_matrices: int
    """Of embedding and LM head, how many of the two the published active count holds."""


# The tolerance of a cell is half a unit of its last published digit, and never above 2 %. Cards
# leave out norms and biases (< 0.01 %), MTP modules and vision towers, and the published counts
# below do too. Where a publisher does not say what "active" holds, it is taken to hold the LM head
# but not the embedding, which is looked up and not multiplied; the exceptions stand beside the row.
PUBLISHED = {
    "step3": Published(316, 38, (0, 0), 1),  # report, table 1; the LLM without its vision encoder
    "deepseek-v3": Published(671, 37, (0, 0), 1),  # technical report, without the MTP module
    "kimi-k2": Published(1030, 32, (-1, 0), 1),  # 1.03T weights in the files, "1T" in the report
    "qwen3-235b-a22b": Published(235, 22, (0, 0), 1),  # model card
    "qwen3-32b": Published(32.8, 32, (1, 0), 1),  # model card; dense, active = all but embedding
    "llama4-maverick": Published(400, 17, (-1, 0), 2),  # model card; both matrices make 17.2B
    "minimax-m1": Published(456, 45.9, (0, 1), 0),  # report; 45.9B without either matrix
    "ernie-4.5-300b": Published(300, 47, (-1, 0), 1),  # model card, in tens: 299.5B
    "pangu-pro-moe": Published(72, 16, (0, 0), 1),  # technical report
    "deepseek-v2-lite": Published(15.7, None, (1, 1), 1),  # 2.45B is published as 2.4B
    "deepseek-v3.2": Published(670, 37, (-1, 0), 1),  # 671B as V3, and 0.85B of indexers
    "deepseek-v4-flash": Published(284, 13, (0, 0), 1),  # technical report
    "deepseek-v4-pro": Published(1600, 49, (-2, 0), 1),  # technical report, "1.6T"
    "kimi-k2.5": Published(1030, 32, (-1, 0), 1),  # as Kimi K2
    "glm-5.2": Published(740, 40, (-1, 0), 1),  # 744B
    "qwen3.5-397b-a17b": Published(400, None, (-1, 0), 2),  # 17.35B with both is published as 17B
    "qwen3-coder-480b-a35b": Published(480, 35, (0, 0), 2),  # 35.5B with both matrices
    "minimax-m2.5": Published(229, None, (0, 0), 0),  # 9.80B without either is published as 10B
    "gpt-oss-120b": Published(117, 5.1, (0, 1), 1),  # model card: 116.83B, of which 5.13B active
    "step-3.7-flash": Published(196, 11, (0, 0), 2),  # model card
}


@pytest.mark.parametrize("name", MODELS)
def test_parameter_counts_round_to_the_published_ones(name: str) -> None:
    model, published = cards.model(name), PUBLISHED[name]
    total = theory.total_params(model) / 1e9
    other_matrices = (published.vocabulary_matrices - 1) * theory.embedding_params(model)
    active = (theory.active_params(model) + other_matrices) / 1e9
    assert round(total, published.digits[0]) == published.total
    assert total == pytest.approx(published.total, rel=0.02)
    if published.active is not None:
        assert round(active, published.digits[1]) == published.active
        assert active == pytest.approx(published.active, rel=0.02)


# Step-3 report, table 9: one MFA layer at 8K context, 256 requests on 4 GPUs, µs; GEMMs in FP8
# (INT8 on A800), attention and its KV in BF16.
TABLE_9_MFA_US = {"h800": (281, "fp8"), "h20": (438, "fp8"), "a800": (531, "int8")}


@pytest.mark.parametrize("name", TABLE_9_MFA_US)
def test_default_efficiency_is_roofline_over_the_measured_layer(name: str) -> None:
    measured_us, gemm_dtype = TABLE_9_MFA_US[name]
    accelerator, step3 = cards.accelerator(name), cards.model("step3")
    attention = step3.attention["mfa"]
    assert isinstance(attention, Mfa)
    requests, ctx = 256 // 4, 8192
    weights = attention.weights(step3.hidden)
    kv_elements = attention.kept_elements()[None] * ctx
    bandwidth = accelerator.hbm_bytes_per_s
    projections_s = max(
        2 * weights * requests / accelerator.peak_flops_per_s(gemm_dtype),
        weights * DTYPE_BYTES[gemm_dtype] / bandwidth,
    )
    core_s = max(
        requests * attention.core_flops(ctx) / accelerator.peak_flops_per_s("bf16"),
        requests * kv_elements * DTYPE_BYTES["bf16"] / bandwidth,
    )
    efficiency = (projections_s + core_s) * 1e6 / measured_us
    assert round(efficiency, 2) == accelerator.default_efficiency


@pytest.mark.parametrize("name", ACCELERATORS)
def test_accelerator_is_self_consistent(name: str) -> None:
    accelerator = cards.accelerator(name)
    node = accelerator.node
    flops = accelerator.flops_per_s
    assert 0 < accelerator.default_efficiency <= 1
    assert node.scale_up_domain_gpus % node.gpus == 0
    assert (node.nics is None) == (node.nic_bytes_per_s is None)
    assert "bf16" in flops
    for narrow in ("fp8", "int8"):  # eight-bit units run at twice the BF16 rate
        if narrow in flops:
            assert math.isclose(flops[narrow], 2 * flops["bf16"], rel_tol=0.02)
    if "nvfp4" in flops:
        times = 3 if name in ("b300", "gb300") else 2  # Blackwell Ultra has more units for it
        assert math.isclose(flops["nvfp4"], times * flops["fp8"], rel_tol=0.02)


def test_only_the_report_sets_prices() -> None:
    priced = {
        name: usd.source
        for name in ACCELERATORS
        if isinstance(usd := cards.accelerator(name).usd_per_hour, Sourced)
    }
    assert set(priced) == {"h800", "h20", "a800", "ascend-910b"}
    assert all(source.startswith("Step-3 system report") for source in priced.values())


def test_gb200_joins_eighteen_trays_in_one_scale_up_domain() -> None:
    node = cards.accelerator("gb200").node
    assert (node.gpus, node.scale_up_domain_gpus) == (4, 72)


@pytest.mark.parametrize(
    ("name", "server", "domain"),
    [("mi300x", 8, 8), ("mi355x", 8, 8), ("gb300", 4, 72), ("b300", 8, 8)],
)
def test_servers_and_scale_up_domains(name: str, server: int, domain: int) -> None:
    node = cards.accelerator(name).node
    assert (node.gpus, node.scale_up_domain_gpus) == (server, domain)


def test_cloudmatrix_joins_384_npus_of_two_dies() -> None:
    die = cards.accelerator("ascend-910c")
    assert die.node.scale_up_domain_gpus == 2 * 384
    # Published of an NPU: 752 TFLOP/s, 3.2 TB/s, 392 GB/s over the Unified Bus, 400 Gbit/s of RDMA.
    assert 2 * die.flops_per_s["bf16"] == 752e12
    assert 2 * die.hbm_bytes_per_s == 3.2e12
    assert 2 * die.node.scale_up_bytes_per_s == 392e9
    assert 2 * (die.node.nic_bytes_per_s_per_gpu() or 0) == 400e9 / 8


@pytest.mark.parametrize("name", ["mi300x", "mi355x", "rtx-pro-6000"])
def test_cards_without_measurements_say_so(name: str) -> None:
    assert cards.calibration(name) is None
    assert "nothing is calibrated" in cards.accelerator(name).default_efficiency.source
