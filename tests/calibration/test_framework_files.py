"""Measurement files that name frameworks: kernels by engine, and what a fit leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.calibration.compose import composed
from sim.calibration.fit_table import without_repeats
from sim.calibration.measurement_files import read
from sim.calibration.measurements import Measurement
from sim.inputs import cards

MOE = (
    "gpu,model,dtype,hidden,inter,topk,num_experts,tp,ep,global_tokens,distribution,latency_us,"
    "framework,version,kernel,routing,regime,source"
)


def rows(folder: Path, header: str, *lines: str) -> list[Measurement]:
    path = folder / f"{len(list(folder.iterdir()))}.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return read(path)


def moe(folder: Path, *, framework: str, kernel: str, **changed: str) -> list[Measurement]:
    given = {"dtype": "fp8_block", "load": "balanced", "routing": "plain", "us": "100.0"} | changed
    line = (
        f"b200_sxm,V3,{given['dtype']},7168,2048,8,256,1,8,1024,{given['load']},{given['us']},"
        f"{framework},1,{kernel},{given['routing']},hbm,aic0.12:moe/moe"
    )
    return rows(folder, MOE, line)


@pytest.mark.parametrize(
    ("framework", "kernel", "dtype", "name"),
    [
        ("sglang", "flashinfer_trtllm_moe", "fp8_block", ("sglang_flashinfer_trtllm", "fp8")),
        ("vllm", "fi_trtllm_nvfp4expertsmonolithic", "nvfp4", ("vllm_flashinfer_trtllm", "nvfp4")),
        ("trtllm", "trt", "w4a8_mxfp4_mxfp8", ("trtllm_moe", "mxfp4")),
        ("vllm", "marlin_marlinexperts", "int4_wo", ("vllm_marlin", "int4")),
        ("vllm", "triton_tritonexperts", "w4a16_mxfp4", ("vllm_triton_w4a16", "mxfp4")),
    ],
)
def test_experts_are_called_by_framework_and_what_it_wraps(
    tmp_path: Path, framework: str, kernel: str, dtype: str, name: tuple[str, str]
) -> None:
    (found,) = moe(tmp_path, framework=framework, kernel=kernel, dtype=dtype)
    assert (found.kernel, found.dtype) == name
    assert dict(found.at) == {"rows": 32.0, "experts": 32.0, "intermediate": 2048.0}


def test_skewed_loads_are_for_the_hot_rank_and_groups_are_left_out(tmp_path: Path) -> None:
    (skewed,) = moe(tmp_path, framework="sglang", kernel="fused_moe_triton", load="power_law_1.01")
    assert (skewed.op, dict(skewed.fixed)["load"]) == ("moe_hottest", "power_law_1.01")
    assert not moe(tmp_path, framework="sglang", kernel="fused_moe_triton", routing="group_limited")


def test_a_point_that_two_files_hold_counts_once(tmp_path: Path) -> None:
    one, again, other = (
        moe(tmp_path, framework="trtllm", kernel="deepgemm", us=us)
        for us in ("100.0", "100.04", "103.0")
    )
    assert without_repeats([*one, *again, *other]) == [*one, *other]


def test_the_fastest_of_several_frameworks_gemms_counts(tmp_path: Path) -> None:
    found = rows(
        tmp_path,
        "gpu,dtype,m,n,k,latency_us,framework,version,kernel,source",
        "b300_sxm,bfloat16,8,512,1536,4.0,sglang,1,a,aic0.12:gemm/gemm",
        "b300_sxm,bfloat16,8,512,1536,3.0,trtllm,1,b,aic0.12:gemm/gemm",
    )
    (kept,) = without_repeats(found)
    assert (kept.kernel, kept.latency_us) == ("dense", 3.0)


def test_prepare_is_read_once_whatever_the_format(tmp_path: Path) -> None:
    found = rows(
        tmp_path,
        "gpu,mode,phase,comm_dtype,ep,nodes,sms,tokens_per_rank,hidden,topk,num_experts,latency_us,"
        "framework,version,source",
        "gb200,trtllm_NVLinkTwoSided,prepare,bfloat16,8,2,,64,7168,8,256,14.0,trtllm,1,aic0.12:c/t",
        "gb200,trtllm_NVLinkTwoSided,prepare,nvfp4,8,2,,64,7168,8,256,14.1,trtllm,1,aic0.12:c/t",
        "gb200,vllm_deepep_ll,dispatch,default,4,1,,64,7168,8,256,62.0,vllm,1,aic0.12:c/t",
    )
    assert [one.op for one in found] == ["a2a_prepare"]


def test_both_projections_and_the_pass_between_them_make_up_experts(tmp_path: Path) -> None:
    found = rows(
        tmp_path,
        "gpu,layout,groups,m_per_group,n,k,dtype,latency_us,source",
        "h20,masked,8,16,3072,4096,fp8_block,50.0,InferSim:a",
        "h20,masked,8,16,4096,1536,fp8_block,30.0,InferSim:a",
        "h20,masked,8,32,4096,1536,fp8_block,31.0,InferSim:a",
    )
    (expert,) = composed(found, cards.accelerator("h20"))
    between_us = 2.17 + 8 * 16 * 1536 * 5 / (4.0e12 * 0.63) * 1e6
    assert expert.latency_us == pytest.approx(50 + 30 + between_us)
    assert dict(expert.fixed) == {"hidden": 4096.0, "intermediate": 1536.0}
    assert dict(expert.at) == {"rows": 16.0, "active": 8.0, "experts": 8.0}
    assert not composed(found, cards.accelerator("h800"))
