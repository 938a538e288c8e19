"""The torch backend of `afdsim measure`: kernels on a CUDA device, or their checks on a CPU.

Inputs rotate among several random sets. `sim.calibration.measure_launches` says what is timed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from sim.calibration import measure_blockwise as blockwise
from sim.calibration import measure_triton
from sim.calibration.measure import Case
from sim.calibration.measure_launches import (
    OTHER_BYTES,
    Launch,
    Timer,
    TorchKernel,
    told_of_memory,
)
from sim.kernels import served

Tensor = Any  # torch.Tensor: the extra [gpu] is absent where types are checked

PAGE = 64
_SETS = 3
_CHECKED_REQUESTS = 4  # of an attention: the check gathers their pages in float32
_FP8_COMPUTE = (8, 9)  # least compute capability with FP8 tensor cores

TIMED = {
    "gemm": (
        "bfloat16: torch.mm; fp8_block: activations quantised, then the faster of"
        " torch.scaled_mm (Hopper) and a Triton product"
    ),
    "attention_gqa": "a paged split-KV decode kernel in Triton that reads the cache once, merge",
    "attention_mla": "absorbed core: a paged split-KV kernel in Triton, merge",
    "moe": (
        "up, gate, down of equal loads (torch.bmm, or the Triton product of fp8_block);"
        " fused: from BF16 tokens with permutation and weighted sum; masked: from sorted rows"
    ),
}


class TorchBackend:
    """Cases on a torch device ("cuda" or "cpu"), timed with a cold or a warm level-2 cache."""

    def __init__(self, device: str, gpu: str = "", seed: int = 0, is_warm: bool = False) -> None:
        self.device = torch.device(device)
        self._timer = Timer(self.device, is_warm)
        name = torch.cuda.get_device_name(0) if device == "cuda" else "cpu"
        self.gpu = gpu or name.lower().replace(" ", "_")
        self._name = name
        self._random = torch.Generator(device=self.device).manual_seed(seed)

    def about(self) -> Mapping[str, str]:
        found = {"device": self._name, "torch": str(torch.__version__)}
        if self.device.type == "cuda":
            found["cuda"] = str(torch.version.cuda)
            found["clocks"] = _clocks()
            found["triton"] = measure_triton.version()
            found["events"] = f"{self._timer.clock_us:.2f} µs taken off for events and a graph"
            found["level-2 cache"] = "as left" if self._timer.is_warm else "filled with other data"
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
        with told_of_memory():
            before = self._allocated()
            launches = [make(case)]
            # Inputs that no cache holds need no others to take turns with.
            if not self._timer.is_warm and self._allocated() - before < OTHER_BYTES:
                launches += [make(case) for _ in range(_SETS - 1)]
        return TorchKernel(launches, self._timer)

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
            ways = {"torch.mm": lambda: torch.mm(x[0], w[0].t())}
            return Launch(ways, lambda: x[0].float() @ w[0].t().float())
        narrow = blockwise.of_experts(w)
        ways = {str(tile): partial(_narrow_product, x, narrow, tile) for tile in blockwise.TILES}
        if n % blockwise.BLOCK == 0 and blockwise.vendor_multiplies():
            ways["torch.scaled_mm"] = lambda: blockwise.product_by_vendor(x[0], narrow)
        return Launch(
            ways, lambda: blockwise.product_in_torch(blockwise.narrowed_in_torch(x), narrow)[0]
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

        received = ffn.chosen(tokens, order, by_expert) if case.kernel == served.MASKED else None

        def run(way: str) -> Tensor:
            rows_of = received if received is not None else ffn.chosen(tokens, order, by_expert)
            return summed(ffn.run(rows_of, way))

        return Launch({way: partial(run, way) for way in ffn.ways}, reference)


def _clocks() -> str:
    try:
        return f"SM {torch.cuda.clock_rate()} MHz when the file was written"
    except (ImportError, RuntimeError) as error:  # torch asks a library that it does not bring
        return f"unknown ({error})".splitlines()[0]


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
    group = q.shape[1] // k.shape[2]
    inputs = (q, k, v, q_rope, k_rope, table, kv_len, scale)
    return Launch(
        {
            str(tile): partial(measure_triton.attention, *inputs, tile)
            for tile in measure_triton.tiles(group, q.shape[2])
        },
        lambda: measure_triton.reference(q[few], k, v, rope, k_rope, table[few], kv_len, scale),
    )


def _narrow_product(
    x: Tensor, narrow: tuple[Tensor, Tensor], tile: blockwise.ProductTile
) -> Tensor:
    return blockwise.product(blockwise.narrowed(x), narrow, tile)[0]


class _WideFfn:
    """The FFN of experts in BF16: up, gate and down of sorted rows (experts × rows × hidden)."""

    ways = ("torch.bmm",)

    def __init__(self, up: Tensor, down: Tensor) -> None:
        self._up, self._down = up, down

    def chosen(self, tokens: Tensor, order: Tensor, shape: tuple[int, int, int]) -> Any:
        return tokens[order].reshape(shape)

    def run(self, x: Any, _way: str) -> Tensor:
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

    ways: Mapping[str, blockwise.ProductTile] = {str(tile): tile for tile in blockwise.TILES}

    def __init__(self, up: Tensor, down: Tensor) -> None:
        self._up, self._down = blockwise.of_experts(up), blockwise.of_experts(down)

    def chosen(self, tokens: Tensor, order: Tensor, shape: tuple[int, int, int]) -> Any:
        values, scales = blockwise.narrowed(tokens)
        # Indexing knows bytes, not every FP8 format.
        in_order = values.view(torch.uint8)[order].view(values.dtype)
        return in_order.reshape(shape), scales[order].reshape(*shape[:2], -1)

    def run(self, x: Any, way: str) -> Tensor:
        tile = self.ways[way]
        inner = blockwise.narrowed(blockwise.product(x, self._up, tile), is_gated=True)
        return blockwise.product(inner, self._down, tile)

    def reference(self, x: Tensor) -> Tensor:
        inner = blockwise.product_in_torch(blockwise.narrowed_in_torch(x), self._up)
        return blockwise.product_in_torch(blockwise.narrowed_in_torch(inner, True), self._down)
