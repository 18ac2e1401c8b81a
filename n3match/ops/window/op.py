"""The window form as a custom operator: by cells where patches are whole cells, else gathered."""

from __future__ import annotations

import torch
from torch import Tensor

from n3match.ops.custom_op import differentiable
from n3match.ops.selection import Rule
from n3match.ops.window import cells, gathered
from n3match.ops.window.grid import WindowGrid


def _way(query, k, layout, exclude_self, recursion, selection, seed):
    grid = WindowGrid(*query.shape[2:], *layout)
    form = cells if cells.usable(grid) else gathered
    return form, (grid, exclude_self, Rule(k, recursion, selection, seed))


def differences(query, key, value, log_t, *options) -> Tensor | None:
    """What `cells.differences` says, outside of compiled graphs and without gradients; None where
    it can't be done so. Arguments as of `aggregate`."""
    form, rest = _way(query, *options)
    plain = torch.is_grad_enabled() or torch.compiler.is_compiling()
    if plain or form is not cells or not cells.fuses_differences(rest[0], query):
        return None
    return cells.differences(query, key, value, log_t, *rest)


def _forward(query, key, value, log_t, *options) -> tuple[Tensor]:
    form, rest = _way(query, *options)
    return (form.forward(query, key, value, log_t, *rest).contiguous(),)


def _backward(grad, tensors, outputs, options, wanted):
    form, rest = _way(tensors[0], *options)
    return form.backward(grad, *tensors, *rest, wanted)


def _blank(query, key, value, log_t, k, *options) -> tuple[Tensor]:
    return (value.new_empty(len(value), k, *value.shape[1:]),)


# (B, E, H, W) twice, (B, C, H, W), (B, 1, n₁, n₂) -> (B, K, C, H, W); layout: patch, stride, window
aggregate = differentiable(
    "window",
    "query key value log_t",
    "int k, int[] layout, bool exclude_self, str recursion, str selection, int? seed",
    forward=_forward,
    backward=_backward,
    blank=_blank,
)
