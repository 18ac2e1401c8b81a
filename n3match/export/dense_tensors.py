"""The dense form out of plain tensor operations, for graphs of programs that know no others.

A graph that leaves PyTorch, as ONNX does, can't call the custom operator `n3match::dense`. The
formula is `reference`'s, in float64, with distances from one matrix product instead of differences
(whose embedding dimension would multiply the memory): B·M·N doubles, a few times over.
"""

from __future__ import annotations

import torch
from torch import Tensor

from n3match.ops import reference
from n3match.ops.dense.problem import Saved


def dense_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_t: Tensor,
    mask: Tensor | None,
    k: int,
    exclude_self: bool,
    recursion: str,
) -> tuple[Tensor, ...]:
    """What the operator gives; what that saves for a way back is blank."""
    (b, m, _), n = query.shape, key.shape[1]
    alive = query.new_ones(b, m, n, dtype=torch.bool)
    if mask is not None:
        alive = alive & mask[:, None]
        key, value = (t.masked_fill(~mask[..., None], 0.0) for t in (key, value))
    if exclude_self:
        items = torch.arange(n, device=query.device)
        alive = alive & (items[:, None] != items)
    q, x, v = query.double(), key.double(), value.double()
    lengths = q.square().sum(-1)[..., None] + x.square().sum(-1)[:, None]
    d = (lengths - 2 * (q @ x.mT)).clamp(min=0.0)
    weights = reference.weights_in_double(
        d, k, log_t.double(), alive, recursion, selection="n3", noise=(None, None)
    )
    out = torch.stack([w @ v for w in weights.unbind(-1)], 2)
    return out.to(value.dtype), *Saved.blank(b, m, k, query).tensors()
