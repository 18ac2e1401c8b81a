"""The window form by Triton kernels, as a custom operator, where patches are whole cells.

Memory is linear in the number of pixels: tables of K numbers for each patch and candidate exist,
see window_cells.py. The distances are kept for the backward pass; it makes the weights anew.

For CUDA tensors, or CPU tensors where TRITON_INTERPRET=1 was set before Triton was imported.
Shapes: B images, C channels, D = C·S² numbers of a cell, (c₁, c₂) cells, (n₁, n₂) patches, K steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from n3match.ops.custom_op import differentiable
from n3match.ops.triton import window_cells as cell_kernels
from n3match.ops.triton.launch import (
    accumulator,
    block,
    cdiv,
    compiled_with,
    next_power,
    on_device_of,
    product_type,
)
from n3match.ops.triton.rows import Rows
from n3match.ops.window.grid import WindowGrid

_TILE_ROWS, _TILE_COLUMNS = 4, 16
_DEPTH = 16  # numbers of a cell are padded to a multiple, so that they are read in whole vectors
_PAIRS = 1024  # of a program that makes a pair table


def _geometry(grid: WindowGrid) -> list[int]:
    """n₁, n₂, w₁, w₂, W // 2, R: what every kernel wants to know."""
    return [*grid.shape, *grid.window_shape, grid.window // 2, grid.patch_size // grid.stride]


class _Launch(Rows):
    """The kernels on tensors of one geometry; tables as in window_cells.py."""

    def __init__(
        self, like: Tensor, geometry: Sequence[int], k: int, exclude_self: bool, hard: bool,
        seed: int | None,
    ):
        super().__init__(like, len(like), geometry, k, exclude_self, hard, seed)
        n1, n2, w1, w2, _, r = geometry
        self.rows_apart = w1 + r - 1 + _TILE_ROWS - 1
        self.pairs = (w1 + r - 1) * (w2 + r - 1)
        c1, c2 = n1 + r - 1, n2 + r - 1
        self.tiles = cdiv(c1, _TILE_ROWS) * cdiv(c2, _TILE_COLUMNS)
        self.cells = c1 * c2
        self.across = block(like, _TILE_COLUMNS - 1 + w2 + r - 1, 1 << 30)

    def _products(self, wide: bool = False) -> dict:
        types = self.types
        if wide:  # operands that float16 might not hold
            types = types | {"DOT": types["ACC"], "PRECISION": types["WIDE"]}
        return {name: types[name] for name in ("ACC", "DOT", "PRECISION")}

    def pair_products(self, left: Tensor, right: Tensor, norm: Tensor | None, count: int) -> Tensor:
        """left (B·count, cells, D) · right (B, cells, D), or distances: (B·count, cells, V₁·V₂)."""
        images, depth = self.images * count, right.shape[-1]
        out = self.new(images, self.cells, self.pairs)
        cell_kernels.products_kernel[(images * self.tiles, self.rows_apart)](
            left, right, right if norm is None else norm, out, *self.geometry, depth, count,
            NORM=norm is not None, BLOCK_Y=self.across, BLOCK_D=block(self.like, depth, 32),
            **compiled_with(4, 3), **self._products(),
        )
        return out

    def pair_table(self, table: Tensor, wide: bool = False) -> Tensor:
        """(·, patches, w₁·w₂) -> (·, cells, V₁·V₂), of the type in which it is multiplied."""
        dtype = accumulator(self.like.dtype) if wide else product_type(self.like)
        out = self.like.new_empty(len(table), self.cells, self.pairs, dtype=dtype)
        across = min(_PAIRS, next_power(self.pairs))
        cells = _PAIRS // across
        cell_kernels.pairs_kernel[
            (len(table) * cdiv(self.cells, cells), cdiv(self.pairs, across))
        ](table, out, *self.geometry, BLOCK_M=cells, BLOCK_O=across, **compiled_with(4))
        return out

    def _depth_block(self, depth: int, wide: bool) -> int:
        """Of float32 the parts that are multiplied take registers too."""
        narrow = wide or self.like.dtype.itemsize > 2
        return block(self.like, depth, 64 if narrow else 128)

    def sums(self, table: Tensor, value: Tensor, count: int, wide: bool = False) -> Tensor:
        """(B·count, cells, V₁·V₂), (B, cells, D) -> (B·count, cells, D)."""
        images, depth = self.images * count, value.shape[-1]
        out = self.new(images, self.cells, depth)
        size = self._depth_block(depth, wide)
        cell_kernels.sums_kernel[(images * self.tiles, cdiv(depth, size))](
            table, value, out, *self.geometry, depth, count,
            BLOCK_Y=self.across, BLOCK_D=size, **compiled_with(4, 3), **self._products(wide),
        )
        return out

    def sums_back(
        self, table: Tensor, value: Tensor, own: Tensor | None, count: int, wide: bool = False
    ) -> Tensor:
        """(B·count, cells, V₁·V₂), (B·count, cells, D) -> (B, cells, D)."""
        depth = value.shape[-1]
        out = self.new(self.images, self.cells, depth)
        size = self._depth_block(depth, wide)
        cell_kernels.sums_back_kernel[(self.images * self.tiles, cdiv(depth, size))](
            table, value, value if own is None else own, out, *self.geometry, depth, count,
            OWN=own is not None, BLOCK_Y=32, BLOCK_D=size, **compiled_with(4, 3),
            **self._products(wide),
        )
        return out


def _forward(
    query: Tensor, key: Tensor, value: Tensor, norm: Tensor, log_t: Tensor, geometry: list[int],
    k: int, exclude_self: bool, hard: bool, seed: int | None,
) -> tuple[Tensor, Tensor]:
    """Weighted sums of cells.

    Args:
        query, key, value: (B, cells, D).
        norm: (B, cells) |key|². No gradient flows into it: that of `key` is complete.
        log_t: (B, patches, 1), as norm in the accumulators' type.
        geometry: n₁, n₂, w₁, w₂, W // 2, R.
        hard: the k-th nearest themselves.
        seed: of the noise; None: no noise.

    Returns:
        (B, K, cells, D), not yet divided by the number of patches that cover a cell; distances
        (B, cells, V₁·V₂).
    """
    query, key, value, norm, log_t = (t.contiguous() for t in (query, key, value, norm, log_t))
    launch = _Launch(query, geometry, k, exclude_self, hard, seed)
    with on_device_of(query):
        distances = launch.pair_products(query, key, norm, 1)
        table = launch.pair_table(launch.weights(distances, log_t))
        z = launch.sums(table, value, k)
        return z.view(len(value), k, *value.shape[1:]), distances


def _blank(query, key, value, norm, log_t, geometry, k, *options) -> tuple[Tensor, Tensor]:
    b, cells, depth = value.shape
    _, _, w1, w2, _, r = geometry
    numbers = {"dtype": accumulator(value.dtype)}
    return (
        value.new_empty(b, k, cells, depth, **numbers),
        value.new_empty(b, cells, (w1 + r - 1) * (w2 + r - 1), **numbers),
    )


def _backward(grad, tensors, outputs, options, wanted) -> tuple[Tensor | None, ...]:
    """Hard selection lets no gradient through but value's."""
    geometry, k, exclude_self, hard, seed = options
    grad, query, key, value, _, log_t = (t.contiguous() for t in (grad, *tensors))
    launch = _Launch(query, geometry, k, exclude_self, hard, seed)
    _, distances = outputs
    with on_device_of(query):
        weights = launch.weights(distances, log_t)
        d_value = launch.sums_back(launch.pair_table(weights), grad, None, k)
        if hard:
            return None, None, d_value.to(value.dtype), None, None
        u = launch.pair_products(grad, value, None, k)
        d_distance, d_log_t = launch.row_gradients(distances, weights, u, log_t)
        del weights, u
        d_distance = launch.pair_table(d_distance, wide=True)
        d_query = launch.sums(d_distance, key, 1, wide=True).mul_(-2)
        d_key = launch.sums_back(d_distance, query, key, 1, wide=True).mul_(-2)
    return *(t.to(query.dtype) for t in (d_query, d_key, d_value)), None, d_log_t


_window = differentiable(
    "triton_window",
    "query key value norm log_t",
    "int[] geometry, int k, bool exclude_self, bool hard, int? seed",
    forward=_forward,
    backward=_backward,
    blank=_blank,
    kept=1,
)


def depth(channels: int, grid: WindowGrid) -> int:
    """Numbers of a cell, with padding."""
    return cdiv(channels * grid.stride**2, _DEPTH) * _DEPTH


def _image(cells: Tensor, grid: WindowGrid) -> Tensor:
    """(B, K, cells, C·S²) -> (B, K, C, H, W)."""
    s = grid.stride
    b, k, _, numbers = cells.shape
    high, wide = (length // s for length in grid.padded_shape)
    cut = cells.reshape(b, k, high, wide, numbers // (s * s), s, s)
    return grid.crop(cut.permute(0, 1, 4, 2, 5, 3, 6).reshape(b, k, -1, high * s, wide * s))


def _cover(patches: int, cells: int, device: torch.device) -> Tensor:
    """How many patches cover each cell, along one axis."""
    cell = torch.arange(cells, device=device)
    last = cell.clamp(max=patches - 1)
    return last - (cell - (cells - patches)).clamp(min=0) + 1


def aggregate(
    query: Tensor, key: Tensor, value: Tensor, log_t: Tensor, grid: WindowGrid, k: int,
    exclude_self: bool, selection: str, seed: int | None,
) -> Tensor:
    """(B, E, H, W) twice, (B, C, H, W), (B, 1, n₁, n₂) -> (B, K, C, H, W), checked before;
    "released" recursion, patches whole cells. float16 and bfloat16 are multiplied as such and
    summed in float32."""
    numbers = accumulator(value.dtype)
    query_cells, key_cells, value_cells = (
        grid.cells(grid.pad(image)).flatten(1, 2) for image in (query, key, value)
    )
    if value.dtype == numbers:
        # As in the dense form: a shift changes no distance, but keeps the products small.
        centre = key_cells.detach().mean(1, keepdim=True)
        query_cells, key_cells = query_cells - centre, key_cells - centre
    own = value_cells.shape[-1]
    query_cells, key_cells, value_cells = (
        functional.pad(cells, (0, depth(image.shape[1], grid) - cells.shape[-1]))
        for cells, image in ((query_cells, query), (key_cells, key), (value_cells, value))
    )
    norm = key_cells.detach().to(numbers).square().sum(-1)
    z, _ = _window(
        query_cells, key_cells, value_cells, norm, log_t.reshape(len(log_t), -1, 1).to(numbers),
        _geometry(grid), k, exclude_self, selection == "knn", seed,
    )
    n1, n2 = grid.shape
    c1, c2 = (length // grid.stride for length in grid.padded_shape)
    cover = _cover(n1, c1, z.device)[:, None] * _cover(n2, c2, z.device)
    return _image(z[..., :own] / cover.reshape(-1, 1), grid).to(value.dtype)
