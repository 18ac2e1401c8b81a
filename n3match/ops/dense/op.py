"""The tiled dense form as a custom operator, so that it can stand in compiled graphs."""

from __future__ import annotations

import torch
from torch import Tensor

from n3match.ops import checks
from n3match.ops.custom_op import op_body
from n3match.ops.dense import tiled


@torch.library.custom_op(
    "n3match::tiled",
    mutates_args=(),
    schema="(Tensor query, Tensor key, Tensor value, Tensor log_t, Tensor? mask, int k, "
    "bool exclude_self, str recursion) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
@op_body
def _tiled(query, key, value, log_t, mask, k, exclude_self, recursion):
    """See `tiled.dense_forward`."""
    return tiled.dense_forward(query, key, value, log_t, mask, k, exclude_self, recursion)


@_tiled.register_fake
def _(query, key, value, log_t, mask, k, exclude_self, recursion):
    b, m, _ = query.shape
    out = value.new_empty(b, m, k, value.shape[2])
    return out, *tiled.Saved.blank(b, m, k, query).tensors()


@torch.library.custom_op(
    "n3match::tiled_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor query, Tensor key, Tensor value, Tensor log_t, Tensor? mask, "
    "Tensor out, Tensor[] saved, int k, bool exclude_self, str recursion, bool needs_log_t) -> "
    "(Tensor, Tensor, Tensor, Tensor)",
)
@op_body
def _tiled_backward(
    grad, query, key, value, log_t, mask, out, saved, k, exclude_self, recursion, needs_log_t
):
    """See `tiled.dense_backward`. The last one is 0 where it isn't needed."""
    *found, d_log_t = tiled.dense_backward(
        grad, query, key, value, log_t, mask, out, tuple(saved), k, exclude_self, recursion,
        needs_log_t,
    )
    if d_log_t is None:
        d_log_t = log_t.new_zeros(log_t.shape)
    return *(t.contiguous() for t in found), d_log_t  # without what was padded


@_tiled_backward.register_fake
def _(grad, query, key, value, log_t, mask, out, saved, k, exclude_self, recursion, needs_log_t):
    return tuple(t.new_empty(t.shape) for t in (query, key, value, log_t))


def _setup_context(ctx, inputs, output) -> None:
    *tensors, ctx.k, ctx.exclude_self, ctx.recursion = inputs
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx, grad, *_):
    query, key, value, log_t, mask, out, *saved = ctx.saved_tensors
    grads = _tiled_backward(
        grad, query, key, value, log_t, mask, out, saved, ctx.k, ctx.exclude_self, ctx.recursion,
        ctx.needs_input_grad[3],
    )
    return *grads, None, None, None, None


_tiled.register_autograd(_backward, setup_context=_setup_context)


def n3_aggregate(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    k: int,
    log_temperature: float | Tensor = 0.0,
    *,
    mask: Tensor | None = None,
    exclude_self: bool = False,
    recursion: str = "released",
) -> Tensor:
    """As `reference.n3_aggregate`, in memory linear in M and N. float16/bfloat16 input is computed
    in float32. Differentiable once."""
    checks.check_aggregate(query, key, value, k, mask, exclude_self, recursion)
    b, m, _ = query.shape
    log_t = checks.as_log_temperature(log_temperature, b, m, query)
    if b * m == 0:
        return value.new_zeros(b, m, k, value.shape[2])
    given = value.dtype
    if given in (torch.float16, torch.bfloat16):
        query, key, value, log_t = (t.float() for t in (query, key, value, log_t))
    return _tiled(query, key, value, log_t, mask, k, exclude_self, recursion)[0].to(given)
