"""The torch backend of `afdsim measure`: kernels on a CUDA device, or their checks on a CPU.

What is timed: one replay of a CUDA graph of the kernel between two events, after the level-2
cache was overwritten; inputs rotate among several random sets. On a CPU, wall time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from sim.calibration import measure_blockwise as blockwise
from sim.calibration import measure_triton
from sim.calibration.measure import Case
from sim.kernels import served

Tensor = Any  # torch.Tensor: the extra [gpu] is absent where types are checked

PAGE = 64
_SETS = 3
_FLUSH_BYTES = 512 * 2**20  # more than any level-2 cache
_CHECKED_REQUESTS = 4  # of an attention: the check gathers their pages in float32
_FP8_COMPUTE = (8, 9)  # least compute capability with FP8 tensor cores

TIMED = {
    "gemm": "bfloat16: torch.mm; fp8_block: activations quantised, then a Triton product",
    "attention_gqa": "one paged split-KV decode kernel that reads the cache once, and its merge",
    "attention_mla": "absorbed core: one paged split-KV kernel that reads the latent once, merge",
    "moe": (
        "up, gate, down of equal loads (torch.bmm, or the Triton product of fp8_block);"
        " fused: from BF16 tokens with permutation and weighted sum; masked: from sorted rows"
    ),
}


@dataclass(frozen=True)
class Launch:
    """A kernel on one set of inputs, and what its result should be."""

    run: Callable[[], Tensor]
    reference: Callable[[], Tensor]
    """In float32; of the first rows of the result, if it has fewer."""


@contextmanager
def _told_of_memory() -> Iterator[None]:
    """Raise MemoryError where the device has no room."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(str(error)) from None


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
            with _told_of_memory():
                wanted = launch.reference()
                found = launch.run()[: len(wanted)].float()
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
            with _told_of_memory():
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
        found = {"device": self._name, "torch": str(torch.__version__)}
        if self.device.type == "cuda":
            found["cuda"] = str(torch.version.cuda)
            found["clocks"] = f"SM {torch.cuda.clock_rate()} MHz when the file was written"
            found["triton"] = measure_triton.version()
        return found | {f"timed {op}": text for op, text in TIMED.items()}

    def supports(self, case: Case) -> bool:
        if case.dtype == "bfloat16" or self.device.type != "cuda":
            return True
        return bool(torch.cuda.get_device_capability() >= _FP8_COMPUTE)

    def prepare(self, case: Case) -> TorchKernel:
        make = {
            "gemm": self._gemm,
            "attention_gqa": self._gqa,
            "attention_mla": self._mla,
            "moe": self._moe,
        }[case.op]
        with _told_of_memory():
            before = self._allocated()
            launches = [make(case)]
            # Inputs that no cache holds need no others to take turns with.
            if self._allocated() - before < _FLUSH_BYTES:
                launches += [make(case) for _ in range(_SETS - 1)]
        return TorchKernel(launches, self.device)

    def _allocated(self) -> int:
        return int(torch.cuda.memory_allocated()) if self.device.type == "cuda" else 0

    def _normal(self, *shape: int) -> Tensor:
        values = torch.randn(*shape, generator=self._random, device=self.device)
        return values.to(torch.bfloat16)

    def _weights(self, experts: int, outputs: int, columns: int) -> Tensor:
        """Return weights (experts × outputs × columns) whose products stay near 1."""
        made = torch.empty(experts, outputs, columns, dtype=torch.bfloat16, device=self.device)
        for expert in range(experts):
            made[expert] = self._normal(outputs, columns) * columns**-0.5
        return made

    def _gemm(self, case: Case) -> Launch:
        m, n, k = (case.shape[name] for name in ("m", "n", "k"))
        x, w = self._normal(1, m, k), self._weights(1, n, k)
        if case.dtype == "bfloat16":
            return Launch(lambda: torch.mm(x[0], w[0].t()), lambda: x[0].float() @ w[0].t().float())
        narrow = blockwise.of_experts(w)
        return Launch(
            lambda: blockwise.product(blockwise.narrowed(x), narrow)[0],
            lambda: blockwise.product_in_torch(blockwise.narrowed_in_torch(x), narrow)[0],
        )

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
        k, v = (self._cache(case, pages, kv_heads, dim) for _ in range(2))
        return _attention(q, k, v, None, None, table, kv_len, dim**-0.5)

    def _mla(self, case: Case) -> Launch:
        names = ("n_q_heads", "kv_lora", "rope", "batch", "kv_len")
        heads, lora, rope, batch, kv_len = (case.shape[name] for name in names)
        table, pages = self._pages(batch, kv_len)
        q, q_rope = self._normal(batch, heads, lora), self._normal(batch, heads, rope)
        latent, k_rope = (self._cache(case, pages, 1, size) for size in (lora, rope))
        scale = (lora + rope) ** -0.5
        return _attention(q, latent, None, q_rope, k_rope, table, kv_len, scale)

    def _cache(self, case: Case, *shape: int) -> Tensor:
        pages, heads, dim = shape
        values = self._normal(pages, PAGE, heads, dim)
        return values if case.dtype == "bfloat16" else values.to(blockwise.fp8())

    def _moe(self, case: Case) -> Launch:
        names = ("hidden", "inter", "experts", "pairs")
        hidden, inter, experts, pairs = (case.shape[name] for name in names)
        active = min(experts, pairs)
        rows = pairs // active
        tokens = self._normal(pairs, hidden)
        order = torch.randperm(pairs, generator=self._random, device=self.device)
        share = torch.rand(pairs, 1, generator=self._random, device=self.device)
        up = self._weights(experts, 2 * inter, hidden)[:active]
        down = self._weights(experts, hidden, inter)[:active]
        ffn = (_WideFfn if case.dtype == "bfloat16" else _NarrowFfn)(up, down)
        by_expert = (active, rows, hidden)

        def summed(y: Tensor) -> Tensor:
            if case.kernel == served.MASKED:
                return y.flatten(0, 1)
            weighted = y.flatten(0, 1) * share.to(y.dtype)
            return torch.empty_like(weighted).index_copy_(0, order, weighted)

        def reference() -> Tensor:
            return summed(ffn.reference(tokens[order].reshape(by_expert)))

        if case.kernel == served.MASKED:
            received = ffn.chosen(tokens, order, by_expert)
            return Launch(lambda: summed(ffn.run(received)), reference)
        return Launch(lambda: summed(ffn.run(ffn.chosen(tokens, order, by_expert))), reference)


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    q_rope: Tensor | None,
    k_rope: Tensor | None,
    table: Tensor,
    kv_len: int,
    scale: float,
) -> Launch:
    few = slice(_CHECKED_REQUESTS)
    rope = None if q_rope is None else q_rope[few]
    return Launch(
        lambda: measure_triton.attention(q, k, v, q_rope, k_rope, table, kv_len, scale),
        lambda: measure_triton.reference(q[few], k, v, rope, k_rope, table[few], kv_len, scale),
    )


