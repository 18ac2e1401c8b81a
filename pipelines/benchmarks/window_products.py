"""Only the matrix products of the window form by cells: what its time is compared with.

A tile of T×T cells (S×S pixels, D = C·S² numbers) shares its (T + W − 1)² candidate cells, so that
distances and weighted sums are dense products. T isn't fixed here: the fastest is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from n3match.pipelines.benchmarks.window_baselines import Grid

TILES = (4, 8, 16)


def _tiles(cells: int, tile: int, window: int) -> Iterator[tuple[int, int]]:
    """(Cells, candidates) of each tile along one axis."""
    for start in range(0, cells, tile):
        inside = min(tile, cells - start)
        yield inside, min(cells, inside + window - 1)


def window_products(
    grid: Grid, channels: int, k: int, gradients: bool, tile: int
) -> Callable[[], None]:
    rows, columns = (n + 1 for n in grid.shape)
    depth = channels * grid.stride**2
    generator = torch.Generator().manual_seed(0)
    query, key, value, grad = (
        torch.randn(count, depth, generator=generator)
        for count in (rows * columns, rows * columns, rows * columns, k * rows * columns)
    )
    most = tile * tile, min(rows, tile + grid.window - 1) * min(columns, tile + grid.window - 1)
    narrow, wide = torch.ones(most[0] * most[1]), torch.ones(k * most[0] * most[1])
    few, several, many = (torch.empty(n, depth) for n in (most[0], k * most[0], most[1]))

    def run() -> None:
        done = 0
        for r, r_near in _tiles(rows, tile, grid.window):
            for c, c_near in _tiles(columns, tile, grid.window):
                n, near = r * c, r_near * c_near
                # Other rows for each tile, so that they come from where an image would be. Which
                # ones doesn't matter: in the true order they would have to be copied together.
                first = min(done, len(key) - near)
                q, g = query[done : done + n], grad[k * done : k * (done + n)]
                x, v = key[first : first + near], value[first : first + near]
                d, w = narrow[: n * near].view(n, near), wide[: k * n * near].view(k * n, near)
                done += n
                torch.mm(q, x.T, out=d)
                torch.mm(w, v, out=several[: k * n])
                if not gradients:
                    continue
                torch.mm(q, x.T, out=d)
                torch.mm(g, v.T, out=w)
                torch.mm(w.T, g, out=many[:near])
                torch.mm(d, x, out=few[:n])
                torch.mm(d.T, q, out=many[:near])

    return run
