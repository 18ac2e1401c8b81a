"""OpenCV's five-point RANSAC (Nistér 2004) in calibrated coordinates."""

from __future__ import annotations

import cv2
import numpy as np

from n3match.geometry.estimators.answers import pose_by_opencv
from n3match.geometry.estimators.problem import Estimate, EstimatorSpec, TwoViewProblem


def opencv_ransac(problem: TwoViewProblem) -> Estimate | None:
    """`cv2.findEssentialMat(method=RANSAC)`; weights are not used.

    Each camera's own intrinsics have been applied, so the camera matrix is the identity and the
    threshold is in calibrated units. OpenCV's RANSAC always draws the same samples, whatever
    `cv2.setRNGSeed` says: seed 0 is OpenCV's own run, any other seed shuffles the matches first.
    """
    order = np.arange(len(problem))
    if problem.seed:
        order = np.random.default_rng(problem.seed).permutation(order)
    return pose_by_opencv(
        problem,
        order,
        problem.x0[order],
        problem.x1[order],
        cameraMatrix=np.eye(3),
        method=cv2.RANSAC,
        prob=problem.confidence,
        threshold=problem.threshold_calibrated,
        maxIters=problem.max_iterations,
    )


# The library's own default of iterations.
OPENCV_RANSAC = EstimatorSpec("opencv_ransac", opencv_ransac, max_iterations=1000)
