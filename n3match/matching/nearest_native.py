"""One pass over blocks of the distances by the compiled loops (n3match.native), float32 or 64.

While a block of squared distances lies in the cache of the core that made it, its rows and columns
are searched together.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import torch
from torch import Tensor

from n3match import native

# Entries of a block: 2 MiB of float32 stay in the cache of one core.
_BLOCK_ENTRIES = 1 << 19
_LEAST_ROWS = 16


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


def minima_of_product(left: Tensor, right: Tensor, block_size: int | None) -> Minima:
    """left (N, D) · rightᵀ (M, D), M a multiple of `native.LANES`, in blocks of rows."""
    n, m = len(left), len(right)
    rows = max(_LEAST_ROWS, _BLOCK_ENTRIES // m) if block_size is None else block_size
    values, at = left.new_empty(n, 3), torch.empty(n, 2, dtype=torch.int64)
    right = right.T.contiguous()
    integer = torch.int32 if left.dtype == torch.float32 else torch.int64
    parts: list[tuple[Tensor, ...]] = []
    lock = threading.Lock()

    def work(starts) -> None:
        block = left.new_empty(min(rows, n), m)
        columns = (*left.new_full((2, m), torch.inf), torch.zeros(m, dtype=integer))
        for start in starts:
            here = slice(start, min(start + rows, n))
            found = block[: here.stop - start]
            torch.mm(left[here], right, out=found)
            native.nearest(found, start, values[here], at[here], *columns)
        with lock:
            parts.append(columns)

    native.run_tasks(work, range(0, n, rows))
    column_values, column_seconds, column_ats = (torch.stack(t) for t in zip(*parts))
    column_value, part = column_values.min(0, keepdim=True)
    rivals = column_values.scatter(0, part, torch.inf)
    return Minima(
        values, at, column_value[0], torch.cat([rivals, column_seconds]).amin(0),
        column_ats.gather(0, part)[0].long(),
    )
