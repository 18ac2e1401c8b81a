"""Backward pass of the dense form by four Triton kernels, each output written by one program: no
atomic additions, so that the same input gives the same bits.

With A = ∂L/∂a of the next step, u the gradient of the weights and D = Σ wu − r, r = Σ w A/(1 − w),
the recursion of dense/problem.py is A ← A (1 − w/(1 − w)) + w (u − D). Σ wu is grad·z, known
beforehand; r needs a sweep over the items for each step, from the last to the first
(`terms_kernel`). With these numbers of a row, a tile of ∂L/∂a¹ can be made by going through the
steps *forwards*,

    a = q' spread + Σ_m (Π_{l<m} φ_l) w_m (u_m + shift_m),   φ = (1 − 2w)/(1 − w), shift = −D,

so that no more than one step's weights are held at a time. The step in which a row starts treats
its nearest by itself, as there: with A_n what the later steps say of it, R = Σ q' A/(1 − w)
and U = Σ q'(u − Σ wu), both over the others,

    spread = ω A_n + ω̄² R,   and for the nearest  a = ω̄ (A_n − U + ω R).

Shapes and the masses: see tiles.py.
"""

import triton
import triton.language as tl

from n3match.ops.triton.tiles import (
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
    products,
    store_rows,
    tile_distances,
)

TERMS = tl.constexpr(2)  # spread, and a of the nearest
_FAR = tl.constexpr(1e30)  # stands for infinity where 0 · inf would be NaN


@triton.jit
def terms_kernel(
    query, key, value, norm, log_t, rows, start, scales, picks, dots, grad, shifts_out, terms_out,
    M, N, E, F, K, KP: tl.constexpr, EXCLUDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr,
    PRECISION: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr,
):
    """dots: Σ wu (M, K). Fills shifts (M, K) = r − Σ wu, and terms (M, 2)."""
    batch, first, row, real, place = block_of(tl.program_id(0), M, BLOCK_M)
    query += place * E
    grad += place * K * F
    key += batch * N * E
    value += batch * N * F
    norm += batch * N
    scales += place * K
    picks += place * K
    at, there = row[:, None], real[:, None]
    inverse_t = load_inverse_t(log_t + place, at, there)
    second, log_sum, floor, omega, started = load_row(rows, start, place, at, there, K)
    nearest = load_nearest(picks, started, at, there, K)
    shifts = -load_rows(dots + place * K, row, real, K, 0, K, KP)
    spread = tl.zeros([BLOCK_M, 1], ACC)
    of_nearest = tl.zeros([BLOCK_M, 1], ACC)
    for step_from_end in range(0, K):
        k = K - 1 - step_from_end
        starts = started == k
        some_start = tl.max(starts.to(tl.int32).reshape([BLOCK_M]), 0)
        # In the last step there is nothing to find but U.
        if (k < K - 1) | (some_start > 0):
            r_sum = tl.zeros([BLOCK_M, 1], ACC)
            a_nearest = tl.zeros([BLOCK_M, 1], ACC)
            u_sum = tl.zeros([BLOCK_M, 1], ACC)
            scale_k, _ = load_step(scales, picks, at, there, k, K)
            for begin in range(0, N, BLOCK_N):
                d = tile_distances(
                    query, row, real, first + row, key, norm, begin, N, E,
                    BLOCK_E, BLOCK_N, EXCLUDE, PRECISION, DOT, ACC,
                )
                item = tl.arange(0, BLOCK_N)
                item_real = begin + item < N
                of = (begin + item)[None, :]
                v = advance(value, begin, F)
                mass = first_mass(d, of, nearest, second, log_sum, floor, inverse_t)
                for m in range(0, k):
                    scale, pick = load_step(scales, picks, at, there, m, K)
                    mass = next_mass(mass, mass * scale, of, pick, m, started, omega)
                if some_start > 0:
                    u = products(
                        grad + k * F, row, real, K * F, v, item, item_real, F, F,
                        BLOCK_F, PRECISION, DOT, ACC,
                    )
                    u_sum += tl.sum(mass * (u + column(shifts, k, KP)), 1)[:, None]
                weight = mass * scale_k
                apart = starts & (of == nearest)
                path = tl.where(apart, 1.0, mass / (1.0 - weight))
                mass = next_mass(mass, weight, of, nearest, k, started, omega)
                for m in range(k + 1, K):
                    scale, _ = load_step(scales, picks, at, there, m, K)
                    u = products(
                        grad + m * F, row, real, K * F, v, item, item_real, F, F,
                        BLOCK_F, PRECISION, DOT, ACC,
                    )
                    weight = mass * scale
                    part = path * weight * (u + column(shifts, m, KP))
                    r_sum += tl.sum(tl.where(apart, 0.0, part), 1)[:, None]
                    a_nearest += tl.sum(tl.where(apart, part, 0.0), 1)[:, None]
                    path = path * (1.0 - 2.0 * weight) / (1.0 - weight)
                    mass = mass - mass * weight
            here = tl.arange(0, KP)[None, :] == k
            shifts += tl.where(here & (started < k), scale_k * r_sum, 0.0)
            found = omega * a_nearest + scale_k * scale_k * r_sum
            spread = tl.where(starts, found, spread)
            found = scale_k * (a_nearest - u_sum + omega * r_sum)
            of_nearest = tl.where(starts, found, of_nearest)
    store_rows(shifts_out + place * K, shifts, row, real, K, 0, K, KP)
    terms_out += place * TERMS + at * TERMS
    tl.store(terms_out, spread, mask=there)
    tl.store(terms_out + 1, of_nearest, mask=there)


