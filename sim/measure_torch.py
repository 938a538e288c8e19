"""The torch backend of `afdsim measure`: kernels on a CUDA device, or their checks on a CPU.

What is timed: one replay of a CUDA graph of the kernel between two events, after the level-2
cache was overwritten; inputs rotate among several random sets. On a CPU, wall time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sim import measure_triton
from sim.measure import Case

Tensor = Any  # torch.Tensor: the extra [gpu] is absent where types are checked

PAGE = 64
_SETS = 3
_FLUSH_BYTES = 512 * 2**20  # more than any level-2 cache
_FP8_MOST = 448.0
_FP8_COMPUTE = (8, 9)  # least compute capability with FP8 tensor cores

TIMED = {
    "gemm": "torch.mm; fp8: dynamic per-tensor quantisation of the activations + torch._scaled_mm",
    "attention_gqa": "one paged split-KV decode kernel that reads the cache once, and its merge",
    "attention_mla": "absorbed core: one paged split-KV kernel that reads the latent once, merge",
    "grouped_gemm": "torch.bmm of equal loads",
    "memory_bound": "device copy; bytes are read plus written",
}


@dataclass(frozen=True)
class Launch:
    """A kernel on one set of inputs, and what its result should be."""

    run: Callable[[], Tensor]
    reference: Callable[[], Tensor]


class TorchKernel:
    """A kernel prepared on several sets of inputs."""

    def __init__(self, launches: list[Launch], device: torch.device) -> None:
        self.launches = launches
        self.device = device
        self._turn = 0
        self._graphs: list[Any] = []
        self._flush: Tensor | None = None

    def error(self) -> float:
        """Return the largest error against float32, relative to its largest value."""
        worst = 0.0
        for launch in self.launches:
            found, wanted = launch.run().float(), launch.reference()
            scale = wanted.abs().max().clamp_min(1e-6)
            worst = max(worst, float(((found - wanted).abs().max() / scale).item()))
        return worst

    def time_us(self) -> float:
        """Return the time of one launch on the next set of inputs, cache cold, µs."""
        self._turn = (self._turn + 1) % len(self.launches)
        if self.device.type != "cuda":
            start = time.perf_counter()
            self.launches[self._turn].run()
            return (time.perf_counter() - start) * 1e6
        if not self._graphs:
            self._capture()
        assert self._flush is not None
        self._flush.zero_()
        begin = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        begin.record()
        self._graphs[self._turn].replay()
        end.record()
        torch.cuda.synchronize()
        return float(begin.elapsed_time(end)) * 1e3

    def _capture(self) -> None:
        self._flush = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device=self.device)
        for launch in self.launches:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                launch.run()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                launch.run()
            self._graphs.append(graph)


class TorchBackend:
    """Cases on a torch device ("cuda" or "cpu")."""

    def __init__(self, device: str, gpu: str = "", seed: int = 0) -> None:
        self.device = torch.device(device)
        name = torch.cuda.get_device_name(0) if device == "cuda" else "cpu"
        self.gpu = gpu or name.lower().replace(" ", "_")
        self._name = name
        self._random = torch.Generator(device=self.device).manual_seed(seed)

    def about(self) -> Mapping[str, str]:
        """Return device, clocks, versions and what is timed."""
        found = {"device": self._name, "torch": str(torch.__version__)}
        if self.device.type == "cuda":
            found["cuda"] = str(torch.version.cuda)
            found["clocks"] = f"SM {torch.cuda.clock_rate()} MHz when the file was written"
            found["triton"] = measure_triton.version()
        return found | {f"timed {op}": text for op, text in TIMED.items()}

    def supports(self, case: Case) -> bool:
        """Return whether the device has the kernel and its number format."""
        if case.dtype == "bfloat16":
            return True
        if self.device.type == "cuda":
            return bool(torch.cuda.get_device_capability() >= _FP8_COMPUTE)
        return case.op == "gemm"

    def prepare(self, case: Case) -> TorchKernel:
        """Return the kernel of `case` on fresh random inputs."""
        make = {
            "gemm": self._gemm,
            "attention_gqa": self._gqa,
            "attention_mla": self._mla,
            "grouped_gemm": self._grouped,
            "memory_bound": self._copy,
        }[case.op]
        return TorchKernel([make(case) for _ in range(_SETS)], self.device)

    def _normal(self, *shape: int) -> Tensor:
        values = torch.randn(*shape, generator=self._random, device=self.device)
        return values.to(torch.bfloat16)

    def _gemm(self, case: Case) -> Launch:
        m, n, k = (case.shape[name] for name in ("m", "n", "k"))
        x, w = self._normal(m, k), self._normal(n, k)
        if case.dtype == "bfloat16":
            return Launch(lambda: x @ w.t(), lambda: x.float() @ w.t().float())
        weight, w_scale = _quantised(w)

        def run() -> Tensor:
            narrow, x_scale = _quantised(x)
            return torch._scaled_mm(narrow, weight.t(), x_scale, w_scale, out_dtype=torch.bfloat16)

        return Launch(run, lambda: x.float() @ w.t().float())

    def _pages(self, batch: int, kv_len: int) -> tuple[Tensor, int]:
        """Return a shuffled page table (batch × pages a request) and the number of pages."""
        each = -(-kv_len // PAGE)
        order = torch.randperm(batch * each, generator=self._random, device=self.device)
        return order.reshape(batch, each).to(torch.int32), batch * each

    def _gqa(self, case: Case) -> Launch:
        names = ("n_q_heads", "n_kv_heads", "head_dim", "batch", "kv_len")
        heads, kv_heads, dim, batch, kv_len = (case.shape[name] for name in names)
        table, pages = self._pages(batch, kv_len)
        q = self._normal(batch, heads, dim)
        kv_type = torch.bfloat16 if case.dtype == "bfloat16" else torch.float8_e4m3fn
        k, v = (self._normal(pages, PAGE, kv_heads, dim).to(kv_type) for _ in range(2))
        scale = dim**-0.5
        return Launch(
            lambda: measure_triton.attention(q, k, v, None, None, table, kv_len, scale),
            lambda: measure_triton.reference(q, k, v, None, None, table, kv_len, scale),
        )

    def _mla(self, case: Case) -> Launch:
        names = ("n_q_heads", "kv_lora", "rope", "batch", "kv_len")
        heads, lora, rope, batch, kv_len = (case.shape[name] for name in names)
        table, pages = self._pages(batch, kv_len)
        q, q_rope = self._normal(batch, heads, lora), self._normal(batch, heads, rope)
        latent, k_rope = self._normal(pages, PAGE, 1, lora), self._normal(pages, PAGE, 1, rope)
        scale = (lora + rope) ** -0.5
        return Launch(
            lambda: measure_triton.attention(q, latent, None, q_rope, k_rope, table, kv_len, scale),
            lambda: measure_triton.reference(q, latent, None, q_rope, k_rope, table, kv_len, scale),
        )

    def _grouped(self, case: Case) -> Launch:
        names = ("groups", "m_per_group", "n", "k")
        groups, rows, n, k = (case.shape[name] for name in names)
        x, w = self._normal(groups, rows, k), self._normal(groups, k, n)
        return Launch(lambda: torch.bmm(x, w), lambda: torch.bmm(x.float(), w.float()))

    def _copy(self, case: Case) -> Launch:
        source = self._normal(max(case.shape["bytes_moved"] // 4, 1))
        target = torch.empty_like(source)
        return Launch(lambda: target.copy_(source), source.float)


def _quantised(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return values in FP8 with one dynamic scale, and the scale."""
    scale = values.abs().max().float().clamp_min(1e-6) / _FP8_MOST
    return (values.float() / scale).to(torch.float8_e4m3fn), scale
