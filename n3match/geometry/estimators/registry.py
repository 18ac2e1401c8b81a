"""The estimators by name, and which one "auto" is."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable

from n3match.geometry.estimators.eight_point import eight_point
from n3match.geometry.estimators.kornia_ransac import kornia_ransac
from n3match.geometry.estimators.opencv_ransac import opencv_ransac
from n3match.geometry.estimators.opencv_usac import opencv_usac
from n3match.geometry.estimators.poselib import poselib
from n3match.geometry.estimators.problem import Estimate, TwoViewProblem

_log = logging.getLogger(__name__)

Estimator = Callable[[TwoViewProblem], Estimate | None]

# Every estimator by its name.
ESTIMATORS: dict[str, Estimator] = {
    "poselib": poselib,
    "opencv_usac": opencv_usac,
    "opencv_ransac": opencv_ransac,
    "kornia": kornia_ransac,
    "eight_point": eight_point,
}

# Below these the solver has no solution at all.
FEWEST_MATCHES = {
    "poselib": 5,
    "opencv_usac": 5,
    "opencv_ransac": 5,
    "kornia": 6,
    "eight_point": 8,
}

# Those that can draw the best matches first.
PROGRESSIVE = ("opencv_usac", "poselib")

# Most samples drawn unless told otherwise: each library's own default, but for USAC, whose
# samples are cheap and whose default of 5000 is too few below 20 % inliers.
MAX_ITERATIONS = {
    "poselib": 100_000,
    "opencv_usac": 10_000,
    "opencv_ransac": 1000,
    "kornia": 20_480,
    "eight_point": 1,
}


def choose_estimator(name: str) -> str:
    """The estimator that `name` stands for: "auto" is PoseLib if installed, else OpenCV's USAC.

    Args:
        name: a key of `ESTIMATORS`, or "auto".

    Raises:
        ValueError: unknown name.
    """
    if name == "auto":
        chosen = "poselib" if importlib.util.find_spec("poselib") else "opencv_usac"
        _log.debug("estimator 'auto' is %s", chosen)
        return chosen
    if name not in ESTIMATORS:
        raise ValueError(
            f"estimator must be 'auto' or one of {', '.join(sorted(ESTIMATORS))}, got {name!r}"
        )
    return name
