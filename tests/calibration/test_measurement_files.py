"""Measurement files: every form is read, every mistake is named with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.calibration import families
from sim.calibration.measurement_files import read
from sim.foundation.errors import CalibrationError
from sim.kernels import served
from tests import made_measurements

GEMM = "gpu,dtype,m,n,k,latency_us,source"
GOOD = "h100_sxm,bfloat16,16,4096,7168,24.4,made"


def lines(tmp_path: Path, *rows: str) -> Path:
    return made_measurements.written(tmp_path / "rows.csv", list(rows))


def test_a_row_knows_its_place_and_shape(tmp_path: Path) -> None:
    (row,) = read(lines(tmp_path, "# measured by hand", GEMM, GOOD))
    assert row.place == f"{tmp_path / 'rows.csv'}:3"
    assert (row.op, row.kernel, row.dtype, row.label) == ("gemm", "dense", "bf16", "bfloat16")
    assert dict(row.at) == {"m": 16, "n": 4096, "k": 7168}
    op = families.build(
        made_measurements.CARD, families.kernel_of(row), families.coordinates([row])
    )
    assert op.least_flops() == 2 * 16 * 4096 * 7168


@pytest.mark.parametrize(
    ("header", "row", "op"),
    [
        (
            "gpu,n_q_heads,n_kv_heads,head_dim,kv_dtype,batch,kv_len,latency_us,warm_us,regime,source",
            "h20,64,1,256,fp8,8,8192,70,70,hbm,made",
            "attention_gqa",
        ),
        (
            "gpu,n_q_heads,kv_lora,rope,kv_dtype,batch,kv_len,latency_us,warm_us,regime,source",
            "b200_sxm,128,512,64,bfloat16,8,8192,70,70,hbm,made",
            "attention_mla",
        ),
        (
            "gpu,n_q_heads,gemm_dtype,kv_dtype,batch,kv_len,latency_us,source",
            "gb200,16,bfloat16,fp8,4,1025,60,aic:trtllm/1/mla_generation_module",
            "mla_module",
        ),
        (
            "gpu,layout,groups,m_per_group,n,k,dtype,latency_us,source",
            "h800,masked,8,64,4096,7168,fp8_block,102,made",
            "grouped_gemm",
        ),
        (
            "gpu,impl,op,dtype,num_gpus,bytes,latency_us,source",
            "a100_sxm,nccl,all_gather,half,8,65536,20,made",
            "collective",
        ),
        (
            "kind,gpu,link,bytes,latency_us,stat,source",
            "nccl_send_recv,h100_sxm,inter-node IB,2048,17,median,made",
            "p2p",
        ),
    ],
)
def test_every_form_is_recognised_by_its_columns(
    tmp_path: Path, header: str, row: str, op: str
) -> None:
    (found,) = read(lines(tmp_path, header, row))
    assert found.op == op
    if op not in served.SERVED:
        return  # read, so that public files pass whole; no run asks for them
    kernel = families.kernel_of(found)
    built = families.build(made_measurements.CARD, kernel, families.coordinates([found]))
    assert built.name == op
    assert set(families.family(kernel).axes) <= set(built.axes)


def test_an_all_to_all_row_gives_both_directions(tmp_path: Path) -> None:
    header = (
        "gpu,mode,ep,nodes,tokens_per_rank,hidden,topk,num_experts,dispatch_dtype,"
        "combine_dtype,dispatch_us,combine_us,source"
    )
    rows = read(lines(tmp_path, header, "h800,deepep_ll_rdma,16,2,128,7168,8,,fp8,bf16,118,195,x"))
    assert [(row.op, row.kernel, row.latency_us) for row in rows] == [
        ("a2a_dispatch", "deepep_ll_rdma", 118),
        ("a2a_combine", "deepep_ll_rdma", 195),
    ]


MOE = (
    "gpu,kind,dtype,hidden,inter,topk,num_experts,num_slots,tp,ep,global_tokens,tokens_per_rank,"
    "rank0_tokens,distribution,latency_us,kernel,source"
)


@pytest.mark.parametrize(
    ("kind", "load", "kernel", "op", "expected"),
    [
        ("deepep_ll_masked", "uniform", "deepepmoe", "moe", "masked"),
        ("deepep_ll_masked", "power_law_0.8", "deepepmoe", "moe_hottest", "masked"),
        ("fused_moe", "balanced", "deepgemm", "moe", "trtllm_deepgemm"),
        ("fused_moe", "power_law_1.01", "deepgemm", "moe", "trtllm_deepgemm/power_law_1.01"),
        ("fused_moe", "balanced", "sglang_x", "moe", "sglang_x/grouped"),
    ],
)
def test_loads_select_the_kernel(
    tmp_path: Path, kind: str, load: str, kernel: str, op: str, expected: str
) -> None:
    row = f"h100_sxm,{kind},fp8_block,7168,2048,8,256,256,1,32,512,16,,{load},150,{kernel},x"
    (found,) = read(lines(tmp_path, MOE, row))
    assert (found.op, found.kernel, found.regime) == (op, expected, load)
    assert dict(found.at)["experts"] == (256 if op == "moe_hottest" else 8)


@pytest.mark.parametrize(
    ("rows", "place", "message"),
    [
        ([], ":1:", "holds no measurements"),
        ([GEMM], ":1:", "holds no measurements"),
        (["gpu,dtype,m,n,latency_us,source", "a,b,1,2,3,x"], ":1:", "missing column k"),
        (
            ["gpu,dtype,m,n,k,latency_ms,source", "a,b,1,2,3,4,x"],
            ":1:",
            "latency_us; latency_ms|latency_us is in another unit: write µs in latency_us",
        ),
        ([GEMM, GOOD, "h100_sxm,bfloat16,16,4096,7168,-3,x"], ":3:", "latency_us should be"),
        ([GEMM, GOOD, "h100_sxm,bfloat16,16,4096,7168,24 ms,x"], ":3:", "in µs and without a unit"),
        (
            [GEMM, GOOD, "h100_sxm,bfloat16,16,4096,7168,nan,x"],
            ":3:",
            "should be a positive number",
        ),
        ([GEMM, "h100_sxm,bf61,16,4096,7168,3,x"], ":2:", "unknown 'bf61'"),
        ([GEMM, "h100_sxm,bfloat16,1.5,4096,7168,3,x"], ":2:", "m should be a whole number"),
        ([GEMM, "h100_sxm,bfloat16,16,4096,7168,3,"], ":2:", "source is empty"),
        ([GEMM, "h100_sxm,bfloat16,16,4096,7168,3"], ":2:", "should have 7 columns"),
        (
            [
                "gpu,impl,op,dtype,num_gpus,bytes,latency_us,source",
                "h100_sxm,nccl,all_gathr,half,8,512,3,x",
            ],
            ":2:",
            "op: unknown 'all_gathr'; did you mean 'all_gather'",
        ),
    ],
)
def test_a_mistake_is_named_with_file_and_line(
    tmp_path: Path, rows: list[str], place: str, message: str
) -> None:
    path = lines(tmp_path, *rows)
    with pytest.raises(CalibrationError, match=message) as caught:
        read(path)
    assert f"{path}{place}" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"absent\.csv: cannot be read"):
        read(tmp_path / "absent.csv")
