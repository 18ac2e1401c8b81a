"""The window form as a custom operator: what a compiled graph sees of window.py."""

from __future__ import annotations

import torch
from torch import Tensor

from n3match.ops import checks
from n3match.ops.custom_op import op_body
from n3match.ops.selection import Rule
from n3match.ops.window import cells as window_cells
from n3match.ops.window import gathered as windows
from n3match.ops.window.grid import WindowGrid


@torch.library.custom_op(
    "n3match::window",
    mutates_args=(),
    schema="(Tensor query, Tensor key, Tensor value, Tensor log_t, int k, int[] layout, "
    "bool exclude_self, str recursion, str selection) -> Tensor",
)
@op_body
def _window(query, key, value, log_t, k, layout, exclude_self, recursion, selection):
    """log_t: (B, 1, n₁, n₂); layout: patch size, stride, window."""
    return windows.n3_window_aggregate(
        query, key, value, k, log_t, *layout,
        exclude_self=exclude_self, recursion=recursion, selection=selection,
    ).contiguous()


@_window.register_fake
def _(query, key, value, log_t, k, layout, exclude_self, recursion, selection):
    return value.new_empty(len(value), k, *value.shape[1:])


@torch.library.custom_op(
    "n3match::window_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor query, Tensor key, Tensor value, Tensor log_t, int k, "
    "int[] layout, bool exclude_self, str recursion, str selection) -> "
    "(Tensor, Tensor, Tensor, Tensor)",
)
@op_body
def _window_backward(
    grad, query, key, value, log_t, k, layout, exclude_self, recursion, selection
):
    grid = WindowGrid(*query.shape[2:], *layout)
    given = (query, key, value, log_t)
    if window_cells.usable(grid):
        rule = Rule(k, recursion, selection)
        found = window_cells.gradients(grad, *given, grid, exclude_self, rule)
    else:  # through the forward pass once more
        leaves = [t.detach().requires_grad_() for t in given]
        with torch.enable_grad():
            z = windows.n3_window_aggregate(
                *leaves[:3], k, leaves[3], *layout,
                exclude_self=exclude_self, recursion=recursion, selection=selection,
            )
            found = torch.autograd.grad(z, leaves, grad, materialize_grads=True)
    return tuple(t.contiguous() for t in found)


@_window_backward.register_fake
def _(grad, query, key, value, log_t, k, layout, exclude_self, recursion, selection):
    return tuple(t.new_empty(t.shape) for t in (query, key, value, log_t))


def _setup_context(ctx, inputs, output) -> None:
    tensors, ctx.options = inputs[:4], inputs[4:]
    ctx.save_for_backward(*tensors)


def _backward(ctx, grad):
    found = _window_backward(grad, *ctx.saved_tensors, *ctx.options)
    return *found, *[None] * len(ctx.options)


_window.register_autograd(_backward, setup_context=_setup_context)


def n3_window_aggregate(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    k: int,
    log_temperature: float | Tensor = 0.0,
    patch_size: int = 10,
    stride: int = 5,
    window: int = 15,
    *,
    exclude_self: bool = True,
    recursion: str = "released",
    selection: str = "n3",
) -> Tensor:
    """As `window.n3_window_aggregate`, without a generator."""
    checks.check_k(k)
    checks.check_recursion(recursion)
    checks.check_selection(selection, None)
    checks.check_window_images(query, key, value)
    grid = checks.window_grid(query, patch_size, stride, window)
    b = len(query)
    log_t = checks.as_window_log_temperature(log_temperature, b, grid, query)
    if value.numel() == 0:
        return value.new_zeros(b, k, *value.shape[1:])
    given = value.dtype
    if given in (torch.float16, torch.bfloat16):
        query, key, value, log_t = (t.float() for t in (query, key, value, log_t))
    return _window(
        query, key, value, log_t.reshape(b, 1, *grid.shape), k, [patch_size, stride, window],
        exclude_self, recursion, selection,
    ).to(given)
