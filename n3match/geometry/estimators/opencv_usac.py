"""OpenCV's USAC framework with MAGSAC++ scoring (Barath et al. 2020), in pixels."""

from __future__ import annotations

import logging

import cv2
import numpy as np

from n3match.geometry.estimators.essential_to_pose import pose_of_essentials
from n3match.geometry.estimators.problem import Estimate, TwoViewProblem

_log = logging.getLogger(__name__)


def opencv_usac(problem: TwoViewProblem) -> Estimate | None:
    """`cv2.findEssentialMat` with the settings of `cv2.USAC_MAGSAC`; with an order, by PROSAC.

    It is given pixels and both cameras: its noise levels are fixed numbers of pixels, so with
    calibrated points and identity cameras it is much worse. The settings are spelled out because
    only `cv2.UsacParams` takes a seed.

    Args:
        problem: of 5 matches or more.

    Returns:
        The pose and its inliers; None where there is none.
    """
    options = cv2.UsacParams()
    options.score = cv2.SCORE_METHOD_MAGSAC
    options.loMethod = cv2.LOCAL_OPTIM_SIGMA
    options.loIterations = 10
    options.loSampleSize = 50
    options.sampler = cv2.SAMPLING_UNIFORM if problem.order is None else cv2.SAMPLING_PROSAC
    options.confidence = problem.confidence
    options.threshold = problem.threshold
    options.maxIterations = problem.max_iterations
    options.randomGeneratorState = problem.seed
    order = np.arange(len(problem)) if problem.order is None else problem.order
    try:
        stack, mask = cv2.findEssentialMat(
            problem.pixels0[order],
            problem.pixels1[order],
            problem.camera0,
            problem.camera1,
            None,
            None,
            options,
        )
    except cv2.error as error:
        _log.debug("findEssentialMat (USAC) raised: %s", error)
        return None
    if stack is None or mask is None:
        return None
    inliers = np.zeros(len(problem), dtype=bool)
    inliers[order] = np.asarray(mask).ravel() > 0
    return pose_of_essentials(stack, inliers, problem)
