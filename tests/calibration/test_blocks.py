"""Attention measured whole: its core is what the card's projections leave of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim.calibration import families
from sim.calibration.attention.blocks import apart
from sim.calibration.check import compare
from sim.calibration.measurement_files import read
from sim.calibration.measurements import Measurement
from sim.foundation.errors import CalibrationError
from sim.inputs import cards
from sim.inputs.attention import Dsa
from sim.kernels import cores, kernel_table, ops
from sim.kernels.kernel_table import KernelTable

HEADER = (
    "gpu,op,model,n_q_heads,tp,gemm_dtype,kv_dtype,batch,kv_len,latency_us,framework,version,"
    "kernel,norm_path,source"
)
V32 = Dsa(
    kind="dsa", query_heads=128, q_lora=1536, kv_lora=512, rope=64, nope=128, v=128,
    index_heads=64, index_dim=128, top_k=2048, kv_dtype="fp8", source="test",
)  # fmt: skip


def block(folder: Path, **changed: str) -> Measurement:
    given = {
        "op": "dsa", "model": "DeepSeek-V3.2", "heads": "128", "weights": "fp8_block",
        "kv": "fp8", "batch": "32", "kv_len": "32769", "us": "400", "engine": "sglang",
        "norms": "framework",
    } | changed  # fmt: skip
    line = (
        "h200_sxm,{op},{model},{heads},1,{weights},{kv},{batch},{kv_len},{us},{engine},1,default,"
        "{norms},test:dsa"
    )
    path = folder / "blocks.csv"
    path.write_text(f"{HEADER}\n{line.format(**given)}\n")
    (found,) = read(path)
    return found


def h200() -> KernelTable:
    return kernel_table.load(cards.accelerator("h200-sxm"), cards.calibration("h200-sxm"))


def projections_us(table: KernelTable, attention: Dsa, batch: int) -> float:
    tile = table.accelerator.gemm_tile_rows
    both = *attention.before_core(7168), *attention.after_core(7168)
    gemms = (ops.gemm("fp8", batch, n, k, tile, groups=groups) for n, k, groups in both)
    return float(sum(table.timed(gemm).ns for gemm in gemms)) / 1e3


def test_a_row_is_a_core_and_its_projections(tmp_path: Path) -> None:
    found = block(tmp_path)
    assert (found.op, found.kernel, found.dtype) == ("attention_dsa", "sglang/fp8", "fp8")
    assert found.projections == (*V32.before_core(7168), *V32.after_core(7168))
    assert {name: found.fixed[place][1] for place, name in enumerate(sizes())} == dict(
        zip(sizes(), V32.core(1).sizes, strict=True)
    )
    assert dict(found.at) == {"batch": 32.0, "kv_len": 32769.0}


def sizes() -> tuple[str, ...]:
    return cores.CORES["attention_dsa"].sizes


def test_layers_that_reuse_a_choice_have_a_kernel_of_their_own(tmp_path: Path) -> None:
    own, reused = (block(tmp_path, op=op) for op in ("dsa", "dsa_skip_indexer"))
    assert len(reused.projections) == len(own.projections) - 2
    groups = [
        families.family(kernel).group(kernel) for kernel in map(families.kernel_of, (own, reused))
    ]
    assert groups[0] != groups[1]


def test_norms_that_no_server_runs_are_marked(tmp_path: Path) -> None:
    found = block(tmp_path, engine="vllm", norms="native_unfused", weights="bfloat16")
    assert found.kernel == "vllm_unfused/bf16"


def test_an_unknown_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="unknown 'GPT'"):
        block(tmp_path, model="GPT")


def test_projections_and_core_give_the_block_again(tmp_path: Path) -> None:
    table = h200()
    (found,) = apart([block(tmp_path)], table)
    assert found.beside_us == pytest.approx(projections_us(table, V32, 32), abs=0.01)
    assert found.latency_us + found.beside_us == pytest.approx(400)


@pytest.mark.parametrize(("batch", "kv_len"), [(1, 1025), (64, 131_073)])
def test_no_core_beats_a_launch_or_the_peak(tmp_path: Path, batch: int, kv_len: int) -> None:
    table = h200()
    row = block(tmp_path, batch=str(batch), kv_len=str(kv_len), us="5")
    (found,) = apart([row], table)
    tile = table.accelerator.query_tile_rows
    build = cores.CORES["attention_dsa"].build
    op = build("fp8", *V32.core(1).sizes, batch, batch * kv_len, tile)
    peak_us = max(float(part) for part in table.peak_us(op))
    assert found.latency_us == pytest.approx(max(peak_us, 2.17))


def test_blocks_of_another_card_stay_whole(tmp_path: Path) -> None:
    row = block(tmp_path)
    other = kernel_table.load(cards.accelerator("b200"), cards.calibration("b200"))
    assert apart([row], other) == [row]


def test_a_table_without_gemm_is_told_to_get_it_first(tmp_path: Path) -> None:
    bare = KernelTable(cards.accelerator("h200-sxm"))
    with pytest.raises(
        CalibrationError, match=r"blocks.csv:2: .* has no GEMM: fit its GEMMs first"
    ):
        apart([block(tmp_path)], bare)


def test_a_check_compares_whole_blocks(tmp_path: Path) -> None:
    table = h200()
    (found,) = compare([block(tmp_path, us="400")], lambda _name: table)
    curve, own = table.serving(op_of(table, "sglang/fp8", "fp8"))
    assert own
    assert curve is not None
    time_us, _ = table.time_us(op_of(table, "sglang/fp8", "fp8"), curve)
    whole = projections_us(table, V32, 32) + float(time_us)
    assert found.mape == pytest.approx(abs(whole / 400 - 1), abs=1e-4)


def op_of(table: KernelTable, kernel: str, kv: str) -> ops.Op:
    kernel_of = families.MeasuredKernel(
        "attention_dsa", kernel, kv, tuple(zip(sizes(), V32.core(1).sizes, strict=True))
    )
    at = {"batch": np.array(32.0), "kv_len": np.array(32769.0)}
    return families.build(table.accelerator, kernel_of, at)


@pytest.mark.parametrize(
    ("kernel", "kv", "serves"),
    [
        ("trtllm/fp8", "bf16", ("trtllm/fp8", "bf16")),
        # TensorRT-LLM was measured with a BF16 cache alone: another format stays with the engine.
        ("trtllm/fp8", "fp8", ("trtllm/fp8", "bf16")),
        ("sglang/int4", "fp8", ("sglang/fp8", "fp8")),
    ],
)
def test_an_engine_lends_to_itself_first(kernel: str, kv: str, serves: tuple[str, str]) -> None:
    table = h200()
    curve, own = table.serving(op_of(table, kernel, kv))
    assert curve is not None
    assert (curve.kernel, curve.dtype) == serves
    assert own == (serves == (kernel, kv))


def test_measurements_on_either_side_of_the_threshold_are_far_apart(tmp_path: Path) -> None:
    kernel = families.kernel_of(block(tmp_path))
    family = families.family(kernel)
    contexts = np.array([1024.0, 2048.0, 2049.0, 4096.0])
    found = family.features(kernel, {"batch": np.full(4, 8.0), "kv_len": contexts})
    apart_by = np.abs(np.diff(found, axis=0)).max(axis=1)
    assert apart_by[1] > 4 * apart_by[[0, 2]].max()
