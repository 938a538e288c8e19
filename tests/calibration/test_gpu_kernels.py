"""The measured kernels without a GPU: what they compute, and whether a Hopper has room."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.calibration import measure
from sim.experiments import kernel_cases

# Triton reads it when a kernel's module is imported, which the first test of torch does.
os.environ["TRITON_INTERPRET"] = "1"
HOPPER_SHARED_BYTES = 227 * 1024

torch: Any = pytest.importorskip("torch", reason="the extra [gpu] is not installed")
needs_interpreter = [
    pytest.mark.skipif(
        tuple(map(int, np.__version__.split(".")[:2])) >= (2, 4),
        reason="Triton 3.6 reads arrays as numbers, which NumPy 2.4 refuses",
    ),
    pytest.mark.filterwarnings("ignore:Conversion of an array"),
]


def interpreted(test: Any) -> Any:
    """Mark a test whose kernels Triton interprets."""
    for mark in needs_interpreter:
        test = mark(test)
    return test


def test_the_torch_kernels_agree_with_their_references() -> None:
    from sim.calibration.measure_torch import TorchBackend

    for is_warm in (False, True):
        backend = TorchBackend("cpu", is_warm=is_warm)
        times = list(measure.measure(backend, kernel_cases.tiny_cases(), warm_up=1, repeats=3))
        assert {case.op for case, _ in times} == set(measure.FORMS)


@interpreted
@pytest.mark.parametrize(("kv_len", "batch"), [(401, 1), (130, 2)])
def test_every_tile_reads_pages_as_the_reference_does(kv_len: int, batch: int) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    from sim.calibration import measure_triton

    torch.manual_seed(0)
    for heads, kv_heads, dim, rope in ((8, 2, 64, 0), (64, 1, 256, 0), (32, 1, 512, 64)):
        pages = -(-kv_len // 64)
        table = torch.randperm(batch * pages).reshape(batch, pages).to(torch.int32)
        q, k = torch.randn(batch, heads, dim), torch.randn(batch * pages, 64, kv_heads, dim)
        v = None if rope else torch.randn(batch * pages, 64, kv_heads, dim)
        q_rope = torch.randn(batch, heads, rope) if rope else None
        k_rope = torch.randn(batch * pages, 64, 1, rope) if rope else None
        inputs = (q, k, v, q_rope, k_rope, table, kv_len, dim**-0.5)
        wanted = measure_triton.reference(*inputs)
        for tile in measure_triton.tiles(heads // kv_heads, dim):
            found = measure_triton.attention(*inputs, tile, interpret=True)
            assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-5, tile


@interpreted
def test_the_blockwise_kernels_agree_with_torch() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    from sim.calibration import measure_blockwise as blockwise

    torch.manual_seed(0)
    for experts, rows, outputs, columns in ((1, 5, 256, 128), (3, 70, 200, 320)):
        x = torch.randn(experts, rows, columns).bfloat16()
        wide = torch.randn(experts, outputs, columns)
        weights = blockwise.of_experts(wide)
        _, scales = blockwise.narrowed(x, interpret=True)
        wanted, wanted_scales = blockwise.narrowed_in_torch(x)
        assert torch.equal(scales, wanted_scales)
        narrow = blockwise.product_in_torch((wanted, scales), weights)
        exact = x.float() @ wide.transpose(1, 2)
        assert float((narrow - exact).abs().max() / exact.abs().max()) < 0.06
        for tile in blockwise.TILES:
            # Not the values: the interpreter's rounding to FP8 loses carries (127 becomes 64).
            found = blockwise.product((wanted, scales), weights, tile, interpret=True).float()
            assert float((found - narrow).abs().max() / narrow.abs().max()) < 0.01, tile


def test_every_tile_fits_a_multiprocessor_of_a_hopper() -> None:
    """128 heads of MLA once asked for 252 KiB: the command failed on the first H200 it saw."""
    pytest.importorskip("triton", reason="Triton is not installed")
    script = Path(__file__).parent / "compiled_for_hopper.py"
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-W", "ignore", str(script)]
    told = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    taken = [json.loads(line) for line in told.stdout.splitlines()]
    assert len(taken) > 40
    assert [one for one in taken if one["shared"] > HOPPER_SHARED_BYTES] == []


def test_the_fastest_way_that_fits_is_timed() -> None:
    from sim.calibration.measure_launches import Launch, Timer, TorchKernel

    class Scripted(Timer):
        def timed(self, run: Any) -> Any:
            return lambda: float(run()[0])

    def full() -> Any:
        raise MemoryError

    ways = {"full": full, "slow": lambda: torch.ones(1) * 9, "fast": lambda: torch.ones(1) * 4}
    launch = Launch(ways, lambda: torch.ones(1) * 4)
    kernel = TorchKernel([launch], Scripted(torch.device("cpu")))
    assert kernel.error() == 1.25  # the slow way is wrong, which the fast one does not hide
    assert kernel.time_us() == 4.0
    assert kernel.way == "fast"
    wrong = Launch({"nan": lambda: torch.full((1,), float("nan"))}, lambda: torch.ones(1))
    assert TorchKernel([wrong], Scripted(torch.device("cpu"))).error() == float("inf")
    none = TorchKernel([Launch({"full": full}, lambda: torch.ones(1))], Timer(torch.device("cpu")))
    with pytest.raises(MemoryError):
        none.error()


def test_clocks_that_cannot_be_read_cost_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    from sim.calibration import measure_torch

    def missing() -> int:
        raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")

    monkeypatch.setattr(torch.cuda, "clock_rate", missing)
    assert measure_torch._clocks() == "unknown (nvidia-ml-py does not seem to be installed)"
