"""Forward pass of the dense form by two Triton kernels; what they compute: see tiles.py.

`sums_kernel` finds what a row's distributions are made of: nearest, second nearest and S in one
sweep over the items, then each of the K − 1 sums Z in one more. `values_kernel` has a program for
each block of queries, step and block of features, so that a few thousand queries fill a device.
"""

import triton
import triton.language as tl

from n3match.ops.triton.tiles import (
    CERTAIN,
    ROW_NUMBERS,
    advance,
    block_of,
    column,
    first_mass,
    load_inverse_t,
    load_nearest,
    load_row,
    load_rows,
    load_step,
    next_mass,
    point_weight,
    store_rows,
    tile_distances,
)


@triton.jit
def _nearest_two(
    query, row, real, own, key, norm, N, E, floor, inverse_t,
    BLOCK_E: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, EXCLUDE: tl.constexpr,
    PRECISION: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr,
):
    """Distance and number of the nearest item beyond `floor`, distance of the second nearest (inf
    where there is none), and S."""
    inf = float("inf")
    best = tl.full([BLOCK_M], inf, ACC)
    second = tl.full([BLOCK_M], inf, ACC)
    total = tl.zeros([BLOCK_M], ACC)
    index = tl.full([BLOCK_M], -1, tl.int32)
    for begin in range(0, N, BLOCK_N):
        d = tile_distances(
            query, row, real, own, key, norm, begin, N, E,
            BLOCK_E, BLOCK_N, EXCLUDE, PRECISION, DOT, ACC,
        )
        d = tl.where(d > floor[:, None], d, inf)
        item = (begin + tl.arange(0, BLOCK_N))[None, :]
        tile_best = tl.min(d, 1)
        # The first among equals; a number beyond all where a tile holds nothing.
        tile_index = tl.min(tl.where(d == tile_best[:, None], item, begin + BLOCK_N), 1)
        rest = tl.where(item == tile_index[:, None], inf, d)
        loser = tl.maximum(best, tile_best)
        new_second = tl.minimum(loser, tl.minimum(second, tl.min(rest, 1)))
        base = tl.where(new_second == inf, 0.0, new_second)
        total = total * tl.exp((base - second) * inverse_t)
        total += tl.exp((base - loser) * inverse_t)
        total += tl.sum(tl.exp((base[:, None] - rest) * inverse_t[:, None]), 1)
        index = tl.where(tile_best < best, tile_index, index)
        best = tl.minimum(best, tile_best)
        second = new_second
    return best, index, second, total


