"""Nearest neighbours of descriptors, exact, without ever holding the N x M distance matrix.

Shapes: N descriptors of image 0, M of image 1, D channels.
"""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Matches:
    """For each descriptor of image 0 its two nearest of image 1 (Euclidean distances).

    Attributes:
        index: (N,) int64, nearest descriptor of image 1; -1 where image 1 has none.
        distance: (N,) float32 to the nearest; inf where image 1 has none.
        second_distance: (N,) float32 to the second nearest; inf where there is none.
        ratio: (N,) float32 in [0, 1], distance / second_distance; 1 where there is no second or
            both are zero (nothing tells the two candidates apart).
        mutual: (N,) bool, whether the nearest of image 1 has this one as its own nearest.
    """

    index: torch.Tensor
    distance: torch.Tensor
    second_distance: torch.Tensor
    ratio: torch.Tensor
    mutual: torch.Tensor


def nearest_neighbors(desc0, desc1, *, block_size: int = 512, device=None) -> Matches:
    a = torch.as_tensor(np.asarray(desc0), dtype=torch.float32, device=device)
    b = torch.as_tensor(np.asarray(desc1), dtype=torch.float32, device=device)
    n, m = len(a), len(b)
    index = torch.full((n,), -1, dtype=torch.int64)
    second = torch.full((n,), -1, dtype=torch.int64)
    reverse_value = torch.full((m,), float("inf"))
    reverse = torch.full((m,), -1, dtype=torch.int64)
    na, nb = (a * a).sum(1), (b * b).sum(1)
    for start in range(0, n if m else 0, block_size):
        rows = slice(start, start + block_size)
        block = torch.addmm(nb[None, :], a[rows], b.T, alpha=-2).add_(na[rows, None])
        value, where = block.min(0)
        better = value < reverse_value
        reverse_value = torch.where(better, value, reverse_value)
        reverse = torch.where(better, where + start, reverse)
        index[rows] = block.min(1).indices
        if m > 1:
            block.scatter_(1, index[rows, None], float("inf"))
            second[rows] = block.min(1).indices
    inf = torch.full((n,), float("inf"))
    distance = (a - b[index]).norm(dim=1) if m else inf
    second_distance = (a - b[second]).norm(dim=1) if m > 1 else inf.clone()
    swap = second_distance < distance
    distance, second_distance = (
        torch.where(swap, second_distance, distance),
        torch.where(swap, distance, second_distance),
    )
    index = torch.where(swap, second, index)
    ratio = torch.where(
        (second_distance > 0) & torch.isfinite(second_distance), distance / second_distance, 1.0
    )
    mutual = reverse[index] == torch.arange(n) if m else torch.zeros(n, dtype=torch.bool)
    return Matches(index, distance, second_distance, ratio, mutual)
