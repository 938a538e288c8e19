"""Layers with a state: kernels measured one by one, and what tables of them say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim.calibration.measurement_files import read
from sim.calibration.measurements import Measurement
from sim.deployments import compile_deployment
from sim.foundation.errors import CalibrationError
from sim.inputs import cards
from sim.inputs.scenario import load
from sim.kernels import cores, kernel_table, served
from sim.kernels.kernel_table import KernelTable
from sim.kernels.ops import Op

HEADER = (
    "gpu,op,phase,kernel,n_k_heads,n_v_heads,head_k_dim,head_v_dim,batch,tokens_per_seq,"
    "latency_us,n_meas,framework,version,source"
)
CONV, FUSED = "causal_conv1d_update", "fused_kda_decode"
MEASURED = ("h100-sxm", "h200-sxm", "b200", "gb200", "b300", "gb300")


def rows(folder: Path, *lines: str) -> list[Measurement]:
    path = folder / "state.csv"
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return read(path)


def line(op: str, kernel: str, us: float, framework: str = "vllm", batch: int = 8) -> str:
    return f"h200_sxm,{op},generation,{kernel},16,64,128,128,{batch},1,{us},2,{framework},1.0,test"


def test_a_layer_is_convolution_and_recurrence(tmp_path: Path) -> None:
    found = rows(tmp_path, line("gdn", CONV, 2.5), line("gdn", "fused_recurrent_gdn", 10.0))
    (layer,) = found
    assert (layer.op, layer.kernel, layer.dtype) == ("attention_gdn", "vllm", "fp32")
    assert layer.latency_us == 12.5
    assert dict(layer.at)["states"] == 8 * 64


def test_one_kernel_that_does_both_is_a_layer(tmp_path: Path) -> None:
    parts = line("kda", CONV, 2.5), line("kda", "fused_recurrent_kda", 10.0)
    (layer,) = rows(tmp_path, *parts, line("kda", FUSED, 11.0))
    assert layer.latency_us == 11.0


def test_parts_of_other_layers_are_not_added(tmp_path: Path) -> None:
    lines = [
        line("gdn", CONV, 2.5),
        line("gdn", "recurrent", 10.0, framework="sglang"),
        line("gdn", "recurrent", 10.0, batch=16),
    ]
    assert rows(tmp_path, *lines) == []


def test_a_kind_that_no_one_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="op: unknown 'rwkv'"):
        rows(tmp_path, line("rwkv", CONV, 2.5))


def test_tensorrt_llm_keeps_states_in_bf16(tmp_path: Path) -> None:
    lines = line("gdn", CONV, 2.5, "trtllm"), line("gdn", "recurrent", 10.0, "trtllm")
    assert [layer.dtype for layer in rows(tmp_path, *lines)] == ["bf16"]


def table(card: str) -> KernelTable:
    return kernel_table.load(cards.accelerator(card), cards.calibration(card))


def qwen(requests: object, positions: int = 1, ways: int = 1, dtype: str = "fp32") -> Op:
    attention = cards.model("qwen3.5-397b-a17b").attention["gdn"].cut(ways)
    core = attention.core(positions)
    return cores.core_op(core.op).build(dtype, *core.sizes, requests, 0, 16)


@pytest.mark.parametrize("card", MEASURED)
@pytest.mark.parametrize("ways", [1, 2, 4])
def test_heads_of_any_tensor_parallelism_are_in_the_measured_range(card: str, ways: int) -> None:
    op, known = qwen(np.arange(1, 257), ways=ways), table(card)
    curve, own = known.serving(op)
    assert own
    assert curve is not None
    assert known.time_us(op, curve)[1].all()


@pytest.mark.parametrize("card", MEASURED)
@pytest.mark.parametrize("kind", ["attention_gdn", "attention_kda"])
def test_time_rises_with_requests_and_drafts_and_beats_no_peak(card: str, kind: str) -> None:
    known, requests = table(card), np.unique(np.geomspace(1, 8192, 200).astype(int))
    times = []
    for positions in range(1, 10):
        op = cores.core_op(kind).build("fp32", 16, 16, 128, 128, 4, positions, requests)
        time = known.timed(op).ns
        assert (np.diff(time) >= 0).all()
        assert (time >= np.floor(known.peak_us(op)[1] * 1e3)).all()
        times.append(time)
    assert (np.diff(times, axis=0) >= 0).all()


def test_drafts_beyond_what_was_measured_count_as_extrapolated() -> None:
    one, three = (table("h200-sxm").timed(qwen(np.array([16]), n)).usage_ns for n in (1, 3))
    assert (one > 0).tolist() == [True, False, False]
    assert (three > 0).tolist() == [False, True, False]


@pytest.mark.parametrize(("profile", "kernel"), [("sglang", "sglang"), ("vllm", "vllm")])
def test_a_profile_names_its_kernel(profile: str, kernel: str) -> None:
    site = compile_deployment(load("qwen3.5-ep8-b200", [f"software={profile}"]))
    timer = site.core_timer
    requests, none = np.array([16]), np.array([0])
    _, line = timer.core_line("gdn", 1)
    curve = next(
        curve
        for curve in timer.table.curves
        if (curve.op, curve.kernel, curve.dtype) == ("attention_gdn", kernel, "fp32")
    )
    op = qwen(requests)
    expected = timer.table.time_us(op, curve)[0] * 1e3
    assert line.timed(requests, none).ns == pytest.approx(expected, abs=1)
    assert op.kernel == served.FASTEST
