"""Batch statistics of a batch whose parts are in several processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class SumOver(torch.autograd.Function):
    """The sum of the processes' tensors; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx, x: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        x = x.clone()
        dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.clone()
        dist.all_reduce(grad, group=ctx.group)
        return grad, None


class Synchronised:
    """A layer with batch statistics. `group`: the processes whose batches count as one; None: each
    process for itself."""

    group: ProcessGroup | None = None


def synchronise_statistics(net: nn.Module, group: ProcessGroup | None) -> None:
    """Lets every `Synchronised` layer of a network take its batch statistics from all processes.

    With a batch spread over processes, training is then the same as in one process. All of them
    must run the network in training mode equally often.

    Args:
        net: the network.
        group: whose batches count as one; None: each process for itself.
    """
    for module in net.modules():
        if isinstance(module, Synchronised):
            module.group = group


def moments_over(
    mean: Tensor, variance: Tensor, count: int | Tensor, group: ProcessGroup
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and number over all processes, from each one's own.

    Variances are divided by the number, not by one less. Differentiable in mean and variance; in
    two sums, so that no digits are lost where the mean is large.
    """
    number = torch.as_tensor(count, dtype=mean.dtype, device=mean.device)
    sums = SumOver.apply(torch.cat([(mean * number).flatten(), number[None]]), group)
    total = sums[-1].detach()
    whole = (sums[:-1] / total).view_as(mean)
    squares = SumOver.apply((variance + (mean - whole).square()) * number, group)
    return whole, squares / total, total


class BatchNorm2d(Synchronised, nn.BatchNorm2d):
    """`nn.BatchNorm2d` that can share its statistics, on any device."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.group is None:
            return super().forward(x)
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        variance, mean = torch.var_mean(wide, (0, 2, 3), correction=0)
        mean, variance, count = moments_over(
            mean, variance, wide.numel() // wide.shape[1], self.group
        )
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            unbiased = variance * count / (count - 1).clamp(min=1.0)
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        out = (wide - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]
        return out.to(x.dtype)
