"""The tiles of tiled.py by the compiled row loops (n3match.native): CPU, "released" reading.

The same formulas and the same saved numbers. What differs is the order of work: a tile has few
enough rows to stay in one core's cache, all K weight matrices of it stand one below the other so
that one product makes all K neighbours, and whole tiles are handed to threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from n3match import native
from n3match.native.library import LARGEST_K

if TYPE_CHECKING:
    from n3match.ops.tiled import Problem, Saved

# Numbers of one tile, all its buffers together; found by trying on a few machines.
_TILE_ELEMENTS = {"forward": 1 << 19, "backward": 1 << 19}


def usable(problem: Problem, k: int) -> bool:
    return (
        native.available()
        and problem.reading == "released"
        and problem.query.device.type == "cpu"
        and k <= LARGEST_K
    )


def _tiles(problems: Sequence[Problem], rows: int) -> list[tuple[int, slice]]:
    return [
        (index, slice(start, min(start + rows, len(p.query))))
        for index, p in enumerate(problems)
        for start in range(0, len(p.query), rows)
    ]


def _rows(problem: Problem, k: int, direction: str) -> int:
    buffers = {"forward": k + 1, "backward": 2 * k + 1}[direction]
    wanted = _TILE_ELEMENTS[direction] // (buffers * len(problem.key))
    return max(1, min(len(problem.query), max(wanted, 8)))


def _own(problem: Problem, rows: slice) -> int:
    return rows.start if problem.exclude_self else -1


def forward(problems: Sequence[Problem], k: int, out: Tensor, saved: Sequence[Saved]) -> None:
    """Fills out (B, M, K, F) and `saved`, but for the rows that this marks `exact`."""
    first = problems[0]
    step, n = _rows(first, k, "forward"), len(first.key)

    def work(_: int, tiles: Sequence[tuple[int, slice]]) -> None:
        logits, weights = first.query.new_empty(step, n), first.query.new_empty(step * k, n)
        for index, rows in tiles:
            p, s = problems[index], saved[index]
            count = rows.stop - rows.start
            x, w = logits[:count], weights[: count * k]
            torch.mm(p.query_rows[rows], p.key_columns, out=x)
            native.weights(
                x, k, w, s.nearest[rows], s.top[rows], s.second[rows], s.sums[rows],
                s.exact[rows], own=_own(p, rows),
            )
            torch.mm(w, p.value, out=out[index, rows].view(count * k, -1))

    native.run_tasks(work, _tiles(problems, step))


def backward(
    problems: Sequence[Problem],
    k: int,
    out: Tensor,
    grad_out: Tensor,
    saved: Sequence[Saved],
    needs_log_t: bool,
) -> list[tuple[Tensor, Tensor, Tensor, Tensor | None]]:
    """For each problem gradients of query, key, value and log temperature; that of the key is
    (N, E + 1) sums over tiles, as in `tiled._tensor_backward`. Rows marked `exact` contribute
    nothing."""
    first = problems[0]
    step, n = _rows(first, k, "backward"), len(first.key)
    d_query = [torch.zeros_like(p.query) for p in problems]
    d_log_t = [torch.zeros_like(p.inverse_t) for p in problems]

    def work(_: int, tiles: Sequence[tuple[int, slice]]) -> dict[int, tuple[Tensor, Tensor]]:
        logits, new = first.query.new_empty(step, n), first.query.new_empty
        u, weights, change = new(step * k, n), new(step * k, n), new(step)
        sums: dict[int, tuple[Tensor, Tensor]] = {}
        for index, rows in tiles:
            p, s = problems[index], saved[index]
            if index not in sums:
                sums[index] = (new(n, p.key.shape[1] + 1).zero_(), torch.zeros_like(p.value))
            d_key, d_value = sums[index]
            count = rows.stop - rows.start
            x, w, g = logits[:count], weights[: count * k], grad_out[index, rows].flatten(0, 1)
            torch.mm(p.query_rows[rows], p.key_columns, out=x)
            torch.mm(g, p.value.T, out=u[: count * k])
            dots = (grad_out[index, rows] * out[index, rows]).sum(-1)
            native.weights_backward(
                x, k, dots, s.exact[rows], u[: count * k], w, change[:count], own=_own(p, rows)
            )
            d_value.addmm_(w.T, g)
            torch.mm(x, p.key, out=d_query[index][rows]).mul_(2 * p.inverse_t[rows])
            d_key.addmm_(x.T, p.query_rows[rows])
            d_log_t[index][rows, 0] = change[:count]
        return sums

    parts = native.run_tasks(work, _tiles(problems, step))
    found = []
    for index in range(len(problems)):
        mine = [part[index] for part in parts if index in part]
        d_key, d_value = (sum(pair[1:], start=pair[0]) for pair in zip(*mine))
        found.append((d_query[index], d_key, d_value, d_log_t[index] if needs_log_t else None))
    return found
