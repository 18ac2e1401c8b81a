"""The operator as others would write it, in plain float32 tensors.

The definition written down, as a first implementation would have it: everything of size M×O is
kept, K times over when gradients are wanted. Not exact where a weight is within rounding of 1
(`ops.reference` is): for timing at ordinary temperatures.

Windows of an image by gathering, and by the authors' algorithm. Both follow the window rule of
`ops.n3_window_aggregate` (with its defaults: released recursion, a query leaves itself out). The
authors' algorithm is written here from its description: distances between *all* patches, the
windows' ones picked out, each of the K weights scattered into a dense matrix over all patches, and
a dense product with all patches.

B batch, C channels, P patch size, S stride, D = C·P² numbers per patch, (n₁, n₂) grid of patches,
M = N = n₁·n₂ patches, W window, O = W² − 1 candidates of a query.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

# 1 - w is never below this, so that its logarithm is finite.
_SMALLEST_REST = 2.0**-24
# Queries gathered at once. Each takes O·D numbers (0.7 MB of 8 channels): it is fastest, with
# gradients too, while the copies fit a cache and the allocator keeps their memory (32 MB in glibc).
_CHUNK = 32


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
    """About what `ops.reference.n3_aggregate` holds at once for one pair: the differences of all
    embeddings, in float64."""
    return 8 * m * n * e * (6 if gradients else 2)


@dataclass(frozen=True)
class Grid:
    """Where the patches of an H×W image are."""

    height: int
    width: int
    patch_size: int = 10
    stride: int = 5
    window: int = 15

    def _padded(self, length: int) -> int:
        steps = max(0, -(-(length - self.patch_size) // self.stride))
        return self.patch_size + steps * self.stride

    @property
    def padded_shape(self) -> tuple[int, int]:
        return self._padded(self.height), self._padded(self.width)

    @property
    def shape(self) -> tuple[int, int]:
        """(n₁, n₂) patches."""
        rows, columns = ((n - self.patch_size) // self.stride + 1 for n in self.padded_shape)
        return rows, columns

    @property
    def padding(self) -> tuple[int, int, int, int]:
        """Left, right, top, bottom: the odd pixel goes to the right and the bottom."""
        high, wide = (p - n for p, n in zip(self.padded_shape, (self.height, self.width)))
        return wide // 2, wide - wide // 2, high // 2, high - high // 2

    def candidates(self, exclude_self: bool = True) -> Tensor:
        """(M, O) numbers of the patches in each query's window, shifted inwards at the border."""

        def span(n: int) -> Tensor:  # (n, min(W, n)) grid coordinates along one axis
            inside = min(self.window, n)
            first = (torch.arange(n) - self.window // 2).clamp(0, n - inside)
            return first[:, None] + torch.arange(inside)

        rows, columns = map(span, self.shape)
        index = rows[:, None, :, None] * self.shape[1] + columns[None, :, None, :]
        index = index.flatten(0, 1).flatten(1)  # (M, W²)
        if not exclude_self:
            return index
        others = index != torch.arange(len(index))[:, None]
        return index[others].view(len(index), -1)

    def patches(self, image: Tensor) -> Tensor:
        """(C, H, W) -> (M, C·P²)."""
        padded = functional.pad(image, self.padding)[None]
        return functional.unfold(padded, self.patch_size, stride=self.stride)[0].T

    def put_back(self, patches: Tensor) -> Tensor:
        """(M, C·P²) -> (C, H, W): overlapping patches are averaged."""

        def add(columns: Tensor) -> Tensor:
            return functional.fold(
                columns, self.padded_shape, self.patch_size, stride=self.stride
            )[0]

        count = add(patches.new_ones(1, self.patch_size**2, len(patches)))
        left, _, top, _ = self.padding
        image = add(patches.T[None]) / count
        return image[:, top : top + self.height, left : left + self.width]


def gather_windows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    k: int,
    log_temperature: float = 0.0,
    patch_size: int = 10,
    stride: int = 5,
    window: int = 15,
) -> Tensor:
    """The candidates of some queries are copied side by side; (B, C, H, W) -> (B, K, C, H, W).

    In chunks, each computed anew in the backward pass: all at once would take M·O·D numbers.
    """
    grid = Grid(*query.shape[-2:], patch_size, stride, window)
    index = grid.candidates()
    tensors = (query, key, value)
    gradients = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    scale = -math.exp(-log_temperature)

    # The copies of all chunks in one place: fresh memory for each costs more than the copying.
    rooms = [None, None] if gradients else [image.new_empty(0) for image in (key, value)]

    def gather(patches: Tensor, near: Tensor, room: Tensor | None) -> Tensor:  # -> (Q, O, D)
        if room is not None:
            room.resize_(near.numel(), patches.shape[1])
            torch.index_select(patches, 0, near.flatten(), out=room)
            return room.view(*near.shape, -1)
        return patches.index_select(0, near.flatten()).view(*near.shape, -1)

    def chunk(q: Tensor, x: Tensor, squares: Tensor, v: Tensor, near: Tensor) -> Tensor:
        products = torch.bmm(q[:, None], gather(x, near, rooms[0]).transpose(1, 2))[:, 0]
        d = q.square().sum(-1, keepdim=True) + squares[near] - 2 * products
        weights = torch.stack(list(plain_weights(d * scale, k)), 1)  # (Q, K, O)
        return torch.bmm(weights, gather(v, near, rooms[1]))  # (Q, K, D)

    images = []
    for q, x, v in zip(*([grid.patches(image) for image in batch] for batch in tensors)):
        x, v = x.contiguous(), v.contiguous()
        squares = x.square().sum(-1)
        parts = [
            checkpoint(chunk, *arguments, use_reentrant=False) if gradients else chunk(*arguments)
            for arguments in (
                (q[start : start + _CHUNK], x, squares, v, index[start : start + _CHUNK])
                for start in range(0, len(index), _CHUNK)
            )
        ]
        z = torch.cat(parts)
        images.append(torch.stack([grid.put_back(z[:, step]) for step in range(k)]))
    return torch.stack(images)


def authors_windows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    k: int,
    log_temperature: float = 0.0,
    patch_size: int = 10,
    stride: int = 5,
    window: int = 15,
) -> Tensor:
    """Distances of all pairs of patches, K dense M×N weight matrices, K dense products."""
    grid = Grid(*query.shape[-2:], patch_size, stride, window)
    index = grid.candidates()
    scale = -math.exp(-log_temperature)
    images = []
    for q, x, v in zip(*([grid.patches(image) for image in b] for b in (query, key, value))):
        logits = squared_distances(q, x).gather(1, index) * scale
        steps = []
        for weights in plain_weights(logits, k):
            dense = weights.new_zeros(len(q), len(x)).scatter_(1, index, weights)
            steps.append(grid.put_back(dense @ v))
        images.append(torch.stack(steps))
    return torch.stack(images)


def authors_bytes(grid: Grid, k: int, gradients: bool) -> int:
    """About what `authors_windows` holds at once for one image, float32."""
    patches = grid.shape[0] * grid.shape[1]
    return 4 * patches**2 * (k + 4 if gradients else 3)
