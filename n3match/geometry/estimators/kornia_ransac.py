"""Kornia's five-point RANSAC with Levenberg-Marquardt refinement, in calibrated coordinates."""

from __future__ import annotations

import torch

from n3match.geometry.estimators.answers import pose_of_essentials
from n3match.geometry.estimators.problem import Estimate, EstimatorSpec, TwoViewProblem


def kornia_ransac(problem: TwoViewProblem) -> Estimate | None:
    """`kornia.geometry.ransac.RANSAC("essential")` with its own defaults; weights are not used.

    Each camera's own intrinsics have been applied; the threshold, of Sampson's distance, is in
    calibrated units. Samples are drawn and solved in batches of hundreds.
    """
    from kornia.geometry.ransac import RANSAC  # takes seconds: only where it is asked for

    ransac = RANSAC(
        "essential",
        inl_th=problem.threshold_calibrated,
        confidence=problem.confidence,
        max_samples=problem.max_iterations,
        seed=problem.seed,
    )
    with torch.no_grad():
        E, inliers = ransac(torch.from_numpy(problem.x0), torch.from_numpy(problem.x1))
    return pose_of_essentials(E.double().numpy(), inliers.numpy(), problem)


# The library's own default of iterations.
KORNIA = EstimatorSpec("kornia", kornia_ransac, fewest_matches=6, max_iterations=20_480)
