"""The robust estimators of `cv2.findEssentialMat` by OpenCV's own flags and parameters."""

from __future__ import annotations

import logging

import cv2
import numpy as np

from n3match.geometry.estimators import Estimate, TwoViewProblem
from n3match.geometry.estimators.essential_to_pose import pose_of_essentials
from n3match.geometry.estimators.registry import Estimator

_log = logging.getLogger(__name__)

_METHODS = {
    name: getattr(cv2, name)
    for name in (
        "RANSAC",
        "LMEDS",
        "USAC_DEFAULT",
        "USAC_PARALLEL",
        "USAC_FAST",
        "USAC_ACCURATE",
        "USAC_PROSAC",
        "USAC_MAGSAC",
    )
}


def estimator_of(method: int) -> Estimator:
    """An estimator that calls OpenCV with this flag.

    Raises:
        ValueError: not one of the flags that `cv2.findEssentialMat` knows.
    """
    if method not in _METHODS.values():
        raise ValueError(f"method must be one of cv2.{', cv2.'.join(_METHODS)}, got {method}")

    def opencv(problem: TwoViewProblem) -> Estimate | None:
        def estimate(points1, points2, K):
            return cv2.findEssentialMat(
                points1,
                points2,
                K,
                method,
                problem.confidence,
                problem.threshold,
                problem.max_iterations,
            )

        return _run(problem, estimate, method == cv2.USAC_PROSAC)

    return opencv


def estimator_with(params: cv2.UsacParams) -> Estimator:
    """An estimator that calls OpenCV's USAC framework with these parameters, all of them."""

    def opencv_usac_params(problem: TwoViewProblem) -> Estimate | None:
        def estimate(points1, points2, K):
            return cv2.findEssentialMat(points1, points2, K, K, None, None, params)

        return _run(problem, estimate, params.sampler == cv2.SAMPLING_PROSAC)

    return opencv_usac_params


def _run(problem: TwoViewProblem, estimate, best_first: bool) -> Estimate | None:
    # One camera for both images lets every method in, and keeps the threshold in pixels; some of
    # OpenCV's methods have noise levels that are fixed numbers of pixels.
    focal = problem.mean_focal
    K = np.diag((focal, focal, 1.0))
    order = np.arange(len(problem))
    if best_first and problem.scores is not None:
        order = np.argsort(-problem.scores, kind="stable")
    try:
        stack, mask = estimate(problem.x0[order] * focal, problem.x1[order] * focal, K)
    except cv2.error as error:
        _log.debug("findEssentialMat raised: %s", error)
        return None
    if stack is None or mask is None:
        return None
    inliers = np.zeros(len(problem), dtype=bool)
    inliers[order] = np.asarray(mask).ravel() > 0
    return pose_of_essentials(stack, inliers, problem)
