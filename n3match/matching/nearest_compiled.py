"""One pass over blocks of the distances by the compiled loops (n3match.native).

While a block of squared distances lies in the cache of the core that made it, its rows and columns
are searched together.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from n3match import native

# A block of 2 MiB of float32 stays in the cache of one core, and a product is fastest where neither
# side of it is short.
_ROWS, COLUMNS = 256, 2048


def usable(like: Tensor) -> bool:
    return like.device.type == "cpu" and native.available()


@dataclass
class Minima:
    """Of a matrix (N, M)."""

    values: Tensor  # (N, 3) smallest entries of each row, in order
    at: Tensor  # (N, 2) int64, columns of the first two, any of equal entries
    column_value: Tensor  # (M,) smallest entry of each column
    column_second: Tensor  # (M,) the next one
    column_at: Tensor  # (M,) int64, row of the smallest, any of equal entries

    def roots(self) -> Minima:
        """Those of the matrix of the entries' square roots."""
        return Minima(
            self.values.sqrt(), self.at, self.column_value.sqrt(), self.column_second.sqrt(),
            self.column_at,
        )


class Distances(Protocol):
    """A matrix (N, M) of squared distances that is made block by block, M a multiple of LANES."""

    shape: tuple[int, int]
    dtype: torch.dtype

    def fill(self, rows: slice, tile: int, out: Tensor) -> None:
        """Rows of the columns [tile · COLUMNS, …), contiguous."""


class Products:
    """left (N, D) · right (M, D)ᵀ, float32 or float64."""

    def __init__(self, left: Tensor, right: Tensor):
        self.shape, self.dtype = (len(left), len(right)), left.dtype
        self._left, self._right = left, [tile.T.contiguous() for tile in right.split(COLUMNS)]

    def fill(self, rows: slice, tile: int, out: Tensor) -> None:
        torch.mm(self._left[rows], self._right[tile], out=out)


def minima(distances: Distances, block_size: int | None = None) -> Minima:
    """The smallest entries of all rows and columns; block_size: rows of a block."""
    n, m = distances.shape
    rows = _ROWS if block_size is None else block_size
    tiles = [slice(c, min(c + COLUMNS, m)) for c in range(0, m, COLUMNS)]
    values = torch.empty(len(tiles), n, 3, dtype=distances.dtype)
    at = torch.empty(len(tiles), n, 2, dtype=torch.int64)
    integer = torch.int32 if distances.dtype == torch.float32 else torch.int64
    parts: list[tuple[Tensor, ...]] = []
    lock = threading.Lock()

    def work(starts) -> None:
        block = values.new_empty(min(rows, n) * min(m, COLUMNS))
        columns = (*values.new_full((2, m), torch.inf), torch.zeros(m, dtype=integer))
        for start in starts:
            here = slice(start, min(start + rows, n))
            for number, tile in enumerate(tiles):
                shape = here.stop - start, tile.stop - tile.start
                found = block[: shape[0] * shape[1]].view(shape)
                distances.fill(here, number, found)
                native.nearest(
                    found, start, values[number, here], at[number, here],
                    *(part[tile] for part in columns),
                )
        with lock:
            parts.append(columns)

    native.run_tasks(work, range(0, n, rows))
    column_values, column_seconds, column_ats = (torch.stack(t) for t in zip(*parts))
    column_value, part = column_values.min(0, keepdim=True)
    rivals = column_values.scatter(0, part, torch.inf)
    return Minima(
        *_over_tiles(values, at), column_value[0],
        torch.cat([rivals, column_seconds]).amin(0), column_ats.gather(0, part)[0].long(),
    )


def _over_tiles(values: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """From the smallest entries of each tile, (T, N, 3) and (T, N, 2), to those of whole rows."""
    if len(values) == 1:
        return values[0], at[0]
    at = at + torch.arange(0, len(at) * COLUMNS, COLUMNS)[:, None, None]
    # The third of a tile is among the first two of a row only where all three are equal, and then
    # goes by the column of the first: any of equal entries will do.
    at = torch.cat([at, at[..., :1]], 2)
    values, chosen = values.transpose(0, 1).flatten(1).topk(3, dim=1, largest=False)
    return values, at.transpose(0, 1).flatten(1).gather(1, chosen[:, :2])
