"""Training losses of the match classifier (Yi et al., CVPR 2018)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def classification_loss(
    logits: Tensor,
    positive: Tensor,
    mask: Tensor,
    balance: float = 1.0,
    importance: Tensor | None = None,
) -> Tensor:
    """Cross-entropy in which the right matches of a pair share n₊^(1−b) of the weight and the wrong
    ones n₋^(1−b), averaged over pairs.

    b = 1 gives either half (the published, class-balanced loss): a logit above 0 then says little
    where nearly all matches are wrong. b = 0 is the plain mean, whose logits are probabilities.

    Args:
        logits: (B, N); positive: (B, N) bool; mask: (B, N) bool, False for padding.
        balance: b in [0, 1].
        importance: (B, N) non-negative, how much each match counts among its kind; None: alike.
    """
    loss = F.binary_cross_entropy_with_logits(
        logits.masked_fill(~mask, 0.0), positive.to(logits), reduction="none"
    )
    count = mask.to(logits) if importance is None else importance * mask
    right, wrong = count * positive, count * ~positive
    share_right = right.sum(1) ** (1 - balance)
    share_wrong = wrong.sum(1) ** (1 - balance)

    def mean_over(which: Tensor) -> Tensor:
        return (loss * which).sum(1) / which.sum(1).clamp(min=1e-6)

    weighted = share_right * mean_over(right) + share_wrong * mean_over(wrong)
    return (weighted / (share_right + share_wrong).clamp(min=1e-6)).mean()


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
