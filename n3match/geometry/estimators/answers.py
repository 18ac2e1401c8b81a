"""From what libraries answer to estimates: poses of essential matrices, fundamental matrices."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from n3match.geometry.essential import recover_pose
from n3match.geometry.estimators.problem import Estimate, FundamentalEstimate, TwoViewProblem

_log = logging.getLogger(__name__)


def call_opencv(function: Callable[..., tuple], *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """What an OpenCV function answers: matrix and mask; (None, None) where it raises."""
    try:
        return function(*args, **kwargs)
    except cv2.error as error:
        _log.debug("%s raised: %s", function.__name__, error)
        return None, None


def pose_by_opencv(
    problem: TwoViewProblem, order: np.ndarray, *args: Any, **kwargs: Any
) -> Estimate | None:
    """The pose that `cv2.findEssentialMat` finds; None for a failure, told in whichever way.
    order: (N,) indices: that of each match as it is handed over in `args`."""
    stack, mask = call_opencv(cv2.findEssentialMat, *args, **kwargs)
    if stack is None or mask is None:
        return None
    inliers = np.zeros(len(problem), dtype=bool)
    inliers[order] = np.asarray(mask).ravel() > 0
    return pose_of_essentials(stack, inliers, problem)


def pose_of_essentials(
    stack: np.ndarray, inliers: np.ndarray, problem: TwoViewProblem
) -> Estimate | None:
    """The pose of the essential matrix with the most inliers before both cameras.

    Args:
        stack: (3n, 3) float64: n matrices below each other, as OpenCV returns them.
        inliers: (N,) bool, the matches that vote.

    Returns:
        The estimate, its inliers reduced to those before both cameras (points too far away to
        tell stay in); None where there is no inlier or no finite matrix.
    """
    if stack.ndim != 2 or stack.shape[1] != 3 or len(stack) % 3 or not inliers.any():
        return None
    E = stack.reshape(-1, 3, 3)
    E = E[np.isfinite(E).all(axis=(1, 2)) & E.any(axis=(1, 2))]
    if not len(E):
        return None
    # A copy per matrix, so that the batch dimension of points and matrices is the same.
    x0, x1 = (x[None].repeat(len(E), 0) for x in (problem.x0, problem.x1))
    R, t, in_front = recover_pose(E, x0, x1, inliers[None])
    supported = in_front & inliers
    best = int(supported.sum(axis=1).argmax())
    return Estimate(R[best], t[best], supported[best])


def checked_fundamental(
    F: np.ndarray | None, inliers: np.ndarray | None, problem: TwoViewProblem
) -> FundamentalEstimate | None:
    """F at unit norm and its inliers; None for a failure, which each library tells in its way."""
    if F is None or inliers is None:
        return None
    F, inliers = np.asarray(F, dtype=np.float64), np.asarray(inliers, dtype=bool).ravel()
    if F.shape != (3, 3) or inliers.shape != (len(problem),) or not inliers.any():
        return None
    norm = np.linalg.norm(F)
    if not (np.isfinite(norm) and norm > 0):
        return None
    return FundamentalEstimate(F / norm, inliers)
