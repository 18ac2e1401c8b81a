"""The definition written down in plain float32 tensors, as a first implementation would have it.

Everything of size M×O is kept, K times over when gradients are wanted. Not exact where a weight is
within rounding of 1 (`ops.reference` is): for timing at ordinary temperatures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

# 1 - w is never below this, so that its logarithm is finite.
_SMALLEST_REST = 2.0**-24


def plain_weights(logits: Tensor, k: int) -> Iterator[Tensor]:
    """(..., O) first logits -> K weights of the same shape, one after the other."""
    for step in range(k):
        weights = logits.softmax(-1)
        yield weights
        if step + 1 < k:
            logits = logits + (1 - weights).clamp_min(_SMALLEST_REST).log()


def squared_distances(query: Tensor, key: Tensor) -> Tensor:
    """(M, E), (N, E) -> (M, N), by one matrix product."""
    squares = key.square().sum(-1) + query.square().sum(-1, keepdim=True)
    return torch.addmm(squares, query, key.T, alpha=-2)


def plain_aggregate(
    query: Tensor, key: Tensor, value: Tensor, k: int, log_temperature: float = 0.0
) -> Tensor:
    """(B, M, E), (B, N, E), (B, N, F) -> (B, M, K, F), as `ops.n3_aggregate` with its defaults."""
    rows = []
    for q, x, v in zip(query, key, value):
        logits = squared_distances(q, x) * -math.exp(-log_temperature)
        rows.append(torch.stack([weights @ v for weights in plain_weights(logits, k)], 1))
    return torch.stack(rows)


def plain_bytes(m: int, n: int, k: int, gradients: bool) -> int:
    """About what `plain_aggregate` holds at once for one pair, float32."""
    return 4 * m * n * (3 * k + 1 if gradients else 5)


def reference_bytes(m: int, n: int, e: int, gradients: bool) -> int:
    """About what the backend "reference" holds at once for one pair: the differences of all
    embeddings, in float64."""
    return 8 * m * n * e * (6 if gradients else 2)
