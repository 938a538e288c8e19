"""FP8 products scaled in blocks of 128, dense or of experts: Triton kernels and their checks.

As DeepSeek-V3 quantises: activations by row and 128 columns, weights by 128 × 128. Activations
are experts × rows × columns, weights experts × outputs × columns; a dense product has one expert.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

try:
    import triton
    import triton.language as tl
    from triton.runtime.errors import OutOfResources
except ImportError:  # a CPU without Triton: the products are then taken in float32
    triton = None

Tensor = Any  # torch.Tensor: the extra [gpu] is absent where types are checked

BLOCK = 128
_LEAST_ROWS = 16  # rows of a tile are the next power of two that holds all of them, or its most
_VENDOR_ROWS = 4  # cuBLAS takes whole fours of rows, and of blocks of columns
_TINY = 1e-6

if triton is not None:
    # One compilation serves every load.
    @triton.jit(  # type: ignore[untyped-decorator]  # Triton ships no types and reads its own
        do_not_specialize=["rows_of_expert"]
    )
    def _product(  # type: ignore[no-untyped-def]
        x, x_scale, w, w_scale, out, rows_of_expert, outputs, columns,
        ROWS: tl.constexpr, OUTPUTS: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        expert = tl.program_id(0).to(tl.int64)
        tile = tl.program_id(2)
        row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
        output, depth = tile * OUTPUTS + tl.arange(0, OUTPUTS), tl.arange(0, BLOCK)
        blocks = tl.cdiv(columns, BLOCK)
        is_row, is_output = row < rows_of_expert, output < outputs
        rows = expert * rows_of_expert + row
        x_at = x + rows[:, None] * columns + depth[None, :]
        w_at = w + (expert * outputs + output)[:, None] * columns + depth[None, :]
        scale_at = w_scale + (expert * tl.cdiv(outputs, BLOCK) + tile * OUTPUTS // BLOCK) * blocks
        total = tl.zeros([ROWS, OUTPUTS], tl.float32)
        # Scales are read a block ahead: nothing else hides their latency.
        of_rows = tl.load(x_scale + rows * blocks, mask=is_row, other=0.0)
        of_block = tl.load(scale_at)
        for block in range(blocks):
            known = block * BLOCK + depth < columns
            left = tl.load(x_at, mask=is_row[:, None] & known[None, :], other=0.0)
            right = tl.load(w_at, mask=is_output[:, None] & known[None, :], other=0.0)
            of_both = of_rows * of_block
            ahead, is_more = block + 1, block + 1 < blocks
            of_rows = tl.load(x_scale + rows * blocks + ahead, mask=is_row & is_more, other=0.0)
            of_block = tl.load(scale_at + ahead, mask=is_more, other=0.0)
            total += tl.dot(left, tl.trans(right)) * of_both[:, None]
            x_at += BLOCK
            w_at += BLOCK
        to = out + rows[:, None] * outputs + output[None, :]
        tl.store(to, total.to(tl.bfloat16), mask=is_row[:, None] & is_output[None, :])

    @triton.jit(do_not_specialize=["a_row", "a_block"])  # type: ignore[untyped-decorator]
    def _narrow(  # type: ignore[no-untyped-def]
        x, out, scales, columns, most, a_row, a_block,
        TINY: tl.constexpr, GATED: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
        column = block * BLOCK + tl.arange(0, BLOCK)
        known = column < columns
        if GATED:
            gate = tl.load(x + row * 2 * columns + column, mask=known, other=0.0).to(tl.float32)
            up = x + row * 2 * columns + columns + column
            value = gate * tl.sigmoid(gate) * tl.load(up, mask=known, other=0.0).to(tl.float32)
        else:
            value = tl.load(x + row * columns + column, mask=known, other=0.0).to(tl.float32)
        scale = tl.maximum(tl.max(tl.abs(value), 0), TINY) / most
        tl.store(scales + row * a_row + block * a_block, scale)
        tl.store(out + row * columns + column, (value / scale).to(out.dtype.element_ty), mask=known)


@dataclass(frozen=True)
class ProductTile:
    """How a program of the Triton product cuts its work."""

    rows: int
    """Most rows; fewer where an expert has fewer."""
    outputs: int
    """At most a block, and a part of it."""
    warps: int
    stages: int

    def __str__(self) -> str:
        return f"Triton {self.rows}x{self.outputs}w{self.warps}s{self.stages}"


TILES = (
    ProductTile(64, 32, 4, 5),
    ProductTile(64, 32, 8, 8),
    ProductTile(64, 64, 4, 4),
    ProductTile(64, 64, 8, 6),
    ProductTile(64, 128, 8, 4),
    ProductTile(128, 128, 4, 4),
    ProductTile(128, 128, 8, 4),
)


@cache
def fp8() -> Any:
    """Return the FP8 format of the device's tensor cores: AMD's CDNA 3 has one of its own."""
    if getattr(torch.version, "hip", None) and torch.cuda.is_available():
        name = str(torch.cuda.get_device_properties(0).gcnArchName)
        if name.startswith("gfx94"):
            return torch.float8_e4m3fnuz
    return torch.float8_e4m3fn


def gated(x: Tensor) -> Tensor:
    """Return SiLU of the first half of the columns times the second."""
    gate, up = x.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


def narrowed(x: Tensor, is_gated: bool = False, interpret: bool = False) -> tuple[Tensor, Tensor]:
    """Return activations (`gated` first, if asked) in FP8, and a scale for each row and block."""
    if _in_torch(x, interpret):
        return narrowed_in_torch(x, is_gated)
    *rows, width = x.shape
    columns = width // 2 if is_gated else width
    blocks = -(-columns // BLOCK)
    out = torch.empty(*rows, columns, dtype=fp8(), device=x.device)
    scales = torch.empty(*rows, blocks, dtype=torch.float32, device=x.device)
    _narrow_into(x, out, scales, is_gated)
    return out, scales


def _narrow_into(x: Tensor, out: Tensor, scales: Tensor, is_gated: bool = False) -> None:
    columns, blocks = out.shape[-1], scales.shape[-1]
    most = torch.finfo(fp8()).max
    a_row, a_block = scales.stride()[-2:]
    grid = (x.numel() // x.shape[-1], blocks)
    _narrow[grid](
        x, out, scales, columns, most, a_row, a_block, TINY=_TINY, GATED=is_gated, BLOCK=BLOCK
    )


def narrowed_in_torch(x: Tensor, is_gated: bool = False) -> tuple[Tensor, Tensor]:
    """Return the same without Triton."""
    values = gated(x.float()) if is_gated else x.float()
    scales = _blocks(values).abs().amax(dim=-1).clamp_min(_TINY) / torch.finfo(fp8()).max
    return (values / _spread(scales, values.shape[-1])).to(fp8()), scales


def of_experts(w: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights (experts × outputs × columns) in FP8, and a scale for each block."""
    made = [_weights(expert) for expert in w]
    return torch.stack([values for values, _ in made]), torch.stack([scales for _, scales in made])


