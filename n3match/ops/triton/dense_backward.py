"""Backward pass of the dense form by Triton kernels, each output written by one program:
no atomic additions, so that the same input gives the same bits.

With A = ∂L/∂a of the next step, u the gradient of the weights and û = u − Σ wu, which is known
beforehand (grad·z), the recursion of dense/problem.py is A ← A φ + w (û + r), where
φ = (1 − 2w)/(1 − w) and r = Σ w A/(1 − w). Going through the steps forwards,

    ∂L/∂a¹ = q' spread + Σ_m Φ_m w_m (û_m + r_m),   Φ_m = Π_{l<m} φ_l,   q' = q/S.

The r of a row and its spread are sums over the items, but *linear in each other*: with the path
P_km = w_k/(1 − w_k) Π_{k<l<m} φ_l,

    r_k = Σ_{m>k} (U_km + r_m W_km),   U_km = Σ P_km w_m û_m,   W_km = Σ P_km w_m,

so that one sweep gives all U and W, the triangle is solved for each row afterwards, and the sums
that the gradient of the query wants are taken apart by what r and spread multiply. Since a mass
goes to m (1 − w), all 1 − w cancel: with c = w/m, a number of the row,

    Φ_m w_m = c_m q Π_{l<m} (1 − 2w_l),   P_km w_m = c_k c_m m_k² Π_{k<l<m} (1 − 2w_l).

The step in which a row starts treats its nearest by itself, as in dense/problem.py: its path begins
with q'/(1 − w), that is with 1/S in the place of c_k, and goes over the others. With A_n what the
later steps say of the nearest, R that step's sum and U₁ = Σ q'û, both over the others,

    spread = ω A_n + ω̄² R,   and for the nearest  a = ω̄ (A_n − U₁ + ω R).

1. `gradients_kernel`: planes of the incoming gradient, Σ wu, and a bound of what follows.
2. `row_sums_kernel`: the sweep over the items, each program for a block of queries.
3. `rows_kernel`: the triangle, the gradients of queries and log temperatures, and numbers and
   queries as the second sweep wants them.
4. `key_sums_kernel` and `value_sums_kernel`: the sweep over the queries, each program for a block
   of items. As one kernel they would not fit in the registers; what both do is little.
5. `items_kernel`: the gradients of keys and values.

What is multiplied in float16 is first brought to at most 1: a row's û by the bound, ∂L/∂a¹ by its
largest magnitude, which the queries of the second sweep take over.

Shapes and masses: see tiles.py.
"""

import triton
import triton.language as tl

