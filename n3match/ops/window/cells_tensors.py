"""The tiles of window_cells.py by tensor operations: any device, no compiler.

The patches of a tile share their candidates: those in the rectangle around all their windows. So
distances, weighted sums and what leads back are dense products of cells of the tile with cells of
that rectangle. From pairs of cells to pairs of patches, and back, go sums of shifted blocks; of a
dense row of patches the window is picked out, or set between zeros.

K neighbours; R patches, r×c, and (y, x) cells of a tile; (Y, X) cells near; O candidates of a
patch; D numbers of a cell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from n3match.ops.window.grid import WindowGrid
from n3match.ops.window.tiles import Axes, Part, Sums, Tile

# Numbers in the weights of one tile, on a CPU and elsewhere. Larger ones take more candidates that
# are in no one's window.
TILE_ELEMENTS = 1 << 20, 1 << 21


class Images:
    """Query, key and value in cells, (B, Y, X, D); query and key relative to the mean key, which
    changes no distance but keeps products small."""

    def __init__(self, grid: WindowGrid, axes: Axes, images: Sequence[Tensor], gradients: bool):
        query, key, value = images
        self.grid = grid
        self.whole = tuple(range(axis.cells) for axis in axes)
        mean = key.mean((2, 3)).repeat_interleave(grid.stride**2, 1)[:, None, None]
        # Products of float32 would lose digits of small distances: see `Worker.distances`.
        wide = torch.float64 if query.device.type == "cpu" else query.dtype
        self.query, self.key = ((self.cut(image) - mean).to(wide) for image in (query, key))
        self.value = self.cut(value)
        self.cover = [torch.tensor(axis.cover).to(value) for axis in axes]

    def cut(self, images: Tensor, cells: tuple[range, range] | None = None) -> Tensor:
        """(…, C, H, W) -> (…, y, x, D), 0 outside the image."""
        s = self.grid.stride
        (top, bottom, above, below), (left, right, before, after) = self._pixels(cells)
        part = images[..., top:bottom, left:right]
        part = torch.nn.functional.pad(part, (before, after, above, below))
        *batch, c, high, wide = part.shape
        n = len(batch)
        part = part.reshape(*batch, c, high // s, s, wide // s, s)
        order = (*range(n), n + 1, n + 3, n, n + 2, n + 4)
        return part.permute(order).reshape(*batch, high // s, wide // s, c * s * s)

    def put(self, cells: Tensor, where: tuple[range, range], out: Tensor) -> None:
        """(…, y, x, D) -> the pixels of these cells in out (…, C, H, W)."""
        s = self.grid.stride
        (top, bottom, above, _), (left, right, before, _) = self._pixels(where)
        *batch, y, x, d = cells.shape
        n = len(batch)
        cells = cells.view(*batch, y, x, d // s**2, s, s)
        order = (*range(n), n + 2, n, n + 3, n + 1, n + 4)
        pixels = cells.permute(order).reshape(*batch, d // s**2, y * s, x * s)
        high, wide = bottom - top, right - left
        out[..., top:bottom, left:right] = pixels[
            ..., above : above + high, before : before + wide
        ]

    def _pixels(self, cells: tuple[range, range] | None):
        """Of each axis: first and last + 1 in the image, and how many more before and after."""
        left, _, top, _ = self.grid.padding
        found = []
        for part, before, length in zip(
            cells or self.whole, (top, left), (self.grid.height, self.grid.width)
        ):
            start, stop = (n * self.grid.stride - before for n in (part.start, part.stop))
            low, high = max(start, 0), min(stop, length)
            found.append((low, high, low - start, stop - high))
        return found

    def worker(self) -> Worker:
        return Worker(self)

    def sums(self, rows: range) -> Sums:
        query, key, value = (
            self.value.new_zeros(len(rows), *image.shape[2:])
            for image in (self.query, self.key, self.value)
        )
        return Sums(rows.start, query, key, value)

    def put_back(self, sums: Sequence[Sequence[Sums]], name: str, out: Tensor) -> None:
        """out (B, C, H, W): filled with the sums called `name` of each image, added in order."""
        total = out.new_zeros(getattr(self, name).shape[1:])
        for parts, image in zip(sums, out):
            total.zero_()
            for part in parts:
                more = getattr(part, name)
                total[part.held : part.held + len(more)] += more
            self.put(total, self.whole, image)


def _rectangle(image: Tensor, rows: range, columns: range) -> Tensor:
    """(Y, X, D) -> (y·x, D)."""
    return image[rows.start : rows.stop, columns.start : columns.stop].flatten(0, 1)


def _places(part: Part) -> Iterator[tuple[slice, slice]]:
    """For each cell of a patch along an axis: those patches whose cell is in the part, and where
    these cells are."""
    for a in range(part.axis.side):
        low = max(part.patches.start, part.cells.start - a)
        high = min(part.patches.stop, part.cells.stop - a)
        if low < high:
            patches, cells = part.patches.start, part.cells.start - a
            yield slice(low - patches, high - patches), slice(low - cells, high - cells)


def _blocks(tile: Tile) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """Blocks of pairs of patches, (r, c, …, near patches), and of the pairs of cells that have the
    same part in each, (y, x, …, near cells): one for each cell of a patch."""
    (near_r, near_c) = (len(part.near) for part in (tile.rows, tile.columns))
    for down in _places(tile.rows):
        a = down[1].start - down[0].start + tile.rows.cells.start - tile.rows.patches.start
        for along in _places(tile.columns):
            b = along[1].start - along[0].start
            b += tile.columns.cells.start - tile.columns.patches.start
            near = ..., slice(a, a + near_r), slice(b, b + near_c)
            yield (down[0], along[0]), (down[1], along[1], *near)


class Worker:
    def __init__(self, images: Images):
        self._images = images

    def _near(self, tile: Tile, image: Tensor) -> Tensor:
        return _rectangle(image, tile.rows.near_cells, tile.columns.near_cells)

    def _shape(self, tile: Tile, *between: int) -> tuple[int, ...]:
        """Of what belongs to pairs of cells."""
        near = len(tile.rows.near_cells), len(tile.columns.near_cells)
        return *tile.cells, *between, *near

    def _window(self, tile: Tile) -> Tensor:
        """(R, O) numbers of the candidates in the rectangle around all windows."""
        device = self._images.query.device
        (rows, columns) = (
            part.numbers(part.axis.window, device)[1] - part.near.start
            for part in (tile.rows, tile.columns)
        )
        index = rows[:, None, :, None] * len(tile.columns.near) + columns[None, :, None]
        return index.flatten(0, 1).flatten(1)

    def _to_patches(self, tile: Tile, pairs: Tensor) -> Tensor:
        """Pairs of cells, (y, x, …, Y, X), summed up to those of patches: (R, …, O)."""
        between = pairs.shape[2:-2]
        near = len(tile.rows.near), len(tile.columns.near)
        (_, first), *more = _blocks(tile)
        total = pairs[first].clone()
        for _, cells in more:
            total += pairs[cells]
        index = self._window(tile)
        total = total.reshape(len(index), -1, near[0] * near[1])
        found = total.gather(2, index[:, None].expand(-1, total.shape[1], -1))
        return found.view(len(index), *between, -1)

    def _to_cells(self, tile: Tile, windows: Tensor) -> Tensor:
        """The transpose of `_to_patches`."""
        r, *between, _ = windows.shape
        index = self._window(tile)
        near = len(tile.rows.near), len(tile.columns.near)
        windows = windows.reshape(r, -1, windows.shape[-1])
        dense = windows.new_zeros(r, windows.shape[1], near[0] * near[1])
        dense.scatter_(2, index[:, None].expand(-1, windows.shape[1], -1), windows)
        dense = dense.view(*tile.patches, *between, *near)
        pairs = windows.new_zeros(self._shape(tile, *between))
        for patches, cells in _blocks(tile):
            pairs[cells] += dense[patches]
        return pairs

    def distances(self, i: int, tile: Tile, own: bool) -> Tensor:
        """(R, O), inf where nothing may be selected; all cells of the patches in the tile."""
        q = _rectangle(self._images.query[i], tile.rows.cells, tile.columns.cells)
        x = self._near(tile, self._images.key[i])
        if q.device.type == "cpu":
            d = torch.addmm(x.square().sum(1), q, x.T, alpha=-2)
            d += q.square().sum(1)[:, None]
            d.clamp_(min=0)
        else:
            d = torch.cdist(q, x, compute_mode="donot_use_mm_for_euclid_dist").square_()
        d = d.to(self._images.value.dtype).view(self._shape(tile))
        found = self._to_patches(tile, d)
        if not own:
            numbers, near = self.numbers(tile)
            found.masked_fill_(near == numbers, float("inf"))
        return found

    def put_sums(self, i: int, tile: Tile, weights: Tensor, out: Tensor) -> None:
        """weights (R, K, O) of all patches that cover the tile's cells -> these cells' pixels in
        out (K, C, H, W)."""
        k, v = len(out), self._near(tile, self._images.value[i])
        z = self._to_cells(tile, weights).view(-1, len(v)) @ v
        z = z.view(*tile.cells, k, -1) / self._cover(tile)
        self._images.put(z.movedim(2, 0), (tile.rows.cells, tile.columns.cells), out)

    def _cover(self, tile: Tile) -> Tensor:
        """(y, x, 1, 1)."""
        rows, columns = (
            cover[part.cells.start : part.cells.stop]
            for cover, part in zip(self._images.cover, (tile.rows, tile.columns))
        )
        return (rows[:, None] * columns)[:, :, None, None]

    def cut(self, tile: Tile, grad: Tensor) -> Tensor:
        """The gradient of the output, (K, C, H, W) -> of the sums of the patches that cover a
        cell, (y, x, K, D)."""
        cells = self._images.cut(grad, (tile.rows.cells, tile.columns.cells))
        return cells.movedim(0, 2) / self._cover(tile)

    def products(self, i: int, tile: Tile, grad: Tensor) -> Tensor:
        """The gradient of the weights, (R, K, O), from what `cut` returned."""
        pairs = grad.flatten(0, 2) @ self._near(tile, self._images.value[i]).T
        return self._to_patches(tile, pairs.view(self._shape(tile, grad.shape[2])))

    def add_value(self, tile: Tile, weights: Tensor, grad: Tensor, sums: Sums) -> None:
        pairs = self._to_cells(tile, weights).view(grad.shape[:3].numel(), -1)
        self._add(sums.value, sums.held, tile, pairs.T @ grad.flatten(0, 2))

    def _add(self, total: Tensor, held: int, tile: Tile, near: Tensor) -> None:
        """near (Y·X, D)."""
        rows, columns = tile.rows.near_cells, tile.columns.near_cells
        part = total[rows.start - held : rows.stop - held, columns.start : columns.stop]
        part += near.view(part.shape)

    def add_distances(self, i: int, tile: Tile, grad: Tensor, sums: Sums) -> None:
        """grad (R, O)."""
        q = _rectangle(self._images.query[i], tile.rows.cells, tile.columns.cells)
        q, x = q.to(grad), self._near(tile, self._images.key[i]).to(grad)
        pairs = 2 * self._to_cells(tile, grad).view(len(q), len(x))
        self._add(sums.key, sums.held, tile, pairs.sum(0)[:, None] * x - pairs.T @ q)
        rows, columns = tile.rows.cells, tile.columns.cells
        part = sums.query[
            rows.start - sums.held : rows.stop - sums.held, columns.start : columns.stop
        ]
        part += (pairs.sum(1)[:, None] * q - pairs @ x).view(part.shape)

    def numbers(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """As `Tile.numbers`."""
        return tile.numbers(device=self._images.query.device)
