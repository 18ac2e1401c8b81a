"""The window form by cells, for patch sizes that are multiples of the stride; see tiles.py.

Tile by tile: distances of all cells to those around them, summed up to distances of patches; the
weights of every patch; these averaged over the patches that cover a cell, and one weighted sum of
cells. The backward pass makes distances and weights anew, so that memory is linear in the images
and the output. By the compiled loops where they are there, else by tensor operations.

Forward, a tile is some cells with all patches that cover them (those at its border are worked out
once for each tile). Backward, it is some patches with all their cells, whose gradients are added to
the sums of a band of tiles, and those of all bands in order: the same bits each time, whichever
thread is faster.

B batch, K neighbours, C channels, (n₁, n₂) patches, R patches of a tile, O candidates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from n3match import native
from n3match.ops import selection
from n3match.ops.window import cells_compiled, cells_tensors
from n3match.ops.window.grid import WindowGrid
from n3match.ops.window.tiles import Tile, axes


@dataclass
class _Problem:
    grid: WindowGrid
    own: bool  # whether a patch may select itself
    rule: selection.Rule

    def __post_init__(self):
        self.axes = axes(self.grid)

    def cuts(self, engine, like: Tensor, rows: int, columns: int) -> list[list[range]]:
        """That many rows and columns, of cells or patches, cut up for tiles."""
        down, along = self.axes
        room = engine.TILE_ELEMENTS[like.device.type != "cpu"]
        room //= self.rule.k * down.window * along.window
        size = max(math.isqrt(room) - (down.side - 1), 2 * down.side)
        # What lies at the border of a tile is done twice: none too narrow just for more threads.
        least = min(-(-_tasks_wanted(like.device) // len(like)), rows // (3 * down.side))
        return [_cut(rows, size, least), _cut(columns, size)]

    def numbers(self, worker, i: int, tile: Tile) -> selection.Numbers:
        """Of each query and candidate, as if all patches were candidates of each."""

        def numbers() -> Tensor:
            own, near = worker.numbers(tile)
            m = self.axes[0].patches * self.axes[1].patches
            return (i * m + own) * m + near

        return numbers


def _cut(length: int, size: int, least: int = 1) -> list[range]:
    """In even parts of at most `size`, `least` or more of them."""
    count = max(-(-length // size), least)
    edges = [i * length // count for i in range(count + 1)]
    return [range(start, stop) for start, stop in pairwise(edges)]


def _engine(like: Tensor):
    return cells_compiled if native.serves(like) else cells_tensors


def _tasks_wanted(device: torch.device) -> int:
    """So that no thread waits long for the last."""
    return 4 * torch.get_num_threads() if device.type == "cpu" else 1


def _run(work: Callable[[Iterator], None], tasks: Sequence, device: torch.device) -> None:
    if device.type == "cpu":
        native.run_tasks(work, tasks)
    else:
        work(iter(tasks))


def _part(log_t: Tensor, tile: Tile) -> Tensor:
    """(n₁, n₂) -> that of the tile's patches."""
    rows, columns = tile.rows.patches, tile.columns.patches
    return log_t[rows.start : rows.stop, columns.start : columns.stop]


def usable(grid: WindowGrid) -> bool:
    """Whether patches are whole cells."""
    return grid.patch_size % grid.stride == 0


def forward(
    query: Tensor, key: Tensor, value: Tensor, log_t: Tensor, grid: WindowGrid, exclude_self: bool,
    rule: selection.Rule,
) -> Tensor:
    """(B, E, H, W), (B, E, H, W), (B, C, H, W), (B, 1, n₁, n₂) -> (B, K, C, H, W), without
    autograd; float32 or float64."""
    b, c, h, w = value.shape
    out = value.new_empty(b, rule.k, c, h, w)

    def put(worker, i: int, tile: Tile, weights: Tensor) -> None:
        worker.put_sums(i, tile, weights, out[i])

    _each_tile(query, key, value, log_t, _Problem(grid, not exclude_self, rule), put)
    return out


def fuses_differences(grid: WindowGrid, like: Tensor) -> bool:
    """Whether `differences` can do such images."""
    return usable(grid) and native.serves(like)


