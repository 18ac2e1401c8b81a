"""The operator over explicit candidates, B×M×O: chunks of queries, rows of key and value gathered.

A chunk's gathered rows, distances and weights are made anew in the backward pass, so that memory is
linear in the inputs, the index and the output; nothing of size M×O×E exists at once.

The dense form comes here too where its selection isn't the N³ recursion without noise, or the
compiled loops can't serve it: then the candidates of every chunk are all items, and nothing is
gathered.

B batch, M queries, N items, O candidates, R queries of a chunk, E/F channels, K neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from n3match.ops import selection
from n3match.ops.custom_op import differentiable

# Gathered numbers of one chunk: enough to hide the cost of the calls, few enough for the caches.
CHUNK_ELEMENTS = {"cpu": 1 << 19}
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
    gathered: bool  # the candidates are rows of their own, not all items


def _chunks(search: Search, query: Tensor, value: Tensor, gathered: bool):
    wide = 3 * search.rule.k + gathered * (query.shape[2] + value.shape[2])
    room = CHUNK_ELEMENTS.get(query.device.type, _CHUNK_ELEMENTS_DEVICE)
    step = max(1, room // max(1, search.per_query * wide))
    for b in range(len(query)):
        for start in range(0, query.shape[1], step):
            yield b, slice(start, min(start + step, query.shape[1]))


def _rows_of(items: Tensor, near: Near) -> Tensor:
    """(N, C) -> (R, O, C), or (1, N, C) where the candidates are all items."""
    if near.index is None:
        return items[None]
    return items.index_select(0, near.index.flatten()).view(*near.index.shape, -1)


def _distances(q: Tensor, x: Tensor, near: Near) -> Tensor:
    """(R, E), (R or 1, O, E) -> (R, O), +inf where not selectable."""
    # The difference first, then its square: no digits are lost where embeddings are far from 0.
    if len(x) == 1:
        d = torch.cdist(q, x[0], compute_mode="donot_use_mm_for_euclid_dist").square()
    else:
        d = (q[:, None] - x).square().sum(2)
    return d if near.selectable is None else d.masked_fill(~near.selectable, float("inf"))


def forward(query: Tensor, key: Tensor, value: Tensor, log_t: Tensor, search: Search) -> Tensor:
    """(B, M, E), (B, N, E), (B, N, F), (B, M, 1) -> (B, M, K, F), without autograd."""
    k, f = search.rule.k, value.shape[2]
    out = value.new_empty(*query.shape[:2], k, f)
    for b, rows in _chunks(search, query, value, search.gathered):
        near = search.near(b, rows)
        d = _distances(query[b, rows], _rows_of(key[b], near), near)
        if not search.rule.differentiable:
            items, some = _nearest_items(d, near, k)
            out[b, rows] = value[b, items] * some
            continue
        v = _rows_of(value[b], near)
        w = selection.weights(d, log_t[b, rows], search.rule, near.numbers)
        out[b, rows] = w @ v if search.gathered else (w.flatten(0, 1) @ v[0]).view(-1, k, f)
    return out


def _nearest_items(d: Tensor, near: Near, k: int) -> tuple[Tensor, Tensor]:
    """(R, K) numbers of the nearest items, and (R, 1, 1) bool, False in a row without candidates:
    it has no weight at all."""
    columns, some = selection.nearest(d, k)
    items = columns if near.index is None else near.index.gather(1, columns)
    return items, some[:, None, None]


def backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_t: Tensor,
    search: Search,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value and log_t."""
    given = (query, key, value, log_t)
    found = [torch.zeros(t.shape, dtype=t.dtype, device=t.device) for t in given]
    for b, rows in _chunks(search, query, value, search.gathered):
        near = search.near(b, rows)
        if not search.rule.differentiable:  # gradients reach the nearest items' values alone
            d = _distances(query[b, rows], _rows_of(key[b], near), near)
            items, some = _nearest_items(d, near, search.rule.k)
            found[2][b].index_add_(0, items.flatten(), (grad[b, rows] * some).flatten(0, 1))
            continue
        parts = (query[b, rows], _rows_of(key[b], near), _rows_of(value[b], near), log_t[b, rows])
        found[0][b, rows], d_key, d_value, found[3][b, rows] = _chunk_gradients(
            grad[b, rows], *parts, near, search
        )
        for total, part in ((found[1][b], d_key), (found[2][b], d_value)):
            if near.index is None:
                total += part
            else:
                total.index_add_(0, near.index.flatten(), part.flatten(0, 1))
    return tuple(found)


def _chunk_gradients(g: Tensor, q: Tensor, x: Tensor, v: Tensor, log_t: Tensor, near: Near, search):
    """From g (R, K, F), those of the queries, of the candidates' rows (of all items where these are
    the candidates) and of log_t."""
    rule = search.rule
    d = _distances(q, x, near)
    if search.gathered:
        w, d_d, d_log_t = selection.gradients(d, log_t, g @ v.mT, rule, near.numbers)
        d_value = w.mT @ g
        steps = 2 * d_d[..., None] * (q[:, None] - x)
        return steps.sum(1), -steps, d_value, d_log_t
    u = (g.flatten(0, 1) @ v[0].mT).view(*g.shape[:2], -1)
    w, d_d, d_log_t = selection.gradients(d, log_t, u, rule, near.numbers)
    d_value = w.flatten(0, 1).mT @ g.flatten(0, 1)
    # Products in place of differences: about the mean of the items, which keeps digits.
    centre = x[0].mean(0)
    q, x = q - centre, x[0] - centre
    d_query = 2 * (q * d_d.sum(1, keepdim=True) - d_d @ x)
    d_key = 2 * (x * d_d.sum(0)[:, None] - d_d.mT @ q)
    return d_query, d_key, d_value, d_log_t


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

    return Search(rule, near, per_query, candidates is not None)


def _search(query, key, candidates, mask, k, exclude_self, recursion, selected_by, seed) -> Search:
    rule = selection.Rule(k, recursion, selected_by, seed)
    return search_for(query, key, candidates, mask, exclude_self, rule)


def _forward(query, key, value, log_t, candidates, mask, *options):
    return (forward(query, key, value, log_t, _search(query, key, candidates, mask, *options)),)


def _backward(grad, tensors, outputs, options, wanted):
    query, key, value, log_t, *among = tensors
    found = backward(grad, query, key, value, log_t, _search(query, key, *among, *options))
    return *found, None, None


def _blank(query, key, value, log_t, candidates, mask, k, *options):
    return (value.new_empty(*query.shape[:2], k, value.shape[2]),)


# (B, M, E), (B, N, E), (B, N, F), (B, M, 1), (B, M, O) or None, (B, N) or None -> (B, M, K, F)
aggregate = differentiable(
    "candidates",
    "query key value log_t candidates? mask?",
    "int k, bool exclude_self, str recursion, str selection, int? seed",
    forward=_forward,
    backward=_backward,
    blank=_blank,
)
