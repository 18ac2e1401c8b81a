"""Triton kernels between cells: what the window form multiplies.

An image is cut into cells of S×S pixels, D = C·S² numbers each; a patch is R×R of them, R = P/S.
Patch distances are sums of cell distances at one displacement, and averaging overlapping patches is
averaging their weights for each pair of cells: so products are made once for each pair of cells,
not for each pair of patches.

* A cell x = (x₁, x₂) is compared with the V₁×V₂ cells from `lowest` on, V = w + R − 1: those at
  which any patch that covers x has candidates. A *pair table* holds a number for each: (…, cells,
  V₁·V₂). Places outside the image are never read.
* A *candidate table* holds a number for each patch and each candidate of its window,
  (…, patches, w₁·w₂). Weights are found so, and made pair tables once: every number of a pair
  table is R² numbers of a candidate table together, and is read for each part of the depth.

Both are linear in the number of pixels: with the usual window of 15, a candidate table is about as
large as an image of 9 channels.

A program takes a tile of 4×16 cells: their partners in one row lie within 15 + V₂ cells, so that a
dense product of the tile with those wastes about half, and no more.

(n₁, n₂) patches, (w₁, w₂) window, (c₁, c₂) = n + R − 1 cells; all cells of an image in row order.
"""

import triton
import triton.language as tl

from n3match.ops.triton.tiles import advance

TILE_ROWS = tl.constexpr(4)
TILE_COLUMNS = tl.constexpr(16)
TILE = tl.constexpr(64)


@triton.jit
def load_rows(pointer, at, real, stride, begin, WIDTH, BLOCK: tl.constexpr):
    """(len(at), BLOCK) features from `begin` on of the rows `at`; 0 outside."""
    feature = begin + tl.arange(0, BLOCK)
    inside = real[:, None] & (feature < WIDTH)[None, :]
    return tl.load(pointer + at[:, None] * stride + feature[None, :], mask=inside, other=0.0)


@triton.jit
def load_columns(pointer, at, real, stride, begin, WIDTH, BLOCK: tl.constexpr):
    """As `load_rows`, transposed: (BLOCK, len(at))."""
    feature = begin + tl.arange(0, BLOCK)
    inside = real[None, :] & (feature < WIDTH)[:, None]
    return tl.load(pointer + at[None, :] * stride + feature[:, None], mask=inside, other=0.0)


@triton.jit
def store_rows(pointer, x, at, real, stride, begin, WIDTH, BLOCK: tl.constexpr):
    feature = begin + tl.arange(0, BLOCK)
    inside = real[:, None] & (feature < WIDTH)[None, :]
    tl.store(pointer + at[:, None] * stride + feature[None, :], x, mask=inside)


@triton.jit
def first_patch(patch, patches, window, half):
    """Where the window of a patch begins, along one axis."""
    return tl.minimum(tl.maximum(patch - half, 0), patches - window)


@triton.jit
def lowest(cell, patches, window, half):
    """The first partner of a cell, along one axis. Never falls from a cell to the next."""
    patch = tl.minimum(cell, patches - 1)
    return first_patch(patch, patches, window, half) + cell - patch