def _weights(w: Tensor) -> tuple[Tensor, Tensor]:
    outputs, columns = w.shape
    of_rows = _blocks(w.float()).abs().amax(dim=-1)
    scales = _blocks(of_rows.t()).amax(dim=-1).t().clamp_min(_TINY) / torch.finfo(fp8()).max
    spread = _spread(_spread(scales, columns).t(), outputs).t()
    return (w.float() / spread).to(fp8()), scales.contiguous()


def product(
    x: tuple[Tensor, Tensor],
    w: tuple[Tensor, Tensor],
    tile: ProductTile = TILES[0],
    interpret: bool = False,
) -> Tensor:
    """Return x · wᵀ of every expert in BF16 (experts × rows × outputs), both with their scales.

    Raises MemoryError if `tile` does not fit a multiprocessor.
    """
    values, x_scale = x
    weight, w_scale = w
    if _in_torch(values, interpret):
        return product_in_torch(x, w).to(torch.bfloat16)
    experts, rows, columns = values.shape
    outputs = weight.shape[1]
    out = torch.empty(experts, rows, outputs, dtype=torch.bfloat16, device=values.device)
    tall = min(tile.rows, max(_LEAST_ROWS, triton.next_power_of_2(rows)))
    grid = (experts, -(-rows // tall), -(-outputs // tile.outputs))
    try:
        _product[grid](
            values, x_scale, weight, w_scale, out, rows, outputs, columns,
            ROWS=tall, OUTPUTS=tile.outputs, BLOCK=BLOCK,
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    except OutOfResources as error:
        raise MemoryError(str(error)) from None
    return out


@cache
def vendor_multiplies() -> bool:
    """Return whether the vendor's library multiplies blocks of this kind (cuBLAS on Hopper)."""
    scaled = getattr(torch.nn.functional, "scaled_mm", None)
    if scaled is None or not torch.cuda.is_available() or getattr(torch.version, "hip", None):
        return False
    if torch.cuda.get_device_capability() != (9, 0):
        return False
    try:
        wide = torch.ones(1, BLOCK, BLOCK, dtype=torch.bfloat16, device="cuda")
        product_by_vendor(wide[0], of_experts(wide))
    except (RuntimeError, ValueError):  # an older CUDA
        return False
    return True


def product_by_vendor(x: Tensor, w: tuple[Tensor, Tensor]) -> Tensor:
    """Return x · wᵀ in BF16 (rows × outputs), rows of BF16 quantised on the way.

    Weights of one expert; outputs must be whole blocks.
    """
    scaling = torch.nn.functional.ScalingType
    rows, columns = x.shape
    padded, blocks = -(-rows // _VENDOR_ROWS) * _VENDOR_ROWS, columns // BLOCK
    out = torch.empty(padded, columns, dtype=fp8(), device=x.device)
    scales = torch.empty(blocks, padded, dtype=torch.float32, device=x.device).t()
    _narrow_into(x, out, scales)
    w_scales = torch.nn.functional.pad(w[1][0], (0, -blocks % _VENDOR_ROWS))
    product = torch.nn.functional.scaled_mm(
        out,
        w[0][0].t(),
        scales,
        scaling.BlockWise1x128,
        w_scales.t(),
        scaling.BlockWise128x128,
        output_dtype=torch.bfloat16,
    )
    return product[:rows]


def product_in_torch(x: tuple[Tensor, Tensor], w: tuple[Tensor, Tensor]) -> Tensor:
    """Return the same in float32 without Triton, an expert at a time."""
    found = []
    for values, x_scale, weight, w_scale in zip(*x, *w, strict=True):
        outputs, columns = weight.shape
        spread = _spread(_spread(w_scale, columns).t(), outputs).t()
        left = values.float() * _spread(x_scale, columns)
        found.append(left @ (weight.float() * spread).t())
    return torch.stack(found)


def _in_torch(x: Tensor, interpret: bool) -> bool:
    return triton is None or (x.device.type != "cuda" and not interpret)


def _blocks(x: Tensor) -> Tensor:
    """Return the last dimension cut into blocks, the last one filled with zeros."""
    missing = -x.shape[-1] % BLOCK
    return torch.nn.functional.pad(x, (0, missing)).unflatten(-1, (-1, BLOCK))


def _spread(scales: Tensor, columns: int) -> Tensor:
    """Return the scale of every column."""
    return scales.repeat_interleave(BLOCK, dim=-1)[..., :columns]
