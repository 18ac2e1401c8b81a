"""The dense form by Triton kernels, as a custom operator: linear memory, own backward pass.

For CUDA tensors, or CPU tensors where TRITON_INTERPRET=1 was set before Triton was imported.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from n3match.ops.custom_op import differentiable
from n3match.ops.triton import dense_backward as backward_kernels
from n3match.ops.triton import dense_forward as forward_kernels
from n3match.ops.triton import operands as operand_kernels
from n3match.ops.triton.launch import (
    TYPES,
    accumulator,
    cdiv,
    chunks,
    column_block,
    compiled_with,
    has_large_memory,
    on_device_of,
    padded,
    plane_type,
)
from n3match.ops.triton.tiles import ROW_NUMBERS, SPAN

ROWS, ITEMS = 64, 64  # of a tile of the forward pass
# Of tiles of the backward pass, best first: a program's own side, the side that it goes over, and
# stages of the pipeline. With three the next tile is on its way while one is computed.
BACKWARD_TILES = ((64, 32, 3), (64, 32, 2), (64, 32, 1), (64, 16, 1), (32, 16, 1), (16, 16, 1))
_LARGE_ROOM, _SMALL_ROOM = 208 << 10, 80 << 10  # bytes of shared memory for operands
_HELD_ROOM = 160 << 10  # of it for those that are there from tile to tile
STEPS_AT_ONCE = 3  # normalisers that one sweep gives
PATHS_AT_ONCE = 2  # of the backward pass, whose sums one sweep over the items holds
# Sums of a row, of steps and features, that the values kernel has registers for; and beside
# self-exclusion, with whole tiles.
_SUMS, _SUMS_BESIDE_EXCLUSION = 192, 160


@dataclass(frozen=True)
class _Problem:
    """Sizes of a call, and its planes."""

    batch: int
    queries: int
    items: int
    embedding: int
    features: int
    k: int
    exclude_self: bool
    like: Tensor

    @functools.cached_property
    def rows(self) -> int:
        """Queries of a plane."""
        return _whole_spans(self.queries)

    @functools.cached_property
    def padded_items(self) -> int:
        return _whole_spans(self.items)

    @functools.cached_property
    def compiled_for(self) -> dict:
        """What every kernel that goes over tiles of distances is compiled for."""
        return {
            "E_PADDED": padded(self.embedding), "E_BLOCK": column_block(self.embedding),
            "PLANES": 2 if self.like.dtype == torch.float32 else 1,
            "EXCLUDE": self.exclude_self, "ACC": TYPES[accumulator(self.like.dtype)],
        }

    @functools.cached_property
    def dot(self) -> dict:
        return {"DOT": TYPES[plane_type(self.like)]}

    def new(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return self.like.new_empty(*shape, dtype=dtype or accumulator(self.like.dtype))

    def integers(self, *shape: int) -> Tensor:
        return self.new(*shape, dtype=torch.int32)


def _whole_spans(rows: int) -> int:
    return cdiv(rows, SPAN.value) * SPAN.value


@dataclass(frozen=True)
class _Operands:
    """As operands.py has them."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    scales: Tensor
    peaks: Tensor
    norm: Tensor


def _problem(query, key, value, k, exclude_self) -> _Problem:
    (b, m, e), (n, f) = query.shape, value.shape[1:]
    return _Problem(b, m, n, e, f, k, exclude_self, query)


def _prepare(p: _Problem, query, key, value, log_t, mask, rows: Tensor) -> _Operands:
    """Fills the rows' inverse temperatures as well."""
    e, f = padded(p.embedding), padded(p.features)
    compiled = p.compiled_for
    planes = compiled["PLANES"]
    dtype = plane_type(p.like)
    spans = (p.rows + 2 * p.padded_items) // SPAN.value
    found = _Operands(
        p.new(p.batch, p.rows, planes, e, dtype=dtype),
        p.new(p.batch, p.padded_items, planes, e, dtype=dtype),
        p.new(p.batch, p.padded_items, planes, f, dtype=dtype),
        p.new(p.batch, spans), p.new(p.batch, spans), p.new(p.batch, p.padded_items),
    )
    operand_kernels.operands_kernel[(spans, p.batch)](
        query, key, value, log_t, key if mask is None else mask,
        found.queries, found.keys, found.values, found.scales, found.peaks, found.norm, rows,
        p.queries, p.items, p.embedding, p.features, p.rows, p.padded_items, rows.shape[1],
        E_PADDED=e, F_PADDED=f, E_BLOCK=min(64, e), F_BLOCK=min(64, f), PLANES=planes,
        CENTRED=p.like.dtype == accumulator(p.like.dtype), MASKED=mask is not None,
        ACC=compiled["ACC"], **compiled_with(8), **p.dot,
    )
    return found


