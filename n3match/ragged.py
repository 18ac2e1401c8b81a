"""Scores for many pairs with unequal numbers of matches, in one pass of the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from n3match.match_filter import MatchFilter
from n3match.nn.classifier import NEUTRAL


@dataclass(frozen=True, eq=False)
class PairMatches:
    """N putative matches of one pair, as the network takes them.

    Attributes:
        points0, points1: (N, 2) calibrated coordinates; rows with NaN (rays that the lens model
            doesn't reach) are never kept.
        side: (N, S), columns named by the filter's `side_information`; None where unknown.
        shape: (N, 3), see `n3match.matching.relative_shape`; None where unknown.
    """

    points0: np.ndarray
    points1: np.ndarray
    side: np.ndarray | None = None
    shape: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.points0)


def score_pairs(net: MatchFilter, pairs: Sequence[PairMatches]) -> list[np.ndarray]:
    """The logit of every match of every pair: keep those above 0.

    Pairs are padded to the longest: pass those of similar length together. Up to rounding, a
    pair's logits don't depend on the others.

    Args:
        net: in eval mode.
        pairs: with any numbers of matches, 0 among them.

    Returns:
        (N,) float64 for each pair; −inf where a coordinate is NaN.

    Raises:
        ValueError: a shape that doesn't fit, infinite coordinates; names the argument.
    """
    seen = [np.isfinite(np.hstack([p.points0, p.points1])).all(axis=1) for p in pairs]
    counts = [int(rows.sum()) for rows in seen]
    logits = [np.full(len(rows), -np.inf) for rows in seen]
    if not any(counts):
        return logits
    names = net.side_information
    neutral = np.array([NEUTRAL.get(name, 0.0) for name in names])
    size = (len(pairs), max(counts))
    points0, points1 = np.zeros((*size, 2)), np.zeros((*size, 2))
    side, shape = np.zeros((*size, len(names))), np.zeros((*size, 3))
    mask = np.zeros(size, dtype=bool)
    for i, (pair, rows, count) in enumerate(zip(pairs, seen, counts)):
        _check(i, pair, len(names))
        points0[i, :count], points1[i, :count] = pair.points0[rows], pair.points1[rows]
        side[i, :count] = neutral if pair.side is None else pair.side[rows]
        if pair.shape is not None:
            shape[i, :count] = pair.shape[rows]
        mask[i, :count] = True
    like = next(net.parameters())
    inputs = [torch.from_numpy(array).to(like) for array in (points0, points1, side, shape)]
    with torch.inference_mode():
        answer = net.score(
            *inputs[:2],
            inputs[2] if names else None,
            mask=torch.from_numpy(mask).to(like.device),
            shape=inputs[3],
        )
    answer = answer.double().cpu().numpy()
    for row, found, rows, count in zip(answer, logits, seen, counts):
        found[rows] = row[:count]
    return logits


def _check(i: int, pair: PairMatches, columns: int) -> None:
    wanted = {"points1": (len(pair), 2), "side": (len(pair), columns), "shape": (len(pair), 3)}
    for name, shape in wanted.items():
        array = getattr(pair, name)
        if array is not None and array.shape != shape:
            raise ValueError(f"pairs[{i}].{name}: found shape {array.shape}, wanted {shape}")
