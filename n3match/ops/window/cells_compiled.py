"""The tiles of cells.py by the compiled loops: CPU, float32 and float64.

Query, key and value are cut into cells once, as points or planes (see native.windows), whichever
the loops go through; the output and its gradient only tile by tile. Rows of candidates are padded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from n3match import native
from n3match.native import windows
from n3match.ops.window.grid import WindowGrid
from n3match.ops.window.tiles import Axes, Tile

# Numbers in the weights of one tile, 4 MiB of float32: much smaller ones have more at their borders
# than inside, much larger ones leave the caches. Found by trying.
_TILE_ELEMENTS = 1 << 20
_ROWS_OF_A_TASK = 16  # of cells that are cut out, or put back, at once


def usable(like: Tensor) -> bool:
    return (
        like.device.type == "cpu"
        and like.dtype in (torch.float32, torch.float64)
        and native.available()
    )


def tile_elements(device: torch.device) -> int:
    return _TILE_ELEMENTS


@dataclass
class Sums:
    """Gradients of query, key and value, as points of the rows of cells from `held` on."""

    held: int
    query: Tensor
    key: Tensor
    value: Tensor


class Images:
    """Query, key and value in cells, for the weighted sums or for the gradients."""

    def __init__(self, grid: WindowGrid, axes: Axes, images: Sequence[Tensor], gradients: bool):
        query, key, value = (image.contiguous() for image in images)
        left, _, top, _ = grid.padding
        self.embedding, self.features = (
            windows.View(x.shape[1], grid.height, grid.width, grid.stride, top, left)
            for x in (query, value)
        )
        self.shape = axes[0].cells, axes[1].cells
        self._axes = tuple(
            windows.Axis(a.side, a.window, a.nearest, a.reach, a.cover) for a in axes
        )
        self._tiles: dict[Tile, windows.Tile] = {}
        self.query = self._points(query, self.embedding)
        self.key_planes = self._planes(key, self.embedding)
        if gradients:
            self.key = self._points(key, self.embedding)
            self.value_planes = self._planes(value, self.features)
        else:
            self.value = self._points(value, self.features)

    def _bands(self, batch: int) -> list[tuple[int, range]]:
        """An image, and rows of its cells."""
        starts = range(0, self.shape[0], _ROWS_OF_A_TASK)
        bands = [range(start, min(start + _ROWS_OF_A_TASK, self.shape[0])) for start in starts]
        return [(i, rows) for i in range(batch) for rows in bands]

    def _points(self, images: Tensor, view: windows.View) -> Tensor:
        out = images.new_empty(len(images), *self.shape, windows.room(view.depth))

        def work(bands: Iterator) -> None:
            for i, rows in bands:
                cells = rows, range(self.shape[1])
                windows.cut_points(images[i : i + 1], view, cells, out[i, rows.start :])

        native.run_tasks(work, self._bands(len(images)))
        return out

    def _planes(self, images: Tensor, view: windows.View) -> Tensor:
        rows, across = self.shape
        out = images.new_empty(len(images), rows, view.depth, windows.line(across))

        def work(bands: Iterator) -> None:
            for i, rows in bands:
                windows.cut_planes(images[i], view, (rows, range(across)), out[i, rows.start :])

        native.run_tasks(work, self._bands(len(images)))
        return out

    def tile(self, tile: Tile) -> windows.Tile:
        """Made once: all images have the same."""
        if tile not in self._tiles:
            parts = tile.rows, tile.columns
            self._tiles[tile] = windows.Tile(
                self._axes, tuple(p.patches for p in parts), tuple(p.cells for p in parts)
            )
        return self._tiles[tile]

    def worker(self) -> Worker:
        return Worker(self)

    def sums(self, rows: range) -> Sums:
        def new(view: windows.View) -> Tensor:
            return self.query.new_zeros(len(rows), self.shape[1], windows.room(view.depth))

        return Sums(rows.start, new(self.embedding), new(self.embedding), new(self.features))

    def put_back(self, sums: Sequence[Sequence[Sums]], name: str, out: Tensor) -> None:
        """out (B, C, H, W): filled with the sums called `name` of each image, added in order."""
        view = self.features if name == "value" else self.embedding

        def work(bands: Iterator) -> None:
            for i, rows in bands:
                total = out.new_zeros(len(rows), self.shape[1], windows.room(view.depth))
                for part in sums[i]:
                    more = getattr(part, name)
                    start = max(rows.start, part.held)
                    stop = min(rows.stop, part.held + len(more))
                    if start < stop:
                        here = total[start - rows.start : stop - rows.start]
                        here += more[start - part.held : stop - part.held]
                windows.put_points(total, view, (rows, range(self.shape[1])), out[i : i + 1])

        native.run_tasks(work, self._bands(len(out)))


class Worker:
    """The tiles of one thread, in buffers of its own.

    K neighbours; R patches and (y, x) cells of a tile; O candidates, padded for native.windows.
    """

    def __init__(self, images: Images):
        self._images = images
        self._rooms: dict[str, Tensor] = {}

    def _room(self, name: str, *shape: int) -> Tensor:
        """The same memory each time; zeros at first."""
        numbers = 1
        for n in shape:
            numbers *= n
        if name not in self._rooms or len(self._rooms[name]) < numbers:
            self._rooms[name] = self._images.query.new_zeros(numbers)
        return self._rooms[name][:numbers].view(shape)

    def distances(self, i: int, tile: Tile, own: bool) -> Tensor:
        """(R, O), inf where nothing may be selected; all cells of the patches in the tile."""
        images, t = self._images, self._images.tile(tile)
        out = self._room("distances", t.patches, t.candidates)
        windows.distances(
            t, images.query[i], images.key_planes[i], images.embedding.depth, own,
            self._room("pairs", t.pairs(2)), out,
        )
        return out

    def put_sums(self, i: int, tile: Tile, weights: Tensor, out: Tensor) -> None:
        """weights (R, K, O) of all patches that cover the tile's cells -> these cells' pixels in
        out (K, C, H, W)."""
        images, t = self._images, self._images.tile(tile)
        k, view = len(out), images.features
        z = self._room("cells", *tile.cells, k, windows.room(view.depth))
        windows.sums(
            t, weights.contiguous(), images.value[i], k, self._room("pairs", t.pairs(k)), z
        )
        windows.put_points(z, view, t.cells, out)

    def cut(self, tile: Tile, grad: Tensor) -> Tensor:
        """The gradient of the output, (K, C, H, W) -> of the sums of the patches that cover a
        cell, (y, x, K, room)."""
        view, t = self._images.features, self._images.tile(tile)
        out = self._room("cells", *tile.cells, len(grad), windows.room(view.depth))
        windows.cut_points(grad, view, t.cells, out, t)
        return out

    def products(self, i: int, tile: Tile, grad: Tensor) -> Tensor:
        """The gradient of the weights, (R, K, O), from what `cut` returned."""
        images, t = self._images, self._images.tile(tile)
        k = grad.shape[2]
        out = self._room("products", t.patches, k, t.candidates)
        windows.products(
            t, grad, images.value_planes[i], k, images.features.depth,
            self._room("pairs", t.pairs(k)), out,
        )
        return out

    def add_value(self, tile: Tile, weights: Tensor, grad: Tensor, sums: Sums) -> None:
        t, k = self._images.tile(tile), grad.shape[2]
        pairs = self._room("pairs", t.pairs(k))
        windows.sums_back(t, weights.contiguous(), grad, k, pairs, sums.value, sums.held)

    def add_distances(self, i: int, tile: Tile, grad: Tensor, sums: Sums) -> None:
        """grad (R, O)."""
        images, t = self._images, self._images.tile(tile)
        scratch = self._room("pairs", t.pairs(1)), self._room("factors", t.factors)
        windows.distances_back(
            t, 2 * grad, images.query[i], images.key[i], scratch, sums.query, sums.key, sums.held
        )

    def numbers(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """As `Tile.numbers`."""
        return tile.numbers(windows.room(tile.columns.axis.window))
