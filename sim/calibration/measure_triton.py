"""Paged split-KV decode attention that reads the cache once: a Triton kernel and its check.

One program serves one request, one KV head and one split of its context: it walks the pages,
holds a group of query heads in registers, and keeps a running softmax. The splits are merged
after. Without `v` the values are the keys themselves (the latent of MLA), read once for both;
`k_rope` is a second part of the keys that has no values.
"""

from __future__ import annotations

from typing import Any

import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # a CPU without Triton: `attention` then gathers the pages
    triton = None

Tensor = Any  # torch.Tensor: the extra [gpu] is absent where types are checked

_LEAST_ROWS = 16  # rows of the smallest tensor-core product
_PROGRAMS = 256  # programs wanted in flight; contexts are split until there are so many
_LEAST_SPLIT_PAGES = 4

if triton is not None:

    @triton.jit  # type: ignore[untyped-decorator]  # Triton ships no types and reads its own
    def _split(  # type: ignore[no-untyped-def]
        q, k, v, q_rope, k_rope, table, out, top, total, kv_len, scale, pages_a_split,
        pages_a_request, splits,
        HEADS: tl.constexpr, KV_HEADS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr,
        DIM: tl.constexpr, ROPE: tl.constexpr, PAGE: tl.constexpr, OWN_V: tl.constexpr,
    ):  # fmt: skip
        request, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
        rows, dims = tl.arange(0, ROWS), tl.arange(0, DIM)
        tokens = tl.arange(0, PAGE)
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
        first = split * pages_a_split
        last = tl.minimum(first + pages_a_split, tl.cdiv(kv_len, PAGE))
        for page in range(first, last):
            block = tl.load(table + request * pages_a_request + page).to(tl.int64)
            token = (block * PAGE + tokens) * KV_HEADS + kv_head
            known = page * PAGE + tokens < kv_len
            at = token[:, None] * DIM + dims[None, :]
            key = tl.load(k + at, mask=known[:, None], other=0.0).to(query.dtype)
            score = tl.dot(query, tl.trans(key))
            if ROPE > 0:
                rope_at = token[:, None] * ROPE + ropes[None, :]
                key_rope = tl.load(k_rope + rope_at, mask=known[:, None], other=0.0)
                score += tl.dot(query_rope, tl.trans(key_rope.to(query.dtype)))
            score = tl.where(known[None, :], score * scale, float("-inf"))
            most = tl.maximum(best, tl.max(score, 1))
            part = tl.exp(score - most[:, None])
            fade = tl.exp(best - most)
            held = key
            if OWN_V:
                held = tl.load(v + at, mask=known[:, None], other=0.0).to(query.dtype)
            value = value * fade[:, None] + tl.dot(part.to(query.dtype), held)
            weight = weight * fade + tl.sum(part, 1)
            best = most
        to = (request * HEADS + head) * splits + split
        tl.store(out + to[:, None] * DIM + dims[None, :], value, mask=real[:, None])
        tl.store(top + to, best, mask=real)
        tl.store(total + to, weight, mask=real)


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
    interpret: bool = False,
) -> Tensor:
    """Return decode attention (batch × heads × dim) of one query token per request.

    `k` and `v` are pages × page size × KV heads × dim. On a CPU the pages are gathered instead,
    unless Triton runs interpreted.
    """
    if triton is None or (q.device.type != "cuda" and not interpret):
        return reference(q, k, v, q_rope, k_rope, table, kv_len, scale)
    batch, heads, dim = q.shape
    page, kv_heads = k.shape[1], k.shape[2]
    group, pages = heads // kv_heads, table.shape[1]
    wanted = max(1, _PROGRAMS // (batch * kv_heads))
    pages_a_split = max(_LEAST_SPLIT_PAGES, -(-pages // wanted))
    splits = -(-pages // pages_a_split)
    space: dict[str, Any] = {"dtype": torch.float32, "device": q.device}
    out = torch.empty(batch, heads, splits, dim, **space)
    top = torch.empty(batch, heads, splits, **space)
    total = torch.empty(batch, heads, splits, **space)
    _split[(batch, kv_heads, splits)](
        q,
        k,
        k if v is None else v,
        q if q_rope is None else q_rope,
        k if k_rope is None else k_rope,
        table,
        out,
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
        ROWS=max(_LEAST_ROWS, triton.next_power_of_2(group)),
        DIM=dim,
        ROPE=0 if q_rope is None else q_rope.shape[-1],
        PAGE=page,
        OWN_V=v is not None,
    )
    share = torch.exp(top - top.amax(dim=2, keepdim=True))
    merged = (out * share[..., None]).sum(dim=2) / (total * share).sum(dim=2)[..., None]
    return merged.to(q.dtype)


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
