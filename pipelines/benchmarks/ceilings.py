"""What this machine can do at best, measured, and what the operator has to do at least.

The floor of a call is the time its necessary work takes at those ceilings: the larger of its matrix
products at the rate of a large one, and its inputs and outputs, each moved once, at the memory
bandwidth. Element-wise work isn't counted: it is what a fast implementation hides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from n3match.ops.window.grid import WindowGrid
from n3match.pipelines.benchmarks.measure import seconds_of_call

_ROUNDS = 7


@dataclass(frozen=True)
class Ceilings:
    flops_per_second: float  # float32 matrix product, an addition and a multiplication being two
    bytes_per_second: float  # copying, read and written bytes together

    def floor_seconds(self, work: Work) -> float:
        return max(work.flops / self.flops_per_second, work.bytes / self.bytes_per_second)

    def describe(self) -> str:
        return (
            f"ceilings measured in this run: {self.flops_per_second / 1e9:.0f} GFLOP/s "
            f"(float32 matrix product), {self.bytes_per_second / 1e9:.1f} GB/s (copy)"
        )


@dataclass(frozen=True)
class Work:
    """The least that one call has to do."""

    flops: float
    bytes: float


def measure_ceilings(size: int = 2048, megabytes: int = 512) -> Ceilings:
    """Best of several: float32 products of square matrices, and copies larger than any cache."""
    a, b, c = (torch.rand(size, size) for _ in range(3))
    source = torch.rand(megabytes << 18)
    target = torch.empty_like(source)
    product, copy = [], []
    for _ in range(_ROUNDS):
        product.append(seconds_of_call(lambda: torch.mm(a, b, out=c)))
        copy.append(seconds_of_call(lambda: target.copy_(source)))
    return Ceilings(2 * size**3 / min(product), 2 * source.nbytes / min(copy))


def dense_work(
    batch: int, n: int, embedding: int, features: int, k: int, gradients: bool
) -> Work:
    """Of `ops.n3_aggregate` with N queries and N items, float32.

    Forward: distances and K weighted sums. Backward: distances anew (nothing of size N×N may be
    kept), K gradients of the weights, K of the values, and those of queries and keys.
    """
    columns = embedding + k * features
    numbers = n * (2 * embedding + features + k * features)
    if gradients:
        columns += 3 * embedding + 2 * k * features
        # Inputs and the gradient of the output are read, three gradients written.
        numbers += n * (4 * embedding + 2 * features + k * features)
    return Work(2.0 * batch * n * n * columns, 4.0 * batch * numbers)


def window_work(grid: WindowGrid, channels: int, k: int, gradients: bool) -> Work:
    """Of `ops.n3_window_aggregate` by cells of S×S pixels, one image, float32; P = 2S.

    Each cell against the cells at the displacements of one window (self included), once for the
    distances and K times for the weighted sums; backward as in `dense_work`.
    """
    rows, columns = grid.shape
    cells = (rows + 1) * (columns + 1)
    pairs = cells * math.prod(grid.window_shape)
    depth = channels * grid.stride**2
    passes = 1 + k + (3 + 2 * k if gradients else 0)
    images = 3 + k + (6 + k if gradients else 0)
    pixels = grid.height * grid.width * channels
    return Work(2.0 * pairs * depth * passes, 4.0 * pixels * images)
