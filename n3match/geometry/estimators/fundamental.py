"""Robust fundamental matrices by OpenCV and PoseLib, in pixels (numpy)."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

FEWEST_MATCHES = 7

# points0, points1 (N, 2), threshold, confidence, most samples, seed -> F (3, 3) and inliers (N,)
Solver = Callable[..., "tuple[np.ndarray, np.ndarray] | None"]


def opencv_usac(points0, points1, threshold, confidence, max_iterations, seed):
    """`cv2.findFundamentalMat` with the settings of `cv2.USAC_MAGSAC` (Barath et al. 2020)."""
    options = cv2.UsacParams()
    options.score = cv2.SCORE_METHOD_MAGSAC
    options.loMethod = cv2.LOCAL_OPTIM_SIGMA
    options.loIterations = 10
    options.loSampleSize = 50
    options.sampler = cv2.SAMPLING_UNIFORM
    options.confidence = confidence
    options.threshold = threshold
    options.maxIterations = max_iterations
    options.randomGeneratorState = seed
    try:
        F, mask = cv2.findFundamentalMat(points0, points1, options)
    except cv2.error:
        return None
    return _checked(F, mask, len(points0))


def poselib(points0, points1, threshold, confidence, max_iterations, seed):
    """`poselib.estimate_fundamental`. Raises ImportError where it isn't installed."""
    try:
        import poselib as library
    except ImportError as error:
        raise ImportError(
            "estimator 'poselib' needs the package poselib: pip install 'n3match[poselib]'"
        ) from error
    options = {
        "max_epipolar_error": threshold,
        "success_prob": confidence,
        "max_iterations": max_iterations,
        "min_iterations": min(1000, max_iterations),
        "seed": seed,
    }
    F, info = library.estimate_fundamental(points0, points1, options, {})
    return _checked(F, info["inliers"], len(points0))


def _checked(F, inliers, count: int) -> tuple[np.ndarray, np.ndarray] | None:
    """F at unit norm and the inliers; None for a failure, which each library tells in its way."""
    if F is None or inliers is None:
        return None
    F, inliers = np.asarray(F, dtype=np.float64), np.asarray(inliers, dtype=bool).ravel()
    if F.shape != (3, 3) or inliers.shape != (count,) or not inliers.any():
        return None
    norm = np.linalg.norm(F)
    return (F / norm, inliers) if np.isfinite(norm) and norm > 0 else None


SOLVERS: dict[str, Solver] = {"poselib": poselib, "opencv_usac": opencv_usac}
