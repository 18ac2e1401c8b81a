"""Forward pass of the dense form by Triton kernels; what they compute: see tiles.py.

1. `neighbours_kernel`: a sweep over the items for each row's nearest, second nearest and power sums
   Σ q^p, p = 1 … 4, of the others, which give three normalisers: after two more steps a mass is a
   polynomial of degree 4 in q, and every w of the others is at most ½, so that nothing cancels.
   Items are split over programs, so that a few thousand queries fill a device.
2. `start_kernel` puts the parts together. It is also where certain rows are looked at: there and
   nowhere else another sweep follows.
3. `power_kernel` and `scales_kernel`: for each three steps more, a sweep for the power sums of
   the masses that those steps begin with, and what follows from them.
4. `values_kernel`: the weighted sums of one block of features, of as many steps as their sums fit
   in the registers: it is launched for one group of steps after the other. Items are split again.
5. `output_kernel` adds the parts, and what the nearest contributes.
"""

import triton
import triton.language as tl

from n3match.ops.triton.tiles import (
    CERTAIN,
    INVERSE_T,
    LOG2_E,
    MASS_SCALE,
    OMEGA,
    ROW_NUMBERS,
    SECOND,
    SPAN,
    SUM,
    advance,
    first_mass,
    load_planes,
    planes_of,
    product,
    rows_product,
    without_self,
)

_PARTS = tl.constexpr(6)  # best, second, S₁ … S₄
_POWERS = tl.constexpr(4)
_NO_ITEM = tl.constexpr(2147483647)


