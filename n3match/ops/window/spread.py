"""How much the distances vary that the window form selects by.

A batch norm on distances acts on the selection only by its scale γ/√(variance + ε): a constant
added to all logits of a query changes nothing. So the operator needs no norm inside, only this one
number in its temperature.

B batch, E channels, (n₁, n₂) grid of patches, D = E·P².
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from n3match.arguments import flag
from n3match.ops import checks
from n3match.ops.window.grid import WindowGrid


def window_distance_moments(
    query: Tensor,
    key: Tensor,
    patch_size: int = 10,
    stride: int = 5,
    window: int = 15,
    *,
    exclude_self: bool = True,
) -> tuple[Tensor, Tensor, int]:
    """Moments of the distances between all query patches of a batch and their candidates.

    Args:
        query, key: (B, E, H, W) images of embeddings, as in `n3_window_aggregate`.
        patch_size, stride, window, exclude_self: as there.

    Returns:
        Mean and variance (divided by the number, not by one less), two differentiable numbers of
        the type of `query`, float32 at least, and the number of distances. Both are 0 where there
        are no distances (one patch that may not select itself).

    Raises:
        ValueError, TypeError: naming the argument, what was found and what was wanted.
    """
    checks.check_window_images(query, key)
    exclude_self = flag("exclude_self", exclude_self)
    grid = checks.window_grid(query, patch_size, stride, window)
    if query.dtype in (torch.float16, torch.bfloat16):
        query, key = query.float(), key.float()
    patches, window_size = math.prod(grid.shape), math.prod(grid.window_shape)
    count = len(query) * patches * (window_size - exclude_self)  # each lies in its own window
    if not count:
        zero = query.new_zeros(())
        return zero, zero, 0
    parts = list(_distances(query, key, grid, exclude_self))
    shown = [torch.where(allowed, d, 0.0) for d, allowed in parts]
    mean = sum(d.sum() for d in shown) / count
    spread = sum(
        torch.where(allowed, d - mean, 0.0).square().sum() for d, allowed in parts
    )
    return mean, spread / count, count


def _patches(padded: Tensor, grid: WindowGrid) -> Tensor:
    """(B, C, H', W') -> (B, M, D), the D numbers of a patch in any order."""
    size, stride = grid.patch_size, grid.stride
    if size % stride:
        return functional.unfold(padded, size, stride=stride).mT
    # Of whole cells: a few copies of the batch, where unfold makes one of each image.
    cells = grid.cells(padded)
    n1, n2 = grid.shape
    side = range(size // stride)
    parts = [cells[:, i : i + n1, j : j + n2] for i in side for j in side]
    return torch.cat(parts, 3).flatten(1, 2)


def _distances(query: Tensor, key: Tensor, grid: WindowGrid, exclude_self: bool):
    """Distances (B, rows, n₂, window rows, n₂) of grid rows that share window rows, and which of
    them count."""
    # Distances don't change with the origin, but the products keep more digits near it.
    centre = query.detach().mean((0, 2, 3))[:, None, None]
    q, x = (_patches(grid.pad(image) - centre, grid) for image in (query, key))
    q_norm, x_norm = q.square().sum(2), x.square().sum(2)
    n2 = grid.shape[1]
    high, wide = grid.window_shape
    device = query.device
    column = torch.arange(n2, device=device)  # nothing is copied to the device, which would wait
    first = (column - grid.window // 2).clamp(0, n2 - wide)[:, None]
    in_window = (column >= first) & (column < first + wide)
    groups: dict[int, list[int]] = {}
    for row, top in enumerate(grid.firsts[0]):
        groups.setdefault(top, []).append(row)
    for top, rows in groups.items():
        here = slice(rows[0] * n2, (rows[-1] + 1) * n2)
        there = slice(top * n2, (top + high) * n2)
        d = q_norm[:, here, None] + x_norm[:, None, there] - 2 * (q[:, here] @ x[:, there].mT)
        d = d.clamp(min=0).view(len(q), len(rows), n2, high, n2)
        allowed = in_window[None, :, None, :].expand(len(rows), n2, high, n2)
        if exclude_self:
            row = torch.arange(rows[0], rows[-1] + 1, device=device)[:, None, None, None]
            same_row = row == top + torch.arange(high, device=device)[:, None]
            allowed = allowed & ~(same_row & (column[:, None, None] == column))
        yield d, allowed
