"""The tiles of cells.py by the compiled loops: CPU, float32 and float64.

Query, key and value are cut into cells once, as points or planes (see loops.py), whichever the
loops go through; the output and its gradient only tile by tile. Rows of candidates are padded. What
the loops do stands in csrc/windows.inc.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from torch import Tensor

from n3match import native
from n3match.native.library import call
from n3match.ops.window import loops
from n3match.ops.window.grid import WindowGrid
from n3match.ops.window.tiles import Axes, Sums, Tile

# Numbers in the weights of one tile, 4 MiB of float32: much smaller ones have more at their borders
# than inside, much larger ones leave the caches. Found by trying.
TILE_ELEMENTS = (1 << 20,)
_ROWS_OF_A_TASK = 16  # of cells that are cut out, or put back, at once


class Images:
    """Query, key and value in cells, for the weighted sums or for the gradients."""

    def __init__(self, grid: WindowGrid, axes: Axes, images: Sequence[Tensor], gradients: bool):
        query, key, value = (image.contiguous() for image in images)
        left, _, top, _ = grid.padding
        self.embedding, self.features = (
            loops.View(x.shape[1], grid.height, grid.width, grid.stride, top, left)
            for x in (query, value)
        )
        self.shape = axes[0].cells, axes[1].cells
        self._axes = tuple(map(loops.Axis, axes))
        self._tiles: dict[Tile, loops.LoopsTile] = {}
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

    def _points(self, images: Tensor, view: loops.View) -> Tensor:
        out = images.new_empty(len(images), *self.shape, loops.room(view.depth))

        def work(bands: Iterator) -> None:
            for i, rows in bands:
                cells = rows, range(self.shape[1])
                loops.cut_points(images[i : i + 1], view, cells, out[i, rows.start :])

        native.run_tasks(work, self._bands(len(images)))
        return out

    def _planes(self, images: Tensor, view: loops.View) -> Tensor:
        rows, across = self.shape
        out = images.new_empty(len(images), rows, view.depth, loops.line(across))

        def work(bands: Iterator) -> None:
            for i, rows in bands:
                loops.cut_planes(images[i], view, (rows, range(across)), out[i, rows.start :])

        native.run_tasks(work, self._bands(len(images)))
        return out

    def tile(self, tile: Tile) -> loops.LoopsTile:
        """Made once: all images have the same."""
        if tile not in self._tiles:
            self._tiles[tile] = loops.LoopsTile(self._axes, tile)
        return self._tiles[tile]

    def worker(self) -> Worker:
        return Worker(self)

    def sums(self, rows: range) -> Sums:
        def new(view: loops.View) -> Tensor:
            return self.query.new_zeros(len(rows), self.shape[1], loops.room(view.depth))

        return Sums(rows.start, new(self.embedding), new(self.embedding), new(self.features))

    def put_back(self, sums: Sequence[Sequence[Sums]], name: str, out: Tensor) -> None:
        """out (B, C, H, W): filled with the sums called `name` of each image, added in order."""
        view = self.features if name == "value" else self.embedding

        def work(bands: Iterator) -> None:
            for i, rows in bands:
                total = out.new_zeros(len(rows), self.shape[1], loops.room(view.depth))
                for part in sums[i]:
                    more = getattr(part, name)
                    start = max(rows.start, part.held)
                    stop = min(rows.stop, part.held + len(more))
                    if start < stop:
                        here = total[start - rows.start : stop - rows.start]
                        here += more[start - part.held : stop - part.held]
                loops.put_points(total, view, (rows, range(self.shape[1])), out[i : i + 1])

        native.run_tasks(work, self._bands(len(out)))


class Worker:
    """The tiles of one thread, in buffers of its own; its methods as in cells_tensors.

    K neighbours; R patches and (y, x) cells of a tile; O candidates, padded for the loops.
    """

    def __init__(self, images: Images):
        self._images = images
        self._rooms: dict[str, Tensor] = {}

    def _room(self, name: str, *shape: int) -> Tensor:
        """The same memory each time; zeros at first, which the loops count on in that of pairs."""
        numbers = math.prod(shape)
        if name not in self._rooms or len(self._rooms[name]) < numbers:
            self._rooms[name] = self._images.query.new_zeros(numbers)
        return self._rooms[name][:numbers].view(shape)

    def _call(self, name: str, tile: loops.LoopsTile, pairs: int, *rest) -> None:
        """With scratch for the pairs of so many rows of cells in the place of None."""
        room = self._room("pairs", tile.pairs(pairs))
        rest = [room if x is None else x for x in rest]
        call(name, room.dtype, tile.address, *rest)

    def distances(self, i: int, tile: Tile, own: bool) -> Tensor:
        images, t = self._images, self._images.tile(tile)
        out = self._room("distances", t.patches, t.candidates)
        query, depth = images.query[i], images.embedding.depth
        self._call(
            "window_distances", t, 2, query, images.key_planes[i], depth, query.shape[-1], own,
            None, out,
        )
        return out

    def _sums(self, i: int, tile: Tile, weights: Tensor) -> Tensor:
        """(y, x, K, room)."""
        t, (_, k, _), value = self._images.tile(tile), weights.shape, self._images.value[i]
        z = self._room("cells", *tile.cells, k, value.shape[-1])
        weights = weights.contiguous()
        self._call("window_sums", t, k, weights, value, k, value.shape[-1], None, z)
        return z

    def put_sums(self, i: int, tile: Tile, weights: Tensor, out: Tensor) -> None:
        images, z = self._images, self._sums(i, tile, weights)
        loops.put_points(z, images.features, images.tile(tile).cells, out)

    def put_differences(self, i: int, tile: Tile, weights: Tensor, out: Tensor) -> None:
        """out (H, W, (K + 1)·C); not in cells_tensors."""
        images, z = self._images, self._sums(i, tile, weights)
        cells = images.tile(tile).cells
        loops.put_differences(z, images.value[i], images.features, cells, out)

    def cut(self, tile: Tile, grad: Tensor) -> Tensor:
        view, t = self._images.features, self._images.tile(tile)
        out = self._room("cells", *tile.cells, len(grad), loops.room(view.depth))
        loops.cut_points(grad, view, t.cells, out, t)
        return out

    def products(self, i: int, tile: Tile, grad: Tensor) -> Tensor:
        """Finite where nothing may be selected."""
        images, t = self._images, self._images.tile(tile)
        k, room = grad.shape[2:]
        out = self._room("products", t.patches, k, t.candidates)
        depth = images.features.depth
        self._call(
            "window_products", t, k, grad, images.value_planes[i], k, depth, room, None, out
        )
        return out

    def add_value(self, tile: Tile, weights: Tensor, grad: Tensor, sums: Sums) -> None:
        t, (k, room), weights = self._images.tile(tile), grad.shape[2:], weights.contiguous()
        self._call("window_sums_back", t, k, weights, grad, k, room, None, sums.value, sums.held)

    def add_distances(self, i: int, tile: Tile, grad: Tensor, sums: Sums) -> None:
        images, t = self._images, self._images.tile(tile)
        grad, query, key = 2 * grad, images.query[i], images.key[i]
        self._call(
            "window_distances_back", t, 1, grad, grad.stride(0), query, key, query.shape[-1], None,
            self._room("factors", t.factors), sums.query, sums.key, sums.held,
        )

    def numbers(self, tile: Tile) -> tuple[Tensor, Tensor]:
        return tile.numbers(loops.room(tile.columns.axis.window))
