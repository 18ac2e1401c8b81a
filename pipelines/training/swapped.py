"""The same batch with the images exchanged: a match is as right one way as the other."""

from __future__ import annotations

import torch
from torch import Tensor

from n3match.side_information import COLUMNS

_RATIO, _MUTUAL, _BACK_RATIO = (COLUMNS.index(n) for n in ("ratio", "mutual", "back_ratio"))


def swapped(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the network sees of a batch (`datasets.batches.collate`) whose images are exchanged.

    Of mutual matches the ratio and the one the other way round change places; of the others only
    the nearest in image 1 is known, and their columns stay.
    """
    side = batch["side"]
    back = side.clone()
    mutual = side[..., _MUTUAL] > 0
    for column, other in ((_RATIO, _BACK_RATIO), (_BACK_RATIO, _RATIO)):
        back[..., column] = torch.where(mutual, side[..., other], side[..., column])
    return {
        "points0": batch["points1"],
        "points1": batch["points0"],
        "side": back,
        "shape": batch["shape"] * batch["shape"].new_tensor([1, -1, -1]),
        "mask": batch["mask"],
    }


def disagreement(logits: Tensor, others: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference of two answers, as probabilities, over the matches of each pair.

    Args:
        logits, others: (B, N); mask: (B, N) bool.
    """
    squared = (torch.sigmoid(logits) - torch.sigmoid(others)).square().masked_fill(~mask, 0.0)
    return (squared.sum(1) / mask.sum(1).clamp(min=1)).mean()
