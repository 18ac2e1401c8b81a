"""From the essential matrices of an estimator to the pose its inliers vote for (numpy)."""

from __future__ import annotations

import numpy as np
import torch

from n3match.geometry.cheirality import recover_pose
from n3match.geometry.estimators.problem import Estimate, TwoViewProblem


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
    x0, x1 = (torch.from_numpy(x[None].repeat(len(E), 0)) for x in (problem.x0, problem.x1))
    votes = torch.from_numpy(inliers)[None]
    R, t, in_front = recover_pose(torch.from_numpy(E), x0, x1, votes)
    supported = in_front.numpy() & inliers
    best = int(supported.sum(axis=1).argmax())
    return Estimate(R[best].numpy(), t[best].numpy(), supported[best])
