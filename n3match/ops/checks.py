"""Every argument check of the operator, so that all backends refuse the same things alike.

Shapes: B batch, M queries, N database items, O candidates, E embedding and F feature channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from n3match.arguments import dense_tensor, one_of, real, whole
from n3match.ops.window.grid import WindowGrid

RECURSIONS = ("released", "poster")
SELECTIONS = ("n3", "knn", "concrete")
# More than any use has: a mistake would run for ever, or out of memory.
_MOST_NEIGHBOURS, _LARGEST_LAYOUT = 2**12, 2**20
# Of log temperatures: beyond it t, or a distance over t, may be infinite in double precision, and
# 0 · ∞ is NaN; before it the choice is certain, or all candidates are alike, for any distances.
_EXTREME = 300.0
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def may_look(tensor: Tensor) -> bool:
    """Whether a tensor's values may be asked for: on a device the program would wait until it has
    caught up, and a graph has no place for what depends on them."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def check_rule(
    k: int, recursion: str, selection: str, generator: torch.Generator | None
) -> None:
    """What is to be selected, whatever from."""
    whole("k", k, 1, _MOST_NEIGHBOURS)
    one_of("recursion", recursion, RECURSIONS)
    one_of("selection", selection, SELECTIONS)
    if generator is None:
        return
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
    if selection != "concrete":
        raise ValueError(f'a generator is for selection="concrete", not for {selection!r}')


def check_floating(name: str, tensor: Tensor, ndim: int, wanted: str) -> None:
    dense_tensor(name, tensor)
    if tensor.dtype not in _DTYPES:
        raise TypeError(f"{name} must be floating point, got {tensor.dtype}")
    if tensor.ndim != ndim:
        raise ValueError(f"{name} must have shape {wanted}, got {tuple(tensor.shape)}")


