"""Only the matrix products of the window form by cells: what its time is compared with.

A tile of T×T cells (S×S pixels, D = C·S² numbers) shares its (T + W − 1)² candidate cells, so that
distances and weighted sums are dense products. T isn't fixed here: the fastest is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from n3match import native
from n3match.pipelines.benchmarks.window_baselines import Grid

TILES = (4, 8, 16)


@dataclass(frozen=True)
class _Tile:
    start: int  # its first cell, when cells are numbered tile by tile
    cells: int
    candidates: int


def _tiles(rows: int, columns: int, tile: int, window: int) -> list[_Tile]:
    def spans(cells: int) -> list[tuple[int, int]]:  # along one axis: cells, candidates
        inside = [min(tile, cells - start) for start in range(0, cells, tile)]
        return [(n, min(cells, n + window - 1)) for n in inside]

    tiles, start = [], 0
    for r, r_near in spans(rows):
        for c, c_near in spans(columns):
            tiles.append(_Tile(start, r * c, r_near * c_near))
            start += r * c
    return tiles


def window_products(
    grid: Grid, channels: int, k: int, gradients: bool, tile: int
) -> Callable[[], None]:
    """The products of the forward pass, or of both passes, each tile by one thread."""
    rows, columns = (n + 1 for n in grid.shape)
    depth = channels * grid.stride**2
    generator = torch.Generator().manual_seed(0)
    query, key, value, grad = (
        torch.randn(count, depth, generator=generator)
        for count in (rows * columns, rows * columns, rows * columns, k * rows * columns)
    )
    tiles = _tiles(rows, columns, tile, grid.window)
    cells, near = max(t.cells for t in tiles), max(t.candidates for t in tiles)

    def work(share: Iterable[_Tile]) -> None:
        narrow, wide = torch.ones(cells * near), torch.ones(k * cells * near)
        few, several, many = (torch.empty(n, depth) for n in (cells, k * cells, near))
        for t in share:
            # Other rows for each tile, so that they come from where an image would be. Which ones
            # doesn't matter: in the true order they would have to be copied together first.
            n, first = t.cells, min(t.start, len(key) - t.candidates)
            q, g = query[t.start : t.start + n], grad[k * t.start : k * (t.start + n)]
            x, v = key[first : first + t.candidates], value[first : first + t.candidates]
            d = narrow[: n * t.candidates].view(n, -1)
            w = wide[: k * n * t.candidates].view(k * n, -1)
            torch.mm(q, x.T, out=d)
            torch.mm(w, v, out=several[: k * n])
            if not gradients:
                continue
            torch.mm(q, x.T, out=d)
            torch.mm(g, v.T, out=w)
            torch.mm(w.T, g, out=many[: t.candidates])
            torch.mm(d, x, out=few[:n])
            torch.mm(d.T, q, out=many[: t.candidates])

    return lambda: native.run_tasks(work, tiles)
