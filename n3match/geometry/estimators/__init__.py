"""Robust estimators of relative poses and fundamental matrices, by name.

One module each: a function from a `TwoViewProblem` to an estimate or None, and its record.
"""

from n3match.geometry.estimators.eight_point import EIGHT_POINT
from n3match.geometry.estimators.kornia_ransac import KORNIA
from n3match.geometry.estimators.opencv_ransac import OPENCV_RANSAC
from n3match.geometry.estimators.opencv_usac import OPENCV_USAC, OPENCV_USAC_FUNDAMENTAL
from n3match.geometry.estimators.poselib import POSELIB, POSELIB_FUNDAMENTAL
from n3match.geometry.estimators.problem import (
    Estimate,
    Estimator,
    EstimatorSpec,
    FundamentalEstimate,
    TwoViewProblem,
    choose_estimator,
)

#: Of relative poses.
ESTIMATORS = {
    spec.name: spec for spec in (POSELIB, OPENCV_USAC, OPENCV_RANSAC, KORNIA, EIGHT_POINT)
}
FUNDAMENTAL_ESTIMATORS = {
    spec.name: spec for spec in (POSELIB_FUNDAMENTAL, OPENCV_USAC_FUNDAMENTAL)
}

__all__ = [
    "ESTIMATORS",
    "FUNDAMENTAL_ESTIMATORS",
    "Estimate",
    "Estimator",
    "EstimatorSpec",
    "FundamentalEstimate",
    "TwoViewProblem",
    "choose_estimator",
]
