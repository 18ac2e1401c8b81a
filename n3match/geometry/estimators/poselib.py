"""PoseLib's LO-RANSAC with a non-linear refinement at the end (optional dependency)."""

from __future__ import annotations

import numpy as np

from n3match.geometry.estimators.answers import checked_fundamental
from n3match.geometry.estimators.problem import (
    Estimate,
    EstimatorSpec,
    FundamentalEstimate,
    TwoViewProblem,
)


def poselib(problem: TwoViewProblem) -> Estimate | None:
    """`poselib.estimate_relative_pose` with its own defaults; best matches first by PROSAC."""
    import poselib as library

    order = problem.order
    pose, info = library.estimate_relative_pose(
        problem.pixels0[order],
        problem.pixels1[order],
        _camera(problem.camera0),
        _camera(problem.camera1),
        _options(problem) | {"progressive_sampling": problem.best_first is not None},
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


def poselib_fundamental(problem: TwoViewProblem) -> FundamentalEstimate | None:
    """`poselib.estimate_fundamental` with its own defaults; weights are not used."""
    import poselib as library

    F, info = library.estimate_fundamental(
        problem.pixels0, problem.pixels1, _options(problem), {}
    )
    return checked_fundamental(F, info["inliers"], problem)


def _options(problem: TwoViewProblem) -> dict:
    return {
        "max_epipolar_error": problem.threshold,
        "success_prob": problem.confidence,
        "max_iterations": problem.max_iterations,
        "min_iterations": min(1000, problem.max_iterations),
        "seed": problem.seed,
    }


def _camera(K: np.ndarray) -> dict:
    # PoseLib does not read the image size for this model.
    return {
        "model": "PINHOLE",
        "width": max(1, round(2 * K[0, 2])),
        "height": max(1, round(2 * K[1, 2])),
        "params": [K[0, 0], K[1, 1], K[0, 2], K[1, 2]],
    }


# The library's own default of iterations; of fundamental matrices fewer, as of OpenCV's.
POSELIB = EstimatorSpec(
    "poselib", poselib, max_iterations=100_000, progressive=True, requires="poselib"
)
POSELIB_FUNDAMENTAL = EstimatorSpec(
    "poselib", poselib_fundamental, fewest_matches=7, max_iterations=10_000, requires="poselib"
)
