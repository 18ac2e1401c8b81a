"""What tensor cores lose in long sums, by a model of them: they truncate where they accumulate.

A product of matrices is made in steps of a few columns, each added to a float32 accumulator, and
what doesn't fit is cut off: sums of positive terms drift, the further the longer they are. The
dense kernels therefore begin every tile from 0, and add what it gave to a total by an ordinary
addition, which rounds.
"""

from __future__ import annotations

import numpy as np

_STEP = 16  # columns of float16 that are multiplied at a time
_TILE = 64  # columns of a tile of the kernels
_ROWS = 100
_VALUE = 1.2345


def loss(count: int, promoted: bool) -> float:
    """The largest relative error of weighted sums of one value, float32 as two planes of float16.

    Args:
        count: terms of each sum, with random weights from 0 to 1.
        promoted: whether the sum leaves the tensor cores after each tile.
    """
    weight = np.random.default_rng(0).random((_ROWS, count)).astype(np.float32).astype(np.float64)
    exact = weight.sum(1) * _VALUE
    of_weight, of_value = _planes(weight), _planes(np.array(_VALUE))
    pairs = ((1, 0), (0, 1), (0, 0))  # small ones first, as in the kernels
    total = np.zeros(_ROWS)
    part = np.zeros(_ROWS)
    for begin in range(0, count, _TILE):
        for i, j in pairs:
            for first in range(begin, min(begin + _TILE, count), _STEP):
                columns = slice(first, min(first + _STEP, count))
                part = _truncated(part + (of_weight[i][:, columns] * of_value[j]).sum(1))
        if promoted:
            total = (total + part).astype(np.float32).astype(np.float64)
            part = np.zeros(_ROWS)
    return float(np.abs((total + part) / exact - 1).max())


def _planes(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """High and low part, of 11 bits each."""
    high = _rounded(x)
    return high, _rounded(x - high)


def _rounded(x: np.ndarray) -> np.ndarray:
    fraction, exponent = np.frexp(x)
    return np.ldexp(np.round(fraction * 2.0**11) / 2.0**11, exponent)


def _truncated(x: np.ndarray) -> np.ndarray:
    """float64 -> what float32 has of it, towards zero."""
    near = x.astype(np.float32)
    inner = np.nextafter(near, np.float32(0))
    return np.where(np.abs(near.astype(np.float64)) > np.abs(x), inner, near).astype(np.float64)
