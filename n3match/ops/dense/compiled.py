"""The dense form in tiles of query rows by the compiled row loops (n3match.native): CPU, "released"
recursion, formulas as in problem.py.

A tile has few enough rows to stay in one core's cache, the K mass rows of a query stand one below
the other so that one product makes all its K neighbours, and whole tiles are handed to threads.
Distances and weights are made anew in the backward pass; nothing of size M×N exists.

Shapes: R rows of a tile, N items, K neighbours, E embedding and F feature channels.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from n3match import native
from n3match.ops.dense.problem import Problem, Saved

# Numbers in all the (R, K, N) buffers of one tile: 3 MiB of float32, which stay in the caches of
# one core; much smaller ones make the products slow. Found by trying.
TILE_ELEMENTS = 3 << 18
_LEAST_ROWS = 8
_COLUMNS = 16  # products with a matrix of fewer columns, or a few more than a multiple, are slow
_GROUPS_PER_THREAD = 8


def tile_rows(queries: int, numbers: int) -> int:
    """Rows of a tile; numbers: of one row, in all buffers."""
    return min(queries, max(_LEAST_ROWS, TILE_ELEMENTS // numbers))


@dataclass
class _Tile:
    problem: Problem
    own: int  # column that its first row may not select, or −1
    query_rows: Tensor  # (R, E + 1)
    saved: tuple[Tensor, ...]
    more: tuple[Tensor, ...]


def _tiles(p: Problem, saved: Saved, step: int, *more: Tensor) -> list[_Tile]:
    """The rows of one problem, and whatever goes with them, cut every `step`."""
    pieces = zip(
        p.query_rows.split(step),
        zip(*(t.split(step) for t in saved.tensors())),
        zip(*(t.split(step) for t in more)),
    )
    return [
        _Tile(p, number * step if p.exclude_self else -1, *piece)
        for number, piece in enumerate(pieces)
    ]


def forward(problems: Sequence[Problem], k: int, out: Tensor, saved: Sequence[Saved]) -> None:
    """Fills out (B, M, K, F) and `saved`, but for the rows that this marks `exact`."""
    n, f = problems[0].value.shape
    step = tile_rows(out.shape[1], k * n)
    padding = -f % _COLUMNS

    def work(tiles: Iterator[_Tile]) -> None:
        buffer, products = out.new_empty(step, k, n), out.new_empty(step, k, f + padding)
        problem = value = None
        for tile in tiles:
            (z,) = tile.more
            if tile.problem is not problem:
                problem = tile.problem
                value = functional.pad(problem.value, (0, padding)) if padding else problem.value
            m = buffer[: len(z)]
            raw = products[: len(z)] if padding else z
            torch.mm(tile.query_rows, problem.key_columns, out=m[:, 0])
            native.masses(m, *tile.saved, own=tile.own)
            torch.mm(m.view(-1, n), value, out=raw.view(len(z) * k, -1))
            native.finish(raw, *tile.saved[1:4], z)

    native.run_tasks(
        work, [tile for p, s, z in zip(problems, saved, out) for tile in _tiles(p, s, step, z)]
    )


class _Group:
    """Consecutive tiles of one problem that one thread does in order, with sums of their own."""

    def __init__(self, number: int, tiles: Sequence[_Tile], total: _Total):
        self.number, self.tiles, self.total = number, tiles, total
        self.problem = tiles[0].problem

    def start(self) -> None:
        # In the thread that needs them: large fills here would wake torch's other threads.
        # Transposed: a product is faster where the long rows of its factor are those of the sum.
        p = self.problem
        self.key_sums = torch.zeros_like(p.key_columns)
        self.d_value = p.value.new_zeros(p.value.shape[::-1])


class _Total:
    """The sums of the groups of one problem, added in their order, so that it doesn't matter which
    thread was faster; those that are added are let go of."""

    def __init__(self, grads: Sequence[Tensor | None]):
        self.count = 0  # of groups
        self._added, self._grads = 0, grads
        self._done: dict[int, tuple[Tensor, Tensor]] = {}
        self._sums: tuple[Tensor, Tensor] | None = None
        self._lock = threading.Lock()

    def groups(self, tiles: Sequence[_Tile], wanted: int) -> list[_Group]:
        """About as many as wanted; to be called once."""
        size = -(-len(tiles) // wanted)
        parts = [tiles[start : start + size] for start in range(0, len(tiles), size)]
        self.count = len(parts)
        return [_Group(number, part, self) for number, part in enumerate(parts)]

    def add(self, group: _Group) -> None:
        """To be called when a group is done; the last one fills the gradients."""
        with self._lock:
            self._done[group.number] = group.key_sums, group.d_value
            del group.key_sums, group.d_value
            while self._added in self._done:
                more = self._done.pop(self._added)
                if self._sums is None:
                    self._sums = more
                else:
                    for total, part in zip(self._sums, more):
                        total += part
                self._added += 1
            if self._added == self.count:
                self._finish(group.problem)

    def _finish(self, problem: Problem) -> None:
        d_query, d_key, d_value, _ = self._grads
        key_sums, value_sums = self._sums
        d_value.copy_(value_sums.T)
        problem.key_gradient(key_sums.T, out=d_key)
        d_query *= 2 * problem.inverse_t


def backward(
    problems: Sequence[Problem],
    k: int,
    out: Tensor,
    grad_out: Tensor,
    saved: Sequence[Saved],
    grads: Sequence[tuple[Tensor, Tensor, Tensor, Tensor | None]],
) -> None:
    """Fills the gradients of query, key, value and (unless None) log temperature of each problem;
    rows marked `exact` contribute nothing."""
    n, f = problems[0].value.shape
    step = tile_rows(out.shape[1], 2 * k * n)
    # A few groups a thread, so that none waits long for the last.
    wanted = -(-_GROUPS_PER_THREAD * torch.get_num_threads() // len(problems))
    groups = []
    for p, s, z, g, found in zip(problems, saved, out, grad_out, grads):
        d_query, _, _, d_log_t = found
        more = (z, g, d_query) if d_log_t is None else (z, g, d_query, d_log_t)
        groups += _Total(found).groups(_tiles(p, s, step, *more), wanted)

    def backward_tile(tile: _Tile, group: _Group, buffers: Sequence[Tensor]) -> None:
        p, (z, g, d_query, *d_log_t), skip = tile.problem, tile.more, tile.saved[-1]
        m, u, scaled, dots = buffers
        flat = scaled.view(-1, f)
        native.prepare(g, z, *tile.saved[1:], scaled, dots)
        torch.mm(tile.query_rows, p.key_columns, out=m[:, 0])
        torch.mm(flat, p.value.T, out=u.view(-1, n))
        native.masses_backward(m, u, skip, dots, d_log_t[0] if d_log_t else None, own=tile.own)
        group.d_value.addmm_(flat.T, m.view(-1, n))
        d_logits = u[:, -1]
        torch.mm(d_logits, p.key, out=d_query)
        group.key_sums.addmm_(tile.query_rows.T, d_logits)

    def work(share: Iterator[_Group]) -> None:
        new = out.new_empty
        buffers = new(step, k, n), new(step, k, n), new(step, k, f), new(step, k)
        for group in share:
            group.start()
            for tile in group.tiles:
                backward_tile(tile, group, [b[: len(tile.query_rows)] for b in buffers])
            group.total.add(group)

    native.run_tasks(work, groups)
