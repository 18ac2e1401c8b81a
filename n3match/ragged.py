"""Scores for many pairs with unequal numbers of matches, in one pass of the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from n3match.match_filter import MatchFilter
from n3match.side_information import NEUTRAL


@dataclass(frozen=True, eq=False)
class PairMatches:
    """N putative matches of one pair, as the network takes them.

    Attributes:
        points0, points1: (N, 2) calibrated coordinates; rows that aren't finite (rays that the lens
            model doesn't reach) are never kept.
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

    Up to rounding, a pair's logits don't depend on the others.

    Args:
        net: in eval mode.
        pairs: with any numbers of matches, 0 among them.

    Returns:
        (N,) float64 for each pair; −inf where a coordinate isn't finite.

    Raises:
        ValueError: a shape that doesn't fit; names the argument.
    """
    columns = len(net.side_information)
    neutral = np.array([NEUTRAL.get(name, 0.0) for name in net.side_information])
    like = next(net.parameters())
    given: dict[str, list[torch.Tensor]] = {n: [] for n in ("points0", "points1", "side", "shape")}
    seen = []
    for i, pair in enumerate(pairs):
        _check(i, pair, columns)
        rows = np.isfinite(np.hstack([pair.points0, pair.points1])).all(axis=1)
        seen.append(rows)
        unknown = {"side": np.tile(neutral, (len(pair), 1)), "shape": np.zeros((len(pair), 3))}
        for name, tensors in given.items():
            array = getattr(pair, name)
            array = unknown[name] if array is None else array
            tensors.append(torch.from_numpy(array[rows]).to(like))
    if not columns:
        del given["side"]
    logits = [np.full(len(rows), -np.inf) for rows in seen]
    with torch.inference_mode():
        answers = net.score_ragged(**given)
    for found, rows, answer in zip(logits, seen, answers):
        found[rows] = answer.double().cpu().numpy()
    return logits


def _check(i: int, pair: PairMatches, columns: int) -> None:
    wanted = {"points1": (len(pair), 2), "side": (len(pair), columns), "shape": (len(pair), 3)}
    for name, shape in wanted.items():
        array = getattr(pair, name)
        if array is not None and array.shape != shape:
            raise ValueError(f"pairs[{i}].{name}: found shape {array.shape}, wanted {shape}")
