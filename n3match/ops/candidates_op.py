"""Explicit candidates as a custom operator, so that the form can stand in compiled graphs."""

from __future__ import annotations

import torch
from torch import Tensor

from n3match.ops import candidates as explicit
from n3match.ops import checks
from n3match.ops.custom_op import op_body
from n3match.ops.noise import draw_seed
from n3match.ops.selection import Rule

_OPTIONS = (
    "Tensor? candidates, Tensor? mask, int k, bool exclude_self, str recursion, str selection, "
    "int? seed"
)


@torch.library.custom_op(
    "n3match::candidates",
    mutates_args=(),
    schema=f"(Tensor query, Tensor key, Tensor value, Tensor log_t, {_OPTIONS}) -> Tensor",
)
@op_body
def _candidates(
    query, key, value, log_t, candidates, mask, k, exclude_self, recursion, selection, seed
):
    rule = Rule(k, recursion, selection, seed)
    search = explicit.search_for(query, key, candidates, mask, exclude_self, rule)
    return explicit.forward(query, key, value, log_t, search)


@_candidates.register_fake
def _(query, key, value, log_t, candidates, mask, k, exclude_self, recursion, selection, seed):
    return value.new_empty(*query.shape[:2], k, value.shape[2])


@torch.library.custom_op(
    "n3match::candidates_backward",
    mutates_args=(),
    schema=f"(Tensor grad, Tensor query, Tensor key, Tensor value, Tensor log_t, {_OPTIONS}) -> "
    "(Tensor, Tensor, Tensor, Tensor)",
)
@op_body
def _candidates_backward(
    grad, query, key, value, log_t, candidates, mask, k, exclude_self, recursion, selection, seed
):
    rule = Rule(k, recursion, selection, seed)
    search = explicit.search_for(query, key, candidates, mask, exclude_self, rule)
    return explicit.backward(grad, query, key, value, log_t, search)


@_candidates_backward.register_fake
def _(
    grad, query, key, value, log_t, candidates, mask, k, exclude_self, recursion, selection, seed
):
    return tuple(t.new_empty(t.shape) for t in (query, key, value, log_t))


def _setup_context(ctx, inputs, output) -> None:
    tensors, ctx.options = inputs[:6], inputs[6:]
    ctx.save_for_backward(*tensors)


def _backward(ctx, grad):
    found = _candidates_backward(grad, *ctx.saved_tensors, *ctx.options)
    return *found, *[None] * (2 + len(ctx.options))


_candidates.register_autograd(_backward, setup_context=_setup_context)


def n3_aggregate(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    k: int,
    log_temperature: float | Tensor = 0.0,
    candidates: Tensor | None = None,
    mask: Tensor | None = None,
    exclude_self: bool = False,
    *,
    recursion: str = "released",
    selection: str = "n3",
    generator: torch.Generator | None = None,
) -> Tensor:
    """As `reference.n3_aggregate`, in linear memory (all items: R×N of a chunk at a time). float16
    and bfloat16 are computed in float32. Differentiable once."""
    checks.check_aggregate(query, key, value, k, mask, exclude_self, recursion, candidates)
    checks.check_selection(selection, generator)
    b, m, _ = query.shape
    log_t = checks.as_log_temperature(log_temperature, b, m, query)
    if mask is not None:  # what lies under it must reach no product: 0 · NaN is NaN
        key, value = (t.masked_fill(~mask[..., None], 0.0) for t in (key, value))
    seed = draw_seed(generator)
    if b * m * (key.shape[1] if candidates is None else candidates.shape[2]) == 0:
        return value.new_zeros(b, m, k, value.shape[2])
    given = value.dtype
    if given in (torch.float16, torch.bfloat16):
        query, key, value, log_t = (t.float() for t in (query, key, value, log_t))
    z = _candidates(
        query, key, value, log_t, candidates, mask, k, exclude_self, recursion, selection, seed
    )
    return z.to(given)
