"""The operands of the dense kernels, by one Triton kernel: shifted, scaled, split, padded.

A shift changes no distance, but keeps the products small: float32 is taken relative to the mean of
a few items. Half precision would lose digits by it, and needs none: its products are exact.
"""

import triton
import triton.language as tl

from n3match.ops.triton.tiles import (
    INVERSE_T,
    LEAST_INVERSE_T,
    LOG2_E,
    MOST_INVERSE_T,
    SPAN,
    advance,
    planes_of,
)

_NO_ROW = tl.constexpr(60.0)  # log t of padding: warm, so that nothing is certain
_SAMPLES = tl.constexpr(64)  # items whose mean is the shift


@triton.jit
def _sample_mean(key, mask, N, E, begin, BLOCK: tl.constexpr, MASKED: tl.constexpr):
    """(BLOCK,) of some items, those that may be selected; 0 if there is none among them."""
    item = (tl.arange(0, _SAMPLES).to(tl.int64) * N) // _SAMPLES
    column = begin + tl.arange(0, BLOCK)
    there = (column < E)[None, :]
    x = tl.load(key + item[:, None] * E + column[None, :], mask=there, other=0.0)
    if MASKED:
        chosen = tl.load(mask + item).to(x.dtype)
        count = tl.maximum(tl.sum(chosen, 0), 1.0)
        return tl.sum(x * chosen[:, None], 0) / count
    return tl.sum(x, 0) / _SAMPLES


@triton.jit
def power_of_two(largest):
    """The scale that brings a largest magnitude to 2¹⁴ … 2¹⁵, and its inverse."""
    # From the bits, so that both are exact. Exponents at the ends of float32's range stay within.
    exponent = (largest.to(tl.int32, bitcast=True) >> 23) & 255
    exponent = tl.minimum(tl.maximum(268 - exponent, 1), 253)
    scale = (exponent << 23).to(tl.float32, bitcast=True)
    return scale, ((254 - exponent) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _split_rows(
    source, planes, scales, peaks, norm, mask, key, first, COUNT, N, WIDTH,
    PADDED: tl.constexpr, BLOCK: tl.constexpr, PLANES: tl.constexpr, CENTRED: tl.constexpr,
    KEYS: tl.constexpr, MASKED: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr,
):
    """SPAN rows of one matrix from `first` on; planes are those of the batch element. CENTRED:
    relative to the mean of key; KEYS: these are keys, whose squares are wanted."""
    row = first + tl.arange(0, SPAN)
    real = row < COUNT
    selectable = real
    if MASKED and KEYS:
        selectable = real & (tl.load(mask + row, mask=real, other=0) != 0)
    largest = tl.zeros([SPAN], ACC)
    square = tl.zeros([SPAN], ACC)
    source = advance(source, first, WIDTH)
    offset = tl.arange(0, SPAN)[:, None] * WIDTH  # no pointer of each row in registers
    for begin in range(0, PADDED, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        there = selectable[:, None] & (column < WIDTH)[None, :]
        x = tl.load(source + (offset + column[None, :]), mask=there, other=0.0).to(ACC)
        if CENTRED:
            shift = _sample_mean(key, mask, N, WIDTH, begin, BLOCK, MASKED)
            x = tl.where(there, x - shift[None, :], 0.0)
        largest = tl.maximum(largest, tl.max(tl.abs(x), 1))
        if KEYS:
            square += tl.sum(x * x, 1)
    peak = tl.max(largest, 0)
    scale, inverse = 1.0, 1.0
    if PLANES == 2:
        scale, inverse = power_of_two(peak)
    tl.store(scales + first // SPAN, inverse)
    tl.store(peaks + first // SPAN, peak)
    if KEYS:
        tl.store(norm + row, tl.where(selectable, square, float("inf")))
    planes = advance(planes, first, PLANES * PADDED)
    planes += tl.arange(0, SPAN)[:, None] * (PLANES * PADDED)
    for begin in range(0, PADDED, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        there = selectable[:, None] & (column < WIDTH)[None, :]
        x = tl.load(source + (offset + column[None, :]), mask=there, other=0.0).to(ACC)
        if CENTRED:
            shift = _sample_mean(key, mask, N, WIDTH, begin, BLOCK, MASKED)
            x = tl.where(there, x - shift[None, :], 0.0)
        high, low = planes_of(x * scale, DOT, PLANES)
        tl.store(planes + column[None, :], high)
        if PLANES == 2:
            tl.store(planes + PADDED + column[None, :], low)


@triton.jit
def operands_kernel(
    query, key, value, log_t, mask, queries, keys, values, scales, peaks, norm, rows,
    M, N, E, F, M_PADDED, N_PADDED, row_numbers,
    E_PADDED: tl.constexpr, F_PADDED: tl.constexpr, E_BLOCK: tl.constexpr, F_BLOCK: tl.constexpr,
    PLANES: tl.constexpr, CENTRED: tl.constexpr, MASKED: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr,
):
    """Planes of queries, keys and values (B, rows, PLANES, columns), their scales and largest
    magnitudes (B, M_PADDED/SPAN + 2 N_PADDED/SPAN) in this order, norm (B, N_PADDED) |key|² and the
    rows' inverse temperatures. A program has SPAN rows of one matrix."""
    batch = tl.program_id(1).to(tl.int64)
    of_queries, of_keys = M_PADDED // SPAN, N_PADDED // SPAN
    program = tl.program_id(0)
    key += batch * N * E
    mask += batch * N
    scales += batch * (of_queries + 2 * of_keys)
    peaks += batch * (of_queries + 2 * of_keys)
    norm += batch * N_PADDED
    if program < of_queries:
        first = program * SPAN
        _split_rows(
            query + batch * M * E, queries + batch * PLANES * M_PADDED * E_PADDED, scales, peaks,
            norm, mask, key, first, M, N, E,
            E_PADDED, E_BLOCK, PLANES, CENTRED, False, MASKED, DOT, ACC,
        )
        row = first + tl.arange(0, SPAN)
        t = tl.load(log_t + batch * M + row, mask=row < M, other=_NO_ROW)
        inverse = tl.minimum(tl.maximum(tl.exp(-t), LEAST_INVERSE_T), MOST_INVERSE_T)
        inverse = tl.where(t == t, inverse, t)  # NaN stays NaN
        tl.store(
            rows + (batch * row_numbers + INVERSE_T) * M_PADDED + row, inverse * LOG2_E
        )
    elif program < of_queries + of_keys:
        _split_rows(
            key, keys + batch * PLANES * N_PADDED * E_PADDED, scales + of_queries,
            peaks + of_queries, norm, mask, key, (program - of_queries) * SPAN, N, N, E,
            E_PADDED, E_BLOCK, PLANES, CENTRED, True, MASKED, DOT, ACC,
        )
    else:
        _split_rows(
            value + batch * N * F, values + batch * PLANES * N_PADDED * F_PADDED,
            scales + of_queries + of_keys, peaks + of_queries + of_keys, norm, mask, key,
            (program - of_queries - of_keys) * SPAN, N, N, F,
            F_PADDED, F_BLOCK, PLANES, False, False, MASKED, DOT, ACC,
        )
