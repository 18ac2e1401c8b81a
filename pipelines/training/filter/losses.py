"""Training losses of the match filter (Yi et al., CVPR 2018; Zhang et al., ICCV 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from n3match.geometry import symmetric_epipolar_distance


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
    """min(‖e − e_gt‖², ‖e + e_gt‖²), both of unit norm, averaged over the usable pairs:
    (B, 3, 3), (B, 3, 3), (B,) bool -> ()."""
    truth = truth / torch.linalg.matrix_norm(truth)[:, None, None]
    error = torch.minimum(
        (essential - truth).square().sum((1, 2)), (essential + truth).square().sum((1, 2))
    )
    return (error * usable).sum() / usable.sum().clamp(min=1)


def disagreement(logits: Tensor, others: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference of two answers, as probabilities, over the matches of each pair.

    Args:
        logits, others: (B, N); mask: (B, N) bool.
    """
    squared = (torch.sigmoid(logits) - torch.sigmoid(others)).square().masked_fill(~mask, 0.0)
    return (squared.sum(1) / mask.sum(1).clamp(min=1)).mean()


GRID = 8  # virtual points along each side of an image
_LARGEST_DISTANCE = 0.3  # calibrated units: farther off is no worse


def virtual_matches(points0: Tensor, points1: Tensor, truth: Tensor, seen: Tensor):
    """Points all over both images that satisfy the true geometry exactly.

    A grid over the extent of the given matches in either image; each grid point of image 1 is
    moved onto the epipolar line of its partner. Partners are paired in a scrambled order, so that
    many displacements occur.

    Args:
        points0, points1: (B, N, 2) calibrated coordinates; truth: (B, 3, 3).
        seen: (B, N) bool, the matches that span the extent; at least one of each pair.

    Returns:
        (B, GRID², 2) twice.
    """
    grid0, grid1 = (_grid_over(points, seen) for points in (points0, points1))
    # A step that shares no factor with the number of points visits them all.
    order = torch.arange(GRID**2, device=truth.device) * (2 * GRID + 5) % GRID**2
    grid1 = grid1[:, order]
    line = F.pad(grid0, (0, 1), value=1.0) @ truth.transpose(1, 2)  # (B, GRID², 3)
    normal = line[..., :2]
    offset = (grid1 * normal).sum(-1, keepdim=True) + line[..., 2:]
    squared = normal.square().sum(-1, keepdim=True).clamp(min=1e-12)
    return grid0, grid1 - offset * normal / squared


def _grid_over(points: Tensor, seen: Tensor) -> Tensor:
    """(B, GRID², 2)."""
    unseen = ~seen[..., None]
    low = points.masked_fill(unseen, float("inf")).amin(1)
    high = points.masked_fill(unseen, float("-inf")).amax(1)
    steps = torch.linspace(0, 1, GRID, device=points.device, dtype=points.dtype)
    share = torch.cartesian_prod(steps, steps)
    return low[:, None] + share * (high - low)[:, None]


def geometric_loss(
    essential: Tensor, points0: Tensor, points1: Tensor, truth: Tensor, seen: Tensor, usable: Tensor
) -> Tensor:
    """How far virtual matches of the true geometry are from the estimated epipolar lines.

    After OANet (Zhang et al., ICCV 2019), but the distances themselves rather than their squares:
    mean of min(d, 0.3), d in calibrated units, over the usable pairs. Unlike the distance of the
    matrices, it says how wrong the geometry is where the images are.

    Args:
        essential: (B, 3, 3) estimates. points0, points1, truth, seen: as in `virtual_matches`.
        usable: (B,) bool.
    """
    if not bool(usable.any()):
        return essential.sum() * 0.0
    chosen = (x[usable] for x in (points0, points1, truth, seen))
    x0, x1 = virtual_matches(*chosen)
    squared = symmetric_epipolar_distance(x0, x1, essential[usable])
    # The root has no finite slope at 0.
    return (squared + 1e-10).sqrt().clamp(max=_LARGEST_DISTANCE).mean()