def differences(
    query: Tensor, key: Tensor, value: Tensor, log_t: Tensor, grid: WindowGrid, exclude_self: bool,
    rule: selection.Rule,
) -> Tensor:
    """(B, (K + 1)·C, H, W), channels side by side in memory: `value`, and each of what `forward`
    gives less that. One pass over an output that leaves the caches, in place of five."""
    b, c, h, w = value.shape
    out = value.new_empty(b, h, w, (rule.k + 1) * c)

    def put(worker, i: int, tile: Tile, weights: Tensor) -> None:
        worker.put_differences(i, tile, weights, out[i])

    _each_tile(query, key, value, log_t, _Problem(grid, not exclude_self, rule), put)
    return out.permute(0, 3, 1, 2)


def _each_tile(
    query: Tensor, key: Tensor, value: Tensor, log_t: Tensor, p: _Problem, put: Callable
) -> None:
    """put(worker, i, tile, weights) for the tiles of each image."""
    log_t = log_t[:, 0]
    engine = _engine(query)
    images = engine.Images(p.grid, p.axes, (query, key, value), gradients=False)
    rows, columns = p.axes
    bands, parts = p.cuts(engine, query, rows.cells, columns.cells)
    tiles = [Tile(rows.of_cells(y), columns.of_cells(x)) for y in bands for x in parts]

    def work(tasks: Iterator[tuple[int, Tile]]) -> None:
        worker = images.worker()
        for i, tile in tasks:
            d = worker.distances(i, tile.around, p.own)
            tau = _part(log_t[i], tile).reshape(-1, 1)
            weights = selection.weights(d, tau, p.rule, p.numbers(worker, i, tile))
            put(worker, i, tile, weights)

    _run(work, [(i, tile) for i in range(len(query)) for tile in tiles], query.device)


def backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, log_t: Tensor, grid: WindowGrid,
    exclude_self: bool, rule: selection.Rule, wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of query, key, value and log_t, None where not wanted."""
    p, log_t, grad = _Problem(grid, not exclude_self, rule), log_t[:, 0], grad.contiguous()
    engine = _engine(query)
    images = engine.Images(p.grid, p.axes, (query, key, value), gradients=True)
    b = len(query)
    rows, columns = p.axes
    bands, parts = p.cuts(engine, query, rows.patches, columns.patches)
    bands = [[Tile(rows.of_patches(y), columns.of_patches(x)) for x in parts] for y in bands]
    d_log_t = torch.zeros_like(log_t, memory_format=torch.contiguous_format)
    sums = [[None] * len(bands) for _ in range(b)]
    through_weights = p.rule.differentiable and (wanted[0] or wanted[1] or wanted[3])

    def gradients(worker, i: int, tile: Tile, found) -> None:
        d = worker.distances(i, tile, p.own)
        g = worker.cut(tile, grad[i])
        tau = _part(log_t[i], tile).reshape(-1, 1)
        numbers = p.numbers(worker, i, tile)
        if through_weights:
            weights, d_d, d_tau = selection.gradients(
                d, tau, worker.products(i, tile, g), p.rule, numbers
            )
            _part(d_log_t[i], tile).copy_(d_tau.view(tile.patches))
            if wanted[0] or wanted[1]:
                worker.add_distances(i, tile, d_d, found)
        else:
            weights = selection.weights(d, tau, p.rule, numbers)
        if wanted[2]:
            worker.add_value(tile, weights, g, found)

    def work(tasks: Iterator[tuple[int, int]]) -> None:
        worker = images.worker()
        for i, band in tasks:
            part = bands[band][0].rows
            held = range(
                min(part.cells.start, part.near_cells.start),
                max(part.cells.stop, part.near_cells.stop),
            )
            sums[i][band] = images.sums(held)
            for tile in bands[band]:
                gradients(worker, i, tile, sums[i][band])

    _run(work, [(i, band) for i in range(b) for band in range(len(bands))], query.device)
    found = []
    for name, image, needed in zip(("query", "key", "value"), (query, key, value), wanted):
        out = image.new_empty(image.shape) if needed else None
        if needed:
            images.put_back(sums, name, out)
        found.append(out)
    return [*found, d_log_t[:, None] if wanted[3] else None]