@triton.jit
def tile_cells(tile, c1, c2):
    """Row and column of the cells of a tile (TILE,), and which of them exist."""
    across = tl.cdiv(c2, TILE_COLUMNS)
    number = tl.arange(0, TILE)
    x1 = (tile // across) * TILE_ROWS + number // TILE_COLUMNS
    x2 = (tile % across) * TILE_COLUMNS + number % TILE_COLUMNS
    return x1, x2, (x1 < c1) & (x2 < c2)


@triton.jit
def pairs_kernel(
    table, out, n1, n2, w1, w2, half, R, BLOCK_M: tl.constexpr, BLOCK_O: tl.constexpr
):
    """The pair table of a candidate table, for each of its images: for a cell x and partner y the
    sum over the patches that cover x of their number for the candidate that covers y at the same
    place. A program has BLOCK_M cells, and BLOCK_O of their partners."""
    cells, c2 = (n1 + R - 1) * (n2 + R - 1), n2 + R - 1
    v1, v2 = w1 + R - 1, w2 + R - 1
    blocks = tl.cdiv(cells, BLOCK_M)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    cell = (tl.program_id(0) % blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    partner = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)[None, :]
    x1, x2 = (cell // c2)[:, None], (cell % c2)[:, None]
    y1 = lowest(x1, n1, w1, half) + partner // v2
    y2 = lowest(x2, n2, w2, half) + partner % v2
    table += image * n1 * n2 * w1 * w2
    total = tl.zeros([BLOCK_M, BLOCK_O], table.dtype.element_ty)
    for a in range(0, R):
        for b in range(0, R):
            i, j = x1 - a, x2 - b
            r = y1 - a - first_patch(i, n1, w1, half)
            s = y2 - b - first_patch(j, n2, w2, half)
            inside = (i >= 0) & (i < n1) & (j >= 0) & (j < n2)
            inside = inside & (r >= 0) & (r < w1) & (s >= 0) & (s < w2)
            place = (i * n2 + j) * (w1 * w2) + r * w2 + s
            total += tl.load(table + place, mask=inside, other=0.0)
    place = cell[:, None] * (v1 * v2) + partner
    inside = (cell < cells)[:, None] & (partner < v1 * v2)
    tl.store(out + image * cells * v1 * v2 + place, total, mask=inside)


@triton.jit
def products_kernel(
    left, right, norm, out, n1, n2, w1, w2, half, R, D, STEPS,
    NORM: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr,
):
    """Pair table of left·right, or with NORM of |right|² − 2 left·right.

    left: (B·STEPS, cells, D), right: (B, cells, D), norm: (B, cells) |right|².
    """
    c1, c2 = n1 + R - 1, n2 + R - 1
    v1, v2 = w1 + R - 1, w2 + R - 1
    tiles = tl.cdiv(c1, TILE_ROWS) * tl.cdiv(c2, TILE_COLUMNS)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    x1, x2, real = tile_cells(tl.program_id(0) % tiles, c1, c2)
    top, first = tl.min(x1, 0), tl.min(x2, 0)
    y1 = lowest(top, n1, w1, half) + tl.program_id(1)
    y2 = lowest(first, n2, w2, half) + tl.arange(0, BLOCK_Y)
    there = y2 < tl.where(y1 < c1, c2, 0)
    row = y1 * c2 + y2
    right += (image // STEPS) * c1 * c2 * D
    left += image * c1 * c2 * D
    total = tl.zeros([TILE, BLOCK_Y], ACC)
    at = x1 * c2 + x2
    for begin in range(0, D, BLOCK_D):
        a = load_rows(left, at, real, D, begin, D, BLOCK_D)
        b = load_columns(right, row, there, D, begin, D, BLOCK_D)
        total = tl.dot(a.to(DOT), b.to(DOT), total, input_precision=PRECISION, out_dtype=ACC)
    if NORM:
        norm += (image // STEPS) * c1 * c2
        total = tl.load(norm + row, mask=there, other=0.0)[None, :] - 2.0 * total
    u = y1 - lowest(x1, n1, w1, half)[:, None]
    v = y2[None, :] - lowest(x2, n2, w2, half)[:, None]
    inside = real[:, None] & there[None, :] & (u >= 0) & (u < v1) & (v >= 0) & (v < v2)
    out += image * c1 * c2 * v1 * v2
    tl.store(out + at[:, None] * (v1 * v2) + u * v2 + v, total, mask=inside)


@triton.jit
def sums_kernel(
    table, value, out, n1, n2, w1, w2, half, R, D, STEPS,
    BLOCK_Y: tl.constexpr, BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr,
):
    """Σ over the partners of each cell: table·value.

    table: pair table (B·STEPS, …); value: (B, cells, D); out as value, for each step.
    """
    c1, c2 = n1 + R - 1, n2 + R - 1
    v1, v2 = w1 + R - 1, w2 + R - 1
    tiles = tl.cdiv(c1, TILE_ROWS) * tl.cdiv(c2, TILE_COLUMNS)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    x1, x2, real = tile_cells(tl.program_id(0) % tiles, c1, c2)
    depth = tl.program_id(1) * BLOCK_D
    table += image * c1 * c2 * v1 * v2
    value += (image // STEPS) * c1 * c2 * D
    top, bottom, first = tl.min(x1, 0), tl.minimum(tl.max(x1, 0), c1 - 1), tl.min(x2, 0)
    y2 = lowest(first, n2, w2, half) + tl.arange(0, BLOCK_Y)
    total = tl.zeros([TILE, BLOCK_D], ACC)
    at = x1 * c2 + x2
    column = y2[None, :] - lowest(x2, n2, w2, half)[:, None]
    near = real[:, None] & (column >= 0) & (column < v2) & (y2 < c2)[None, :]
    table += at[:, None] * (v1 * v2) + column
    end = tl.minimum(lowest(bottom, n1, w1, half) + v1, c1)
    for y1 in range(lowest(top, n1, w1, half), end):
        row = (y1 - lowest(x1, n1, w1, half))[:, None]
        weight = tl.load(table + row * v2, mask=near & (row >= 0) & (row < v1), other=0.0)
        v = load_rows(value, y1 * c2 + y2, y2 < c2, D, depth, D, BLOCK_D)
        total = tl.dot(
            weight.to(DOT), v.to(DOT), total, input_precision=PRECISION, out_dtype=ACC
        )
    store_rows(out + image * c1 * c2 * D, total, at, real, D, depth, D, BLOCK_D)


@triton.jit
def _first_source(cell, patches, window, half, R):
    """The first cell that has `cell` among its partners, along one axis."""
    low = cell - (window + R - 2)  # what its `lowest` must reach
    return tl.where(
        low <= 0, 0, tl.where(low <= patches - window, low + half, cell - R + 1)
    )


@triton.jit
def _last_source(cell, patches, window, half, R):
    last = tl.where(
        cell < patches - window, cell + half, tl.maximum(cell + window - 1, patches - 1)
    )
    return tl.minimum(last, patches + R - 2)


@triton.jit
def sums_back_kernel(
    table, value, own, out, n1, n2, w1, w2, half, R, D, STEPS,
    OWN: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr,
):
    """Σ over the cells that have a cell y among their partners, and over the steps: table·value.

    table (a pair table), value: (B·STEPS, …); out: (B, cells, D). With OWN, its part Σ table · own
    is subtracted from it: own (B, cells, D).
    """
    c1, c2 = n1 + R - 1, n2 + R - 1
    tiles = tl.cdiv(c1, TILE_ROWS) * tl.cdiv(c2, TILE_COLUMNS)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    v1, v2 = w1 + R - 1, w2 + R - 1
    y1, y2, real = tile_cells(tl.program_id(0) % tiles, c1, c2)
    depth = tl.program_id(1) * BLOCK_D
    table += image * STEPS * c1 * c2 * v1 * v2
    value += image * STEPS * c1 * c2 * D
    top, bottom = tl.min(y1, 0), tl.minimum(tl.max(y1, 0), c1 - 1)
    left, right = tl.min(y2, 0), tl.minimum(tl.max(y2, 0), c2 - 1)
    begin = _first_source(left, n2, w2, half, R)
    end = _last_source(right, n2, w2, half, R) + 1
    total = tl.zeros([TILE, BLOCK_D], ACC)
    share = tl.zeros([TILE], ACC)
    for x1 in range(
        _first_source(top, n1, w1, half, R), _last_source(bottom, n1, w1, half, R) + 1
    ):
        row = (y1 - lowest(x1, n1, w1, half))[None, :]
        near = real[None, :] & (row >= 0) & (row < v1)
        for start in range(begin, end, BLOCK_Y):
            x2 = start + tl.arange(0, BLOCK_Y)
            # Sources down, so that neighbouring threads read neighbouring partners.
            column = y2[None, :] - lowest(x2, n2, w2, half)[:, None]
            inside = near & (column >= 0) & (column < v2) & (x2 < c2)[:, None]
            place = (x1 * c2 + x2)[:, None] * (v1 * v2) + row * v2 + column
            for step in range(0, STEPS):
                weight = tl.load(
                    advance(table, step, c1 * c2 * v1 * v2) + place, mask=inside, other=0.0
                )
                v = load_rows(
                    advance(value, step, c1 * c2 * D), x1 * c2 + x2, x2 < c2, D, depth, D, BLOCK_D
                )
                total = tl.dot(
                    tl.trans(weight).to(DOT), v.to(DOT), total,
                    input_precision=PRECISION, out_dtype=ACC,
                )
                if OWN:
                    share += tl.sum(weight.to(ACC), 0)
    at = y1 * c2 + y2
    if OWN:
        own += image * c1 * c2 * D
        total -= share[:, None] * load_rows(own, at, real, D, depth, D, BLOCK_D).to(ACC)
    store_rows(out + image * c1 * c2 * D, total, at, real, D, depth, D, BLOCK_D)
