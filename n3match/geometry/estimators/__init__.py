"""Robust estimators of a relative pose: small adapters with one kind of result."""

from n3match.geometry.estimators.eight_point import eight_point
from n3match.geometry.estimators.kornia_ransac import kornia_ransac
from n3match.geometry.estimators.opencv_ransac import opencv_ransac
from n3match.geometry.estimators.opencv_usac import opencv_usac
from n3match.geometry.estimators.poselib import poselib
from n3match.geometry.estimators.problem import Estimate, TwoViewProblem
from n3match.geometry.estimators.registry import ESTIMATORS, choose_estimator

__all__ = [
    "ESTIMATORS",
    "Estimate",
    "TwoViewProblem",
    "choose_estimator",
    "eight_point",
    "kornia_ransac",
    "opencv_ransac",
    "opencv_usac",
    "poselib",
]
