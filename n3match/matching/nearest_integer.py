"""Squared distances of descriptors as exact distances of 16-bit integers (n3match.native).

Descriptors of whole numbers, as SIFT's, are such integers already. Others are scaled and rounded;
by the triangle inequality a distance then changes by no more than the sum of the two roundings'
lengths, which are known, so that the search still knows which answers are certain.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from n3match import native
from n3match.matching.nearest_compiled import COLUMNS

_LONGEST = 32000.0  # norm of an integer vector: squared distances stay below 2³²
_EXACT = 2.0**24  # whole numbers up to it are float32 numbers


class IntegerDistances:
    """Between rows of a (N, D) and b (M, D), float32, in units of their own.

    Attributes:
        shape: (N, M'), M' = M up to a multiple of `native.PANEL`; the new columns are infinitely
            far away.
        error: how far the *root* of an entry may be from the true distance; 0: all are exact.
    """

    dtype = torch.float32

    def __init__(self, a: Tensor, b: Tensor, whole: bool):
        """whole: all numbers are integers."""
        norm = max(_longest(a), _longest(b))
        scale = 1.0 if whole and norm <= _LONGEST else _LONGEST / norm if norm > 0 else 1.0
        self._a, norm_a, error_a = _integers(a, scale)
        rows, norm_b, error_b = _integers(b, scale)
        padding = -len(b) % native.PANEL
        self._b = native.in_panels(functional.pad(rows, (0, 0, 0, padding)))
        self._norm_a, self._norm_b = norm_a, functional.pad(norm_b, (0, padding))
        self._columns = len(b)
        self.shape = (len(a), len(b) + padding)
        self.error = error_a + error_b
        if self.error > 0 or (2 * norm * scale) ** 2 >= _EXACT:
            # An entry is rounded to float32, and so is its root.
            self.error += 2 * torch.finfo(torch.float32).eps * 2 * _LONGEST

    def fill(self, rows: slice, tile: int, out: Tensor) -> None:
        first = tile * COLUMNS
        panels = slice(first // native.PANEL, (first + out.shape[1]) // native.PANEL)
        native.integer_distances(
            self._a[rows], self._b[panels], self._norm_a[rows],
            self._norm_b[first : first + out.shape[1]], out,
        )
        out[:, max(0, self._columns - first) :] = torch.inf


def _longest(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dim=1).max()) if x.numel() else 0.0


def _integers(x: Tensor, scale: float) -> tuple[Tensor, Tensor, float]:
    """(N, even D) int16, (N,) int32 squared norms, and the length of the longest rounding."""
    scaled = x * scale
    rounded = scaled.round()
    error = _longest(scaled - rounded)
    if scale != 1.0:
        # The scaled numbers themselves are rounded to float32.
        error += torch.finfo(torch.float32).eps * _LONGEST
    integers = functional.pad(rounded.to(torch.int16), (0, x.shape[1] % 2))
    norms = rounded.double().square_().sum(1).to(torch.int32)
    return integers, norms, error