@triton.jit
def _sweep(
    qh, ql, query, row, first, of_query, key, key_scales, norm, inverse_t, floor, begin, end,
    E_PADDED: tl.constexpr, E_BLOCK: tl.constexpr, BLOCK_N: tl.constexpr,
    PLANES: tl.constexpr, EXCLUDE: tl.constexpr, FLOORED: tl.constexpr, ACC: tl.constexpr,
):
    """Of the items from `begin` to `end`: distance and number of the nearest beyond `floor`,
    distance of the second nearest (inf where there is none), and S₁ … S₄."""
    inf = float("inf")
    best = tl.full([row.shape[0]], inf, ACC)
    second = best
    index = tl.full([row.shape[0]], -1, tl.int32)
    s1 = tl.zeros([row.shape[0]], ACC)
    s2, s3, s4 = s1, s1, s1
    lane = tl.arange(0, BLOCK_N)
    for at in range(begin, end, BLOCK_N):
        dot = rows_product(
            qh, ql, query, row, advance(key, at, PLANES * E_PADDED), lane,
            E_PADDED, E_BLOCK, PLANES, ACC,
        )
        of_dot = of_query * tl.load(key_scales + at // SPAN)
        item = (at + lane)[None, :]
        d = tl.load(norm + at + lane)[None, :] - dot * of_dot
        if EXCLUDE:
            d = without_self(d, first, at)
        if FLOORED:
            d = tl.where(d > floor[:, None], d, inf)
        tile_best = tl.min(d, 1)
        # The first among equals; a number beyond all where a tile holds nothing.
        tile_index = tl.min(tl.where(d == tile_best[:, None], item, _NO_ITEM), 1)
        rest = tl.where(item == tile_index[:, None], inf, d)
        loser = tl.maximum(best, tile_best)
        new = tl.minimum(loser, tl.minimum(second, tl.min(rest, 1)))
        base = tl.where(new == inf, 0.0, new)
        f = tl.exp2((base - second) * inverse_t)
        g = tl.exp2((base - loser) * inverse_t)
        x = tl.exp2((base[:, None] - rest) * inverse_t[:, None])
        x2 = x * x
        f2, g2 = f * f, g * g
        s1 = s1 * f + g + tl.sum(x, 1)
        s2 = s2 * f2 + g2 + tl.sum(x2, 1)
        s3 = s3 * (f2 * f) + g2 * g + tl.sum(x2 * x, 1)
        s4 = s4 * (f2 * f2) + g2 * g2 + tl.sum(x2 * x2, 1)
        index = tl.where(tile_best < best, tile_index, index)
        best = tl.minimum(best, tile_best)
        second = new
    return best, index, second, s1, s2, s3, s4


@triton.jit
def neighbours_kernel(
    queries, keys, scales, norm, rows, parts, indices, M_PADDED, N_PADDED, CHUNK, row_numbers,
    E_PADDED: tl.constexpr, E_BLOCK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    PLANES: tl.constexpr, EXCLUDE: tl.constexpr, ACC: tl.constexpr,
):
    """Fills parts (B, chunks, 6, M_PADDED) and indices (B, chunks, M_PADDED) int32."""
    batch = tl.program_id(2).to(tl.int64)
    first = tl.program_id(0) * BLOCK_M
    row = tl.arange(0, BLOCK_M)
    scales += batch * (M_PADDED + 2 * N_PADDED) // SPAN
    query = queries + (batch * M_PADDED + first) * PLANES * E_PADDED
    qh, ql = load_planes(query, row, 0, E_PADDED, E_BLOCK, PLANES)
    rows += (batch * row_numbers + INVERSE_T) * M_PADDED + first
    inverse_t = tl.load(rows + row)
    begin = tl.program_id(1) * CHUNK
    best, index, second, s1, s2, s3, s4 = _sweep(
        qh, ql, query, row, first, 2.0 * tl.load(scales + first // SPAN),
        keys + batch * PLANES * N_PADDED * E_PADDED, scales + M_PADDED // SPAN,
        norm + batch * N_PADDED, inverse_t, best_of_none(inverse_t), begin,
        tl.minimum(begin + CHUNK, N_PADDED),
        E_PADDED, E_BLOCK, BLOCK_N, PLANES, EXCLUDE, False, ACC,
    )
    chunk = batch * tl.num_programs(1) + tl.program_id(1)
    tl.store(indices + chunk * M_PADDED + first + row, index)
    parts += chunk * _PARTS * M_PADDED + first + row
    tl.store(parts, best)
    tl.store(parts + M_PADDED, second)
    tl.store(parts + 2 * M_PADDED, s1)
    tl.store(parts + 3 * M_PADDED, s2)
    tl.store(parts + 4 * M_PADDED, s3)
    tl.store(parts + 5 * M_PADDED, s4)


@triton.jit
def best_of_none(like):
    """A floor below everything."""
    return tl.full(like.shape, float("-inf"), like.dtype)


@triton.jit
def _put_together(
    parts, indices, row, inverse_t, M_PADDED, CHUNKS, ACC: tl.constexpr
):
    """What `_sweep` returns, of all chunks; of equals, the nearest is in the first."""
    inf = float("inf")
    best = tl.full(row.shape, inf, ACC)
    second = best
    index = tl.full(row.shape, -1, tl.int32)
    s1 = tl.zeros(row.shape, ACC)
    s2, s3, s4 = s1, s1, s1
    for _ in range(CHUNKS):
        other = tl.load(parts + row)
        other_second = tl.load(parts + M_PADDED + row)
        loser = tl.maximum(best, other)
        new = tl.minimum(loser, tl.minimum(second, other_second))
        base = tl.where(new == inf, 0.0, new)
        f = tl.exp2((base - second) * inverse_t)
        g = tl.exp2((base - loser) * inverse_t)
        h = tl.exp2((base - other_second) * inverse_t)
        f2, g2, h2 = f * f, g * g, h * h
        s1 = s1 * f + g + h * tl.load(parts + 2 * M_PADDED + row)
        s2 = s2 * f2 + g2 + h2 * tl.load(parts + 3 * M_PADDED + row)
        s3 = s3 * (f2 * f) + g2 * g + h2 * h * tl.load(parts + 4 * M_PADDED + row)
        s4 = s4 * (f2 * f2) + g2 * g2 + h2 * h2 * tl.load(parts + 5 * M_PADDED + row)
        index = tl.where(other < best, tl.load(indices + row), index)
        best = tl.minimum(best, other)
        second = new
        parts += _PARTS * M_PADDED
        indices += M_PADDED
    return best, index, second, s1, s2, s3, s4


@triton.jit
def _next_polynomial(a2, a3, a4, c):
    """Of x + a₂x² + a₃x³ + a₄x⁴ less c times its square, up to x⁴."""
    return a2 - c, a3 - 2.0 * c * a2, a4 - c * (2.0 * a3 + a2 * a2)


@triton.jit
def start_kernel(
    queries, keys, scales, norm, rows, starts, picks, parts, indices,
    M_PADDED, N_PADDED, CHUNKS,
    K: tl.constexpr, E_PADDED: tl.constexpr, E_BLOCK: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, PLANES: tl.constexpr, EXCLUDE: tl.constexpr, ACC: tl.constexpr,
):
    """Fills all numbers of the rows but inverse temperatures, with the scales up to two steps after
    their start, and starts (B, M_PADDED), picks (B, K, M_PADDED) int32."""
    batch = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * BLOCK_M
    lane = tl.arange(0, BLOCK_M)
    row = first + lane
    scales += batch * (M_PADDED + 2 * N_PADDED) // SPAN
    rows += batch * (ROW_NUMBERS + K) * M_PADDED
    starts += batch * M_PADDED
    picks += batch * K * M_PADDED
    inverse_t = tl.load(rows + INVERSE_T * M_PADDED + row)
    best, index, second, s1, s2, s3, s4 = _put_together(
        parts + batch * CHUNKS * _PARTS * M_PADDED, indices + batch * CHUNKS * M_PADDED, row,
        inverse_t, M_PADDED, CHUNKS, ACC,
    )
    inf = float("inf")
    start = tl.zeros([BLOCK_M], tl.int32)
    floor = best_of_none(inverse_t)
    # Numbers of rows that never start need only be finite.
    base = tl.zeros([BLOCK_M], ACC)
    total = tl.full([BLOCK_M], 1.0, ACC)
    x2, x3, x4, omega, omega_bar = base, base, base, base, base
    is_open = row >= 0  # padding too: every number is one that can be computed with
    more = 1
    while more > 0:
        none = best == inf
        alone = (second == inf) & (best < inf)
        gap = tl.where(none | alone, 0.0, (second - best) * inverse_t)
        certain = gap > CERTAIN * LOG2_E
        begins = is_open & ~certain & ~none & ~alone
        for k in tl.static_range(K):
            tl.store(picks + k * M_PADDED + row, index, mask=is_open & (start <= k))
        g = tl.exp2(-gap)
        omega = tl.where(begins, 1.0 / (1.0 + g * s1), omega)
        omega_bar = tl.where(begins, g * s1 / (1.0 + g * s1), omega_bar)
        base = tl.where(begins, second, base)
        total = tl.where(begins, s1, total)
        inverse = 1.0 / total
        x2 = tl.where(begins, s2 * inverse * inverse, x2)
        x3 = tl.where(begins, s3 * inverse * inverse * inverse, x3)
        x4 = tl.where(begins, s4 * inverse * inverse * inverse * inverse, x4)
        goes_on = is_open & certain
        # In the middle, where no rounding of recomputed distances matters.
        floor = tl.where(goes_on, best + 0.5 * (second - best), floor)
        start = tl.where(is_open & (none | alone), K, tl.where(goes_on, start + 1, start))
        is_open = goes_on & (start < K)
        more = tl.max(is_open.to(tl.int32), 0)
        if more > 0:
            query = queries + (batch * M_PADDED + first) * PLANES * E_PADDED
            qh, ql = load_planes(query, lane, 0, E_PADDED, E_BLOCK, PLANES)
            best, index, second, s1, s2, s3, s4 = _sweep(
                qh, ql, query, lane, first, 2.0 * tl.load(scales + first // SPAN),
                keys + batch * PLANES * N_PADDED * E_PADDED, scales + M_PADDED // SPAN,
                norm + batch * N_PADDED, inverse_t, floor, 0, N_PADDED,
                E_PADDED, E_BLOCK, BLOCK_N, PLANES, EXCLUDE, True, ACC,
            )
    tl.store(rows + SECOND * M_PADDED + row, base)
    tl.store(rows + SUM * M_PADDED + row, total)
    tl.store(rows + OMEGA * M_PADDED + row, omega)
    tl.store(starts + row, start)
    # Σ of the masses after one step, and after two.
    z = 1.0 - omega_bar * x2 + omega
    second_scale = 1.0 / tl.where(omega > 0, z, 1.0)
    own = omega - second_scale * omega * omega
    a2, a3, a4 = _next_polynomial(-omega_bar, 0.0, 0.0, second_scale)
    z = 1.0 + a2 * x2 + a3 * x3 + a4 * x4 + own
    third_scale = 1.0 / tl.where(omega > 0, z, 1.0)
    for k in tl.static_range(K):
        scale = tl.where(start == k, omega_bar, 0.0)
        scale = tl.where(start + 1 == k, second_scale, scale)
        scale = tl.where(start + 2 == k, third_scale, scale)
        tl.store(rows + (ROW_NUMBERS + k) * M_PADDED + row, scale)


@triton.jit
def power_kernel(
    queries, keys, scales, norm, rows, starts, picks, parts, M_PADDED, N_PADDED, CHUNK,
    K: tl.constexpr, FIRST: tl.constexpr, E_PADDED: tl.constexpr, E_BLOCK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PLANES: tl.constexpr, EXCLUDE: tl.constexpr,
    ACC: tl.constexpr,
):
    """Fills parts (B, chunks, 4, M_PADDED): power sums of the others' masses of step FIRST."""
    batch = tl.program_id(2).to(tl.int64)
    first = tl.program_id(0) * BLOCK_M
    row = tl.arange(0, BLOCK_M)
    scales += batch * (M_PADDED + 2 * N_PADDED) // SPAN
    query = queries + (batch * M_PADDED + first) * PLANES * E_PADDED
    key = keys + batch * PLANES * N_PADDED * E_PADDED
    rows += batch * (ROW_NUMBERS + K) * M_PADDED + first
    norm += batch * N_PADDED
    qh, ql = load_planes(query, row, 0, E_PADDED, E_BLOCK, PLANES)
    of_query = 2.0 * tl.load(scales + first // SPAN)
    inverse_t = tl.load(rows + INVERSE_T * M_PADDED + row)[:, None]
    second = tl.load(rows + SECOND * M_PADDED + row)[:, None]
    over_sum = (1.0 / tl.load(rows + SUM * M_PADDED + row))[:, None]
    start = tl.load(starts + batch * M_PADDED + first + row)
    picks += batch * K * M_PADDED + first + row
    nearest = tl.load(picks + tl.minimum(start, K - 1) * M_PADDED)[:, None]
    steps = ()
    for k in tl.static_range(FIRST):
        scale = tl.load(rows + (ROW_NUMBERS + k) * M_PADDED + row)[:, None]
        steps = steps + (scale * over_sum,)
    s1 = tl.zeros([BLOCK_M], ACC)
    s2, s3, s4 = s1, s1, s1
    lane = tl.arange(0, BLOCK_N)
    begin = tl.program_id(1) * CHUNK
    for at in range(begin, tl.minimum(begin + CHUNK, N_PADDED), BLOCK_N):
        dot = rows_product(
            qh, ql, query, row, advance(key, at, PLANES * E_PADDED), lane,
            E_PADDED, E_BLOCK, PLANES, ACC,
        )
        of_dot = of_query * tl.load(scales + M_PADDED // SPAN + at // SPAN)
        d = tl.load(norm + at + lane)[None, :] - dot * of_dot
        if EXCLUDE:
            d = without_self(d, first, at)
        x = first_mass(d, (at + lane)[None, :], nearest, second, inverse_t, 0)
        for k in tl.static_range(FIRST):
            x -= x * (x * steps[k])
        x2 = x * x
        s1 += tl.sum(x, 1)
        s2 += tl.sum(x2, 1)
        s3 += tl.sum(x2 * x, 1)
        s4 += tl.sum(x2 * x2, 1)
    chunk = batch * tl.num_programs(1) + tl.program_id(1)
    parts += chunk * _POWERS * M_PADDED + first + row
    tl.store(parts, s1)
    tl.store(parts + M_PADDED, s2)
    tl.store(parts + 2 * M_PADDED, s3)
    tl.store(parts + 3 * M_PADDED, s4)


@triton.jit
def scales_kernel(
    rows, starts, parts, M_PADDED, CHUNKS, K: tl.constexpr, FIRST: tl.constexpr,
    LAST: tl.constexpr, BLOCK_M: tl.constexpr, ACC: tl.constexpr,
):
    """Fills the scales of the steps from FIRST to before LAST, of rows that started before."""
    batch = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    rows += batch * (ROW_NUMBERS + K) * M_PADDED
    parts += batch * CHUNKS * _POWERS * M_PADDED
    start = tl.load(starts + batch * M_PADDED + row)
    omega = tl.load(rows + OMEGA * M_PADDED + row)
    x1 = tl.zeros([BLOCK_M], ACC)
    x2, x3, x4 = x1, x1, x1
    for _ in range(CHUNKS):
        x1 += tl.load(parts + row)
        x2 += tl.load(parts + M_PADDED + row)
        x3 += tl.load(parts + 2 * M_PADDED + row)
        x4 += tl.load(parts + 3 * M_PADDED + row)
        parts += _POWERS * M_PADDED
    inverse = 1.0 / tl.load(rows + SUM * M_PADDED + row)
    x1 *= inverse
    x2 *= inverse * inverse
    x3 *= inverse * inverse * inverse
    x4 *= inverse * inverse * inverse * inverse
    scales = rows + ROW_NUMBERS * M_PADDED + row
    own = tl.zeros([BLOCK_M], ACC)  # mass of the nearest
    for k in tl.static_range(FIRST):
        own = tl.where(start == k, omega, own - tl.load(scales + k * M_PADDED) * own * own)
    a2 = tl.zeros([BLOCK_M], ACC)
    a3, a4 = a2, a2
    for k in tl.static_range(FIRST, LAST):
        total = x1 + a2 * x2 + a3 * x3 + a4 * x4 + own
        scale = tl.load(scales + k * M_PADDED)
        scale = tl.where(start < k, 1.0 / tl.where(start < k, total, 1.0), scale)
        tl.store(scales + k * M_PADDED, scale)
        a2, a3, a4 = _next_polynomial(a2, a3, a4, scale)
        own = tl.where(start == k, omega, own - scale * own * own)


@triton.jit
def values_kernel(
    queries, keys, values, scales, norm, rows, starts, picks, parts, M_PADDED, N_PADDED, CHUNK,
    K: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr, E_PADDED: tl.constexpr,
    F_PADDED: tl.constexpr, E_BLOCK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_F: tl.constexpr, PLANES: tl.constexpr, EXCLUDE: tl.constexpr, DOT: tl.constexpr,
    ACC: tl.constexpr,
):
    """Fills parts (B, chunks, M_PADDED, K, F_PADDED): Σ m v for the masses of each
    step, of the steps from FIRST to before LAST."""
    blocks = F_PADDED // BLOCK_F
    batch = (tl.program_id(2) // blocks).to(tl.int64)
    feature = (tl.program_id(2) % blocks) * BLOCK_F
    first = tl.program_id(0) * BLOCK_M
    row = tl.arange(0, BLOCK_M)
    scales += batch * (M_PADDED + 2 * N_PADDED) // SPAN
    query = queries + (batch * M_PADDED + first) * PLANES * E_PADDED
    key = keys + batch * PLANES * N_PADDED * E_PADDED
    value = values + batch * PLANES * N_PADDED * F_PADDED
    rows += batch * (ROW_NUMBERS + K) * M_PADDED + first
    norm += batch * N_PADDED
    qh, ql = load_planes(query, row, 0, E_PADDED, E_BLOCK, PLANES)
    of_query = -2.0 * tl.load(scales + first // SPAN)
    inverse_t = tl.load(rows + INVERSE_T * M_PADDED + row)[:, None]
    second = tl.load(rows + SECOND * M_PADDED + row)[:, None]
    over_sum = (1.0 / (tl.load(rows + SUM * M_PADDED + row) * MASS_SCALE))[:, None]
    start = tl.load(starts + batch * M_PADDED + first + row)
    picks += batch * K * M_PADDED + first + row
    nearest = tl.load(picks + tl.minimum(start, K - 1) * M_PADDED)[:, None]
    steps = ()
    totals = ()
    for k in tl.static_range(LAST):
        scale = tl.load(rows + (ROW_NUMBERS + k) * M_PADDED + row)[:, None]
        steps = steps + (scale * over_sum,)
    for _ in tl.static_range(FIRST, LAST):
        totals = totals + (tl.zeros([BLOCK_M, BLOCK_F], ACC),)
    lane = tl.arange(0, BLOCK_N)
    begin = tl.program_id(1) * CHUNK
    for at in range(begin, tl.minimum(begin + CHUNK, N_PADDED), BLOCK_N):
        dot = rows_product(
            qh, ql, query, row, advance(key, at, PLANES * E_PADDED), lane,
            E_PADDED, E_BLOCK, PLANES, ACC,
        )
        of_dot = of_query * tl.load(scales + M_PADDED // SPAN + at // SPAN)
        of_value = tl.load(scales + (M_PADDED + N_PADDED) // SPAN + at // SPAN)
        item = at + lane  # added first, so that no pointer of each column stays in registers
        d = tl.load(norm + item)[None, :] + dot * of_dot
        if EXCLUDE:
            d = without_self(d, first, at)
        vh, vl = load_planes(
            advance(value, at, PLANES * F_PADDED), lane, feature, F_PADDED, BLOCK_F, PLANES
        )
        mass = first_mass(d, item[None, :], nearest, second, inverse_t, 14)
        sums = ()
        for k in tl.static_range(LAST):
            if k >= FIRST:
                high, low = planes_of(mass, DOT, PLANES)
                part = product(high, low, vh, vl, PLANES, ACC)
                sums = sums + (totals[k - FIRST] + part * of_value,)
            if k + 1 < LAST:
                mass -= mass * (mass * steps[k])
        totals = sums
    chunk = batch * tl.num_programs(1) + tl.program_id(1)
    parts = advance(parts, chunk * M_PADDED + first, K * F_PADDED)
    parts += row[:, None] * (K * F_PADDED) + (feature + tl.arange(0, BLOCK_F))[None, :]
    for k in tl.static_range(FIRST, LAST):
        tl.store(parts + k * F_PADDED, totals[k - FIRST])


@triton.jit
def output_kernel(
    value, rows, starts, picks, parts, out, M, N, F, M_PADDED, CHUNKS,
    K: tl.constexpr, F_PADDED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_F: tl.constexpr,
    ACC: tl.constexpr,
):
    """Fills out (B, M, K, F)."""
    batch = tl.program_id(2).to(tl.int64)
    first = tl.program_id(0) * BLOCK_M
    lane = tl.arange(0, BLOCK_M)
    row = first + lane
    feature = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    real = (row < M)[:, None] & (feature < F)[None, :]
    rows += batch * (ROW_NUMBERS + K) * M_PADDED + row
    picks += batch * K * M_PADDED + row
    value += batch * N * F + feature[None, :]
    start = tl.load(starts + batch * M_PADDED + row)
    omega = tl.load(rows + OMEGA * M_PADDED)
    over_sum = 1.0 / (tl.load(rows + SUM * M_PADDED) * MASS_SCALE)
    parts = advance(parts, batch * CHUNKS * M_PADDED + first, K * F_PADDED)
    parts += lane[:, None] * (K * F_PADDED) + feature[None, :]
    out = advance(out, batch * M + first, K * F) + lane[:, None] * (K * F) + feature[None, :]
    own = tl.zeros([BLOCK_M], ACC)  # mass of the nearest
    for k in tl.static_range(K):
        total = tl.zeros([BLOCK_M, BLOCK_F], ACC)
        for chunk in range(CHUNKS):
            total += tl.load(advance(parts + k * F_PADDED, chunk * M_PADDED, K * F_PADDED))
        scale = tl.load(rows + (ROW_NUMBERS + k) * M_PADDED)
        point = tl.where(start > k, 1.0, tl.where(start == k, omega, own * scale))
        own = tl.where(start == k, omega, own - own * own * scale)
        pick = tl.load(picks + k * M_PADDED)
        there = real & (pick >= 0)[:, None]
        v = tl.load(value + pick.to(tl.int64)[:, None] * F, mask=there, other=0.0)
        z = total * (scale * over_sum)[:, None] + point[:, None] * v.to(ACC)
        tl.store(out + k * F, z, mask=real)
