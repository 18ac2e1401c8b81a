"""OpenCV's USAC framework with MAGSAC++ scoring (Barath et al. 2020), in pixels."""

from __future__ import annotations

import cv2

from n3match.geometry.estimators.answers import (
    call_opencv,
    checked_fundamental,
    pose_by_opencv,
)
from n3match.geometry.estimators.problem import (
    Estimate,
    EstimatorSpec,
    FundamentalEstimate,
    TwoViewProblem,
)


def opencv_usac(problem: TwoViewProblem) -> Estimate | None:
    """`cv2.findEssentialMat` with the settings of `cv2.USAC_MAGSAC`; best matches first by PROSAC.

    It is given pixels and both cameras: its noise levels are fixed numbers of pixels, so with
    calibrated points and identity cameras it is much worse.
    """
    order = problem.order
    return pose_by_opencv(
        problem,
        order,
        problem.pixels0[order],
        problem.pixels1[order],
        problem.camera0,
        problem.camera1,
        None,
        None,
        _magsac(problem),
    )


def opencv_usac_fundamental(problem: TwoViewProblem) -> FundamentalEstimate | None:
    """`cv2.findFundamentalMat` with the settings of `cv2.USAC_MAGSAC`; weights are not used."""
    points = problem.pixels0, problem.pixels1
    F, mask = call_opencv(cv2.findFundamentalMat, *points, _magsac(problem))
    return checked_fundamental(F, mask, problem)


def _magsac(problem: TwoViewProblem) -> cv2.UsacParams:
    # Spelled out because only these take a seed.
    options = cv2.UsacParams()
    options.score = cv2.SCORE_METHOD_MAGSAC
    options.loMethod = cv2.LOCAL_OPTIM_SIGMA
    options.loIterations = 10
    options.loSampleSize = 50
    uniform = problem.best_first is None
    options.sampler = cv2.SAMPLING_UNIFORM if uniform else cv2.SAMPLING_PROSAC
    options.confidence = problem.confidence
    options.threshold = problem.threshold
    options.maxIterations = problem.max_iterations
    options.randomGeneratorState = problem.seed
    return options


# Samples are cheap, and OpenCV's default of 5000 is too few below 20 % inliers.
OPENCV_USAC = EstimatorSpec("opencv_usac", opencv_usac, max_iterations=10_000, progressive=True)
OPENCV_USAC_FUNDAMENTAL = EstimatorSpec(
    "opencv_usac", opencv_usac_fundamental, fewest_matches=7, max_iterations=10_000
)
