"""How a row of distances becomes K distributions, and the way back: what all forms but the dense
one share.

A block of rows is a plain tensor (R, O) of squared distances, +inf where a candidate may not be
selected. R rows (queries), O candidates, K neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from n3match.ops import reference, selection_rows
from n3match.ops.noise import gumbel


@dataclass(frozen=True)
class Rule:
    """Which distributions are wanted."""

    k: int
    recursion: str = "released"
    selection: str = "n3"
    seed: int | None = None  # of the noise; None: no noise

    @property
    def differentiable(self) -> bool:
        return self.selection != "knn"


# The numbers that noise depends on, (R, O) int64, made only where there is noise.
Numbers = Callable[[], Tensor]


def _noisy(d: Tensor, rule: Rule, numbers: Numbers) -> Tensor:
    return d if rule.seed is None else d - gumbel(rule.seed, numbers(), d.dtype)


def weights(d: Tensor, log_t: Tensor, rule: Rule, numbers: Numbers) -> Tensor:
    """(R, O) -> (R, K, O), without gradients; log_t (R, 1). A row without candidates gives 0."""
    if rule.selection == "knn":
        return reference.nearest_one_hot(d, rule.k, d.isfinite()).mT
    return selection_rows.weights(_noisy(d, rule, numbers), log_t, rule.k, rule.recursion)


def gradients(
    d: Tensor, log_t: Tensor, grad: Tensor, rule: Rule, numbers: Numbers
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The weights anew, and what a gradient of them, (R, K, O), does to d and log_t: (R, O) and
    (R, 1), both None where the rule lets none through. `grad` is overwritten."""
    if not rule.differentiable:
        return weights(d, log_t, rule, numbers), None, None
    noisy = _noisy(d, rule, numbers)
    return selection_rows.gradients(noisy, log_t, grad, rule.k, rule.recursion)


class _Weights(torch.autograd.Function):
    @staticmethod
    def forward(ctx, d, log_t, rule, numbers):
        ctx.save_for_backward(d, log_t)
        ctx.rest = rule, numbers
        return weights(d, log_t, rule, numbers)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        d, log_t = ctx.saved_tensors
        _, d_d, d_log_t = gradients(d, log_t, grad.clone(), *ctx.rest)
        return d_d, d_log_t, None, None


def recorded_weights(d: Tensor, log_t: Tensor, rule: Rule, numbers: Numbers) -> Tensor:
    """`weights` for autograd, once differentiable."""
    return _Weights.apply(d, log_t, rule, numbers)
