"""The operator over explicit candidates by Triton kernels, as a custom operator.

Rows of key and value are read where they are: nothing of size M×O×E exists. Tables of a number for
each query and candidate do, K of them at most at a time, in forward and backward pass. That of the
distances, +inf where nothing may be selected, is kept for the backward pass; what is between tables
is done by the kernels of rows.py.

Gradients of items are sums over the places that name them, in the order of the queries: a sorted
index says which, and the same bits come out every run.

A candidate's row is read once for eight steps and multiplied in registers: every query has rows of
its own, of which no product of matrices can be made. All sums are of float32, or float64.

A number of no item is no candidate: only on a CPU is it looked for and refused (`ops.checks`).

For CUDA tensors, or CPU tensors where TRITON_INTERPRET=1 was set before Triton was imported.
Shapes: B batch, M queries, N items, O candidates, E/F channels, K neighbours; a table has
(·, M, O) numbers, a *pair* is the place of one of them in an (M, O).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from n3match.ops.custom_op import differentiable
from n3match.ops.triton.launch import (
    accumulator,
    block,
    cdiv,
    compiled_with,
    next_power,
    on_device_of,
)
from n3match.ops.triton.rows import Rows, gumbel
from n3match.ops.triton.tiles import advance
from n3match.ops.triton.window_cells import load_rows

_PAIRS = 64  # of a program, or candidates of a query, of which single numbers come out
_STEPS = 8  # of a program
_ROWS = 64  # that a program sums at a time, steps times candidates
_NARROW, _WIDE = 32, 128  # channels: what is summed over them, and what isn't


@triton.jit(do_not_specialize=["seed"])
def gathered_distances_kernel(
    query, key, index, mask, out, seed, M, N, O, E,
    MASKED: tl.constexpr, EXCLUDE: tl.constexpr, NOISE: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, ACC: tl.constexpr,
):
    """The table of distances (B, M, O), with noise. A program has BLOCK_N pairs."""
    blocks = tl.cdiv(M * O, BLOCK_N)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    pair = (tl.program_id(0) % blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    real = pair < M * O
    row = pair // O
    place = batch * M * O + pair
    item = tl.load(index + place, mask=real, other=0)
    selectable = real & (item >= 0) & (item < N)
    query += batch * M * E
    key += batch * N * E
    total = tl.zeros([BLOCK_N, BLOCK_E], ACC)
    for begin in range(0, E, BLOCK_E):
        q = load_rows(query, row.to(tl.int64), real, E, begin, E, BLOCK_E).to(ACC)
        x = load_rows(key, item, selectable, E, begin, E, BLOCK_E).to(ACC)
        # The difference first: no digits are lost where embeddings are far from 0.
        total += (q - x) * (q - x)
    d = tl.sum(total, 1)
    if NOISE:
        d -= gumbel(seed, place).to(ACC)
    if EXCLUDE:
        selectable = selectable & (item != row)
    if MASKED:
        selectable = selectable & (
            tl.load(mask + batch * N + item, mask=selectable, other=0) != 0
        )
    tl.store(out + place, tl.where(selectable, d, float("inf")), mask=real)


@triton.jit
def _near(index, query, first, N, O, BLOCK_N: tl.constexpr):
    """Candidates from `first` on of a query of the whole batch: their places, their items, and
    which of these exist."""
    slot = first + tl.arange(0, BLOCK_N)
    item = tl.load(advance(index, query, O) + slot, mask=slot < O, other=-1)
    return slot, item, (item >= 0) & (item < N)


@triton.jit
def gathered_sums_kernel(
    table, items, own, index, out, M, N, O, F, K,
    OWN: tl.constexpr, STEPS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr,
    ACC: tl.constexpr,
):
    """Σ over the candidates of each query: table (B·K, M, O) · items (B, N, F) -> (B, M, K, F).
    With OWN, items less the query's own row: own (B, M, F). A program has STEPS steps."""
    query, begin = tl.program_id(0), tl.program_id(1) * BLOCK_F
    first_step = tl.program_id(2) * STEPS
    batch = (query // M).to(tl.int64)
    items += batch * N * F
    table += (batch * K + first_step) * M * O + tl.cast(query % M, tl.int64) * O
    feature = begin + tl.arange(0, BLOCK_F)
    if OWN:
        start = tl.load(advance(own, query, F) + feature, mask=feature < F, other=0.0).to(ACC)
    totals = ()
    for _ in tl.static_range(STEPS):
        totals = totals + (tl.zeros([BLOCK_N, BLOCK_F], ACC),)
    for first in range(0, O, BLOCK_N):
        slot, item, there = _near(index, query, first, N, O, BLOCK_N)
        x = load_rows(items, item, there, F, begin, F, BLOCK_F).to(ACC)
        if OWN:
            x -= start[None, :]
        sums = ()
        for step in tl.static_range(STEPS):
            inside = slot < tl.where(first_step + step < K, O, 0)
            weight = tl.load(advance(table, step, M * O) + slot, mask=inside, other=0.0)
            sums = sums + (totals[step] + weight[:, None] * x,)
        totals = sums
    out = advance(out, query, K * F) + first_step * F + feature
    for step in tl.static_range(STEPS):
        inside = feature < tl.where(first_step + step < K, F, 0)
        tl.store(out + step * F, tl.sum(totals[step], 0), mask=inside)


@triton.jit
def gathered_products_kernel(
    left, items, index, out, M, N, O, F, K,
    STEPS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr, ACC: tl.constexpr,
):
    """left (B, M, K, F) · the candidates' rows of items (B, N, F): tables (B·K, M, O). A program
    has STEPS steps."""
    query = tl.program_id(0)
    first_step = tl.program_id(2) * STEPS
    batch = (query // M).to(tl.int64)
    slot, item, there = _near(index, query, tl.program_id(1) * BLOCK_N, N, O, BLOCK_N)
    left = advance(left, query, K * F) + first_step * F
    items += batch * N * F
    totals = ()
    for _ in tl.static_range(STEPS):
        totals = totals + (tl.zeros([BLOCK_N, BLOCK_F], ACC),)
    for begin in range(0, F, BLOCK_F):
        x = load_rows(items, item, there, F, begin, F, BLOCK_F).to(ACC)
        feature = begin + tl.arange(0, BLOCK_F)
        sums = ()
        for step in tl.static_range(STEPS):
            inside = feature < tl.where(first_step + step < K, F, 0)
            g = tl.load(left + step * F + feature, mask=inside, other=0.0).to(ACC)
            sums = sums + (totals[step] + g[None, :] * x,)
        totals = sums
    out += (batch * K + first_step) * M * O + tl.cast(query % M, tl.int64) * O + slot
    for step in tl.static_range(STEPS):
        inside = slot < tl.where(first_step + step < K, O, 0)
        tl.store(advance(out, step, M * O), tl.sum(totals[step], 1), mask=inside)


@triton.jit
def scattered_sums_kernel(
    table, rows, own, order, begins, out, M, N, O, F, K,
    OWN: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr, ACC: tl.constexpr,
):
    """Σ over the pairs that name an item, and over the steps: table (B·K, M, O) · rows (B, M, K, F)
    -> (B, N, F). With OWN, rows less the item's own: own (B, N, F).

    order: pairs of each batch element by item (B, M·O); begins: where an item's are (B, N + 1).
    """
    item = tl.program_id(0)
    batch = (item // N).to(tl.int64)
    begin = tl.program_id(1) * BLOCK_F
    feature = begin + tl.arange(0, BLOCK_F)
    table += batch * K * M * O
    rows += batch * M * K * F
    order += batch * M * O
    begins += batch * (N + 1) + item % N
    end = tl.load(begins + 1).to(tl.int32)
    total = tl.zeros([BLOCK_N, BLOCK_F], ACC)
    if OWN:
        start = tl.load(advance(own, item, F) + feature, mask=feature < F, other=0.0).to(ACC)
    for first in range(tl.load(begins).to(tl.int32), end, BLOCK_N):
        place = first + tl.arange(0, BLOCK_N)
        there = place < end
        pair = tl.load(order + place, mask=there, other=0).to(tl.int32)
        row = (pair // O).to(tl.int64) * K
        for step in range(0, K):
            weight = tl.load(advance(table, step, M * O) + pair, mask=there, other=0.0)
            x = load_rows(rows, row + step, there, F, begin, F, BLOCK_F).to(ACC)
            if OWN:
                x -= start[None, :]
            total += weight[:, None] * x
    tl.store(advance(out, item, F) + feature, tl.sum(total, 0), mask=feature < F)


def _at_a_time(steps: int) -> int:
    return _ROWS // max(2, next_power(steps))


class _Launch(Rows):
    """The kernels on tensors of one index (B, M, O) and N items."""

    def __init__(self, like: Tensor, index: Tensor, items: int, k: int, hard: bool):
        b, m, o = index.shape
        # What may not be selected, and noise, are in the table of distances already.
        super().__init__(like, b, (m, 1, o, 1, 0, 1), k, False, hard, None)
        self.index, self.sizes = index, (m, items, o)

    def distances(
        self, query: Tensor, key: Tensor, mask: Tensor | None, exclude_self: bool, seed: int | None
    ) -> Tensor:
        out = self.new(*self.index.shape)
        m, _, o = self.sizes
        e = query.shape[2]
        gathered_distances_kernel[(self.images * cdiv(m * o, _PAIRS),)](
            query, key, self.index, self.index if mask is None else mask, out, seed or 0,
            *self.sizes, e, MASKED=mask is not None, EXCLUDE=exclude_self, NOISE=seed is not None,
            BLOCK_N=_PAIRS, BLOCK_E=block(self.like, e, _NARROW), ACC=self.types["ACC"],
            **compiled_with(4),
        )
        return out

    def sums(self, table: Tensor, items: Tensor, own: Tensor | None = None) -> Tensor:
        """(B·K, M, O), (B, N, F) -> (B, M, K, F); own (B, M, F)."""
        m, _, _ = self.sizes
        k, f = len(table) // self.images, items.shape[2]
        out = self.new(self.images, m, k, f)
        size, steps = block(self.like, f, _WIDE), min(k, _STEPS)
        gathered_sums_kernel[(self.images * m, cdiv(f, size), cdiv(k, steps))](
            table, items, items if own is None else own, self.index, out, *self.sizes, f, k,
            OWN=own is not None, STEPS=steps, BLOCK_N=_at_a_time(steps), BLOCK_F=size,
            ACC=self.types["ACC"], **compiled_with(4),
        )
        return out

    def products_with(self, left: Tensor, items: Tensor) -> Tensor:
        """(B, M, K, F), (B, N, F) -> (B·K, M, O)."""
        m, _, o = self.sizes
        f = items.shape[2]
        out = self.new(self.images * self.k, m, o)
        steps = min(self.k, _STEPS)
        gathered_products_kernel[(self.images * m, cdiv(o, _PAIRS), cdiv(self.k, steps))](
            left, items, self.index, out, *self.sizes, f, self.k, STEPS=steps, BLOCK_N=_PAIRS,
            BLOCK_F=block(self.like, f, _NARROW), ACC=self.types["ACC"], **compiled_with(4),
        )
        return out

    def places(self) -> tuple[Tensor, Tensor]:
        """Of each item: pairs by item (B, M·O), and where an item's begin (B, N + 1)."""
        found, order = self.index.flatten(1).sort(stable=True)
        _, n, _ = self.sizes
        items = torch.arange(n + 1, device=order.device).repeat(self.images, 1)
        return order, torch.searchsorted(found, items)

    def sums_back(
        self, table: Tensor, rows: Tensor, places: tuple[Tensor, Tensor], own: Tensor | None = None
    ) -> Tensor:
        """(B·K, M, O), (B, M, K, F) -> (B, N, F); own (B, N, F)."""
        _, n, _ = self.sizes
        f = rows.shape[-1]
        out = self.new(self.images, n, f)
        size = block(self.like, f, _WIDE)
        scattered_sums_kernel[(self.images * n, cdiv(f, size))](
            table, rows, rows if own is None else own, *places, out, *self.sizes, f,
            len(table) // self.images, OWN=own is not None, BLOCK_N=_at_a_time(1), BLOCK_F=size,
            ACC=self.types["ACC"], **compiled_with(4),
        )
        return out


def _forward(
    query: Tensor, key: Tensor, value: Tensor, log_t: Tensor, index: Tensor, mask: Tensor | None,
    k: int, exclude_self: bool, hard: bool, seed: int | None,
) -> tuple[Tensor, Tensor]:
    """Weighted sums (B, M, K, F) and distances (B, M, O), both of the accumulators' type, as
    log_t is."""
    query, key, value, log_t, index = (t.contiguous() for t in (query, key, value, log_t, index))
    mask = None if mask is None else mask.contiguous()
    launch = _Launch(query, index, key.shape[1], k, hard)
    with on_device_of(query):
        distances = launch.distances(query, key, mask, exclude_self, seed)
        return launch.sums(launch.weights(distances, log_t), value), distances


def _blank(query, key, value, log_t, index, mask, k, *options) -> tuple[Tensor, Tensor]:
    numbers = {"dtype": accumulator(value.dtype)}
    b, m, _ = index.shape
    return value.new_empty(b, m, k, value.shape[2], **numbers), value.new_empty(
        index.shape, **numbers
    )


def _backward(grad, tensors, outputs, options, wanted) -> tuple[Tensor | None, ...]:
    """Hard selection lets no gradient through but value's."""
    k, _, hard, _ = options
    grad, query, key, value, log_t, index = (t.contiguous() for t in (grad, *tensors[:5]))
    launch = _Launch(query, index, key.shape[1], k, hard)
    _, distances = outputs
    with on_device_of(query):
        weights, places = launch.weights(distances, log_t), launch.places()
        d_value = launch.sums_back(weights, grad, places).to(value.dtype)
        if hard:
            return None, None, d_value, None, None, None
        u = launch.products_with(grad, value)
        d_distance, d_log_t = launch.row_gradients(distances, weights, u, log_t)
        del weights, u
        d_query = launch.sums(d_distance, key, query).squeeze(2).mul_(-2)
        d_key = launch.sums_back(d_distance, query.unsqueeze(2), places, key).mul_(-2)
    return d_query.to(query.dtype), d_key.to(key.dtype), d_value, d_log_t, None, None


_candidates = differentiable(
    "triton_candidates",
    "query key value log_t candidates mask?",
    "int k, bool exclude_self, bool hard, int? seed",
    forward=_forward,
    backward=_backward,
    blank=_blank,
    kept=1,
)


def aggregate(
    query: Tensor, key: Tensor, value: Tensor, log_t: Tensor, candidates: Tensor,
    mask: Tensor | None, k: int, exclude_self: bool, selection: str, seed: int | None,
) -> Tensor:
    """(B, M, E), (B, N, E), (B, N, F), (B, M, 1), (B, M, O), (B, N) or None -> (B, M, K, F),
    checked before, 0 where masked; "released" recursion. float16 and bfloat16 are multiplied and
    summed in float32."""
    numbers = accumulator(value.dtype)
    hard = selection == "knn"
    given = query, key, value, log_t.to(numbers), candidates, mask
    return _candidates(*given, k, exclude_self, hard, seed)[0].to(value.dtype)