class _WideFfn:
    """The FFN of experts in BF16: up, gate and down of sorted rows (experts × rows × hidden)."""

    def __init__(self, up: Tensor, down: Tensor) -> None:
        self._up, self._down = up, down

    def chosen(self, tokens: Tensor, order: Tensor, shape: tuple[int, int, int]) -> Any:
        return tokens[order].reshape(shape)

    def run(self, x: Any) -> Tensor:
        inner = blockwise.gated(torch.bmm(x, self._up.transpose(1, 2)))
        return torch.bmm(inner, self._down.transpose(1, 2))

    def reference(self, x: Tensor) -> Tensor:
        pairs = zip(x.float(), self._up, self._down, strict=True)
        found = [
            blockwise.gated(one @ up.t().float()) @ down.t().float() for one, up, down in pairs
        ]
        return torch.stack(found)


class _NarrowFfn:
    """The same in FP8, rows with their scales."""

    def __init__(self, up: Tensor, down: Tensor) -> None:
        self._up, self._down = blockwise.of_experts(up), blockwise.of_experts(down)

    def chosen(self, tokens: Tensor, order: Tensor, shape: tuple[int, int, int]) -> Any:
        values, scales = blockwise.narrowed(tokens)
        # Indexing knows bytes, not every FP8 format.
        in_order = values.view(torch.uint8)[order].view(values.dtype)
        return in_order.reshape(shape), scales[order].reshape(*shape[:2], -1)

    def run(self, x: Any) -> Tensor:
        inner = blockwise.narrowed(blockwise.product(x, self._up), is_gated=True)
        return blockwise.product(inner, self._down)

    def reference(self, x: Tensor) -> Tensor:
        inner = blockwise.product_in_torch(blockwise.narrowed_in_torch(x), self._up)
        return blockwise.product_in_torch(blockwise.narrowed_in_torch(inner, True), self._down)
