"""What a network's logits so far, and the epipolar geometry they lead to, say of each match."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from n3match.geometry import symmetric_epipolar_distance, weighted_eight_point

EVIDENCE_COLUMNS = 2  # of `evidence`


def essential_of_logits(matches: Tensor, logits: Tensor, least: int = 0) -> Tensor:
    """(B, 3, 3) by the weighted eight-point algorithm, weights relu(tanh(logits)).

    Zeros for a pair with fewer than `least` logits above 0: fewer than 8 leave the choice among
    many matrices to rounding.
    """
    weights = torch.relu(torch.tanh(logits))
    essential = weighted_eight_point(matches[..., :2], matches[..., 2:4], weights, normalize=True)
    return essential * ((logits > 0).sum(1) >= least)[:, None, None]


def closeness(matches: Tensor, essential: Tensor) -> Tensor:
    """(B, N) within −1 … 1: the logarithm of each match's distance from an epipolar geometry.

    −1 … 1 stand for squared symmetric distances of 1e-7 … 1: a tenth of a pixel to anywhere. 0
    where the geometry isn't known (a matrix of zeros).

    Args:
        matches: (B, N, 4 or more) calibrated x0, y0, x1, y1 first.
        essential: (B, 3, 3).
    """
    distance = symmetric_epipolar_distance(matches[..., :2], matches[..., 2:4], essential)
    close = (torch.log10(distance.clamp(1e-7, 1.0)) + 3.5) / 3.5
    return torch.where((essential != 0).any(2).any(1)[:, None], close, 0.0)


def flattened(logits: Tensor) -> Tensor:
    """Logits within −1 … 1, −inf among them."""
    return torch.tanh(logits / math.e)


@torch.no_grad()
def evidence(matches: Tensor, logits: Tensor, mask: Tensor | None, least: int = 0) -> Tensor:
    """(B, N, 2) flattened logits and closeness to their geometry; zeros where the mask is False.

    Args:
        matches: (B, N, 4 or more); logits: (B, N), −inf where the mask is False; mask: (B, N) bool
            or None.
        least: see `essential_of_logits`.
    """
    with torch.autocast(matches.device.type, enabled=False):
        close = closeness(matches, essential_of_logits(matches, logits, least))
        columns = torch.stack([flattened(logits), close], -1)
        return columns if mask is None else columns.masked_fill(~mask[..., None], 0.0)
