"""Calls to time: the dense operator by any backend, and its matrix products alone."""

from __future__ import annotations

from collections.abc import Callable

import torch

from n3match import native, ops
from n3match.ops.dense import compiled as tiled_native

EMBEDDING, FEATURES, NEIGHBOURS = 32, 128, 3


def _inputs(batch: int, n: int, gradients: bool = False):
    generator = torch.Generator().manual_seed(0)

    def draw(channels: int) -> torch.Tensor:
        tensor = torch.randn(batch, n, channels, generator=generator)
        return tensor.requires_grad_(gradients)

    return draw(EMBEDDING), draw(EMBEDDING), draw(FEATURES)


def aggregate(batch: int, n: int, backend: str) -> Callable[[], object]:
    query, key, value = _inputs(batch, n)
    return lambda: ops.n3_aggregate(query, key, value, NEIGHBOURS, backend=backend)


def aggregate_and_gradients(batch: int, n: int, backend: str) -> Callable[[], object]:
    leaves = _inputs(batch, n, gradients=True)
    cotangent = torch.randn(batch, n, NEIGHBOURS, FEATURES)

    def run():
        z = ops.n3_aggregate(*leaves, NEIGHBOURS, backend=backend)
        return torch.autograd.grad(z, leaves, cotangent)

    return run


def products(batch: int, n: int, gradients: bool) -> Callable[[], object]:
    """Only the matrix products that the operator has to do, as fast as they go on the CPU.

    In the operator's own tiles, each by one thread: with one product at a time shared by all
    threads they take longer. Forward: distances and K weighted sums. Backward: distances anew, the
    gradients of the K weight distributions and of the values, then those of queries and keys.
    """
    query, key, value = _inputs(batch, n)
    key_t = key.transpose(1, 2).contiguous()
    cotangent = torch.randn(batch, n, NEIGHBOURS, FEATURES)
    out, d_query = torch.empty_like(cotangent), torch.empty_like(query)
    forward_rows = tiled_native.tile_rows(n, NEIGHBOURS * n)
    backward_rows = tiled_native.tile_rows(n, 2 * NEIGHBOURS * n)

    def tiles(rows: int) -> list[tuple[int, slice]]:
        return [(b, slice(s, min(s + rows, n))) for b in range(batch) for s in range(0, n, rows)]

    def forward(share):
        buffer = torch.empty(forward_rows, NEIGHBOURS, n)
        for b, rows in share:
            q, z = query[b, rows], out[b, rows]
            w = buffer[: len(q)]
            torch.mm(q, key_t[b], out=w[:, 0])
            torch.mm(w.view(-1, n), value[b], out=z.view(-1, FEATURES))

    def backward(share):
        buffers = torch.empty(2, backward_rows, NEIGHBOURS, n)
        # Transposed, as they are faster.
        d_key, d_value = torch.zeros(EMBEDDING, n), torch.zeros(FEATURES, n)
        for b, rows in share:
            q, g = query[b, rows], cotangent[b, rows].view(-1, FEATURES)
            w, u = buffers[:, : len(q)]
            torch.mm(q, key_t[b], out=w[:, 0])
            torch.mm(g, value[b].T, out=u.view(-1, n))
            d_value.addmm_(g.T, w.view(-1, n), beta=0.0)
            torch.mm(u[:, -1], key[b], out=d_query[b, rows])
            d_key.addmm_(q.T, u[:, -1], beta=0.0)

    def run():
        native.run_tasks(forward, tiles(forward_rows))
        if gradients:
            native.run_tasks(backward, tiles(backward_rows))

    return run