def _forward(
    query: Tensor, key: Tensor, value: Tensor, log_t: Tensor, mask: Tensor | None, k: int,
    exclude_self: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The operator.

    Args:
        query, key, value: (B, M, E), (B, N, E), (B, N, F); what is masked is finite.
        log_t: (B, M, 1) in the accumulators' type.
        mask: (B, N) bool or None.

    Returns:
        out (B, M, K, F), and what the backward pass needs: rows, starts, picks (see tiles.py).
    """
    query, key, value, log_t = (t.contiguous() for t in (query, key, value, log_t))
    p = _problem(query, key, value, k, exclude_self)
    kept = out, rows, starts, picks = _blank(query, key, value, log_t, mask, k, exclude_self)
    with on_device_of(query):
        operands = _prepare(p, query, key, value, log_t, mask, rows)
        _find_scales(p, operands, rows, starts, picks)
        _sum_values(p, operands, value, rows, starts, picks, out)
    return kept


def _find_scales(p: _Problem, o: _Operands, rows, starts, picks) -> None:
    blocks = p.rows // ROWS
    items = p.padded_items
    tile = ITEMS // 2 if p.like.dtype == torch.float64 else ITEMS  # for the shared memory
    shared = {"BLOCK_M": ROWS, "BLOCK_N": tile, **p.compiled_for}
    parts, chunk = _parts(p, blocks * p.batch, items, tile, resident=4)
    grid = (blocks, parts, p.batch)
    given = (o.queries, o.keys, o.scales, o.norm, rows)
    sums, indices = p.new(p.batch, parts, 6, p.rows), p.integers(p.batch, parts, p.rows)
    forward_kernels.neighbours_kernel[grid](
        *given, sums, indices, p.rows, items, chunk, rows.shape[1],
        **compiled_with(4, 3), **shared,
    )
    forward_kernels.start_kernel[(blocks, p.batch)](
        *given, starts, picks, sums, indices, p.rows, items, parts,
        K=p.k, **compiled_with(4, 2), **shared,
    )
    for first in range(STEPS_AT_ONCE, p.k, STEPS_AT_ONCE):
        sums = p.new(p.batch, parts, 4, p.rows)
        forward_kernels.power_kernel[grid](
            *given, starts, picks, sums, p.rows, items, chunk,
            K=p.k, FIRST=first, **compiled_with(4, 3), **shared,
        )
        forward_kernels.scales_kernel[(blocks, p.batch)](
            rows, starts, sums, p.rows, parts, K=p.k, FIRST=first,
            LAST=min(first + STEPS_AT_ONCE, p.k), BLOCK_M=ROWS, ACC=shared["ACC"],
            **compiled_with(2),
        )


def _sum_values(p: _Problem, o: _Operands, value, rows, starts, picks, out: Tensor) -> None:
    blocks = p.rows // ROWS
    items, width = p.padded_items, padded(p.features)
    features = min(64, width)
    at_once = _SUMS // features
    crowded = p.exclude_self and min(p.k, at_once) * features > _SUMS_BESIDE_EXCLUSION
    # For the registers, and where that is small for the shared memory.
    tile = ITEMS // 2 if crowded or not has_large_memory(p.like) else ITEMS
    parts, chunk = _parts(p, blocks * p.batch * (width // features), items, tile, resident=2)
    sums = p.new(p.batch, parts, p.rows, p.k, width)
    for first in range(0, p.k, at_once):
        forward_kernels.values_kernel[(blocks, parts, p.batch * (width // features))](
            o.queries, o.keys, o.values, o.scales, o.norm, rows, starts, picks, sums, p.rows,
            items, chunk, K=p.k, FIRST=first, LAST=min(first + at_once, p.k), F_PADDED=width,
            BLOCK_M=ROWS, BLOCK_N=tile, BLOCK_F=features, **compiled_with(4, 3),
            **p.compiled_for, **p.dot,
        )
    forward_kernels.output_kernel[(p.rows // 16, width // features, p.batch)](
        value, rows, starts, picks, sums, out, p.queries, p.items, p.features, p.rows, parts,
        K=p.k, F_PADDED=width, BLOCK_M=16, BLOCK_F=features, ACC=p.compiled_for["ACC"],
        **compiled_with(4),
    )


def _blank(query, key, value, log_t, mask, k, exclude_self) -> tuple[Tensor, ...]:
    b, m, _ = query.shape
    rows = _whole_spans(m)
    numbers = {"dtype": accumulator(query.dtype)}
    integers = {"dtype": torch.int32}
    return (
        value.new_empty(b, m, k, value.shape[2], **numbers),
        query.new_empty(b, ROW_NUMBERS.value + k, rows, **numbers),
        query.new_empty(b, rows, **integers),
        query.new_empty(b, k, rows, **integers),
    )


def _backward(grad, tensors, outputs, options, wanted) -> tuple[Tensor | None, ...]:
    k, exclude_self = options
    out, rows, starts, picks = outputs
    query, key, value, log_t, mask = tensors
    grad, query, key, value, log_t = (t.contiguous() for t in (grad, query, key, value, log_t))
    p = _problem(query, key, value, k, exclude_self)
    gradients = tuple(torch.empty_like(t) for t in (query, key, value, log_t))
    d_query, d_key, d_value, d_log_t = gradients
    compiled = p.compiled_for
    planes, width, e = compiled["PLANES"], padded(p.features), padded(p.embedding)
    spans = p.rows // SPAN.value
    with on_device_of(query):
        o = _prepare(p, query, key, value, log_t, mask, rows)
        grads = p.new(p.batch, p.rows, k, planes, width, dtype=plane_type(p.like))
        grad_scales, given = p.new(p.batch, spans), p.new(p.batch, 1 + 2 * k, p.rows)
        backward_kernels.gradients_kernel[(spans, p.batch)](
            grad, out, value, rows, starts, picks, o.peaks, grads, grad_scales, given,
            p.queries, p.items, p.features, p.rows, p.padded_items,
            K=k, F_PADDED=width, BLOCK_F=min(32, width), PLANES=planes, ACC=compiled["ACC"],
            **compiled_with(8), **p.dot,
        )
        found = p.new(p.batch, 3 + 4 * k, p.rows)
        again, again_scales = torch.empty_like(o.queries), torch.empty_like(grad_scales)
        sums, parts = _sum_rows(
            p, o, grads, grad_scales, rows, starts, picks, given, temperature=wanted[3]
        )
        backward_kernels.rows_kernel[(spans, p.batch)](
            o.queries, o.keys, o.scales, rows, starts, picks, given, sums, parts,
            d_query, d_log_t, found, again, again_scales, p.queries, p.embedding, p.rows,
            p.padded_items, sums.shape[1],
            K=k, SUMS=sums.shape[2], E_PADDED=e, BLOCK_E=min(32, e), PLANES=planes,
            TEMPERATURE=wanted[3], ACC=compiled["ACC"], **compiled_with(8), **p.dot,
        )
        key_parts, means, value_parts = _sum_items(
            p, o, grads, again, grad_scales, again_scales, rows, starts, picks, found
        )
        backward_kernels.items_kernel[(p.padded_items // 16, p.batch)](
            o.keys, o.scales, grad, starts, picks, key_parts, means, value_parts, d_key, d_value,
            p.queries, p.items, p.embedding, p.features, p.rows, p.padded_items,
            key_parts.shape[1], value_parts.shape[1], K=k, E_PADDED=e, F_PADDED=width, BLOCK_M=16,
            BLOCK_N=16, BLOCK_E=min(32, e), BLOCK_F=min(32, width), PLANES=planes,
            ACC=compiled["ACC"], **compiled_with(4),
        )
    return *gradients, None


def _sum_rows(
    p: _Problem, o: _Operands, grads, grad_scales, rows, starts, picks, given, temperature: bool
) -> tuple[Tensor, Tensor]:
    k, e, width = p.k, padded(p.embedding), padded(p.features)
    out = min(e, 32)
    numbers = 2 + k * (k - 1) // 2 + (k - 1) * (k - 2) // 2 + (max(2, k) if temperature else 0)
    # Gradients of all steps stay in shared memory, where that has the room.
    features, held = column_block(p.features), k * width
    if not has_large_memory(p.like) or ROWS * held * _number_size(p) > _HELD_ROOM:
        features, held = max(16, min(64, width // 2)), 0
    tile = _tile(p, lambda m, n, stages: m * held + stages * n * (e + width))
    blocks = p.rows // tile["BLOCK_M"]
    count, chunk = _parts(
        p, blocks * p.batch * (e // out), p.padded_items, tile["BLOCK_N"], resident=1
    )
    sums, parts = p.new(p.batch, count, numbers, p.rows), p.new(p.batch, count, p.rows, k, e)
    # The first sweep has most besides its paths. To divide the two of K = 3 is not worth it.
    bounds = [0, *(range(1, k - 1, PATHS_AT_ONCE) if k > 3 else ()), k - 1]
    for first, last in itertools.pairwise(bounds):
        backward_kernels.row_sums_kernel[(blocks, count, p.batch * (e // out))](
            o.queries, o.keys, o.values, grads, o.scales, grad_scales, o.norm, rows, starts,
            picks, given, sums, parts, p.rows, p.padded_items, chunk,
            K=k, FIRST=first, LAST=last, SUMS=numbers, F_PADDED=width, F_BLOCK=features, OUT=out,
            TEMPERATURE=temperature, **tile, **p.compiled_for, **p.dot,
        )
    return sums, parts


def _sum_items(
    p: _Problem, o: _Operands, grads, again, grad_scales, again_scales, rows, starts, picks, found
) -> tuple[Tensor, Tensor, Tensor]:
    k, e, width = p.k, padded(p.embedding), padded(p.features)
    shared = {"K": k, "F_PADDED": width, **p.compiled_for, **p.dot}
    out = min(e, 64)
    tile = _tile(p, lambda m, n, stages: n * width + stages * m * (2 * e + k * width), True)
    blocks = p.padded_items // tile["BLOCK_N"]
    count, chunk = _parts(p, blocks * p.batch * (e // out), p.rows, tile["BLOCK_M"], resident=1)
    key_parts = p.new(p.batch, count, p.padded_items, e)
    means = p.new(p.batch, count, p.padded_items)
    backward_kernels.key_sums_kernel[(blocks, count, p.batch * (e // out))](
        o.queries, o.keys, o.values, grads, again, o.scales, grad_scales, again_scales, o.norm,
        rows, starts, picks, found, key_parts, means, p.rows, p.padded_items, chunk,
        F_BLOCK=column_block(p.features), OUT=out, **tile, **shared,
    )
    features = min(64, width)
    tile = _tile(p, lambda m, n, stages: stages * m * (e + k * features), True)
    programs = blocks * p.batch * (width // features)
    count, chunk = _parts(p, programs, p.rows, tile["BLOCK_M"], resident=2)
    value_parts = p.new(p.batch, count, p.padded_items, width)
    backward_kernels.value_sums_kernel[(blocks, count, p.batch * (width // features))](
        o.queries, o.keys, grads, o.scales, grad_scales, o.norm, rows, starts, picks, found,
        value_parts, p.rows, p.padded_items, chunk, BLOCK_F=features, **tile, **shared,
    )
    return key_parts, means, value_parts


def _number_size(p: _Problem) -> int:
    """Bytes of a number in all its planes."""
    return plane_type(p.like).itemsize * p.compiled_for["PLANES"]


def _tile(p: _Problem, numbers: Callable[[int, int, int], int], of_items: bool = False) -> dict:
    """The first of BACKWARD_TILES whose operands fit in shared memory.

    Args:
        numbers: held at a time, of a tile of (m, n) and so many stages.
        of_items: a program has a block of items, and goes over queries.
    """
    room = (_LARGE_ROOM if has_large_memory(p.like) else _SMALL_ROOM) // _number_size(p)
    for own, other, stages in BACKWARD_TILES:
        m, n = (other, own) if of_items else (own, other)
        if numbers(m, n, stages) <= room:
            break
    return {"BLOCK_M": m, "BLOCK_N": n, **compiled_with(4, stages)}


def _parts(p: _Problem, programs: int, length: int, tile: int, resident: int) -> tuple[int, int]:
    """Over how many programs a sweep is split, and the length of each one's share."""
    tiles = cdiv(length, tile)
    chunk = cdiv(tiles, chunks(p.like, programs, tiles, resident)) * tile
    return cdiv(length, chunk), chunk


_dense = differentiable(
    "triton_dense",
    "query key value log_t mask?",
    "int k, bool exclude_self",
    forward=_forward,
    backward=_backward,
    blank=_blank,
    kept=3,
)


def aggregate(
    query: Tensor, key: Tensor, value: Tensor, log_t: Tensor, mask: Tensor | None, k: int,
    exclude_self: bool,
) -> Tensor:
    """(B, M, E), (B, N, E), (B, N, F), (B, M, 1), (B, N) or None -> (B, M, K, F), checked before, 0
    where masked; "released" recursion. Memory linear in M and N. float16 and bfloat16 are
    multiplied as such and summed in float32."""
    numbers = accumulator(value.dtype)
    return _dense(query, key, value, log_t.to(numbers), mask, k, exclude_self)[0].to(value.dtype)