from n3match.ops.triton.operands import power_of_two
from n3match.ops.triton.tiles import (
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

_FAR = tl.constexpr(1e30)  # stands for infinity where 0 · inf would be NaN
_LEAST = tl.constexpr(1e-30)  # bound
_LEAST_WEIGHT = tl.constexpr(1e-20)  # that it is taken for
_LEAST_SHARE = tl.constexpr(1e-6)  # of it that ∂L/∂a¹ is taken to reach

# Numbers of a row: the bound, then K of Σ wu and K of grad · value of the nearest.
GIVEN = tl.constexpr(1)
# Numbers of a row for the second sweep: spread/S, a of the nearest, and what turns ∂L/∂a¹ back;
# then c, c times the factor of u, c times its shift, and the weight of the nearest, K of each.
FOUND = tl.constexpr(3)
FOUND_OF_STEP = tl.constexpr(4)


@triton.jit
def gradients_kernel(
    grad, out, value, rows, starts, picks, peaks, planes, scales, given,
    M, N, F, M_PADDED, N_PADDED,
    K: tl.constexpr, F_PADDED: tl.constexpr, BLOCK_F: tl.constexpr, PLANES: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr,
):
    """grad and out: (B, M, K, F). Fills planes (B, M_PADDED, K, PLANES, F_PADDED), their scales
    (B, M_PADDED/SPAN) and given (B, GIVEN + 2K, M_PADDED). A program has SPAN rows."""
    batch = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * SPAN
    lane = tl.arange(0, SPAN)
    row = first + lane
    real = row < M
    rows += batch * (ROW_NUMBERS + K) * M_PADDED + row
    given += batch * (GIVEN + 2 * K) * M_PADDED + row
    value += batch * N * F
    start = tl.load(starts + batch * M_PADDED + row)
    nearest = tl.load(picks + (batch * K + tl.minimum(start, K - 1)) * M_PADDED + row)
    offset = lane[:, None] * (K * F)
    grad = advance(grad, batch * M + first, K * F) + offset
    out = advance(out, batch * M + first, K * F) + offset
    of_value = value + nearest.to(tl.int64)[:, None] * F
    near = real & (nearest >= 0)

    spans = (M_PADDED + 2 * N_PADDED) // SPAN
    peaks += batch * spans + (M_PADDED + N_PADDED) // SPAN
    largest_value = tl.zeros([SPAN], ACC)
    for begin in range(0, N_PADDED // SPAN, SPAN):
        there = begin + lane < N_PADDED // SPAN
        largest_value = tl.maximum(
            largest_value, tl.load(peaks + begin + lane, mask=there, other=0.0)
        )
    largest_value = tl.max(largest_value, 0)

    over_sum = 1.0 / tl.load(rows + SUM * M_PADDED)
    largest = tl.zeros([SPAN], ACC)
    bound = tl.zeros([SPAN], ACC)
    for k in tl.static_range(K):
        dots = tl.zeros([SPAN], ACC)
        of_nearest = tl.zeros([SPAN], ACC)
        length = tl.zeros([SPAN], ACC)
        for begin in range(0, F_PADDED, BLOCK_F):
            column = begin + tl.arange(0, BLOCK_F)[None, :]
            there = real[:, None] & (column < F)
            g = tl.load(grad + k * F + column, mask=there, other=0.0).to(ACC)
            z = tl.load(out + k * F + column, mask=there, other=0.0).to(ACC)
            v = tl.load(of_value + column, mask=there & near[:, None], other=0.0).to(ACC)
            dots += tl.sum(g * z, 1)
            of_nearest += tl.sum(g * v, 1)
            length += tl.sum(tl.abs(g), 1)
            largest = tl.maximum(largest, tl.max(tl.abs(g), 1))
        weight = tl.minimum(tl.load(rows + (ROW_NUMBERS + k) * M_PADDED) * over_sum, 1.0)
        bound += tl.maximum(weight, _LEAST_WEIGHT) * (length * largest_value + tl.abs(dots))
        tl.store(given + (GIVEN + k) * M_PADDED, dots)
        tl.store(given + (GIVEN + K + k) * M_PADDED, of_nearest)
    tl.store(given, tl.where(bound > 0, tl.maximum(bound, _LEAST), 1.0))

    scale, inverse = 1.0, 1.0
    if (PLANES == 2) or (tl.float16 == DOT):
        scale, inverse = power_of_two(tl.max(largest, 0))
    tl.store(scales + batch * (M_PADDED // SPAN) + tl.program_id(0), inverse)
    planes = advance(planes, batch * M_PADDED + first, K * PLANES * F_PADDED)
    planes += lane[:, None] * (K * PLANES * F_PADDED)
    for k in tl.static_range(K):
        for begin in range(0, F_PADDED, BLOCK_F):
            column = begin + tl.arange(0, BLOCK_F)[None, :]
            there = real[:, None] & (column < F)
            g = tl.load(grad + k * F + column, mask=there, other=0.0).to(ACC)
            high, low = planes_of(g * scale, DOT, PLANES)
            tl.store(planes + k * PLANES * F_PADDED + column, high)
            if PLANES == 2:
                tl.store(planes + (k * PLANES + 1) * F_PADDED + column, low)


@triton.jit
def row_sums_kernel(
    queries, keys, values, grads, scales, grad_scales, norm, rows, starts, picks, given,
    sums, parts, M_PADDED, N_PADDED, CHUNK,
    K: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr, SUMS: tl.constexpr,
    E_PADDED: tl.constexpr, F_PADDED: tl.constexpr,
    E_BLOCK: tl.constexpr, F_BLOCK: tl.constexpr, OUT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PLANES: tl.constexpr, EXCLUDE: tl.constexpr,
    TEMPERATURE: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr,
):
    """Fills sums (B, chunks, SUMS, M_PADDED), in the order of `rows_kernel`, and parts (B, chunks,
    M_PADDED, K, E_PADDED), OUT channels of them: Σ over the items of their key times what spread
    and r don't multiply, times q, and times Φ w/c of the steps but the first and the last. Of these
    a launch fills what belongs to the paths that begin at steps FIRST to before LAST, and to the
    weights of these steps; what belongs to no step, where FIRST is 0."""
    blocks = E_PADDED // OUT
    batch = (tl.program_id(2) // blocks).to(tl.int64)
    channel = (tl.program_id(2) % blocks) * OUT
    first = tl.program_id(0) * BLOCK_M
    row = tl.arange(0, BLOCK_M)
    scales += batch * (M_PADDED + 2 * N_PADDED) // SPAN
    query = queries + (batch * M_PADDED + first) * PLANES * E_PADDED
    key = keys + batch * N_PADDED * PLANES * E_PADDED
    value = values + batch * N_PADDED * PLANES * F_PADDED
    grad = advance(grads, batch * M_PADDED + first, K * PLANES * F_PADDED)
    rows += batch * (ROW_NUMBERS + K) * M_PADDED + first + row
    given += batch * (GIVEN + 2 * K) * M_PADDED + first + row
    norm += batch * N_PADDED
    qh, ql = load_planes(query, row, 0, E_PADDED, E_BLOCK, PLANES)
    of_query = 2.0 * tl.load(scales + first // SPAN)
    inverse_t = tl.load(rows + INVERSE_T * M_PADDED)[:, None]
    second = tl.load(rows + SECOND * M_PADDED)[:, None]
    over_sum = (1.0 / tl.load(rows + SUM * M_PADDED))[:, None]
    starts += batch * M_PADDED + first
    start = tl.load(starts + row)[:, None]
    picks += (batch * K + tl.minimum(start, K - 1)) * M_PADDED + first + row[:, None]
    nearest = tl.load(picks)
    factor = (1.0 / tl.load(given))[:, None]
    of_grad = factor * tl.load(grad_scales + (batch * M_PADDED + first) // SPAN)
    # Few numbers of a row and step stay in registers: what follows from others is made again.
    steps, shifts, highs, lows, totals, found, places = (), (), (), (), (), (), ()
    if FIRST == 0:
        totals = totals + (tl.zeros([BLOCK_M, OUT], ACC),)
        found = found + (tl.zeros([BLOCK_M], ACC), tl.zeros([BLOCK_M], ACC))
        places = places + (0, 1)
        if K > 1:
            totals = totals + (tl.zeros([BLOCK_M, OUT], ACC),)
    for k in tl.static_range(K):
        steps = steps + (tl.load(rows + (ROW_NUMBERS + k) * M_PADDED)[:, None] * over_sum,)
        shifts = shifts + (factor * tl.load(given + (GIVEN + k) * M_PADDED)[:, None],)
        if F_BLOCK == F_PADDED:
            gh, gl = load_planes(
                grad + k * PLANES * F_PADDED, row * K, 0, F_PADDED, F_BLOCK, PLANES
            )
            highs = highs + (gh,)
            lows = lows + (gl,)
        else:
            highs = highs + (qh,)  # not used
            lows = lows + (ql,)
        for j in tl.static_range(FIRST, LAST if k > LAST else k):
            # Steps before the last have two numbers for each j.
            found = found + (tl.zeros([BLOCK_M], ACC),)
            places = places + (2 + k * (k - 1) + (j if k == K - 1 else 2 * j),)
            if k < K - 1:
                found = found + (tl.zeros([BLOCK_M], ACC),)
                places = places + (3 + k * (k - 1) + 2 * j,)
    of_temperature: tl.constexpr = 2 + K * (K - 1) // 2 + (K - 1) * (K - 2) // 2
    if TEMPERATURE and FIRST == 0:
        found = found + (tl.zeros([BLOCK_M], ACC), tl.zeros([BLOCK_M], ACC))
        places = places + (of_temperature, of_temperature + 1)
    for k in tl.static_range(FIRST if FIRST > 0 else 1, LAST):
        totals = totals + (tl.zeros([BLOCK_M, OUT], ACC),)
        if TEMPERATURE:
            found = found + (tl.zeros([BLOCK_M], ACC),)
            places = places + (of_temperature + 1 + k,)

    lane = tl.arange(0, BLOCK_N)
    begin = tl.program_id(1) * CHUNK
    for at in range(begin, tl.minimum(begin + CHUNK, N_PADDED), BLOCK_N):
        of_key = tl.load(scales + M_PADDED // SPAN + at // SPAN)
        of_value = tl.load(scales + (M_PADDED + N_PADDED) // SPAN + at // SPAN)
        near_keys = advance(key, at, PLANES * E_PADDED)
        dot = rows_product(
            qh, ql, query, row, near_keys, lane, E_PADDED, E_BLOCK, PLANES, ACC
        )
        d = tl.load(norm + at + lane)[None, :] - dot * (of_query * of_key)
        if EXCLUDE:
            d = without_self(d, first, at)
        q = first_mass(d, (at + lane)[None, :], nearest, second, inverse_t, 0)
        far = q
        if TEMPERATURE:
            far = tl.minimum(tl.maximum((second - d) * inverse_t, -_FAR), _FAR)
        kh, kl = load_planes(near_keys, lane, channel, E_PADDED, OUT, PLANES)
        of_part = of_key / MASS_SCALE
        scaled = of_grad * of_value
        mass = q
        running = tl.full(q.shape, 1.0, ACC)
        paths, now, of_weights, added = (), (), (), ()
        if FIRST == 0 and K > 1:
            high, low = planes_of(q * MASS_SCALE, DOT, PLANES)
            added = added + (totals[1] + product(high, low, kh, kl, PLANES, ACC) * of_part,)
        for k in tl.static_range(K):
            if FIRST == 0 or k > FIRST:
                u = rows_product(
                    highs[k], lows[k], grad + k * PLANES * F_PADDED, row * K,
                    advance(value, at, PLANES * F_PADDED), lane, F_PADDED, F_BLOCK, PLANES, ACC,
                )
                u = (u * scaled - shifts[k]) * steps[k]
                if FIRST == 0:
                    first_u = tl.where(start == k, u, 0.0)
                    if k == 0:
                        apart = u
                        of_start = first_u
                    else:
                        apart += running * u
                        of_start += first_u
                for j in tl.static_range((LAST if k > LAST else k) - FIRST):
                    now = now + (tl.sum(paths[j] * u, 1),)
                    if k < K - 1:
                        now = now + (tl.sum(paths[j], 1),)
            if k < K - 1:
                if k > 0 and k >= FIRST and k < LAST:
                    # Multiplied at once, so that the weights of one step only are in registers.
                    weight = q * running
                    if TEMPERATURE:
                        of_weights = of_weights + (tl.sum(weight * far, 1),)
                    high, low = planes_of(weight * MASS_SCALE, DOT, PLANES)
                    part = product(high, low, kh, kl, PLANES, ACC) * of_part
                    added = added + (totals[k - FIRST + (1 if FIRST == 0 else 0)] + part,)
                rest = 1.0 - mass * (2.0 * steps[k])
                grown = ()
                for j in tl.static_range((LAST if k > LAST else k) - FIRST):
                    grown = grown + (paths[j] * rest,)
                square = mass * mass
                if k >= FIRST and k < LAST:
                    grown = grown + (square,)
                paths = grown
                running *= rest
                mass -= square * steps[k]
        if FIRST == 0:
            apart *= q
            now = (tl.max(tl.abs(apart), 1), tl.sum(q * of_start, 1)) + now
            if TEMPERATURE:
                now = now + (tl.sum(apart * far, 1), tl.sum(q * far, 1))
            high, low = planes_of(apart * MASS_SCALE, DOT, PLANES)
            part = product(high, low, kh, kl, PLANES, ACC) * of_part
            added = (totals[0] + part,) + added
        now = now + of_weights
        summed = ()
        if FIRST == 0:
            summed = summed + (tl.maximum(found[0], now[0]),)
        for i in tl.static_range(1 if FIRST == 0 else 0, len(found)):
            summed = summed + (found[i] + now[i],)
        found = summed
        totals = added

    chunk = batch * tl.num_programs(1) + tl.program_id(1)
    sums += chunk * SUMS * M_PADDED + first + row
    if channel == 0:
        for i in tl.static_range(len(found)):
            tl.store(sums + places[i] * M_PADDED, found[i])
    parts = advance(parts, chunk * M_PADDED + first, K * E_PADDED)
    parts += row[:, None] * (K * E_PADDED) + (channel + tl.arange(0, OUT))[None, :]
    for i in tl.static_range(len(totals)):
        place = parts + (i if FIRST == 0 else FIRST + 1 + i) * E_PADDED
        tl.store(place, totals[i])


@triton.jit
def _over_chunks(pointer, CHUNKS, stride, like):
    total = tl.zeros(like.shape, like.dtype)
    for chunk in range(CHUNKS):
        total += tl.load(advance(pointer, chunk, stride))
    return total


@triton.jit
def rows_kernel(
    queries, keys, scales, rows, starts, picks, given, sums, parts, d_query, d_log_t,
    found, again, again_scales, M, E, M_PADDED, N_PADDED, CHUNKS,
    K: tl.constexpr, SUMS: tl.constexpr, E_PADDED: tl.constexpr, BLOCK_E: tl.constexpr,
    PLANES: tl.constexpr, TEMPERATURE: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr,
):
    """From sums and parts of `row_sums_kernel` d_query (B, M, E) and, with TEMPERATURE, d_log_t
    (B, M, 1); for the second sweep found (B, FOUND + 4K, M_PADDED) and again (B, M_PADDED, PLANES,
    E_PADDED), planes of the queries divided by t, with again_scales. A program has SPAN rows.

    The sums: the largest ∂L/∂a¹ of what spread and r don't multiply; ω̄ U₁; then for each step m,
    for each k before it, U_km/c_k and, unless m is the last, W_km/(c_k c_m); with TEMPERATURE those
    of (d₂ − d)/t times what `parts` has times key."""
    batch = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * SPAN
    lane = tl.arange(0, SPAN)
    row = first + lane
    real = row < M
    rows += batch * (ROW_NUMBERS + K) * M_PADDED + row
    given += batch * (GIVEN + 2 * K) * M_PADDED + row
    sums += batch * CHUNKS * SUMS * M_PADDED + row
    found += batch * (FOUND + FOUND_OF_STEP * K) * M_PADDED + row
    start = tl.load(starts + batch * M_PADDED + row)
    nearest = tl.load(picks + (batch * K + tl.minimum(start, K - 1)) * M_PADDED + row)
    omega = tl.load(rows + OMEGA * M_PADDED)
    total = tl.load(rows + SUM * M_PADDED)
    inverse_t = tl.load(rows + INVERSE_T * M_PADDED) / LOG2_E
    bound = tl.load(given)
    zero = tl.zeros([SPAN], ACC)
    largest = zero
    for chunk in range(CHUNKS):
        largest = tl.maximum(largest, tl.load(sums + chunk * SUMS * M_PADDED))
    u_first = _over_chunks(sums + M_PADDED, CHUNKS, SUMS * M_PADDED, zero)

    # Of the nearest: its weights and û in the steps after the first one, and what it starts with.
    omega_bar, own = zero, zero
    near_weights, near_u, steps = (), (), ()
    for k in tl.static_range(K):
        scale = tl.load(rows + (ROW_NUMBERS + k) * M_PADDED)
        omega_bar = tl.where(start == k, scale, omega_bar)
        weight = tl.where(start < k, own * scale, 0.0)
        dots = tl.load(given + (GIVEN + k) * M_PADDED)
        near_weights = near_weights + (weight,)
        near_u = near_u + ((tl.load(given + (GIVEN + K + k) * M_PADDED) - dots) / bound,)
        own = tl.where(start == k, omega, own - own * weight)
        point = tl.where(start == k, omega, weight)
        tl.store(found + (FOUND + 3 * K + k) * M_PADDED, point)
        tl.store(found + (FOUND + k) * M_PADDED, scale / total)
        steps = steps + (scale / total,)

    # The triangle, from the last step to the first.
    r = (zero,)
    r_start = zero
    for k in tl.static_range(K - 2, -1, -1):
        others, of_nearest = zero, zero
        path = near_weights[k] / (1.0 - near_weights[k])
        entry = tl.where(start == k, 1.0 / total, steps[k])
        for m in tl.static_range(k + 1, K):
            # Steps before the last have two numbers for each k.
            of_pair = sums + (2 + m * (m - 1) + (k if m == K - 1 else 2 * k)) * M_PADDED
            part = _over_chunks(of_pair, CHUNKS, SUMS * M_PADDED, zero)
            if m < K - 1:
                w = _over_chunks(of_pair + M_PADDED, CHUNKS, SUMS * M_PADDED, zero)
                part += r[m - k - 1] * w * steps[m]
            others += part * entry
            weight = near_weights[m]
            of_nearest += path * weight * (near_u[m] + r[m - k - 1])
            path *= (1.0 - 2.0 * weight) / (1.0 - weight)
        r_start = tl.where(start == k, others, r_start)
        r = (tl.where(start < k, others + of_nearest, 0.0),) + r

    a_nearest = zero
    path = tl.full([SPAN], 1.0, ACC)
    for m in tl.static_range(1, K):
        weight = near_weights[m]
        a_nearest += path * weight * (near_u[m] + r[m])
        path *= (1.0 - 2.0 * weight) / (1.0 - weight)
    spread = (omega * a_nearest + omega_bar * omega_bar * r_start) / total
    of_nearest = omega_bar * (a_nearest + omega * r_start) - u_first

    largest += tl.abs(spread) + tl.abs(of_nearest)
    for m in tl.static_range(1, K):
        largest += tl.abs(r[m])
    largest = tl.maximum(largest, _LEAST_SHARE)
    tl.store(found, spread / largest)
    tl.store(found + M_PADDED, of_nearest / largest)
    back = inverse_t * bound * largest
    tl.store(found + 2 * M_PADDED, back)
    for k in tl.static_range(K):
        dots = tl.load(given + (GIVEN + k) * M_PADDED) / bound
        tl.store(found + (FOUND + K + k) * M_PADDED, steps[k] / (bound * largest))
        tl.store(found + (FOUND + 2 * K + k) * M_PADDED, steps[k] * ((r[k] - dots) / largest))

    if TEMPERATURE:
        base: tl.constexpr = 2 + K * (K - 1) // 2 + (K - 1) * (K - 2) // 2
        gap = tl.log(omega * total / tl.maximum(omega_bar, 1e-37))
        far = tl.where(omega > 0, gap * LOG2_E, 0.0)
        t = of_nearest * far
        t += _over_chunks(sums + base * M_PADDED, CHUNKS, SUMS * M_PADDED, zero)
        t += spread * _over_chunks(sums + (base + 1) * M_PADDED, CHUNKS, SUMS * M_PADDED, zero)
        for i in tl.static_range(K - 2):
            of_step = sums + (base + 2 + i) * M_PADDED
            of_r = r[i + 1] * steps[i + 1]
            t += of_r * _over_chunks(of_step, CHUNKS, SUMS * M_PADDED, zero)
        tl.store(d_log_t + batch * M + row, -t * bound / LOG2_E, mask=real)

    scales += batch * (M_PADDED + 2 * N_PADDED) // SPAN
    queries = advance(queries, batch * M_PADDED + first, PLANES * E_PADDED)
    again = advance(again, batch * M_PADDED + first, PLANES * E_PADDED)
    again += lane[:, None] * (PLANES * E_PADDED)
    parts = advance(parts, batch * CHUNKS * M_PADDED + first, K * E_PADDED)
    parts += lane[:, None] * (K * E_PADDED)
    d_query = advance(d_query, batch * M + first, E) + lane[:, None] * E
    of_query = tl.load(scales + first // SPAN)
    near = nearest >= 0
    of_key = tl.load(scales + M_PADDED // SPAN + nearest // SPAN, mask=near, other=0.0)
    of_keys = advance(keys, batch * N_PADDED + nearest, PLANES * E_PADDED)[:, None]
    peak = zero
    for begin in range(0, E_PADDED, BLOCK_E):
        column = begin + tl.arange(0, BLOCK_E)[None, :]
        x = tl.load(of_keys + column, mask=near[:, None], other=0.0).to(ACC)
        if PLANES == 2:
            x += tl.load(of_keys + E_PADDED + column, mask=near[:, None], other=0.0).to(ACC)
        dq = x * (of_nearest * of_key)[:, None]
        stride = M_PADDED * K * E_PADDED
        dq += _over_chunks(parts + column, CHUNKS, stride, x)
        if K > 1:
            of_q = _over_chunks(parts + E_PADDED + column, CHUNKS, stride, x)
            dq += of_q * spread[:, None]
        for i in tl.static_range(K - 2):
            of_w = _over_chunks(parts + (i + 2) * E_PADDED + column, CHUNKS, stride, x)
            dq += of_w * (r[i + 1] * steps[i + 1])[:, None]
        # Σ a = 0: of a (2k − 2q)/t, only the part with k is left.
        dq *= (2.0 * inverse_t * bound)[:, None]
        tl.store(d_query + column, dq, mask=real[:, None] & (column < E))
        high, low = load_planes(queries, lane, begin, E_PADDED, BLOCK_E, PLANES)
        q = high.to(ACC) + low.to(ACC) if PLANES == 2 else high.to(ACC)
        peak = tl.maximum(peak, tl.max(tl.abs(q * (of_query * back)[:, None]), 1))

    scale, inverse = 1.0, 1.0
    if (PLANES == 2) or (tl.float16 == DOT):
        scale, inverse = power_of_two(tl.max(peak, 0))
    tl.store(again_scales + batch * (M_PADDED // SPAN) + tl.program_id(0), inverse)
    for begin in range(0, E_PADDED, BLOCK_E):
        column = begin + tl.arange(0, BLOCK_E)[None, :]
        high, low = load_planes(queries, lane, begin, E_PADDED, BLOCK_E, PLANES)
        q = high.to(ACC) + low.to(ACC) if PLANES == 2 else high.to(ACC)
        high, low = planes_of(q * (of_query * back)[:, None] * scale, DOT, PLANES)
        tl.store(again + column, high)
        if PLANES == 2:
            tl.store(again + E_PADDED + column, low)


@triton.jit
def key_sums_kernel(
    queries, keys, values, grads, again, scales, grad_scales, again_scales, norm, rows, starts,
    picks, found, parts, means, M_PADDED, N_PADDED, CHUNK,
    K: tl.constexpr, E_PADDED: tl.constexpr, F_PADDED: tl.constexpr, E_BLOCK: tl.constexpr,
    F_BLOCK: tl.constexpr, OUT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    PLANES: tl.constexpr, EXCLUDE: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr,
):
    """Fills parts (B, chunks, N_PADDED, E_PADDED), Σ a q/t, OUT channels of them, and means (B,
    chunks, N_PADDED), Σ a/t, over the queries. Tiles are (items, queries)."""
    blocks = E_PADDED // OUT
    batch = (tl.program_id(2) // blocks).to(tl.int64)
    channel = (tl.program_id(2) % blocks) * OUT
    first = tl.program_id(0) * BLOCK_N
    item = tl.arange(0, BLOCK_N)
    spans = M_PADDED // SPAN
    scales += batch * (M_PADDED + 2 * N_PADDED) // SPAN
    grad_scales += batch * spans
    again_scales += batch * spans
    rows += batch * (ROW_NUMBERS + K) * M_PADDED
    found += batch * (FOUND + FOUND_OF_STEP * K) * M_PADDED
    starts += batch * M_PADDED
    picks += batch * K * M_PADDED
    query = queries + batch * M_PADDED * PLANES * E_PADDED
    again += batch * M_PADDED * PLANES * E_PADDED
    grad = grads + batch * M_PADDED * K * PLANES * F_PADDED
    key = advance(keys, batch * N_PADDED + first, PLANES * E_PADDED)
    value = advance(values, batch * N_PADDED + first, PLANES * F_PADDED)
    kh, kl = load_planes(key, item, 0, E_PADDED, E_BLOCK, PLANES)
    vh, vl = kh, kl
    if F_BLOCK == F_PADDED:
        vh, vl = load_planes(value, item, 0, F_PADDED, F_BLOCK, PLANES)
    norm = tl.load(norm + batch * N_PADDED + first + item)[:, None]
    of_key = 2.0 * tl.load(scales + spans + first // SPAN)
    of_value = tl.load(scales + spans + (N_PADDED + first) // SPAN)
    total = tl.zeros([BLOCK_N, OUT], ACC)
    mean = tl.zeros([BLOCK_N], ACC)
    number = (first + item)[:, None]
    lane = tl.arange(0, BLOCK_M)
    begin = tl.program_id(1) * CHUNK
    for at in range(begin, tl.minimum(begin + CHUNK, M_PADDED), BLOCK_M):
        row = at + lane
        near_grads = advance(grad, at, K * PLANES * F_PADDED)
        of_u = of_value * tl.load(grad_scales + at // SPAN)
        dot = rows_product(
            kh, kl, key, item, advance(query, at, PLANES * E_PADDED), lane,
            E_PADDED, E_BLOCK, PLANES, ACC,
        )
        d = norm - dot * (of_key * tl.load(scales + at // SPAN))
        if EXCLUDE:
            d = without_self(d, first, at)
        inverse_t = tl.load(rows + INVERSE_T * M_PADDED + row)[None, :]
        second = tl.load(rows + SECOND * M_PADDED + row)[None, :]
        start = tl.load(starts + row)
        nearest = tl.load(picks + tl.minimum(start, K - 1) * M_PADDED + row)[None, :]
        q = first_mass(d, number, nearest, second, inverse_t, 0)
        mass = q
        of_step = found + FOUND * M_PADDED + row
        running = tl.full(q.shape, 1.0, ACC)
        a = tl.zeros(q.shape, ACC) + tl.load(found + row)[None, :]
        for k in tl.static_range(K):
            u = rows_product(
                vh, vl, value, item, near_grads + k * PLANES * F_PADDED, lane * K,
                F_PADDED, F_BLOCK, PLANES, ACC,
            )
            u = u * (tl.load(of_step + (K + k) * M_PADDED)[None, :] * of_u)
            u += tl.load(of_step + (2 * K + k) * M_PADDED)[None, :]
            a += running * u
            if k < K - 1:
                weight = mass * tl.load(of_step + k * M_PADDED)[None, :]
                rest = 1.0 - 2.0 * weight
                running *= rest
                mass -= mass * weight
        own = tl.load(found + M_PADDED + row)[None, :]
        a = tl.where(number == nearest, own, a * q)
        mean += tl.sum(a * tl.load(found + 2 * M_PADDED + row)[None, :], 1)
        high, low = planes_of(a * MASS_SCALE, DOT, PLANES)
        xh, xl = load_planes(
            advance(again, at, PLANES * E_PADDED), lane, channel, E_PADDED, OUT, PLANES
        )
        part = product(high, low, xh, xl, PLANES, ACC)
        total += part * (tl.load(again_scales + at // SPAN) / MASS_SCALE)
    place = (batch * tl.num_programs(1) + tl.program_id(1)) * N_PADDED + first
    column = (channel + tl.arange(0, OUT))[None, :]
    tl.store(advance(parts, place, E_PADDED) + item[:, None] * E_PADDED + column, total)
    if channel == 0:
        tl.store(means + place + item, mean)


@triton.jit
def value_sums_kernel(
    queries, keys, grads, scales, grad_scales, norm, rows, starts, picks, found, parts,
    M_PADDED, N_PADDED, CHUNK,
    K: tl.constexpr, E_PADDED: tl.constexpr, F_PADDED: tl.constexpr, E_BLOCK: tl.constexpr,
    BLOCK_F: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PLANES: tl.constexpr,
    EXCLUDE: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr,
):
    """Fills parts (B, chunks, N_PADDED, F_PADDED), Σ w g over the queries, BLOCK_F features of
    them. Tiles are (items, queries)."""
    blocks = F_PADDED // BLOCK_F
    batch = (tl.program_id(2) // blocks).to(tl.int64)
    feature = (tl.program_id(2) % blocks) * BLOCK_F
    first = tl.program_id(0) * BLOCK_N
    item = tl.arange(0, BLOCK_N)
    spans = M_PADDED // SPAN
    scales += batch * (M_PADDED + 2 * N_PADDED) // SPAN
    grad_scales += batch * spans
    rows += batch * (ROW_NUMBERS + K) * M_PADDED
    found += (batch * (FOUND + FOUND_OF_STEP * K) + FOUND) * M_PADDED
    starts += batch * M_PADDED
    picks += batch * K * M_PADDED
    query = queries + batch * M_PADDED * PLANES * E_PADDED
    grad = grads + batch * M_PADDED * K * PLANES * F_PADDED
    key = advance(keys, batch * N_PADDED + first, PLANES * E_PADDED)
    kh, kl = load_planes(key, item, 0, E_PADDED, E_BLOCK, PLANES)
    norm = tl.load(norm + batch * N_PADDED + first + item)[:, None]
    of_key = 2.0 * tl.load(scales + spans + first // SPAN)
    total = tl.zeros([BLOCK_N, BLOCK_F], ACC)
    number = (first + item)[:, None]
    lane = tl.arange(0, BLOCK_M)
    begin = tl.program_id(1) * CHUNK
    for at in range(begin, tl.minimum(begin + CHUNK, M_PADDED), BLOCK_M):
        row = at + lane
        near_grads = advance(grad, at, K * PLANES * F_PADDED)
        of_grad = tl.load(grad_scales + at // SPAN) / MASS_SCALE
        dot = rows_product(
            kh, kl, key, item, advance(query, at, PLANES * E_PADDED), lane,
            E_PADDED, E_BLOCK, PLANES, ACC,
        )
        d = norm - dot * (of_key * tl.load(scales + at // SPAN))
        if EXCLUDE:
            d = without_self(d, first, at)
        inverse_t = tl.load(rows + INVERSE_T * M_PADDED + row)[None, :]
        second = tl.load(rows + SECOND * M_PADDED + row)[None, :]
        start = tl.load(starts + row)
        nearest = tl.load(picks + tl.minimum(start, K - 1) * M_PADDED + row)[None, :]
        mass = first_mass(d, number, nearest, second, inverse_t, 0)
        hit = number == nearest
        for k in tl.static_range(K):
            weight = mass * tl.load(found + k * M_PADDED + row)[None, :]
            full = tl.where(hit, tl.load(found + (3 * K + k) * M_PADDED + row)[None, :], weight)
            high, low = planes_of(full * MASS_SCALE, DOT, PLANES)
            gh, gl = load_planes(
                near_grads + k * PLANES * F_PADDED, lane * K, feature, F_PADDED, BLOCK_F, PLANES
            )
            total += product(high, low, gh, gl, PLANES, ACC) * of_grad
            mass -= mass * weight
    place = (batch * tl.num_programs(1) + tl.program_id(1)) * N_PADDED + first
    column = (feature + tl.arange(0, BLOCK_F))[None, :]
    tl.store(advance(parts, place, F_PADDED) + item[:, None] * F_PADDED + column, total)


@triton.jit
def items_kernel(
    keys, scales, grad, starts, picks, key_parts, mean_parts, value_parts, d_key, d_value,
    M, N, E, F, M_PADDED, N_PADDED, CHUNKS, VALUE_CHUNKS,
    K: tl.constexpr, E_PADDED: tl.constexpr, F_PADDED: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr, PLANES: tl.constexpr,
    ACC: tl.constexpr,
):
    """d_key (B, N, E) = 2 Σ a (q − k)/t, and d_value (B, N, F) with what choices that were certain
    add to it."""
    batch = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * BLOCK_N
    lane = tl.arange(0, BLOCK_N)
    real = (first + lane < N)[:, None]
    mean = _over_chunks(
        mean_parts + batch * CHUNKS * N_PADDED + first + lane, CHUNKS, N_PADDED,
        tl.zeros([BLOCK_N], ACC),
    )
    scales += batch * (M_PADDED + 2 * N_PADDED) // SPAN + M_PADDED // SPAN
    mean *= tl.load(scales + first // SPAN)
    keys = advance(keys, batch * N_PADDED + first, PLANES * E_PADDED)
    key_parts = advance(key_parts, batch * CHUNKS * N_PADDED + first, E_PADDED)
    d_key = advance(d_key, batch * N + first, E) + lane[:, None] * E
    for begin in range(0, E_PADDED, BLOCK_E):
        column = begin + tl.arange(0, BLOCK_E)[None, :]
        high, low = load_planes(keys, lane, begin, E_PADDED, BLOCK_E, PLANES)
        k = high.to(ACC) + low.to(ACC) if PLANES == 2 else high.to(ACC)
        total = _over_chunks(
            key_parts + lane[:, None] * E_PADDED + column, CHUNKS, N_PADDED * E_PADDED, k
        )
        tl.store(
            d_key + column, 2.0 * (total - mean[:, None] * k), mask=real & (column < E)
        )
    value_parts = advance(value_parts, batch * VALUE_CHUNKS * N_PADDED + first, F_PADDED)
    d_value = advance(d_value, batch * N + first, F) + lane[:, None] * F
    for begin in range(0, F_PADDED, BLOCK_F):
        column = begin + tl.arange(0, BLOCK_F)[None, :]
        total = _over_chunks(
            value_parts + lane[:, None] * F_PADDED + column, VALUE_CHUNKS, N_PADDED * F_PADDED,
            tl.zeros([BLOCK_N, BLOCK_F], ACC),
        )
        for at in range(0, M, BLOCK_M):
            row = at + tl.arange(0, BLOCK_M)
            start = tl.load(starts + batch * M_PADDED + row, mask=row < M, other=0)
            if tl.max(start, 0) > 0:  # rare
                g = advance(grad, batch * M + at, K * F)
                g += tl.arange(0, BLOCK_M)[:, None] * (K * F) + column
                there = (row < M)[:, None] & (column < F)
                for k in tl.static_range(K):
                    pick = tl.load(picks + (batch * K + k) * M_PADDED + row)
                    pick = tl.where(start > k, pick, -1)
                    chosen = (pick[None, :] == (first + lane)[:, None]).to(ACC)
                    total += tl.dot(
                        chosen, tl.load(g + k * F, mask=there, other=0.0).to(ACC),
                        input_precision="ieee", out_dtype=ACC,
                    )
        tl.store(d_value + column, total, mask=real & (column < F))
