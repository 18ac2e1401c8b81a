"""OpenCV's five-point RANSAC (Nistér 2004) in calibrated coordinates."""

from __future__ import annotations

import logging

import cv2
import numpy as np

from n3match.geometry.estimators.essential_to_pose import pose_of_essentials
from n3match.geometry.estimators.problem import Estimate, TwoViewProblem

_log = logging.getLogger(__name__)


def opencv_ransac(problem: TwoViewProblem) -> Estimate | None:
    """`cv2.findEssentialMat(method=RANSAC)`; scores are not used.

    Each camera's own intrinsics have been applied, so the camera matrix is the identity and the
    threshold is in calibrated units. OpenCV's RANSAC always draws the same samples, whatever
    `cv2.setRNGSeed` says: seed 0 is OpenCV's own run, any other seed shuffles the matches first.

    Args:
        problem: of 5 matches or more.

    Returns:
        The pose and its inliers; None where there is none.
    """
    order = np.arange(len(problem))
    if problem.seed:
        order = np.random.default_rng(problem.seed).permutation(order)
    try:
        stack, mask = cv2.findEssentialMat(
            problem.x0[order],
            problem.x1[order],
            cameraMatrix=np.eye(3),
            method=cv2.RANSAC,
            prob=problem.confidence,
            threshold=problem.threshold_calibrated,
            maxIters=problem.max_iterations,
        )
    except cv2.error as error:
        _log.debug("findEssentialMat raised: %s", error)
        return None
    if stack is None or mask is None:
        return None
    inliers = np.zeros(len(problem), dtype=bool)
    inliers[order] = mask.ravel() > 0
    return pose_of_essentials(stack, inliers, problem)
