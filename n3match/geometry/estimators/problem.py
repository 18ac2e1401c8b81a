"""What every robust estimator is given, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class TwoViewProblem:
    """Matches of one image pair and the options of a robust estimation, all checked already.

    Estimators work either in calibrated coordinates or in pixels; the pixels given here have
    distortion and skew taken out, so a camera is fully described by `camera0` / `camera1`.
    """

    x0: np.ndarray  # (N, 2) float64, calibrated, camera 0
    x1: np.ndarray  # (N, 2) float64, calibrated, camera 1
    camera0: np.ndarray  # (3, 3) K without skew
    camera1: np.ndarray  # (3, 3)
    scores: np.ndarray | None  # (N,) float64, non-negative, higher is better
    threshold: float  # inlier threshold, pixels
    confidence: float
    max_iterations: int
    seed: int
    order: np.ndarray | None = None  # (N,) best match first, to sample in (PROSAC); None: uniform

    def __len__(self) -> int:
        return len(self.x0)

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


def _to_pixels(x: np.ndarray, K: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x * (K[0, 0], K[1, 1]) + (K[0, 2], K[1, 2]))
