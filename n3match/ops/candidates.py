"""The operator over explicit candidates, B×M×O: chunks of queries, rows of key and value gathered.

A chunk's gathered rows, distances and weights are made anew in the backward pass, so that memory is
linear in the inputs, the index and the output; nothing of size M×O×E exists at once.

The dense form comes here too where its selection isn't the N³ recursion without noise: then the
candidates of every chunk are all items, and nothing is gathered.

B batch, M queries, N items, O candidates, R queries of a chunk, E/F channels, K neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from n3match.ops import selection

# Gathered numbers of one chunk: enough to hide the cost of the calls, few enough for the caches.
_CHUNK_ELEMENTS = {"cpu": 1 << 19}
_CHUNK_ELEMENTS_DEVICE = 1 << 26


@dataclass
class Near:
    """The candidates of a chunk of queries."""

    index: Tensor | None  # (R, O) numbers of items; None: all items
    selectable: Tensor | None  # (R, O) bool; None: all are
    numbers: Callable[[], Tensor]  # (R, O), what noise depends on


@dataclass
class Search:
    """What is looked for, and where."""

    rule: selection.Rule
    near: Callable[[int, slice], Near]  # batch element and rows -> candidates
    per_query: int  # O


def _chunks(search: Search, query: Tensor, value: Tensor):
    wide = query.shape[2] + value.shape[2] + 3 * search.rule.k
    room = _CHUNK_ELEMENTS.get(query.device.type, _CHUNK_ELEMENTS_DEVICE)
    step = max(1, room // max(1, search.per_query * wide))
    for b in range(len(query)):
        for start in range(0, query.shape[1], step):
            yield b, slice(start, min(start + step, query.shape[1]))


def _aggregate_chunk(q: Tensor, x: Tensor, v: Tensor, log_t: Tensor, near: Near, rule) -> Tensor:
    """(R, E), (R or 1, O, E), (R or 1, O, F), (R, 1) -> (R, K, F)."""
    # The difference first, then its square: no digits are lost where embeddings are far from 0.
    if len(x) == 1:
        d = torch.cdist(q, x[0], compute_mode="donot_use_mm_for_euclid_dist").square()
    else:
        d = (q[:, None] - x).square().sum(2)
    if near.selectable is not None:
        d = d.masked_fill(~near.selectable, float("inf"))
    if rule.selection == "knn":
        w = selection.weights(d.detach(), log_t, rule, near.numbers)
        chosen = w.argmax(2)
        rows = torch.arange(len(v), device=v.device)[:, None]
        # A row without candidates has no weight at all.
        return v[rows, chosen] * w.amax(2, keepdim=True)
    w = selection.recorded_weights(d, log_t, rule, near.numbers)
    return w @ v if len(v) > 1 else (w.reshape(-1, w.shape[2]) @ v[0]).view(*w.shape[:2], -1)


def _rows_of(items: Tensor, near: Near) -> Tensor:
    if near.index is None:
        return items[None]
    return items.index_select(0, near.index.flatten()).view(*near.index.shape, -1)


def forward(query: Tensor, key: Tensor, value: Tensor, log_t: Tensor, search: Search) -> Tensor:
    """(B, M, E), (B, N, E), (B, N, F), (B, M, 1) -> (B, M, K, F), without autograd."""
    out = value.new_empty(*query.shape[:2], search.rule.k, value.shape[2])
    for b, rows in _chunks(search, query, value):
        near = search.near(b, rows)
        out[b, rows] = _aggregate_chunk(
            query[b, rows], _rows_of(key[b], near), _rows_of(value[b], near), log_t[b, rows],
            near, search.rule,
        )
    return out


def backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, log_t: Tensor, search: Search
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value and log_t."""
    d_query, d_key, d_value, d_log_t = (
        torch.zeros(t.shape, dtype=t.dtype, device=t.device) for t in (query, key, value, log_t)
    )
    for b, rows in _chunks(search, query, value):
        near = search.near(b, rows)
        leaves = [
            t.detach().requires_grad_()
            for t in (
                query[b, rows], _rows_of(key[b], near), _rows_of(value[b], near), log_t[b, rows],
            )
        ]
        with torch.enable_grad():
            z = _aggregate_chunk(*leaves, near, search.rule)
        found = torch.autograd.grad(z, leaves, grad[b, rows], materialize_grads=True)
        d_query[b, rows], d_log_t[b, rows] = found[0], found[3]
        for total, part in ((d_key[b], found[1]), (d_value[b], found[2])):
            if near.index is None:
                total += part[0]
            else:
                total.index_add_(0, near.index.flatten(), part.flatten(0, 1))
    return d_query, d_key, d_value, d_log_t


class _Aggregate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, log_t, search):
        ctx.save_for_backward(query, key, value, log_t)
        ctx.search = search
        return forward(query, key, value, log_t, search)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return *backward(grad, *ctx.saved_tensors, ctx.search), None


def aggregate(query: Tensor, key: Tensor, value: Tensor, log_t: Tensor, search: Search) -> Tensor:
    """(B, M, E), (B, N, E), (B, N, F), (B, M, 1) -> (B, M, K, F), once differentiable.
    float16 and bfloat16 are computed in float32."""
    if query.shape[0] * query.shape[1] * search.per_query == 0:
        return value.new_zeros(*query.shape[:2], search.rule.k, value.shape[2])
    given = value.dtype
    if given in (torch.float16, torch.bfloat16):
        query, key, value, log_t = (t.float() for t in (query, key, value, log_t))
    return _Aggregate.apply(query, key, value, log_t, search).to(given)


def search_for(
    query: Tensor,
    key: Tensor,
    candidates: Tensor | None,
    mask: Tensor | None,
    exclude_self: bool,
    rule: selection.Rule,
) -> Search:
    """What `n3_aggregate` looks for, from its arguments."""
    m, n = query.shape[1], key.shape[1]
    per_query = n if candidates is None else candidates.shape[2]
    own = torch.arange(m, device=query.device)[:, None]
    slots = torch.arange(per_query, device=query.device)

    def near(of: int, rows: slice) -> Near:
        index = None if candidates is None else candidates[of, rows]
        items = slots[None] if index is None else index
        selectable = None
        if mask is not None:
            selectable = mask[of, items].expand(rows.stop - rows.start, per_query)
        if exclude_self:
            others = items != own[rows]
            selectable = others if selectable is None else selectable & others
        return Near(index, selectable, lambda: (of * m + own[rows]) * per_query + slots)

    return Search(rule, near, per_query)
