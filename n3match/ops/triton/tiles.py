"""What the Triton kernels of the dense form share: their operands, tiles of distances, masses.

The recursion is that of dense/problem.py, with three changes that make every row alike, whatever
its state:

* Masses are q_j = exp((second − d_j)/t), at most 1, of all but the nearest. With S = Σ q and g as
  there, ω = 1/(1 + gS) is the weight of the nearest and ω̄ = gS/(1 + gS) that of all others
  together: the others' first weights are ω̄ q/S, and the second masses, divided by S, are
  q/S (1 − ω̄ q/S) for them and ω for the nearest. A step takes m to m − m w.
* Rows in which the nearest is *certain* (see `reference`) need no formula of their own. Their first
  `start` distributions are one-hot at `picks`, what is there may not be selected any more, and the
  recursion begins at step `start` with what is left. A row with one candidate
  has only picks (start = K), one without candidates has picks of −1, which are nowhere.
* `scales` are weights over masses q/S: 0 before `start` (a step with scale 0 leaves masses as they
  are), ω̄ at it, 1/Z after it.

What the nearest and other picks contribute is added exactly, outside the tiles: there their mass is
0. Distances are |k|² − 2 q·k, without the |q|² that cancels, and are subtracted from each other
before they are divided by t. +inf where an item may not be selected.

Matrices are multiplied as *planes*: float32 as two of float16, x ≈ (high + low)/scale, with one
power of two as scale for each block of SPAN rows: three products keep 22 bits, numbers down to
2⁻¹⁷ of their block's largest keep all of theirs. Other types are one plane, as they are. Tensor
cores truncate where they accumulate, so that long sums drift: every product of a tile starts from
0 and is added to its total by an ordinary addition.

The planes of a row lie one behind the other, (B, rows, PLANES, columns), and are padded: rows to
whole SPANs, columns to a power of two, or beyond 128 to whole blocks of
64 (launch.py), so that no kernel asks in its loop what exists: padding has norm +inf.

Shapes: E embedding and F feature channels, K neighbours. Of numbers of a row there are ROW_NUMBERS
and K scales, each with a row of its own in memory: (B, ROW_NUMBERS + K, rows).
"""

import triton
import triton.language as tl

from n3match.ops.reference import CERTAIN_GAP

SPAN = tl.constexpr(128)  # rows with one scale
MASS_SCALE = tl.constexpr(2.0**14)  # of a mass or a weight, at most 1, in float16
CERTAIN = tl.constexpr(CERTAIN_GAP)
LEAST_INVERSE_T = tl.constexpr(1e-30)  # above 0, for inf · 0 is NaN
MOST_INVERSE_T = tl.constexpr(1e30)
LOG2_E = tl.constexpr(1.4426950408889634)

INVERSE_T = tl.constexpr(0)  # log2(e) / t
SECOND = tl.constexpr(1)
SUM = tl.constexpr(2)  # S
OMEGA = tl.constexpr(3)
ROW_NUMBERS = tl.constexpr(4)  # the scales follow
_FAR_AHEAD = tl.constexpr(CERTAIN_GAP * 1.4426950408889634 / 2)


@triton.jit
def advance(pointer, index, stride):
    """In 64 bits: large tensors have more numbers than an int32 can count."""
    return pointer + tl.cast(index, tl.int64) * stride


@triton.jit
def load_planes(
    pointer, rows, first, WIDTH: tl.constexpr, BLOCK: tl.constexpr, PLANES: tl.constexpr
):
    """(len(rows), BLOCK) columns from `first` on, of the high and of the low plane; rows are few
    enough for 32 bits."""
    pointer += rows[:, None] * (PLANES * WIDTH) + (first + tl.arange(0, BLOCK))[None, :]
    high = tl.load(pointer)
    return high, tl.load(pointer + WIDTH) if PLANES == 2 else high


@triton.jit
def planes_of(x, DOT: tl.constexpr, PLANES: tl.constexpr):
    """High and low part of what has been scaled; of one plane the low part isn't used."""
    high = x.to(DOT)
    if PLANES == 1:
        return high, high
    return high, (x - high.to(x.dtype)).to(DOT)


@triton.jit
def product(ah, al, bh, bl, PLANES: tl.constexpr, ACC: tl.constexpr):
    """a·b from 0, small terms first."""
    if PLANES == 1:
        return tl.dot(ah, bh, input_precision="ieee", out_dtype=ACC)
    small = tl.dot(ah, bl, tl.dot(al, bh, out_dtype=ACC), out_dtype=ACC)
    return tl.dot(ah, bh, small, out_dtype=ACC)


@triton.jit
def rows_product(
    ah, al, a, a_rows, b, b_rows, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    PLANES: tl.constexpr, ACC: tl.constexpr,
):
    """a·bᵀ of rows of two matrices, over their columns. Where these are one block, ah and al are
    those of a, loaded before the loop."""
    if BLOCK == WIDTH:
        bh, bl = load_planes(b, b_rows, 0, WIDTH, BLOCK, PLANES)
        return product(ah, al, bh.T, bl.T, PLANES, ACC)
    total = tl.zeros([a_rows.shape[0], b_rows.shape[0]], ACC)
    for first in range(0, WIDTH, BLOCK):
        xh, xl = load_planes(a, a_rows, first, WIDTH, BLOCK, PLANES)
        bh, bl = load_planes(b, b_rows, first, WIDTH, BLOCK, PLANES)
        total += product(xh, xl, bh.T, bl.T, PLANES, ACC)
    return total


@triton.jit
def without_self(d, first, second):
    """A tile of distances, infinite where both sides have the same number; the sides begin at
    `first` and `second`."""
    # Most tiles are far from the diagonal.
    if (first < second + d.shape[1]) & (second < first + d.shape[0]):
        row = first + tl.arange(0, d.shape[0])
        column = second + tl.arange(0, d.shape[1])
        d = tl.where(row[:, None] == column[None, :], float("inf"), d)
    return d


@triton.jit
def first_mass(d, item, nearest, second, inverse_t, UNIT: tl.constexpr):
    """q times 2^UNIT, 0 for the nearest and all that was certain before it."""
    # At most 1 by definition: recomputed by another kernel, distances may differ in the last bit.
    # What was certain is ahead by twice the limit, at least.
    ahead = (second - d) * inverse_t
    if UNIT != 0:
        ahead += UNIT
    mass = tl.exp2(tl.minimum(ahead, UNIT))
    return tl.where((ahead < _FAR_AHEAD) & (item != nearest), mass, 0.0)
