"""The robust estimators of `cv2.findEssentialMat` by OpenCV's own flags and parameters."""

from __future__ import annotations

import cv2
import numpy as np

from n3match.geometry.estimators import Estimate, Estimator, TwoViewProblem
from n3match.geometry.estimators.answers import pose_by_opencv

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
        options = method, problem.confidence, problem.threshold, problem.max_iterations
        return _run(problem, method == cv2.USAC_PROSAC, lambda K: (K, *options))

    return opencv


def estimator_with(params: cv2.UsacParams) -> Estimator:
    """An estimator that calls OpenCV's USAC framework with these parameters, all of them."""

    def opencv_usac_params(problem: TwoViewProblem) -> Estimate | None:
        progressive = params.sampler == cv2.SAMPLING_PROSAC
        return _run(problem, progressive, lambda K: (K, K, None, None, params))

    return opencv_usac_params


def _run(problem: TwoViewProblem, best_first: bool, arguments) -> Estimate | None:
    # One camera for both images lets every method in, and keeps the threshold in pixels; some of
    # OpenCV's methods have noise levels that are fixed numbers of pixels.
    focal = problem.mean_focal
    K = np.diag((focal, focal, 1.0))
    order = problem.order
    if best_first and problem.weights is not None:
        order = np.argsort(-problem.weights, kind="stable")
    points = problem.x0[order] * focal, problem.x1[order] * focal
    return pose_by_opencv(problem, order, *points, *arguments(K))