def check_same(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    if tensor.device != other.device:
        raise ValueError(
            f"{name} is on {tensor.device}, {other_name} on {other.device}: one device wanted"
        )
    if tensor.dtype != other.dtype:
        raise TypeError(
            f"{name} is {tensor.dtype}, {other_name} is {other.dtype}: one dtype wanted"
        )


def check_mask(mask: Tensor | None, shape: tuple[int, ...], legend: str, device) -> None:
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        found = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask must be a bool tensor (True: may be selected), got {found}")
    if tuple(mask.shape) != shape:
        raise ValueError(f"mask must have shape {legend} = {shape}, got {tuple(mask.shape)}")
    dense_tensor("mask", mask)
    if mask.device != device:
        raise ValueError(f"mask is on {mask.device}, the other tensors on {device}")


def as_log_temperature(value: float | Tensor, batch: int, queries: int, like: Tensor) -> Tensor:
    """The log temperature as a (B, M, 1) tensor (an expanded view where one number was given)."""
    if not isinstance(value, Tensor):
        value = real("log_temperature", value)
        if math.isnan(value):
            raise ValueError("log_temperature is NaN")
        number = min(max(value, -_EXTREME), _EXTREME)
        value = torch.full((), number, dtype=like.dtype, device=like.device)
    else:
        _check_temperature_tensor(value, like)
        value = value.clamp(-_EXTREME, _EXTREME).to(like)
    if value.numel() == 1:
        value = value.reshape(1, 1, 1).expand(batch, queries, 1)
    if tuple(value.shape) != (batch, queries, 1):
        raise ValueError(
            "log_temperature must be a number or have shape (B, M, 1) = "
            f"{(batch, queries, 1)}, got {tuple(value.shape)}"
        )
    return value


def _check_temperature_tensor(value: Tensor, like: Tensor) -> None:
    dense_tensor("log_temperature", value)
    if not value.dtype.is_floating_point:
        raise TypeError(f"log_temperature must be floating point, got {value.dtype}")
    if value.device != like.device and value.ndim > 0:
        raise ValueError(
            f"log_temperature is on {value.device}, the other tensors on {like.device}"
        )
    if may_look(value) and value.isnan().any():  # elsewhere NaN gives NaN for its query
        raise ValueError("log_temperature holds NaN")


def as_window_log_temperature(value: float | Tensor, batch: int, grid: WindowGrid, like: Tensor):
    """As `as_log_temperature`, from a number or (B, 1, n₁, n₂): the latter."""
    n1, n2 = grid.shape
    if isinstance(value, Tensor) and value.numel() != 1:
        if tuple(value.shape) != (batch, 1, n1, n2):
            raise ValueError(
                "log_temperature must be a number or have shape (B, 1, n1, n2) = "
                f"{(batch, 1, n1, n2)}, one for each query patch, got {tuple(value.shape)}"
            )
        value = value.reshape(batch, n1 * n2, 1)
    return as_log_temperature(value, batch, n1 * n2, like).reshape(batch, 1, n1, n2)


def check_candidates(candidates: Tensor, batch: int, queries: int, device) -> None:
    if not isinstance(candidates, Tensor) or candidates.dtype != torch.int64:
        found = candidates.dtype if isinstance(candidates, Tensor) else type(candidates).__name__
        raise TypeError(f"candidates must be an int64 tensor, got {found}")
    dense_tensor("candidates", candidates)
    if candidates.ndim != 3 or tuple(candidates.shape[:2]) != (batch, queries):
        raise ValueError(
            f"candidates must have shape (B={batch}, M={queries}, O), "
            f"got {tuple(candidates.shape)}"
        )
    if candidates.device != device:
        raise ValueError(f"candidates is on {candidates.device}, the other tensors on {device}")


def check_numbers_of_items(candidates: Tensor, items: int) -> None:
    """Waits for the device."""
    if candidates.numel() and not torch.compiler.is_compiling():
        low, high = (int(x) for x in candidates.aminmax())
        if low < 0 or high >= items:
            raise ValueError(
                f"candidates must be numbers of items, 0 to N - 1 = {items - 1}, "
                f"got {low} to {high}"
            )


def check_layout(patch_size: int, stride: int, window: int) -> tuple[int, int, int]:
    """The numbers of a layout, as Python's."""
    patch_size, stride, window = (
        whole(name, number, 1, _LARGEST_LAYOUT)
        for name, number in (("patch_size", patch_size), ("stride", stride), ("window", window))
    )
    if stride > patch_size:
        raise ValueError(
            f"stride must be at most patch_size={patch_size}, got {stride}: pixels between the "
            "patches would have no value"
        )
    return patch_size, stride, window


def window_grid(image: Tensor, patch_size: int, stride: int, window: int) -> WindowGrid:
    """The grid of patches of (B, C, H, W) images, after checks of its numbers."""
    patch_size, stride, window = check_layout(patch_size, stride, window)
    height, width = image.shape[-2:]
    if min(height, width) < patch_size:
        raise ValueError(
            f"query must be at least as large as a patch_size of {patch_size}×{patch_size} pixels, "
            f"got {height}×{width}"
        )
    return WindowGrid(height, width, patch_size, stride, window)


def check_window_images(query: Tensor, key: Tensor, *values: Tensor) -> None:
    check_floating("query", query, 4, "(B, E, H, W)")
    check_floating("key", key, 4, "(B, E, H, W)")
    check_same("key", key, "query", query)
    if key.shape != query.shape:
        raise ValueError(
            f"key must have the shape of query, {tuple(query.shape)}, got {tuple(key.shape)}"
        )
    if not values:
        return
    (value,) = values
    check_floating("value", value, 4, "(B, C, H, W)")
    check_same("value", value, "query", query)
    b, _, h, w = query.shape
    if value.shape[0] != b or tuple(value.shape[2:]) != (h, w):
        raise ValueError(
            f"value must have shape (B={b}, C, H={h}, W={w}), got {tuple(value.shape)}"
        )


def check_aggregate(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    exclude_self: bool,
    candidates: Tensor | None = None,
) -> None:
    """What `n3_aggregate` selects from, and for whom."""
    check_floating("query", query, 3, "(B, M, E)")
    check_floating("key", key, 3, "(B, N, E)")
    check_floating("value", value, 3, "(B, N, F)")
    check_same("key", key, "query", query)
    check_same("value", value, "query", query)
    b, m, e = query.shape
    n = key.shape[1]
    if key.shape[0] != b or key.shape[2] != e:
        raise ValueError(f"key must have shape (B={b}, N, E={e}), got {tuple(key.shape)}")
    if value.shape[0] != b or value.shape[1] != n:
        raise ValueError(f"value must have shape (B={b}, N={n}, F), got {tuple(value.shape)}")
    if n == 0 and m > 0 and b > 0:
        raise ValueError("key holds no items (N = 0): there is nothing to select from")
    if exclude_self and m != n:
        raise ValueError(
            f"exclude_self needs as many queries as database items, got M={m} and N={n}"
        )
    check_mask(mask, (b, n), "(B, N)", query.device)
    if candidates is not None:
        check_candidates(candidates, b, m, query.device)
