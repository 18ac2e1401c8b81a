"""The dense operator against its matrix products alone and against the plain formula."""

from __future__ import annotations

from collections.abc import Callable

import torch

from n3match import ops
from n3match.ops import tiled
from n3match.pipelines.benchmarks.measure import median_seconds, peak_bytes

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
    """Only the matrix products that the tiled operator has to do, in the same tiles."""
    query, key, value = _inputs(batch, n)
    cotangent = torch.randn(batch, n, NEIGHBOURS, FEATURES)
    rows = max(1, min(n, tiled._TILE_ELEMENTS["cpu"] // n))
    tile = torch.empty(rows, n)
    narrow, wide = torch.empty(rows, EMBEDDING), torch.empty(rows, FEATURES)
    d_key, d_value = torch.zeros(n, EMBEDDING), torch.zeros(n, FEATURES)

    def run():
        for b in range(batch):
            key_t, value_t = key[b].T.contiguous(), value[b].T
            for start in range(0, n, rows):
                q, g = query[b, start : start + rows], cotangent[b, start : start + rows]
                w = torch.mm(q, key_t, out=tile[: len(q)])
                for _ in range(NEIGHBOURS):
                    torch.mm(w, value[b], out=wide[: len(q)])
                if not gradients:
                    continue
                torch.mm(q, key_t, out=w)
                for k in range(NEIGHBOURS):
                    torch.mm(g[:, k], value_t, out=w)
                    d_value.addmm_(w.T, g[:, k], beta=0.0)
                torch.mm(w, key[b], out=narrow[: len(q)])
                d_key.addmm_(w.T, q, beta=0.0)

    return run


def run(sizes: list[int], batch: int, repeats: int, memory_size: int) -> list[dict]:
    rows = []
    for n in sizes:
        for gradients in (False, True):
            make = aggregate_and_gradients if gradients else aggregate
            candidates = {
                "matrix products": products(batch, n, gradients),
                "tiled": make(batch, n, "tiled"),
            }
            seconds = median_seconds(candidates, repeats)
            # The plain formula takes seconds and B·N²·(E + K) doubles: one pair is enough.
            plain = median_seconds(
                {"plain formula": make(1, n, "reference"), "tiled": make(1, n, "tiled")}, 1
            )
            rows.append(
                {
                    "operator": f"B={batch} N={n}" + (" with gradients" if gradients else ""),
                    "matrix products, s": round(seconds["matrix products"], 4),
                    "tiled, s": round(seconds["tiled"], 4),
                    "tiled / products": round(seconds["tiled"] / seconds["matrix products"], 2),
                    "plain / tiled (B=1)": round(plain["plain formula"] / plain["tiled"], 1),
                }
            )
    if memory_size:
        peak = peak_bytes(aggregate_and_gradients, 1, memory_size, "tiled")
        rows.append(
            {
                "operator": f"B=1 N={memory_size} with gradients",
                "peak memory above the inputs, MB": round(peak / 1e6),
            }
        )
    return rows
