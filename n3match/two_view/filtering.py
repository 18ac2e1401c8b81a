"""Scores for putative matches given in pixels (numpy in, numpy out)."""

from __future__ import annotations

import functools
import os

import numpy as np
import torch

from n3match.geometry import undistort_points
from n3match.matching import keypoint_change
from n3match.nn.match_filter import MatchFilter


@functools.lru_cache(maxsize=4)
def _loaded(name: str, device: torch.device) -> MatchFilter:
    return MatchFilter.from_pretrained(name).to(device)


def as_filter(
    value: MatchFilter | str | os.PathLike, device: str | torch.device | None = None
) -> MatchFilter:
    """A filter from itself, a shipped name or a path; filters loaded by name are kept.

    Args:
        value: the filter, its name or its path.
        device: for one that is loaded; None: the CPU.
    """
    if isinstance(value, MatchFilter):
        return value
    if isinstance(value, (str, os.PathLike)):
        return _loaded(os.fspath(value), torch.device("cpu" if device is None else device))
    raise TypeError(f"filter must be a MatchFilter, a name or a path, got {type(value).__name__}")


def score_matches(
    points0: np.ndarray,
    points1: np.ndarray,
    K0: np.ndarray,
    K1: np.ndarray,
    *,
    side: np.ndarray | None = None,
    shapes0: np.ndarray | None = None,
    shapes1: np.ndarray | None = None,
    filter: MatchFilter | str | os.PathLike = "sift",
    distortion0: np.ndarray | None = None,
    distortion1: np.ndarray | None = None,
) -> np.ndarray:
    """The filter's logit of every match: keep those above 0.

    Args:
        points0, points1: (N, 2) matched pixels; integers are pixel centres.
        K0, K1: (3, 3) camera matrices.
        side: (N, S) what is known of each match, columns named by the filter's
            `side_information` (for "sift": ratio of nearest to second nearest descriptor distance
            in [0, 1], and 1 where the match is mutual, else 0); None where nothing is known.
        shapes0, shapes1: (N, 2) keypoint size (pixels) and angle (degrees) of each match, as
            OpenCV's; both or None. See `n3match.matching.keypoint_change`.
        filter: a `MatchFilter`, a shipped name, or a path.
        distortion0, distortion1: lens coefficients in OpenCV's order, or None.

    Returns:
        (N,) float64 logits; their sigmoid is a probability under the filter's training data.

    Raises:
        ValueError, TypeError: naming the argument.
    """
    net = as_filter(filter)
    x0 = undistort_points(points0, K0, distortion0)
    x1 = undistort_points(points1, K1, distortion1)
    if len(x0) != len(x1):
        raise ValueError(
            f"points0 and points1 must hold the same number of points, got {len(x0)} and {len(x1)}"
        )
    if side is not None:
        side = np.asarray(side, dtype=np.float64)
        wanted = (len(x0), len(net.side_information))
        if side.shape != wanted:
            raise ValueError(
                f"side must have shape (N, S) = {wanted} with columns {net.side_information}, "
                f"got {side.shape}"
            )
        if not np.isfinite(side).all():
            raise ValueError("side holds NaN or infinite numbers: finite numbers wanted")
    if (shapes0 is None) != (shapes1 is None):
        raise ValueError("shapes0 and shapes1: found one of them, wanted both or neither")
    shape = None
    if shapes0 is not None:
        # Focal lengths that undistort_points has checked above.
        shape = keypoint_change(shapes0, shapes1, *(_mean_focal(K) for K in (K0, K1)))
        if len(shape) != len(x0):
            raise ValueError(f"shapes0 must hold a row per match, {len(x0)}, got {len(shape)}")
    if not len(x0):
        return np.zeros(0)
    like = next(net.parameters())

    def batch_of_one(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(like)[None]

    with torch.inference_mode():
        logits = net.score(
            batch_of_one(x0),
            batch_of_one(x1),
            None if side is None else batch_of_one(side),
            shape=None if shape is None else batch_of_one(shape),
        )
    return logits[0].double().cpu().numpy()


def _mean_focal(K: np.ndarray) -> float:
    K = np.asarray(K, dtype=np.float64)
    return float(abs(K[0, 0]) + abs(K[1, 1])) / 2
