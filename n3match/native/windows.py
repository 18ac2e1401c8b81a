"""Windows of image patches by cells, in compiled loops over one tile of an image.

A cell is S×S pixels of an image of C channels: a point of D = C·S² numbers, in memory `room(D)`,
zeros after the first D. A patch is `side` × `side` cells. Images come as points (Y, X, room), or as
planes (Y, D, line): one number of all cells of a row side by side.

What belongs to a patch and its candidates is O = `tile.candidates` numbers: the window's rows one
after the other, each rounded up to `LANES`. R patches and (y, x) cells of a tile, K neighbours.
Nothing of this is checked; tensors as in `library`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from torch import Tensor

from n3match.native.library import LANES, call

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
    """One axis of the grid of an image."""

    def __init__(
        self,
        side: int,
        window: int,
        nearest: Sequence[int],
        reach: Sequence[tuple[int, int]],
        cover: Sequence[int],
    ):
        """
        Args:
            window: candidates of a patch.
            nearest: the first of them, of each patch.
            reach: of each cell, first and last + 1 of those that any patch which covers it compares
                it with.
            cover: of each cell, how many patches cover it.
        """
        self.side, self.window, self.cells = side, window, len(cover)
        self.counts = [last - first for first, last in reach]
        firsts = [first for first, _ in reach]
        shares = [1 / patches for patches in cover]
        self._kept = [
            *((ctypes.c_int64 * len(x))(*x) for x in (nearest, firsts, self.counts)),
            (ctypes.c_double * len(shares))(*shares),
        ]
        self._addresses = [ctypes.addressof(x) for x in self._kept]

    def numbers(self, patches: range, cells: range) -> _AxisNumbers:
        starts = patches.start, cells.start, cells.start, cells.start
        return _AxisNumbers(
            len(cells), len(patches), patches.start - cells.start, cells.start, self.window,
            max(self.counts[cells.start : cells.stop]),
            *(address + 8 * start for address, start in zip(self._addresses, starts)),
        )

    def share_address(self, cells: range) -> int:
        return self._addresses[3] + 8 * cells.start


class Tile:
    """Patches and cells of an image: ranges along both axes."""

    def __init__(
        self, axes: tuple[Axis, Axis], patches: tuple[range, range], cells: tuple[range, range]
    ):
        self.axes, self.cells = axes, cells
        rows, columns = axes
        numbers = [axis.numbers(*parts) for axis, *parts in zip(axes, patches, cells)]
        self._numbers = _TileNumbers(*numbers, rows.side, columns.cells, line(columns.cells))
        self.address = ctypes.addressof(self._numbers)
        self.patches = len(patches[0]) * len(patches[1])
        self.candidates = rows.window * room(columns.window)
        self._most = numbers[0].most, room(numbers[1].most)

    def pairs(self, k: int) -> int:
        """Numbers of scratch for the pairs of k rows of cells, with a vector more behind them."""
        return len(self.cells[1]) * k * (self._most[0] + 1) * self._most[1] + LANES

    @property
    def factors(self) -> int:
        """Numbers of scratch of `distances_back`."""
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
    images: Tensor, view: View, cells: tuple[range, range], out: Tensor, tile: Tile | None = None
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


def cut_planes(image: Tensor, view: View, cells: tuple[range, range], out: Tensor) -> None:
    """image (C, H, W) -> out (y, D, line) of whole rows of cells."""
    numbers = view.numbers(cells)
    across = len(cells[1])
    call(
        "cut_planes", image.dtype, image, ctypes.addressof(numbers), len(cells[0]), across,
        line(across), out,
    )


def distances(
    tile: Tile, query: Tensor, key: Tensor, depth: int, own: bool, pairs: Tensor, out: Tensor
) -> None:
    """Squared distances of whole patches.

    Args:
        tile: all cells of its patches are in it.
        query: points; key: planes.
        own: whether a patch may select itself.
        pairs: scratch, zeros before its first use, of `tile.pairs(2)` numbers.
        out: (R, O), filled; inf where nothing may be selected.
    """
    call(
        "window_distances", out.dtype, tile.address, query, key, depth, room(depth), own, pairs, out
    )


def sums(tile: Tile, weights: Tensor, value: Tensor, k: int, pairs: Tensor, out: Tensor) -> None:
    """Weighted sums of cells, averaged over the patches that cover a cell.

    Args:
        tile: all patches that cover its cells are in it.
        weights: (R, K, O), 0 where nothing may be selected. value: points.
        pairs: scratch of `tile.pairs(k)` numbers.
        out: (y, x, K, room), filled.
    """
    call("window_sums", out.dtype, tile.address, weights, value, k, out.shape[-1], pairs, out)


def products(
    tile: Tile, grad: Tensor, value: Tensor, k: int, depth: int, pairs: Tensor, out: Tensor
) -> None:
    """Gradients of the weights.

    Args:
        tile: as in `distances`.
        grad: (y, x, K, room) of the cells, divided by the patches that cover each. value: planes.
        pairs: scratch, zeros before its first use, of `tile.pairs(k)` numbers.
        out: (R, K, O), filled; finite where nothing may be selected.
    """
    call(
        "window_products", out.dtype, tile.address, grad, value, k, depth, room(depth), pairs, out
    )


def sums_back(
    tile: Tile, weights: Tensor, grad: Tensor, k: int, pairs: Tensor, d_value: Tensor, held: int
) -> None:
    """What `grad`, as in `products`, does to the values.

    Args:
        d_value: points of the rows of cells from `held` on: added to.
    """
    call(
        "window_sums_back", d_value.dtype, tile.address, weights, grad, k, d_value.shape[-1], pairs,
        d_value, held,
    )


def distances_back(
    tile: Tile,
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    scratch: tuple[Tensor, Tensor],
    d_query: Tensor,
    d_key: Tensor,
    held: int,
) -> None:
    """What a gradient of the distances does to half the query and half the key.

    Args:
        tile: as in `distances`.
        grad: (R, O), rows side by side; 0 where nothing may be selected. query, key: points.
        scratch: of `tile.pairs(1)` and `tile.factors` numbers.
        d_query, d_key: points of the rows of cells from `held` on: added to.
    """
    call(
        "window_distances_back", grad.dtype, tile.address, grad, grad.stride(0), query, key,
        query.shape[-1], *scratch, d_query, d_key, held,
    )
