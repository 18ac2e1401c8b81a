"""Training losses of the match classifier (Yi et al., CVPR 2018)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def balanced_classification_loss(logits: Tensor, positive: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy with, in each pair, half the weight on right and half on wrong matches.

    Args:
        logits: (B, N); positive: (B, N) bool; mask: (B, N) bool, False for padding.
    """
    loss = F.binary_cross_entropy_with_logits(
        logits.masked_fill(~mask, 0.0), positive.to(logits), reduction="none"
    )

    def mean_over(which: Tensor) -> Tensor:
        return (loss * which).sum(1) / which.sum(1).clamp(min=1)

    return 0.5 * (mean_over(mask & positive) + mean_over(mask & ~positive)).mean()


def essential_loss(essential: Tensor, truth: Tensor, usable: Tensor) -> Tensor:
    """min(‖e − e_gt‖², ‖e + e_gt‖²), both of unit norm, averaged over the usable pairs.

    Args:
        essential, truth: (B, 3, 3); usable: (B,) bool.
    """
    truth = truth / torch.linalg.matrix_norm(truth)[:, None, None]
    error = torch.minimum(
        (essential - truth).square().sum((1, 2)), (essential + truth).square().sum((1, 2))
    )
    return (error * usable).sum() / usable.sum().clamp(min=1)
