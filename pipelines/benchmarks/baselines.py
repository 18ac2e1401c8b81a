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

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from n3match.ops.window.grid import WindowGrid

# 1 - w is never below this, so that its logarithm is finite.
_SMALLEST_REST = 2.0**-24
# Patch size, stride and window of the published denoiser.
LAYOUT = (10, 5, 15)
# Queries gathered at once. Each takes O·D numbers (0.7 MB of 8 channels): it is fastest, with
# gradients too, while the copies fit a cache and the allocator keeps their memory (32 MB in glibc).
CHUNK = 32


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


def plain_candidates(
    query: Tensor, key: Tensor, value: Tensor, candidates: Tensor, k: int, log_temperature: float
) -> Tensor:
    """As `plain_aggregate`, of explicit candidates (B, M, O), whose rows are gathered."""
    rows = []
    for q, x, v, index in zip(query, key, value, candidates):
        d = (q[:, None] - x[index]).square().sum(-1)
        near = v[index]
        steps = plain_weights(d * -math.exp(-log_temperature), k)
        rows.append(torch.stack([(w[:, None] @ near)[:, 0] for w in steps], 1))
    return torch.stack(rows)


def plain_bytes(m: int, n: int, k: int, gradients: bool) -> int:
    """About what `plain_aggregate` holds at once for one pair, float32."""
    return 4 * m * n * (3 * k + 1 if gradients else 5)


def reference_bytes(m: int, n: int, e: int, gradients: bool) -> int:
    """About what the backend "reference" holds at once for one pair: the differences of all
    embeddings, in float64."""
    return 8 * m * n * e * (6 if gradients else 2)


def _others(grid: WindowGrid) -> Tensor:
    """(M, O) numbers of the patches in each query's window but its own."""
    index = grid.candidates()
    others = index != torch.arange(len(index))[:, None]
    return index[others].view(len(index), -1)


def gather_windows(
    query: Tensor, key: Tensor, value: Tensor, k: int, log_temperature: float = 0.0, *layout: int
) -> Tensor:
    """The candidates of some queries are copied side by side; (B, C, H, W) -> (B, K, C, H, W).

    layout: patch size, stride, window; none: `LAYOUT`. In chunks, each computed anew in the
    backward pass: all at once would take M·O·D numbers.
    """
    grid = WindowGrid(*query.shape[-2:], *(layout or LAYOUT))
    index = _others(grid)
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
    for q, x, v in zip(*map(grid.patches, tensors)):
        x, v = x.contiguous(), v.contiguous()
        squares = x.square().sum(-1)
        parts = [
            checkpoint(chunk, *arguments, use_reentrant=False) if gradients else chunk(*arguments)
            for arguments in (
                (q[start : start + CHUNK], x, squares, v, index[start : start + CHUNK])
                for start in range(0, len(index), CHUNK)
            )
        ]
        z = torch.cat(parts)
        images.append(grid.put_back(z.transpose(0, 1)))
    return torch.stack(images)


def authors_windows(
    query: Tensor, key: Tensor, value: Tensor, k: int, log_temperature: float = 0.0, *layout: int
) -> Tensor:
    """Distances of all pairs of patches, K dense M×N weight matrices, K dense products;
    arguments as of `gather_windows`."""
    grid = WindowGrid(*query.shape[-2:], *(layout or LAYOUT))
    index = _others(grid)
    scale = -math.exp(-log_temperature)
    images = []
    for q, x, v in zip(*map(grid.patches, (query, key, value))):
        logits = squared_distances(q, x).gather(1, index) * scale
        steps = []
        for weights in plain_weights(logits, k):
            dense = weights.new_zeros(len(q), len(x)).scatter_(1, index, weights)
            steps.append(dense @ v)
        images.append(grid.put_back(torch.stack(steps)))
    return torch.stack(images)


def authors_bytes(grid: WindowGrid, k: int, gradients: bool) -> int:
    """About what `authors_windows` holds at once for one image, float32."""
    patches = math.prod(grid.shape)
    return 4 * patches**2 * (k + 4 if gradients else 3)
