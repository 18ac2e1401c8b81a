"""Cells and tiles of an image: where P is a multiple of S, patches share cells of S×S pixels.

The patch at grid position (i, j) is the side×side cells from (i, j) on, side = P/S. Patches that
share a cell look at the same cells around it: the distance of two patches is the sum of the
distances of their cells, and the mean of the averaged patches over a cell is the sum of cells with
the patches' mean weights.

A tile is a rectangle of cells, or of patches, that is worked through at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from n3match.ops.window.grid import WindowGrid


@dataclass(frozen=True)
class CellAxis:
    """One axis of the grid."""

    patches: int
    window: int  # candidates, at most as many as patches
    side: int
    nearest: tuple[int, ...]  # of each patch, its first candidate

    @property
    def cells(self) -> int:
        return self.patches + self.side - 1

    def covering(self, cell: int) -> range:
        """The patches that cover a cell."""
        return range(max(0, cell - self.side + 1), min(cell + 1, self.patches))

    @cached_property
    def reach(self) -> list[tuple[int, int]]:
        """Of each cell, first and last + 1 of the cells that any patch which covers it compares it
        with. Away from the border they all agree."""
        found = []
        for cell in range(self.cells):
            starts = [self.nearest[i] + cell - i for i in self.covering(cell)]
            found.append((min(starts), max(starts) + self.window))
        return found

    @cached_property
    def cover(self) -> list[int]:
        return [len(self.covering(cell)) for cell in range(self.cells)]

    def of_patches(self, patches: range) -> Part:
        return Part(self, patches, range(patches.start, patches.stop + self.side - 1))

    def of_cells(self, cells: range) -> Part:
        """Cells with all patches that cover them."""
        first, last = self.covering(cells.start), self.covering(cells.stop - 1)
        return Part(self, range(first.start, last.stop), cells)


@dataclass(frozen=True)
class Part:
    """Some patches and cells of an axis."""

    axis: CellAxis
    patches: range
    cells: range

    @property
    def around(self) -> Part:
        """The same patches with all their cells."""
        return self.axis.of_patches(self.patches)

    @property
    def near(self) -> range:
        """The candidates of all the patches."""
        nearest = self.axis.nearest
        return range(nearest[self.patches.start], nearest[self.patches.stop - 1] + self.axis.window)

    def numbers(self, window: int, device: torch.device | None) -> tuple[Tensor, Tensor]:
        """Of the patches, and of `window` candidates of each."""
        patches = torch.arange(self.patches.start, self.patches.stop, device=device)
        nearest = self.axis.nearest[self.patches.start : self.patches.stop]
        first = torch.tensor(nearest, device=device)
        return patches, first[:, None] + torch.arange(window, device=device)

    @property
    def near_cells(self) -> range:
        return self.axis.of_patches(self.near).cells


@dataclass(frozen=True)
class Tile:
    rows: Part
    columns: Part

    @property
    def around(self) -> Tile:
        return Tile(self.rows.around, self.columns.around)

    @property
    def patches(self) -> tuple[int, int]:
        return len(self.rows.patches), len(self.columns.patches)

    @property
    def cells(self) -> tuple[int, int]:
        return len(self.rows.cells), len(self.columns.cells)

    def numbers(
        self, width: int | None = None, device: torch.device | None = None
    ) -> tuple[Tensor, Tensor]:
        """Of the tile's patches in the image, (R, 1), and of their candidates, (R, O). The windows'
        rows have `width` columns, the last ones meaningless, or as many as there are candidates."""
        (rows, near_rows), (columns, near_columns) = (
            part.numbers(part.axis.window if wanted is None else wanted, device)
            for part, wanted in ((self.rows, None), (self.columns, width))
        )
        across = self.columns.axis.patches
        own = rows[:, None] * across + columns
        near = near_rows[:, None, :, None] * across + near_columns[None, :, None]
        return own.view(-1, 1), near.reshape(own.numel(), -1)


@dataclass
class Sums:
    """Gradients of query, key and value in the rows of cells from `held` on, (Y, X, numbers)."""

    held: int
    query: Tensor
    key: Tensor
    value: Tensor


Axes = tuple[CellAxis, CellAxis]


def axes(grid: WindowGrid) -> Axes:
    """Rows and columns of a grid whose patch size is a multiple of its stride."""
    side = grid.patch_size // grid.stride
    rows, columns = (
        CellAxis(n, w, side, tuple(first))
        for first, n, w in zip(grid.firsts, grid.shape, grid.window_shape)
    )
    return rows, columns
