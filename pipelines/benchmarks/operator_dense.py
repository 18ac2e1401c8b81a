"""The dense operator against its matrix products alone and plain formulas, over N."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from n3match import native, ops
from n3match.ops.dense import compiled as tiled_native
from n3match.pipelines.benchmarks.baselines import (
    plain_aggregate,
    plain_bytes,
    reference_bytes,
)
from n3match.pipelines.benchmarks.ceilings import Ceilings, dense_work
from n3match.pipelines.benchmarks.measure import (
    FLOAT32,
    OURS,
    PLAIN,
    PRODUCTS,
    Call,
    Limits,
    Measurement,
    side_by_side,
)

EMBEDDING, FEATURES, NEIGHBOURS = 32, 128, 3


def describe(batch: int) -> str:
    return f"B = {batch}, E = {EMBEDDING}, F = {FEATURES}, K = {NEIGHBOURS}, float32"


def measure_dense(
    sizes: Sequence[int], batch: int, limits: Limits, ceilings: Ceilings
) -> list[Measurement]:
    """Time and memory with N queries and N items, for each N, without and with gradients."""
    rows = []
    for n in sorted(sizes):

        def needed(name: str, gradients: bool, n: int = n) -> int:
            if name == PLAIN:
                return reference_bytes(n, n, EMBEDDING, gradients)
            return plain_bytes(n, n, NEIGHBOURS, gradients) if name == FLOAT32 else 0

        def floor(gradients: bool, n: int = n) -> float:
            work = dense_work(batch, n, EMBEDDING, FEATURES, NEIGHBOURS, gradients)
            return ceilings.floor_seconds(work)

        rows += side_by_side(
            "dense",
            n,
            (OURS, PRODUCTS, PLAIN, FLOAT32),
            call=partial(_call, batch),
            small=16,
            needed_bytes=needed,
            floor_seconds=floor,
            limits=limits,
            earlier=rows,
        )
    return rows


def _call(batch: int, name: str, n: int, gradients: bool) -> Call:
    if name == PRODUCTS:
        return products(batch, n, gradients)
    leaves = [leaf.requires_grad_(gradients) for leaf in _inputs(batch, n)]
    cotangent = torch.randn(batch, n, NEIGHBOURS, FEATURES)

    def run() -> object:
        if name == FLOAT32:
            z = plain_aggregate(*leaves, NEIGHBOURS)
        elif name == OURS:
            z = ops.n3_aggregate(*leaves, NEIGHBOURS, backend=ops.backends()[0])
        else:  # pair by pair: together they would take B times the memory
            pairs = zip(*(leaf.split(1) for leaf in leaves))
            z = torch.cat(
                [ops.n3_aggregate(*pair, NEIGHBOURS, backend="reference") for pair in pairs]
            )
        return torch.autograd.grad(z, leaves, cotangent) if gradients else z

    return run


def _inputs(batch: int, n: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    channels = (EMBEDDING, EMBEDDING, FEATURES)
    return [torch.randn(batch, n, c, generator=generator) for c in channels]


def products(batch: int, n: int, gradients: bool) -> Call:
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
