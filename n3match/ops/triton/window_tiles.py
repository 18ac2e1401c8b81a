"""What the Triton kernels of the dense form share: a tile of distances, and what becomes of them.

The recursion is that of dense/problem.py, with three changes that make every row alike, whatever
its state:

* Masses start as q'_j = q_j / S, the distribution over all but the nearest. With g and S as there,
  ω = 1/(1 + gS) is the weight of the nearest and ω̄ = gS/(1 + gS) that of all others together: the
  others' first weights are ω̄ q', and the second masses, divided by S, are q'(1 − ω̄ q') for them
  and ω for the nearest. All masses stay near 1, so that float16 can hold weights.
* Rows in which the nearest is *certain* (see `reference`) need no formula of their own. Their first
  `start` distributions are one-hot at `picks`, nothing up to the distance `floor` may be selected
  any more, and the recursion begins at step `start` with what is left. A row with one candidate
  has only picks (start = K), one without candidates has picks of −1, which are nowhere.
* `scales` are weights over masses: 0 before `start` (a step with scale 0 leaves masses as they
  are), ω̄ at it, 1/Z after it.

Distances are |k|² − 2 q·k, without the |q|² that cancels, and are subtracted from each other before
they are divided by t. +inf where an item may not be selected.

Tiles are (queries, items), or (items, queries) in kernels that go along the items. Vectors that
belong to one side come with the other dimension 1, so that most functions fit both.
Shapes: E embedding and F feature channels, K neighbours, KP ≥ K columns in registers.
"""

import triton
import triton.language as tl

from n3match.ops.reference import CERTAIN_GAP

CERTAIN = tl.constexpr(CERTAIN_GAP)
_LEAST_INVERSE_T = tl.constexpr(1e-30)  # above 0, for inf · 0 is NaN
_MOST_INVERSE_T = tl.constexpr(1e30)
ROW_NUMBERS = tl.constexpr(4)  # of `load_row`


@triton.jit
def advance(pointer, index, stride):
    """In 64 bits: large tensors have more numbers than an int32 can count."""
    return pointer + tl.cast(index, tl.int64) * stride


@triton.jit
def block_of(program, count, BLOCK: tl.constexpr):
    """Of a program's block: batch element (64 bits, for products with it), first row, rows from
    that one on (BLOCK,), which of them exist, and where they begin in the whole batch."""
    blocks = tl.cdiv(count, BLOCK)
    batch, first = (program // blocks).to(tl.int64), (program % blocks) * BLOCK
    row = tl.arange(0, BLOCK)
    return batch, first, row, first + row < count, batch * count + first


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
def products(
    left, left_at, left_real, left_stride, right, right_at, right_real, right_stride, width,
    BLOCK: tl.constexpr, PRECISION: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr,
):
    """left · rightᵀ of rows of two matrices, over `width` features: (len(left_at), len(right_at)).

    Nothing is kept in registers from tile to tile: operands of another step would cost more there
    than loading them again from a cache.
    """
    total = tl.zeros([left_at.shape[0], right_at.shape[0]], ACC)
    for begin in range(0, width, BLOCK):
        a = load_rows(left, left_at, left_real, left_stride, begin, width, BLOCK)
        b = load_columns(right, right_at, right_real, right_stride, begin, width, BLOCK)
        total = tl.dot(
            a.to(DOT), b.to(DOT), total, input_precision=PRECISION, out_dtype=ACC
        )
    return total


@triton.jit
def load_inverse_t(log_t, at, real):
    """1/t, within what float32 can hold; NaN stays NaN."""
    log_t = tl.load(log_t + at, mask=real, other=0.0)
    inverse = tl.minimum(tl.maximum(tl.exp(-log_t), _LEAST_INVERSE_T), _MOST_INVERSE_T)
    return tl.where(log_t == log_t, inverse, log_t)


@triton.jit
def load_row(rows, start, place, at, real, K):
    """second, log S, floor, ω and start of the rows `at` from `place` on."""
    rows += place * ROW_NUMBERS + at * ROW_NUMBERS
    second = tl.load(rows, mask=real, other=0.0)
    log_sum = tl.load(rows + 1, mask=real, other=0.0)
    floor = tl.load(rows + 2, mask=real, other=0.0)
    omega = tl.load(rows + 3, mask=real, other=0.0)
    return second, log_sum, floor, omega, tl.load(start + place + at, mask=real, other=K)


@triton.jit
def load_step(scales, picks, at, real, step, K):
    """Scale and pick of one step."""
    scale = tl.load(scales + at * K + step, mask=real, other=0.0)
    return scale, tl.load(picks + at * K + step, mask=real, other=-1)


@triton.jit
def load_nearest(picks, start, at, real, K):
    """The item that the first distribution treats by itself."""
    return tl.load(picks + at * K + tl.minimum(start, K - 1), mask=real, other=-1)


@triton.jit
def column(table, number, COLUMNS: tl.constexpr):
    """(·, COLUMNS) -> (·, 1)."""
    chosen = tl.arange(0, COLUMNS)[None, :] == number
    return tl.sum(tl.where(chosen, table, 0), 1)[:, None]


@triton.jit
def first_mass(d, item, nearest, second, log_sum, floor, inverse_t):
    """q', 0 for the nearest."""
    # At most 1 by definition: recomputed by another kernel, distances may differ in the last bit.
    mass = tl.exp(tl.minimum((second - d) * inverse_t, 0.0) - log_sum)
    return tl.where((d > floor) & (item != nearest), mass, 0.0)


@triton.jit
def point_weight(step, start, omega):
    """What the pick of a step has besides its mass."""
    return tl.where(step < start, 1.0, tl.where(step == start, omega, 0.0))


@triton.jit
def next_mass(mass, weight, item, pick, step, start, omega):
    """After step `step`, in which the nearest of rows that start there gets its mass."""
    mass = mass - mass * weight
    return tl.where((item == pick) & (step == start), omega, mass)


@triton.jit
def tile_distances(
    query, row, row_real, own, key, norm, begin, N, E,
    BLOCK_E: tl.constexpr, BLOCK_N: tl.constexpr, EXCLUDE: tl.constexpr,
    PRECISION: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr,
):
    """(queries, items) distances of the items from `begin` on; key and norm are those of the batch
    element, query of the rows, whose own items are `own`."""
    item = tl.arange(0, BLOCK_N)
    real = begin + item < N
    dot = products(
        query, row, row_real, E, advance(key, begin, E), item, real, E, E,
        BLOCK_E, PRECISION, DOT, ACC,
    )
    d = tl.load(norm + begin + item, mask=real, other=float("inf"))[None, :] - 2.0 * dot
    if EXCLUDE:
        d = tl.where(own[:, None] == (begin + item)[None, :], float("inf"), d)
    return d
