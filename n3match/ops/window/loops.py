"""Cells and tiles as the compiled loops take them, windows.inc and layout.inc.

A cell is S×S pixels of an image of C channels: a point of D = C·S² numbers, in memory `room(D)`,
zeros after the first D. A patch is `side` × `side` cells. Images come as points (Y, X, room), or as
planes (Y, D, line): one number of all cells of a row side by side.

What belongs to a patch and its candidates is O = `tile.candidates` numbers: the window's rows one
after the other, each rounded up to `LANES`. R patches and (y, x) cells of a tile, K neighbours.
Nothing of this is checked; tensors as in `native.library`.
"""

from __future__ import annotations

import ctypes
import math

from torch import Tensor

from n3match.native.library import LANES, call
from n3match.ops.window.tiles import CellAxis, Part, Tile

_TEAM = 4  # as in cells.inc


def room(depth: int) -> int:
    return -(-depth // LANES) * LANES


def line(across: int) -> int:
    """Numbers of a row of a plane. A vector fits behind any cell; rows an odd number of vectors
    apart don't share their places in a cache."""
    vectors = room(across) // LANES + 1
    return (vectors + 1 - vectors % 2) * LANES


class _AxisNumbers(ctypes.Structure):
    """n3_axis of tile.inc."""

    _fields_ = (
        ("cells", ctypes.c_int64), ("patches", ctypes.c_int64), ("shift", ctypes.c_int64),
        ("begin", ctypes.c_int64), ("window", ctypes.c_int64), ("most", ctypes.c_int64),
        ("nearest", ctypes.c_void_p), ("first", ctypes.c_void_p), ("count", ctypes.c_void_p),
        ("share", ctypes.c_void_p),
    )


class _TileNumbers(ctypes.Structure):
    """n3_tile of tile.inc."""

    _fields_ = (
        ("rows", _AxisNumbers), ("columns", _AxisNumbers), ("side", ctypes.c_int64),
        ("across", ctypes.c_int64), ("line", ctypes.c_int64),
    )


class _ViewNumbers(ctypes.Structure):
    """n3_view of tile.inc."""

    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in ("channels", "height", "width", "size", "top", "left", "y0", "x0")
    )


class Axis:
    """One axis of the grid of an image, its lists as arrays of C."""

    def __init__(self, axis: CellAxis):
        self._axis = axis
        firsts = [first for first, _ in axis.reach]
        self._counts = [last - first for first, last in axis.reach]
        self._kept = [
            *((ctypes.c_int64 * len(x))(*x) for x in (axis.nearest, firsts, self._counts)),
            (ctypes.c_double * axis.cells)(*(1 / patches for patches in axis.cover)),
        ]
        self._addresses = [ctypes.addressof(x) for x in self._kept]

    def numbers(self, part: Part) -> _AxisNumbers:
        patches, cells = part.patches.start, part.cells.start
        return _AxisNumbers(
            len(part.cells), len(part.patches), patches - cells, cells, self._axis.window,
            max(self._counts[cells : part.cells.stop]),
            *(address + 8 * n for address, n in zip(self._addresses, (patches, *[cells] * 3))),
        )

    def share_address(self, cells: range) -> int:
        return self._addresses[3] + 8 * cells.start


class LoopsTile:
    """A tile of an image as n3_tile, and how much scratch it takes."""

    def __init__(self, axes: tuple[Axis, Axis], tile: Tile):
        self.axes, self.cells = axes, (tile.rows.cells, tile.columns.cells)
        rows, columns = tile.rows.axis, tile.columns.axis
        numbers = [axis.numbers(part) for axis, part in zip(axes, (tile.rows, tile.columns))]
        self._numbers = _TileNumbers(*numbers, rows.side, columns.cells, line(columns.cells))
        self.address = ctypes.addressof(self._numbers)
        self.patches = math.prod(tile.patches)
        self.candidates = rows.window * room(columns.window)
        self._most = numbers[0].most, room(numbers[1].most)

    def pairs(self, k: int) -> int:
        """Numbers of scratch for the pairs of k rows of cells, with a vector more behind them."""
        return len(self.cells[1]) * k * (self._most[0] + 1) * self._most[1] + LANES

    @property
    def factors(self) -> int:
        """Numbers of scratch of window_distances_back."""
        return self._most[0] * (self._most[1] + _TEAM) * _TEAM


class View:
    """Where cells lie in images (C, H, W)."""

    def __init__(self, channels: int, height: int, width: int, size: int, top: int, left: int):
        """size: S; top, left: pixels of the first cell outside the image."""
        self._fixed = channels, height, width, size, top, left
        self.depth = channels * size * size

    def numbers(self, cells: tuple[range, range]) -> _ViewNumbers:
        return _ViewNumbers(*self._fixed, cells[0].start, cells[1].start)


def cut_points(
    images: Tensor, view: View, cells: tuple[range, range], out: Tensor,
    tile: LoopsTile | None = None,
) -> None:
    """images (K, C, H, W) -> out (y, x, K, room); with a tile, which has these cells, divided by
    the number of patches that cover a cell."""
    numbers = view.numbers(cells)
    shares = (None, None) if tile is None else (
        axis.share_address(part) for axis, part in zip(tile.axes, cells)
    )
    call(
        "cut_points", images.dtype, images, ctypes.addressof(numbers), len(images),
        *map(len, cells), room(view.depth), *shares, out,
    )


def put_points(points: Tensor, view: View, cells: tuple[range, range], out: Tensor) -> None:
    """points (y, x, K, room) -> the pixels of these cells in out (K, C, H, W)."""
    numbers = view.numbers(cells)
    call(
        "put_points", out.dtype, points, ctypes.addressof(numbers), len(out), *map(len, cells),
        room(view.depth), out,
    )


def put_differences(
    points: Tensor, value: Tensor, view: View, cells: tuple[range, range], out: Tensor
) -> None:
    """points (y, x, K, room) of neighbours, value (Y, X, room) -> the pixels of these cells in out
    (H, W, (K + 1)·C): those of `value`, then what each neighbour differs by."""
    numbers = view.numbers(cells)
    call(
        "put_differences", out.dtype, points, value[cells[0].start :], value.shape[1],
        ctypes.addressof(numbers), points.shape[2], *map(len, cells), room(view.depth), out,
    )


def cut_planes(image: Tensor, view: View, cells: tuple[range, range], out: Tensor) -> None:
    """image (C, H, W) -> out (y, D, line) of whole rows of cells."""
    numbers = view.numbers(cells)
    across = len(cells[1])
    call(
        "cut_planes", image.dtype, image, ctypes.addressof(numbers), len(cells[0]), across,
        line(across), out,
    )