@triton.jit
def _logit_gradients(
    mass, begin, item, item_real, value,
    row, row_real, grad, scales, picks, shifts, terms, omega, started, nearest, F, K,
    BLOCK_F: tl.constexpr, ITEMS_FIRST: tl.constexpr,
    PRECISION: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr,
):
    """∂L/∂a¹ of a tile, a¹ = −d/t, from its masses q'; ITEMS_FIRST tells which way the tile lies.

    Pointers are those of the block's rows and of the tile's items, which begin at `begin`.
    """
    if ITEMS_FIRST:
        at, there, of = row[None, :], row_real[None, :], (begin + item)[:, None]
    else:
        at, there, of = row[:, None], row_real[:, None], (begin + item)[None, :]
    a = mass * tl.load(terms + at * TERMS, mask=there, other=0.0)
    factor = tl.full(mass.shape, 1.0, ACC)
    for m in range(0, K):
        scale, pick = load_step(scales, picks, at, there, m, K)
        shift = tl.load(shifts + at * K + m, mask=there, other=0.0)
        if ITEMS_FIRST:
            u = products(
                value, item, item_real, F, grad + m * F, row, row_real, K * F, F,
                BLOCK_F, PRECISION, DOT, ACC,
            )
        else:
            u = products(
                grad + m * F, row, row_real, K * F, value, item, item_real, F, F,
                BLOCK_F, PRECISION, DOT, ACC,
            )
        weight = mass * scale
        a += factor * weight * (u + shift)
        factor = factor * (1.0 - 2.0 * weight) / (1.0 - weight)
        mass = next_mass(mass, weight, of, pick, m, started, omega)
    own = tl.load(terms + at * TERMS + 1, mask=there, other=0.0)
    return tl.where(of == nearest, own, a)


@triton.jit
def query_kernel(
    query, key, value, norm, log_t, rows, start, scales, picks, shifts, terms, grad,
    d_query, d_log_t, M, N, E, F, K,
    EXCLUDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr,
    BLOCK_OUT: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr, DOT: tl.constexpr,
    ACC: tl.constexpr,
):
    """Gradients of a block of queries, BLOCK_OUT channels of them, and of their log temperatures.

    WIDE: precision of products with ∂L/∂a¹, whose operands are never halves: float16 might not
    hold them.
    """
    batch, first, row, real, place = block_of(tl.program_id(0), M, BLOCK_M)
    channel = tl.program_id(1) * BLOCK_OUT
    query += place * E
    grad += place * K * F
    key += batch * N * E
    value += batch * N * F
    norm += batch * N
    scales += place * K
    picks += place * K
    shifts += place * K
    terms += place * TERMS
    at, there = row[:, None], real[:, None]
    inverse_t = load_inverse_t(log_t + place, at, there)
    second, log_sum, floor, omega, started = load_row(rows, start, place, at, there, K)
    nearest = load_nearest(picks, started, at, there, K)
    total = tl.zeros([BLOCK_M, BLOCK_OUT], ACC)
    temperature = tl.zeros([BLOCK_M], ACC)
    for begin in range(0, N, BLOCK_N):
        d = tile_distances(
            query, row, real, first + row, key, norm, begin, N, E,
            BLOCK_E, BLOCK_N, EXCLUDE, PRECISION, DOT, ACC,
        )
        item = tl.arange(0, BLOCK_N)
        item_real = begin + item < N
        mass = first_mass(
            d, (begin + item)[None, :], nearest, second, log_sum, floor, inverse_t
        )
        a = _logit_gradients(
            mass, begin, item, item_real, advance(value, begin, F),
            row, real, grad, scales, picks, shifts, terms, omega, started, nearest, F, K,
            BLOCK_F, False, PRECISION, DOT, ACC,
        )
        logit = tl.minimum(tl.maximum((second - d) * inverse_t, -_FAR), _FAR)
        temperature -= tl.sum(a * logit, 1)
        k = load_rows(advance(key, begin, E), item, item_real, E, channel, E, BLOCK_OUT)
        total = tl.dot(a, k.to(ACC), total, input_precision=WIDE, out_dtype=ACC)
    # Σ a = 0: of a (2k − 2q)/t, only the part with k is left.
    store_rows(
        d_query + place * E, 2.0 * inverse_t * total, row, real, E, channel, E, BLOCK_OUT
    )
    if channel == 0:
        tl.store(d_log_t + place + row, temperature, mask=real)


