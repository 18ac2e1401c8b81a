"""What a robust estimator is given, what it gives back, and the record that speaks of it."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TwoViewProblem:
    """Matches of one image pair and the options of a robust estimation, all checked already.

    Estimators work either in calibrated coordinates or in pixels; the pixels given here have
    distortion and skew taken out, so a camera is fully described by `camera0` / `camera1`. Where
    the cameras aren't known they are the identity, and x0, x1 are pixels.
    """

    x0: np.ndarray  # (N, 2) float64, calibrated, camera 0
    x1: np.ndarray  # (N, 2) float64, calibrated, camera 1
    camera0: np.ndarray  # (3, 3) K without skew
    camera1: np.ndarray  # (3, 3)
    weights: np.ndarray | None  # (N,) float64, non-negative, higher is better
    threshold: float  # inlier threshold, pixels
    confidence: float
    max_iterations: int
    seed: int
    best_first: np.ndarray | None = None  # (N,) indices to sample in this order; None: uniformly

    def __len__(self) -> int:
        return len(self.x0)

    @property
    def order(self) -> np.ndarray:
        """(N,) indices of the matches as they are handed to a library that samples."""
        return np.arange(len(self)) if self.best_first is None else self.best_first

    @property
    def mean_focal(self) -> float:
        """Mean of the four focal lengths, pixels."""
        cameras = (self.camera0, self.camera1)
        return float(np.mean([(K[0, 0], K[1, 1]) for K in cameras]))

    @property
    def threshold_calibrated(self) -> float:
        """The inlier threshold in calibrated units: pixels / mean focal length."""
        return self.threshold / self.mean_focal

    def with_threshold_calibrated(self, threshold: float) -> TwoViewProblem:
        """The same problem with its threshold given in calibrated units.

        Args:
            threshold: of inliers, pixels / mean focal length.
        """
        return replace(self, threshold=threshold * self.mean_focal)

    @property
    def pixels0(self) -> np.ndarray:
        """(N, 2) undistorted pixels of camera 0."""
        return _to_pixels(self.x0, self.camera0)

    @property
    def pixels1(self) -> np.ndarray:
        """(N, 2) undistorted pixels of camera 1."""
        return _to_pixels(self.x1, self.camera1)


@dataclass(frozen=True)
class Estimate:
    """A pose with x1 ~ R x0 + t and the matches that support it."""

    R: np.ndarray  # (3, 3) float64
    t: np.ndarray  # (3,) float64, length 1
    inliers: np.ndarray  # (N,) bool


@dataclass(frozen=True)
class FundamentalEstimate:
    """A matrix with x1ᵀ F x0 = 0 in pixels and the matches that support it."""

    F: np.ndarray  # (3, 3) float64, unit norm
    inliers: np.ndarray  # (N,) bool


Estimator = Callable[[TwoViewProblem], Estimate | None]
Found = TypeVar("Found", Estimate, FundamentalEstimate)


@dataclass(frozen=True)
class EstimatorSpec(Generic[Found]):
    """All there is to know of an estimator, of poses or of fundamental matrices.

    `run` answers an estimate with its inliers, or None where there is none; it is given
    `fewest_matches` or more, and a linear one so many whose weight isn't 0.
    """

    name: str
    run: Callable[[TwoViewProblem], Found | None]
    fewest_matches: int = 5  # below these its solver has no solution at all
    max_iterations: int = 1000  # most samples drawn unless told otherwise
    progressive: bool = False  # it can draw the best matches first (PROSAC)
    # One solution from all matches by their weights, no samples: those of weight 0 don't count,
    # and its answer on a plane is arbitrary.
    linear: bool = False
    requires: str | None = None  # package of that name, which is also the extra of ours

    @property
    def installed(self) -> bool:
        """Whether the package that it needs is there."""
        return self.requires is None or importlib.util.find_spec(self.requires) is not None


def choose_estimator(
    name: object, among: Mapping[str, EstimatorSpec[Found]]
) -> EstimatorSpec[Found]:
    """The estimator that `name` stands for: "auto" is PoseLib if installed, else OpenCV's USAC.

    Args:
        name: "auto" or one of `among`.
        among: estimators by name.

    Raises:
        ValueError: an unknown name. ImportError: named, but its package is not installed.
    """
    if isinstance(name, str) and name == "auto":
        chosen = among["poselib" if among["poselib"].installed else "opencv_usac"]
        _log.debug("estimator 'auto' is %s", chosen.name)
        return chosen
    if not isinstance(name, str) or name not in among:
        shown = repr(name)[:80] if isinstance(name, str) else type(name).__name__
        raise ValueError(
            f"estimator must be 'auto' or one of {', '.join(sorted(among))}, got {shown}"
        )
    if not among[name].installed:
        package = among[name].requires
        raise ImportError(
            f"estimator {name!r} needs the package {package}: pip install 'n3match[{package}]'"
        )
    return among[name]


def _to_pixels(x: np.ndarray, K: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x * (K[0, 0], K[1, 1]) + (K[0, 2], K[1, 2]))
