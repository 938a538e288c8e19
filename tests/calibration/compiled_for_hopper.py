"""Compile the Triton kernels for a Hopper, without one, and print what each tile takes of it.

Run as a script, in a process where Triton does not interpret: a line of JSON for each kernel.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sim.calibration import measure_blockwise as blockwise
from sim.calibration import measure_triton

_ATTENTION = ("q", "k", "v", "q_rope", "k_rope", "table", "out", "top", "total")
_PRODUCT = ("x", "x_scale", "w", "w_scale", "out")
# Query heads, KV heads, head dimension, rope: MLA, MFA, GQA as shipped models have them.
_HEADS = ((128, 1, 512, 64), (64, 1, 256, 0), (64, 4, 128, 0), (96, 8, 128, 0))


def _shared_bytes(
    kernel: Any, types: Mapping[str, str], constants: Mapping[str, Any], tile: Any
) -> int:
    names = kernel.arg_names
    source = ASTSource(
        fn=kernel,
        signature={name: types.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(at,): [["tt.divisibility", 16]] for at, name in enumerate(names) if name in types},
    )
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    return int(made.metadata.shared)


def _attentions() -> Iterator[tuple[str, int]]:
    for heads, kv_heads, dim, rope in _HEADS:
        for cache in ("bf16", "fp8e4nv"):
            types = dict.fromkeys(_ATTENTION, "*bf16") | {"table": "*i32", "scale": "fp32"}
            types |= dict.fromkeys(("k", "v", "k_rope"), f"*{cache}")
            types |= dict.fromkeys(("out", "top", "total"), "*fp32")
            types |= dict.fromkeys(("kv_len", "pages_a_split", "pages_a_request", "splits"), "i32")
            group = heads // kv_heads
            for tile in measure_triton.tiles(group, dim):
                constants = {
                    "HEADS": heads,
                    "KV_HEADS": kv_heads,
                    "GROUP": group,
                    "ROWS": min(tile.rows, max(16, triton.next_power_of_2(group))),
                    "DIM": dim,
                    "ROPE": rope,
                    "PAGE": 64,
                    "TOKENS": tile.tokens,
                    "OWN_V": rope == 0,
                    "ALONE": False,
                }
                name = f"attention of {heads} heads of {dim}, {cache}, {tile}"
                yield name, _shared_bytes(measure_triton._split, types, constants, tile)


def _products() -> Iterator[tuple[str, int]]:
    types = dict(zip(_PRODUCT, ("*fp8e4nv", "*fp32", "*fp8e4nv", "*fp32", "*bf16"), strict=True))
    types |= dict.fromkeys(("rows_of_expert", "outputs", "columns"), "i32")
    for tile in blockwise.TILES:
        constants = {"ROWS": tile.rows, "OUTPUTS": tile.outputs, "BLOCK": blockwise.BLOCK}
        yield f"product, {tile}", _shared_bytes(blockwise._product, types, constants, tile)


if __name__ == "__main__":
    for name, shared in (*_attentions(), *_products()):
        print(json.dumps({"name": name, "shared": shared}))