@triton.jit
def sums_kernel(
    query, key, norm, log_t, rows, start_out, scales_out, picks_out, M, N, E, K,
    KP: tl.constexpr, EXCLUDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr,
    PRECISION: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr,
):
    batch, first, row, real, place = block_of(tl.program_id(0), M, BLOCK_M)
    own = first + row
    query += place * E
    key += batch * N * E
    norm += batch * N
    inverse_t = load_inverse_t(log_t + place, row, real)

    step = tl.arange(0, KP)[None, :]
    picks = tl.full([BLOCK_M, KP], -1, tl.int32)
    start = tl.zeros([BLOCK_M], tl.int32)
    floor = tl.full([BLOCK_M], float("-inf"), ACC)
    # Numbers of rows that never start need only be finite.
    base = tl.zeros([BLOCK_M], ACC)
    log_sum = tl.zeros([BLOCK_M], ACC)
    omega = tl.zeros([BLOCK_M], ACC)
    omega_bar = tl.zeros([BLOCK_M], ACC)
    open_rows = real.to(tl.int32)
    while tl.max(open_rows, 0) > 0:
        best, index, second, total = _nearest_two(
            query, row, real, own, key, norm, N, E, floor, inverse_t,
            BLOCK_E, BLOCK_M, BLOCK_N, EXCLUDE, PRECISION, DOT, ACC,
        )
        is_open = open_rows > 0
        none = best == float("inf")
        alone = (second == float("inf")) & (best < float("inf"))
        gap = tl.where(none, 0.0, (second - best) * inverse_t)
        certain = gap > CERTAIN
        picks = tl.where(is_open[:, None] & (step >= start[:, None]), index[:, None], picks)
        starts = is_open & ~certain & ~none
        g = tl.exp(-gap)
        omega = tl.where(starts, 1.0 / (1.0 + g * total), omega)
        omega_bar = tl.where(starts, g * total / (1.0 + g * total), omega_bar)
        log_sum = tl.where(starts, tl.log(total), log_sum)
        base = tl.where(starts, second, base)
        # In the middle, where no rounding of recomputed distances matters.
        floor = tl.where(is_open & certain & ~alone, best + 0.5 * (second - best), floor)
        start = tl.where(is_open & (none | alone), K, tl.where(is_open & certain, start + 1, start))
        open_rows = tl.where(starts | (start >= K), 0, open_rows)

    scales = tl.where(step == start[:, None], omega_bar[:, None], 0.0)
    for k in range(1, K):
        total = tl.zeros([BLOCK_M], ACC)
        for begin in range(0, N, BLOCK_N):
            d = tile_distances(
                query, row, real, own, key, norm, begin, N, E,
                BLOCK_E, BLOCK_N, EXCLUDE, PRECISION, DOT, ACC,
            )
            item = (begin + tl.arange(0, BLOCK_N))[None, :]
            nearest = column(picks, tl.minimum(start, K - 1)[:, None], KP)
            mass = first_mass(
                d, item, nearest, base[:, None], log_sum[:, None], floor[:, None],
                inverse_t[:, None],
            )
            for m in range(0, k):
                weight = mass * column(scales, m, KP)
                mass = next_mass(
                    mass, weight, item, nearest, m, start[:, None], omega[:, None]
                )
            total += tl.sum(mass, 1)
        later = (step == k) & (start < k)[:, None]
        scales = tl.where(later, 1.0 / tl.where(start < k, total, 1.0)[:, None], scales)

    rows += place * ROW_NUMBERS + row * ROW_NUMBERS
    tl.store(rows, base, mask=real)
    tl.store(rows + 1, log_sum, mask=real)
    tl.store(rows + 2, floor, mask=real)
    tl.store(rows + 3, omega, mask=real)
    tl.store(start_out + place + row, start, mask=real)
    store_rows(scales_out + place * K, scales, row, real, K, 0, K, KP)
    store_rows(picks_out + place * K, picks, row, real, K, 0, K, KP)


@triton.jit
def values_kernel(
    query, key, value, norm, log_t, rows, start, scales, picks, out, M, N, E, F, K,
    EXCLUDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr,
    PRECISION: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr,
):
    batch, first, row, real, place = block_of(tl.program_id(0), M, BLOCK_M)
    k = tl.program_id(1)
    feature = tl.program_id(2) * BLOCK_F
    query += place * E
    key += batch * N * E
    value += batch * N * F
    norm += batch * N
    scales += place * K
    picks += place * K
    at, there = row[:, None], real[:, None]
    inverse_t = load_inverse_t(log_t + place, at, there)
    second, log_sum, floor, omega, started = load_row(rows, start, place, at, there, K)
    nearest = load_nearest(picks, started, at, there, K)
    total = tl.zeros([BLOCK_M, BLOCK_F], ACC)
    for begin in range(0, N, BLOCK_N):
        d = tile_distances(
            query, row, real, first + row, key, norm, begin, N, E,
            BLOCK_E, BLOCK_N, EXCLUDE, PRECISION, DOT, ACC,
        )
        item = begin + tl.arange(0, BLOCK_N)
        mass = first_mass(d, item[None, :], nearest, second, log_sum, floor, inverse_t)
        for m in range(0, k):
            scale, pick = load_step(scales, picks, at, there, m, K)
            mass = next_mass(mass, mass * scale, item[None, :], pick, m, started, omega)
        scale, pick = load_step(scales, picks, at, there, k, K)
        point = point_weight(k, started, omega)
        weight = mass * scale + tl.where(item[None, :] == pick, point, 0.0)
        v = load_rows(
            advance(value, begin, F), tl.arange(0, BLOCK_N), item < N, F, feature, F, BLOCK_F
        )
        total = tl.dot(
            weight.to(DOT), v.to(DOT), total, input_precision=PRECISION, out_dtype=ACC
        )
    store_rows(out + place * K * F + k * F, total, row, real, K * F, feature, F, BLOCK_F)
