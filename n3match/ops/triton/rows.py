"""Triton kernels that work on whole rows: one query, all its candidates; and their launch.

Of the window form, and of explicit candidates, which are to these kernels a window of O×1 over
"patches" of one cell. Distances may have Gumbel noise ("concrete"), the function of seed and pair
in ops/noise.py; or the nearest are chosen hard ("knn").

A row fits in registers, so that the recursion of tiles.py needs no second sweep, and its way
back is the one of dense/problem.py, from the last step to the first. Tables: see window_cells.py.

O = w₁·w₂ candidates of a query, BLOCK_O of them in registers, K neighbours, KP ≥ K.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from n3match.ops import noise
from n3match.ops.triton.launch import (
    accumulator,
    cdiv,
    compiled_with,
    next_power,
    number_types,
    steps,
)
from n3match.ops.triton.tiles import CERTAIN, LEAST_INVERSE_T, MOST_INVERSE_T
from n3match.ops.triton.window_cells import first_patch, lowest

_WARP_NUMBERS = 256  # of rows that a warp works on alone, where a row isn't longer
_UNSIGNED = 1 << 64
_INCREMENT = tl.constexpr(noise.INCREMENT % _UNSIGNED)
_FIRST = tl.constexpr(noise.FIRST % _UNSIGNED)
_SECOND = tl.constexpr(noise.SECOND % _UNSIGNED)


@triton.jit
def load_inverse_t(log_t, at, real):
    """1/t, within what float32 can hold; NaN stays NaN."""
    log_t = tl.load(log_t + at, mask=real, other=0.0)
    inverse = tl.minimum(tl.maximum(tl.exp(-log_t), LEAST_INVERSE_T), MOST_INVERSE_T)
    return tl.where(log_t == log_t, inverse, log_t)


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
def _partners(patch, candidate, n1, n2, w1, w2, half):
    """Row and column of each patch, and of each candidate."""
    i, j = (patch // n2)[:, None], (patch % n2)[:, None]
    y1 = first_patch(i, n1, w1, half) + candidate // w2
    return i, j, y1, first_patch(j, n2, w2, half) + candidate % w2


@triton.jit
def _patch_sums(table, patch, real, n1, n2, w1, w2, half, R, BLOCK_O: tl.constexpr):
    """(len(patch), BLOCK_O): of a pair table, the sums over the cells of each patch and candidate;
    and which places hold a candidate."""
    c2 = n2 + R - 1
    v1, v2 = w1 + R - 1, w2 + R - 1
    candidate = tl.arange(0, BLOCK_O)[None, :]
    i, j, y1, y2 = _partners(patch, candidate, n1, n2, w1, w2, half)
    inside = real[:, None] & (candidate < w1 * w2)
    total = tl.zeros([patch.shape[0], BLOCK_O], table.dtype.element_ty)
    for a in range(0, R):
        for b in range(0, R):
            u = y1 + a - lowest(i + a, n1, w1, half)
            v = y2 + b - lowest(j + b, n2, w2, half)
            place = ((i + a) * c2 + j + b) * (v1 * v2) + u * v2 + v
            total += tl.load(table + place, mask=inside, other=0.0)
    return total, inside


@triton.jit
def gumbel(seed, number):
    """As `noise.gumbel`, in float64."""
    x = (number + 1).to(tl.uint64) * _INCREMENT + seed.to(tl.uint64)
    x = (x ^ (x >> 30)) * _FIRST
    x = (x ^ (x >> 27)) * _SECOND
    x = x ^ (x >> 31)
    uniform = ((x >> 12).to(tl.float64) + 0.5) * 2.0**-52
    return -tl.log(-tl.log(uniform))


@triton.jit
def _distances(
    table, image, patch, real, seed, n1, n2, w1, w2, half, R,
    BLOCK_O: tl.constexpr, EXCLUDE: tl.constexpr, NOISE: tl.constexpr,
):
    """Of the patches of an image, with noise; inf where nothing may be selected."""
    d, inside = _patch_sums(table, patch, real, n1, n2, w1, w2, half, R, BLOCK_O)
    if EXCLUDE or NOISE:
        candidate = tl.arange(0, BLOCK_O)[None, :]
        i, j, y1, y2 = _partners(patch, candidate, n1, n2, w1, w2, half)
        if EXCLUDE:
            inside = inside & ((y1 != i) | (y2 != j))
        if NOISE:
            m = n1 * n2
            d -= gumbel(seed, (image * m + patch[:, None]) * m + y1 * n2 + y2).to(d.dtype)
    return tl.where(inside, d, float("inf"))


@triton.jit
def _pairs(n1, n2, w1, w2, R):
    """Numbers of an image's pair table."""
    return (n1 + R - 1) * (n2 + R - 1) * (w1 + R - 1) * (w2 + R - 1)


