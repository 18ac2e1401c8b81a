"""The window form against its matrix products, gathering and the authors' algorithm."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from n3match import native, ops
from n3match.ops.window.grid import WindowGrid
from n3match.pipelines.benchmarks.baselines import (
    LAYOUT,
    authors_bytes,
    authors_windows,
    gather_windows,
)
from n3match.pipelines.benchmarks.ceilings import Ceilings, window_work
from n3match.pipelines.benchmarks.measure import (
    AUTHORS,
    GATHERING,
    OURS,
    PRODUCTS,
    Call,
    Limits,
    Measurement,
    median_seconds,
    side_by_side,
)

CHANNELS, NEIGHBOURS = 8, 7
TILES = (4, 8, 16)  # sides of the tiles of the products alone, in cells
# Random patches: at this temperature their weights are neither uniform nor certain.
_LOG_TEMPERATURE = math.log(20.0)


def describe() -> str:
    return (
        f"B = 1, {CHANNELS} channels, patch {LAYOUT[0]}, stride {LAYOUT[1]}, "
        f"window {LAYOUT[2]}, K = {NEIGHBOURS}, float32"
    )


def measure_windows(
    sides: Sequence[int], limits: Limits, ceilings: Ceilings
) -> list[Measurement]:
    """Time and memory for one square image of each side, without and with gradients."""
    rows = []
    for side in sorted(sides):
        grid = WindowGrid(side, side, *LAYOUT)

        def needed(name: str, gradients: bool, grid: WindowGrid = grid) -> int:
            return authors_bytes(grid, NEIGHBOURS, gradients) if name == AUTHORS else 0

        def floor(gradients: bool, grid: WindowGrid = grid) -> float:
            return ceilings.floor_seconds(window_work(grid, CHANNELS, NEIGHBOURS, gradients))

        rows += side_by_side(
            "window",
            side,
            (OURS, PRODUCTS, GATHERING, AUTHORS),
            call=_call,
            small=20,
            needed_bytes=needed,
            floor_seconds=floor,
            limits=limits,
            earlier=rows,
        )
    return rows


def _call(name: str, side: int, gradients: bool) -> Call:
    if name == PRODUCTS:
        return _fastest_products(WindowGrid(side, side, *LAYOUT), gradients)
    functions = {
        OURS: ops.n3_window_aggregate, GATHERING: gather_windows, AUTHORS: authors_windows,
    }
    function = functions[name]
    generator = torch.Generator().manual_seed(0)
    images = [
        torch.randn(1, CHANNELS, side, side, generator=generator).requires_grad_(gradients)
        for _ in range(3)
    ]
    cotangent = torch.randn(1, NEIGHBOURS, CHANNELS, side, side, generator=generator)

    def run() -> object:
        z = function(*images, NEIGHBOURS, _LOG_TEMPERATURE)
        return torch.autograd.grad(z, images, cotangent) if gradients else z

    return run


def _fastest_products(grid: WindowGrid, gradients: bool) -> Call:
    tiles = {
        str(tile): window_products(grid, CHANNELS, NEIGHBOURS, gradients, tile) for tile in TILES
    }
    seconds = median_seconds(tiles, 1)
    return tiles[min(seconds, key=seconds.__getitem__)]


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
    grid: WindowGrid, channels: int, k: int, gradients: bool, tile: int
) -> Callable[[], None]:
    """Only the matrix products of the window form by cells: what its time is compared with.

    A tile of T×T cells (S×S pixels, D = C·S² numbers) shares its (T + W − 1)² candidate cells, so
    that distances and weighted sums are dense products. Of the forward pass, or of both passes,
    each tile by one thread. T isn't fixed: the fastest is taken.
    """
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