@triton.jit
def _item_masses(
    query, key, norm, log_t, rows, start, picks, of, item, item_real, number, row, there, own, E, K,
    BLOCK_E: tl.constexpr, EXCLUDE: tl.constexpr,
    PRECISION: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr,
):
    """q' (items, queries) of the rows from `of` on, their 1/t, ω, start and nearest. Key and norm
    are those of the block's items, which are called `number`."""
    at, real = row[None, :], there[None, :]
    inverse_t = load_inverse_t(log_t + of, at, real)
    second, log_sum, floor, omega, started = load_row(rows, start, of, at, real, K)
    nearest = load_nearest(picks + of * K, started, at, real, K)
    dot = products(
        key, item, item_real, E, query + of * E, row, there, E, E, BLOCK_E, PRECISION, DOT, ACC
    )
    d = norm[:, None] - 2.0 * dot
    if EXCLUDE:
        d = tl.where(own[None, :] == number[:, None], float("inf"), d)
    mass = first_mass(d, number[:, None], nearest, second, log_sum, floor, inverse_t)
    return mass, inverse_t, omega, started, nearest


@triton.jit
def key_kernel(
    query, key, value, norm, log_t, rows, start, scales, picks, shifts, terms, grad, d_key,
    M, N, E, F, K,
    EXCLUDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr,
    BLOCK_OUT: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr, DOT: tl.constexpr,
    ACC: tl.constexpr,
):
    """Gradients of a block of keys, BLOCK_OUT channels of them: Σ a (2q − 2k)/t over all queries.
    WIDE: as in `query_kernel`."""
    batch, first, item, real, place = block_of(tl.program_id(0), N, BLOCK_N)
    channel = tl.program_id(1) * BLOCK_OUT
    key += place * E
    value += place * F
    norm = tl.load(norm + place + item, mask=real, other=float("inf"))
    total = tl.zeros([BLOCK_N, BLOCK_OUT], ACC)
    mean = tl.zeros([BLOCK_N], ACC)
    row = tl.arange(0, BLOCK_M)
    for begin in range(0, M, BLOCK_M):
        there = begin + row < M
        of = batch * M + begin
        mass, inverse_t, omega, started, nearest = _item_masses(
            query, key, norm, log_t, rows, start, picks, of, item, real, first + item, row, there,
            begin + row, E, K, BLOCK_E, EXCLUDE, PRECISION, DOT, ACC,
        )
        a = _logit_gradients(
            mass, first, item, real, value,
            row, there, grad + of * K * F, scales + of * K, picks + of * K, shifts + of * K,
            terms + of * TERMS, omega, started, nearest, F, K,
            BLOCK_F, True, PRECISION, DOT, ACC,
        )
        a *= inverse_t
        mean += tl.sum(a, 1)
        q = load_rows(query + of * E, row, there, E, channel, E, BLOCK_OUT)
        total = tl.dot(a, q.to(ACC), total, input_precision=WIDE, out_dtype=ACC)
    k = load_rows(key, item, real, E, channel, E, BLOCK_OUT)
    store_rows(
        d_key + place * E, 2.0 * (total - mean[:, None] * k.to(ACC)),
        item, real, E, channel, E, BLOCK_OUT,
    )


@triton.jit
def value_kernel(
    query, key, norm, log_t, rows, start, scales, picks, grad, d_value, M, N, E, F, K,
    EXCLUDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr,
    PRECISION: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr,
):
    """Gradients of a block of values, BLOCK_F features of them."""
    batch, first, item, real, place = block_of(tl.program_id(0), N, BLOCK_N)
    feature = tl.program_id(1) * BLOCK_F
    key += place * E
    norm = tl.load(norm + place + item, mask=real, other=float("inf"))
    number = (first + item)[:, None]
    total = tl.zeros([BLOCK_N, BLOCK_F], ACC)
    row = tl.arange(0, BLOCK_M)
    for begin in range(0, M, BLOCK_M):
        there = begin + row < M
        of = batch * M + begin
        mass, _, omega, started, _ = _item_masses(
            query, key, norm, log_t, rows, start, picks, of, item, real, first + item, row, there,
            begin + row, E, K, BLOCK_E, EXCLUDE, PRECISION, DOT, ACC,
        )
        at, real_row = row[None, :], there[None, :]
        for m in range(0, K):
            scale, pick = load_step(scales + of * K, picks + of * K, at, real_row, m, K)
            weight = mass * scale
            full = weight + tl.where(number == pick, point_weight(m, started, omega), 0.0)
            full = tl.where(real_row, full, 0.0)
            g = load_rows(grad + of * K * F + m * F, row, there, K * F, feature, F, BLOCK_F)
            total = tl.dot(
                full.to(DOT), g.to(DOT), total, input_precision=PRECISION, out_dtype=ACC
            )
            mass = next_mass(mass, weight, number, pick, m, started, omega)
    store_rows(d_value + place * F, total, item, real, F, feature, F, BLOCK_F)
