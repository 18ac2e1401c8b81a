"""PoseLib's LO-RANSAC with a non-linear refinement at the end (optional dependency)."""

from __future__ import annotations

import numpy as np

from n3match.geometry.estimators.problem import Estimate, TwoViewProblem


def poselib(problem: TwoViewProblem) -> Estimate | None:
    """`poselib.estimate_relative_pose` with its own defaults; with an order, by PROSAC.

    Args:
        problem: of 5 matches or more.

    Returns:
        The pose and its inliers; None where there is none.

    Raises:
        ImportError: PoseLib is not installed (`pip install n3match[poselib]`).
    """
    try:
        import poselib as library
    except ImportError as error:
        raise ImportError(
            "estimator 'poselib' needs the package poselib: pip install 'n3match[poselib]'"
        ) from error
    options = {
        "max_epipolar_error": problem.threshold,
        "success_prob": problem.confidence,
        "max_iterations": problem.max_iterations,
        "min_iterations": min(1000, problem.max_iterations),
        "seed": problem.seed,
        "progressive_sampling": problem.order is not None,
    }
    order = np.arange(len(problem)) if problem.order is None else problem.order
    pose, info = library.estimate_relative_pose(
        problem.pixels0[order],
        problem.pixels1[order],
        _camera(problem.camera0),
        _camera(problem.camera1),
        options,
        {},
    )
    R, t = np.asarray(pose.R, dtype=np.float64), np.asarray(pose.t, dtype=np.float64).ravel()
    found = np.asarray(info["inliers"], dtype=bool)
    length = float(np.linalg.norm(t))
    # Failure is an identity pose with nothing that supports it.
    if found.shape != (len(problem),) or not found.any():
        return None
    inliers = np.zeros(len(problem), dtype=bool)
    inliers[order] = found
    if not (np.isfinite(R).all() and np.isfinite(length) and length > 0):
        return None
    return Estimate(R, t / length, inliers)


def _camera(K: np.ndarray) -> dict:
    # PoseLib does not read the image size for this model.
    return {
        "model": "PINHOLE",
        "width": max(1, round(2 * K[0, 2])),
        "height": max(1, round(2 * K[1, 2])),
        "params": [K[0, 0], K[1, 1], K[0, 2], K[1, 2]],
    }
