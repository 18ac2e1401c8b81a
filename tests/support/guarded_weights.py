"""The plain formula of the weights, with the guard that the authors' backward pass has, or without.
"""

import math

import torch


class _Log1mExp(torch.autograd.Function):
    """log(1 − exp(x)) with a guard in its backward pass where exp(x) > ½."""

    @staticmethod
    def forward(ctx, x, guard):
        ctx.save_for_backward(x)
        ctx.guard = guard
        large = x > -math.log(2)
        return torch.where(large, torch.log(-torch.expm1(x)), torch.log1p(-x.exp()))

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        w = x.exp()
        large = w / (-torch.expm1(x) + ctx.guard)
        return -grad * torch.where(x > -math.log(2), large, w / (1 - w)), None


def plain_weights(d, tau, k, guard):
    """(B, M, O) -> (B, M, O, K); tau: log temperature."""
    logits, steps = -d / tau.exp(), []
    for _ in range(k):
        log_w = logits.log_softmax(-1)
        steps.append(log_w.exp())
        logits = logits + _Log1mExp.apply(log_w, guard)
    return torch.stack(steps, -1)
