"""Blocks of DeepSeek-V4 as measurement files hold them, and the kernels that mix its streams."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim.calibration import families
from sim.calibration.measurement_files import read
from sim.calibration.measurements import Measurement
from sim.inputs.attention import CompressedAttention
from sim.kernels import cores

HEADER = (
    "gpu,op,model,n_q_heads,tp,gemm_dtype,kv_dtype,batch,kv_len,latency_us,framework,version,"
    "kernel,norm_path,source"
)
PRO = {
    "kind": "compressed", "query_heads": 32, "q_lora": 1536, "head_dim": 512, "rope": 64,
    "o_groups": 4, "o_lora": 1024, "window": 128, "kv_dtype": "fp8", "source": "test",
}  # fmt: skip
FOUR = {"tokens": 4, "overlap": True, "state_rows": 8}
MANY = {"tokens": 128, "overlap": False, "state_rows": 128}
INDEX = {"heads": 64, "dim": 128, "top_k": 1024}


def blocks(folder: Path, **changed: str) -> list[Measurement]:
    given = {"op": "dsv4_csa", "engine": "sglang", "kv_len": "8193", "norms": "framework"} | changed
    line = (
        "b200_sxm,{op},DeepSeek-V4-Pro,32,4,fp8_block,fp8,32,{kv_len},200,{engine},1,default,"
        "{norms},test:dsv4"
    )
    path = folder / "blocks.csv"
    path.write_text(f"{HEADER}\n{line.format(**given)}\n")
    return read(path)


@pytest.mark.parametrize(
    ("op", "core", "more"),
    [
        ("dsv4_csa", "attention_csa", {"compression": FOUR, "index": INDEX}),
        ("dsv4_hca", "attention_hca", {"compression": MANY}),
    ],
)
def test_a_row_is_a_core_and_its_projections(
    tmp_path: Path, op: str, core: str, more: dict[str, object]
) -> None:
    (found,) = blocks(tmp_path, op=op)
    attention = CompressedAttention.model_validate(PRO | more)
    assert (found.op, found.kernel, found.dtype) == (core, "sglang/fp8", "fp8")
    assert found.projections == (*attention.before_core(7168), *attention.after_core(7168))
    sizes = zip(cores.CORES[core].sizes, attention.core(1).sizes, strict=True)
    assert dict(found.fixed) == dict(sizes)
    assert dict(found.at) == {"batch": 32.0, "kv_len": 8193.0}


def test_norms_that_may_be_unfused_are_marked(tmp_path: Path) -> None:
    (found,) = blocks(tmp_path, engine="vllm", norms="native_unfused?")
    assert found.kernel == "vllm_unfused/fp8"


@pytest.mark.parametrize(
    ("engine", "op", "kv_len", "kept"),
    [
        ("sglang", "dsv4_csa", "65537", 1),
        ("sglang", "dsv4_csa", "131073", 0),
        ("sglang", "dsv4_hca", "131073", 1),
        ("trtllm", "dsv4_csa", "8193", 0),
        ("trtllm", "dsv4_csa", "16385", 1),
        ("trtllm", "dsv4_hca", "8193", 1),
        ("vllm", "dsv4_csa", "131073", 1),
    ],
)
def test_where_time_falls_with_the_context_nothing_is_read(
    tmp_path: Path, engine: str, op: str, kv_len: str, kept: int
) -> None:
    assert len(blocks(tmp_path, engine=engine, op=op, kv_len=kv_len)) == kept


def test_measurements_on_either_side_of_the_choice_are_far_apart(tmp_path: Path) -> None:
    (found,) = blocks(tmp_path)
    kernel = families.kernel_of(found)
    family = families.family(kernel)
    # 1,024 entries of 4 tokens are all read, and so is one that is not full.
    contexts = np.array([2048.0, 4099.0, 4100.0, 8192.0])
    features = family.features(kernel, {"batch": np.full(4, 8.0), "kv_len": contexts})
    apart_by = np.abs(np.diff(features, axis=0)).max(axis=1)
    assert apart_by[1] > 4 * apart_by[[0, 2]].max()


def test_kernels_in_blocks_are_read_alone(tmp_path: Path) -> None:
    header = "gpu,op,model,n_q_heads,compress_ratio,kv_dtype,batch,kv_len,latency_us,framework"
    model = "DeepSeek-V4-Pro-FP8"
    rows = (
        f"dsv4_hca_attn,{model},128,128",
        f"dsv4_paged_mqa_logits,{model},64,4",
        "glm5_mqa_logits,GLM-5,64,1",
        "glm5_dsa_attn,GLM-5,64,1",
        "glm5_topk_flat,GLM-5,64,1",
    )
    lines = [f"b200_sxm,{row},fp8,8,4097,12,vllm,1,k,test:parts" for row in rows]
    path = tmp_path / "parts.csv"
    path.write_text("\n".join([f"{header},version,kernel,source", *lines]) + "\n")
    core, logits, flat, sparse = read(path)
    assert (core.op, core.kernel, core.projections) == ("attention_hca", "vllm_alone", ())
    assert [size for _, size in core.fixed] == [128.0, 512.0, 64.0, 128.0, 128.0]
    assert (logits.op, logits.kernel) == ("index_logits", "vllm_alone")
    assert [size for _, size in logits.fixed] == [64.0, 128.0, 4.0]
    assert dict(logits.at) == {"batch": 8.0, "kv_len": 4097.0}
    assert [size for _, size in flat.fixed] == [32.0, 128.0, 1.0, "flat"]
    assert sparse.op == "attention_dsa"
    assert dict(sparse.fixed)["n_q_heads"] == 64.0
    assert dict(sparse.fixed)["index_heads"] == 0.0


def test_mixing_is_read_from_files_of_glue(tmp_path: Path) -> None:
    header = "gpu,op,rows,width,dtype,latency_us,framework,version,kernel,source"
    rows = ("mhc_pre,64,7168", "mhc_post,64,7168", "quant_fp8_dynamic,64,7168")
    lines = [f"b200_sxm,{row},bfloat16,12,trtllm,1,k,test:mhc" for row in rows]
    path = tmp_path / "glue.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    found = read(path)
    assert [(one.op, one.kernel, one.dtype) for one in found] == [
        ("mhc_pre", "trtllm", "bf16"),
        ("mhc_post", "trtllm", "bf16"),
    ]
    assert dict(found[0].fixed) == {"hidden": 7168.0, "streams": 4.0}
    assert dict(found[0].at) == {"rows": 64.0}