@triton.jit
def _rows(m, candidates, BLOCK_M: tl.constexpr, BLOCK_O: tl.constexpr):
    """Of a program: its image (64 bits), its patches and which of them exist; of a candidate table,
    numbers of the candidates and their places in it, and which of those exist."""
    blocks = tl.cdiv(m, BLOCK_M)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    patch = (tl.program_id(0) % blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    real = patch < m
    candidate = tl.arange(0, BLOCK_O)[None, :]
    inside = real[:, None] & (candidate < candidates)
    return image, patch, real, candidate, patch[:, None] * candidates + candidate, inside


@triton.jit
def _first_step(
    d, inverse_t, real, K, KP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_O: tl.constexpr,
    ACC: tl.constexpr,
):
    """Masses q' (BLOCK_M, BLOCK_O); picks (BLOCK_M, KP); start, ω, ω̄ and the base of distances
    (BLOCK_M, 1)."""
    inf = float("inf")
    candidate = tl.arange(0, BLOCK_O)[None, :]
    step = tl.arange(0, KP)[None, :]
    picks = tl.full([BLOCK_M, KP], -1, tl.int32)
    start = tl.zeros([BLOCK_M, 1], tl.int32)
    omega = tl.zeros([BLOCK_M, 1], ACC)
    omega_bar = tl.zeros([BLOCK_M, 1], ACC)
    base = tl.zeros([BLOCK_M, 1], ACC)
    log_sum = tl.zeros([BLOCK_M, 1], ACC)
    floor = tl.full([BLOCK_M, 1], float("-inf"), ACC)
    open_rows = real.to(tl.int32)
    while tl.max(open_rows, 0) > 0:
        left = tl.where(d > floor, d, inf)
        best = tl.min(left, 1)[:, None]
        none = best == inf
        index = tl.min(tl.where(left == best, candidate, BLOCK_O), 1)[:, None]
        rest = tl.where(candidate == index, inf, left)
        second = tl.min(rest, 1)[:, None]
        alone = (second == inf) & (best < inf)
        near = tl.where(second == inf, 0.0, second)
        total = tl.sum(tl.exp((near - rest) * inverse_t), 1)[:, None]
        gap = tl.where(none, 0.0, (second - best) * inverse_t)
        certain = gap > CERTAIN
        is_open = (open_rows > 0)[:, None]
        picks = tl.where(is_open & (step >= start), tl.where(none, -1, index), picks)
        starts = is_open & ~certain & ~none
        g = tl.exp(-gap)
        omega = tl.where(starts, 1.0 / (1.0 + g * total), omega)
        omega_bar = tl.where(starts, g * total / (1.0 + g * total), omega_bar)
        log_sum = tl.where(starts, tl.log(total), log_sum)
        base = tl.where(starts, second, base)
        floor = tl.where(is_open & certain & ~alone, best + 0.5 * (second - best), floor)
        start = tl.where(is_open & (none | alone), K, tl.where(is_open & certain, start + 1, start))
        open_rows = tl.where((starts | (start >= K)).reshape([BLOCK_M]), 0, open_rows)
    nearest = column(picks, tl.minimum(start, K - 1), KP)
    mass = first_mass(d, candidate, nearest, base, log_sum, floor, inverse_t)
    return tl.where(start < K, mass, 0.0), picks, start, omega, omega_bar, base


@triton.jit(do_not_specialize=["seed"])
def nearest_kernel(
    table, out, seed, n1, n2, w1, w2, half, R, K,
    EXCLUDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_O: tl.constexpr,
):
    """As `weights_kernel`, hard: 1 for the k-th nearest, the first of equally near ones; the last
    one again where there are fewer."""
    m = n1 * n2
    image, patch, real, candidate, place, inside = _rows(m, w1 * w2, BLOCK_M, BLOCK_O)
    table += image * _pairs(n1, n2, w1, w2, R)
    d = _distances(
        table, image, patch, real, seed, n1, n2, w1, w2, half, R, BLOCK_O, EXCLUDE, False
    )
    pick = tl.full([BLOCK_M, 1], -1, tl.int32)
    for step in range(0, K):
        best = tl.min(d, 1)[:, None]
        first = tl.min(tl.where(d == best, candidate, BLOCK_O), 1)[:, None]
        pick = tl.where(best < float("inf"), first, pick)
        hit = candidate == pick
        number = image * K + step
        one = tl.where(hit, 1.0, 0.0).to(out.dtype.element_ty)
        tl.store(out + number * m * w1 * w2 + place, one, mask=inside)
        d = tl.where(hit, float("inf"), d)


@triton.jit(do_not_specialize=["seed"])
def weights_kernel(
    table, log_t, out, seed, n1, n2, w1, w2, half, R, K,
    KP: tl.constexpr, EXCLUDE: tl.constexpr, NOISE: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_O: tl.constexpr, ACC: tl.constexpr,
):
    """From a pair table of distances (B, …) the weights: a candidate table (B·K, …)."""
    m = n1 * n2
    image, patch, real, candidate, place, inside = _rows(m, w1 * w2, BLOCK_M, BLOCK_O)
    table += image * _pairs(n1, n2, w1, w2, R)
    d = _distances(
        table, image, patch, real, seed, n1, n2, w1, w2, half, R, BLOCK_O, EXCLUDE, NOISE
    )
    inverse_t = load_inverse_t(log_t + image * m, patch[:, None], real[:, None])
    mass, picks, start, omega, omega_bar, _ = _first_step(
        d, inverse_t, real, K, KP, BLOCK_M, BLOCK_O, ACC
    )
    for step in range(0, K):
        pick = column(picks, step, KP)
        hit = candidate == pick
        # Sums of rows that haven't started yet may be 0.
        total = tl.where(step > start, tl.sum(mass, 1)[:, None], 1.0)
        scale = tl.where(step == start, omega_bar, 1.0 / total)
        weight = tl.where(step < start, 0.0, mass * scale)
        weight_of_all = weight + tl.where(hit, point_weight(step, start, omega), 0.0)
        tl.store(out + (image * K + step) * m * w1 * w2 + place, weight_of_all, mask=inside)
        mass = next_mass(mass, weight, candidate, pick, step, start, omega)


@triton.jit(do_not_specialize=["seed"])
def row_gradients_kernel(
    table, weights, u_table, log_t, d_distance, d_log_t, seed, n1, n2, w1, w2, half, R, K,
    KP: tl.constexpr, EXCLUDE: tl.constexpr, NOISE: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_O: tl.constexpr, ACC: tl.constexpr,
):
    """Gradients of distances, a candidate table (B, …), and of log temperatures.

    table: pair table of distances (B, …); weights: what `weights_kernel` made of it; u_table: pair
    table (B·K, …) of the gradients of the weights.
    """
    m = n1 * n2
    image, patch, real, candidate, place, inside = _rows(m, w1 * w2, BLOCK_M, BLOCK_O)
    pairs = _pairs(n1, n2, w1, w2, R)
    table += image * pairs
    d = _distances(
        table, image, patch, real, seed, n1, n2, w1, w2, half, R, BLOCK_O, EXCLUDE, NOISE
    )
    inverse_t = load_inverse_t(log_t + image * m, patch[:, None], real[:, None])
    mass, picks, start, omega, omega_bar, base = _first_step(
        d, inverse_t, real, K, KP, BLOCK_M, BLOCK_O, ACC
    )
    nearest = candidate == column(picks, tl.minimum(start, K - 1), KP)
    a = tl.zeros([BLOCK_M, BLOCK_O], ACC)
    for back in range(0, K):
        step = K - 1 - back
        number = image * K + step
        u, _ = _patch_sums(
            u_table + number * pairs, patch, real, n1, n2, w1, w2, half, R, BLOCK_O
        )
        weight = tl.load(weights + number * m * w1 * w2 + place, mask=inside, other=0.0)
        # Later steps: A ← A + w(h − Σ wh), h = u − A/(1 − w).
        later = tl.where(step > start, weight, 0.0)
        h = u - a / (1.0 - later)
        later = later * (h - tl.sum(later * h, 1)[:, None])
        # The step in which the row starts: the nearest by itself, see dense/problem.py.
        here = step == start
        h = tl.where(nearest, 0.0, u - a / (1.0 - mass * omega_bar))
        mean = tl.sum(mass * h, 1)[:, None]
        a_nearest = tl.sum(tl.where(nearest, a, 0.0), 1)[:, None]
        u_nearest = tl.sum(tl.where(nearest, u, 0.0), 1)[:, None]
        offset = omega * a_nearest - omega_bar * (omega * u_nearest + omega_bar * mean)
        first = mass * (omega_bar * h + offset)
        own = omega_bar * (a_nearest + omega * (u_nearest - mean))
        first = tl.where(nearest, own - a, first)
        a += tl.where(here, first, later)
    far: tl.constexpr = 1e30  # stands for infinity where 0 · inf would be NaN
    logit = tl.minimum(tl.maximum((base - d) * inverse_t, -far), far)
    tl.store(d_log_t + image * m + patch, -tl.sum(a * logit, 1), mask=real)
    tl.store(d_distance + image * m * w1 * w2 + place, -a * inverse_t, mask=inside)


class Rows:
    """These kernels on tables of one geometry: n₁, n₂, w₁, w₂, W // 2, R."""

    def __init__(
        self, like: Tensor, images: int, geometry: Sequence[int], k: int, exclude_self: bool,
        hard: bool, seed: int | None,
    ):
        self.like, self.images = like, images
        self.geometry = tuple(geometry)
        self.k, self.hard = k, hard
        self.seed = 0 if seed is None else seed
        n1, n2, w1, w2, *_ = geometry
        self.patches, self.candidates = n1 * n2, w1 * w2
        self.types = number_types(like)
        wide = next_power(self.candidates)
        # Sums over a row stay within a warp, as long as its numbers fit in the registers.
        self.row_warps = max(1, wide // (2 * _WARP_NUMBERS))
        self.blocks = {
            "EXCLUDE": exclude_self, "BLOCK_O": wide, "BLOCK_M": max(1, _WARP_NUMBERS // wide),
        }
        self.of_rows = {
            **self.blocks, "KP": steps(k), "NOISE": seed is not None, "ACC": self.types["ACC"]
        }

    def new(self, *shape: int) -> Tensor:
        return self.like.new_empty(*shape, dtype=accumulator(self.like.dtype))

    def weights(self, distances: Tensor, log_t: Tensor) -> Tensor:
        """(B, cells, V₁·V₂) -> (B·K, patches, w₁·w₂)."""
        out = self.new(self.images * self.k, self.patches, self.candidates)
        given = self.seed, *self.geometry, self.k
        if self.hard:
            nearest_kernel[self._programs()](
                distances, out, *given, **self.blocks, **compiled_with(self.row_warps)
            )
        else:
            weights_kernel[self._programs()](
                distances, log_t, out, *given, **self.of_rows, **compiled_with(self.row_warps)
            )
        return out

    def row_gradients(
        self, distances: Tensor, weights: Tensor, u: Tensor, log_t: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of distances (B, patches, w₁·w₂) and of log_t."""
        d_distance = self.new(self.images, self.patches, self.candidates)
        d_log_t = torch.empty_like(log_t)
        row_gradients_kernel[self._programs()](
            distances, weights, u, log_t, d_distance, d_log_t, self.seed, *self.geometry, self.k,
            **self.of_rows, **compiled_with(self.row_warps),
        )
        return d_distance, d_log_t

    def _programs(self) -> tuple[int]:
        return (self.images * cdiv(self.patches, self.blocks["BLOCK_M"]),)
