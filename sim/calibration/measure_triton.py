"""Paged split-KV decode attention that reads the cache once: a Triton kernel and its check.

One program serves a tile of the query heads of one KV head, for one request and one split of its
context: it walks the pages, holds the queries in shared memory and the output in registers, and
keeps a running softmax. Tiles of one KV head run side by side, so that the level-2 cache serves all
but the first. A second kernel merges the splits. Without `v` the values are the keys themselves
(the latent of MLA), read once for both; `k_rope` is a second part of the keys without values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

try:
    import triton
    import triton.language as tl
    from triton.runtime.errors import OutOfResources
except ImportError:  # a CPU without Triton: `attention` then gathers the pages
    triton = None

Tensor = Any  # torch.Tensor: the extra [gpu] is absent where types are checked

_LEAST_ROWS = 16  # rows of the smallest tensor-core product
_PROCESSORS = 132  # of a Hopper: where Triton runs interpreted
_LEAST_SPLIT_PAGES = 4
_MERGED_SPLITS = 8  # read at once
_MOST_SPLITS = 1024


@dataclass(frozen=True)
class AttentionTile:
    """How a program cuts its work."""

    rows: int
    """Most query heads of a program; they hold `rows` × dim outputs in registers."""
    tokens: int
    """Tokens that it reads at once, at most a page."""
    warps: int
    stages: int
    programs: int
    """Programs wanted a multiprocessor: contexts are split until there are about as many."""

    def __str__(self) -> str:
        return f"Triton {self.rows}x{self.tokens}w{self.warps}s{self.stages}p{self.programs}"


def tiles(group: int, dim: int) -> tuple[AttentionTile, ...]:
    """Return the tiles worth a try for query heads a KV head and a head dimension.

    A Hopper has 227 KiB of shared memory and 255 registers a thread: 128 heads of MLA (dim 512)
    fit in neither at once. Smaller tiles read the cache again, from the level-2 cache.
    """
    if dim > 256:
        return (
            AttentionTile(64, 64, 8, 2, 1),
            AttentionTile(64, 64, 8, 2, 2),
            AttentionTile(16, 64, 8, 2, 4),
            AttentionTile(16, 64, 4, 2, 4),
            AttentionTile(16, 32, 4, 2, 4),
        )
    if group * dim > 32 * 128:
        return (
            AttentionTile(64, 64, 4, 2, 2),
            AttentionTile(64, 64, 4, 5, 2),
            AttentionTile(64, 64, 8, 5, 1),
            AttentionTile(64, 32, 4, 3, 4),
            AttentionTile(16, 64, 4, 3, 4),
            AttentionTile(32, 32, 4, 2, 4),
        )
    return (
        AttentionTile(64, 64, 4, 5, 2),
        AttentionTile(64, 64, 4, 7, 4),
        AttentionTile(64, 64, 4, 3, 8),
        AttentionTile(16, 32, 2, 5, 8),
    )


if triton is not None:
    # One compilation serves every context.
    @triton.jit(  # type: ignore[untyped-decorator]  # Triton ships no types and reads its own
        do_not_specialize=["kv_len", "pages_a_split", "pages_a_request", "splits"]
    )
    def _split(  # type: ignore[no-untyped-def]
        q, k, v, q_rope, k_rope, table, out, top, total, kv_len, scale, pages_a_split,
        pages_a_request, splits,
        HEADS: tl.constexpr, KV_HEADS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr,
        DIM: tl.constexpr, ROPE: tl.constexpr, PAGE: tl.constexpr, TOKENS: tl.constexpr,
        OWN_V: tl.constexpr, ALONE: tl.constexpr,
    ):  # fmt: skip
        tiles: tl.constexpr = (GROUP + ROWS - 1) // ROWS
        a_page: tl.constexpr = PAGE // TOKENS
        kv_head, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
        split, request = tl.program_id(1), tl.program_id(2).to(tl.int64)
        rows, dims = tile * ROWS + tl.arange(0, ROWS), tl.arange(0, DIM)
        tokens = tl.arange(0, TOKENS)
        head = kv_head * GROUP + rows
        real = rows < GROUP
        q_at = (request * HEADS + head[:, None]) * DIM + dims[None, :]
        query = tl.load(q + q_at, mask=real[:, None], other=0.0)
        if ROPE > 0:
            ropes = tl.arange(0, ROPE)
            r_at = (request * HEADS + head[:, None]) * ROPE + ropes[None, :]
            query_rope = tl.load(q_rope + r_at, mask=real[:, None], other=0.0)
        best = tl.full([ROWS], float("-inf"), tl.float32)
        weight = tl.zeros([ROWS], tl.float32)
        value = tl.zeros([ROWS, DIM], tl.float32)
        first = split * pages_a_split * a_page
        last = tl.minimum(first + pages_a_split * a_page, tl.cdiv(kv_len, TOKENS))
        for part in range(first, last):
            block = tl.load(table + request * pages_a_request + part // a_page).to(tl.int64)
            token = (block * PAGE + part % a_page * TOKENS + tokens) * KV_HEADS + kv_head
            known = part * TOKENS + tokens < kv_len
            at = token[:, None] * DIM + dims[None, :]
            key = tl.load(k + at, mask=known[:, None], other=0.0).to(query.dtype)
            score = tl.dot(query, tl.trans(key))
            if ROPE > 0:
                rope_at = token[:, None] * ROPE + ropes[None, :]
                key_rope = tl.load(k_rope + rope_at, mask=known[:, None], other=0.0)
                score += tl.dot(query_rope, tl.trans(key_rope.to(query.dtype)))
            score = tl.where(known[None, :], score * scale, float("-inf"))
            most = tl.maximum(best, tl.max(score, 1))
            share = tl.exp(score - most[:, None])
            fade = tl.exp(best - most)
            held = key
            if OWN_V:
                held = tl.load(v + at, mask=known[:, None], other=0.0).to(query.dtype)
            value = value * fade[:, None] + tl.dot(share.to(query.dtype), held)
            weight = weight * fade + tl.sum(share, 1)
            best = most
        to = (request * HEADS + head) * splits + split
        if ALONE:
            value = value / weight[:, None]
        narrow = value.to(out.dtype.element_ty)
        tl.store(out + to[:, None] * DIM + dims[None, :], narrow, mask=real[:, None])
        if not ALONE:
            tl.store(top + to, best, mask=real)
            tl.store(total + to, weight, mask=real)

    @triton.jit(do_not_specialize=["splits"])  # type: ignore[untyped-decorator]
    def _merge(  # type: ignore[no-untyped-def]
        parts, top, total, out, splits,
        DIM: tl.constexpr, AT_ONCE: tl.constexpr, MOST: tl.constexpr,
    ):  # fmt: skip
        head = tl.program_id(0).to(tl.int64)
        dims, every = tl.arange(0, DIM), tl.arange(0, MOST)
        best = tl.max(
            tl.load(top + head * splits + every, mask=every < splits, other=float("-inf")), 0
        )
        value = tl.zeros([DIM], tl.float32)
        weight = 0.0
        for first in range(0, splits, AT_ONCE):
            split = first + tl.arange(0, AT_ONCE)
            here = split < splits
            at = head * splits + split
            share = tl.exp(tl.load(top + at, mask=here, other=float("-inf")) - best)
            weight += tl.sum(share * tl.load(total + at, mask=here, other=0.0), 0)
            part = tl.load(parts + at[:, None] * DIM + dims[None, :], mask=here[:, None], other=0.0)
            value += tl.sum(share[:, None] * part, 0)
        tl.store(out + head * DIM + dims, (value / weight).to(out.dtype.element_ty))


def version() -> str:
    return "none" if triton is None else str(triton.__version__)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    q_rope: Tensor | None,
    k_rope: Tensor | None,
    table: Tensor,
    kv_len: int,
    scale: float,
    tile: AttentionTile | None = None,
    interpret: bool = False,
) -> Tensor:
    """Return decode attention (batch × heads × dim) of one query token per request.

    `k` and `v` are pages × page size × KV heads × dim. On a CPU the pages are gathered instead,
    unless Triton runs interpreted. Raises MemoryError if `tile` does not fit a multiprocessor.
    """
    if triton is None or (q.device.type != "cuda" and not interpret):
        return reference(q, k, v, q_rope, k_rope, table, kv_len, scale)
    batch, heads, dim = q.shape
    page, kv_heads = k.shape[1], k.shape[2]
    group, pages = heads // kv_heads, table.shape[1]
    tile = tile or tiles(group, dim)[0]
    rows = min(tile.rows, max(_LEAST_ROWS, triton.next_power_of_2(group)))
    programs = batch * kv_heads * -(-group // rows)
    wanted = max(1, min(_MOST_SPLITS, tile.programs * _processors(q) // programs))
    pages_a_split = max(_LEAST_SPLIT_PAGES, -(-pages // wanted))
    splits = -(-pages // pages_a_split)
    out = torch.empty_like(q)
    space: dict[str, Any] = {"dtype": torch.float32, "device": q.device}
    parts = out if splits == 1 else torch.empty(batch, heads, splits, dim, **space)
    top = torch.empty(batch, heads, splits, **space)
    total = torch.empty(batch, heads, splits, **space)
    try:
        _split[(programs // batch, splits, batch)](
            q,
            k,
            k if v is None else v,
            q if q_rope is None else q_rope,
            k if k_rope is None else k_rope,
            table,
            parts,
            top,
            total,
            kv_len,
            scale,
            pages_a_split,
            pages,
            splits,
            HEADS=heads,
            KV_HEADS=kv_heads,
            GROUP=group,
            ROWS=rows,
            DIM=dim,
            ROPE=0 if q_rope is None else q_rope.shape[-1],
            PAGE=page,
            TOKENS=min(page, tile.tokens),
            OWN_V=v is not None,
            ALONE=splits == 1,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
    except OutOfResources as error:
        raise MemoryError(str(error)) from None
    if splits > 1:
        most = triton.next_power_of_2(splits)
        at_once = min(most, _MERGED_SPLITS)
        _merge[(batch * heads,)](
            parts, top, total, out, splits, DIM=dim, AT_ONCE=at_once, MOST=most
        )
    return out


def _processors(q: Tensor) -> int:
    if q.device.type != "cuda":
        return _PROCESSORS
    return int(torch.cuda.get_device_properties(q.device).multi_processor_count)


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    q_rope: Tensor | None,
    k_rope: Tensor | None,
    table: Tensor,
    kv_len: int,
    scale: float,
) -> Tensor:
    """Return the same in float32, the pages of one request gathered at a time."""
    found = []
    for request, pages in enumerate(table.long()):
        rope = None
        if q_rope is not None and k_rope is not None:
            rope = q_rope[request], k_rope[pages]
        values = None if v is None else v[pages]
        found.append(_one_request(q[request], k[pages], values, rope, kv_len, scale))
    return torch.stack(found)


def _one_request(
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    rope: tuple[Tensor, Tensor] | None,
    kv_len: int,
    scale: float,
) -> Tensor:
    """Return heads × dim in float32, given the pages of one request."""
    keys = k.flatten(0, 1)[:kv_len].float()
    kv_heads = keys.shape[1]
    score = torch.einsum("hgd,thd->hgt", q.float().unflatten(0, (kv_heads, -1)), keys)
    if rope is not None:
        turned, more_keys = rope[0].float().unflatten(0, (kv_heads, -1)), rope[1].flatten(0, 1)
        score = score + torch.einsum("hgd,thd->hgt", turned, more_keys[:kv_len].float())
    share = torch.softmax(score * scale, dim=-1)
    values = keys if v is None else v.flatten(0, 1)[:kv_len].float()
    return torch.einsum("hgt,thd->hgd", share, values).flatten(0, 1)
