"""How far matches are from a model, and which agree with a pose (numpy).

N matches; distances and thresholds are in units of the points, calibrated ones for a pose.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from n3match.geometry.epipolar import sampson_distance
from n3match.geometry.essential import essential_from_pose, in_front_of_both

# A rotation or homography predicts a point in both directions; with noise in both images its
# error is about twice that of a match from its epipolar line.
TRANSFER_FACTOR = 2.0

#: (N, 2), (N, 2) -> (N,): of matches from a model.
Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]


def epipolar_distance(E: np.ndarray) -> Distance:
    """The root of the Sampson distance to E (3, 3), as a function of matches."""
    return lambda x0, x1: np.sqrt(sampson_distance(x0, x1, E))


def rotation_distance(R: np.ndarray) -> Distance:
    """The distance in image 1 from x0 turned by R (3, 3); infinite behind the camera."""

    def distance(x0: np.ndarray, x1: np.ndarray) -> np.ndarray:
        turned = x0 @ R[:, :2].T + R[:, 2]
        ahead = turned[:, 2] > 1e-9
        depth = np.where(ahead, turned[:, 2], 1.0)
        off = np.linalg.norm(turned[:, :2] / depth[:, None] - x1, axis=1)
        return np.where(ahead, off, np.inf)

    return distance


def homography_distance(H: np.ndarray) -> Distance:
    """The distance in image 1 from H x0; NaN where that is at infinity."""

    def distance(x0: np.ndarray, x1: np.ndarray) -> np.ndarray:
        moved = np.c_[x0, np.ones(len(x0))] @ H.T
        depth = np.where(np.abs(moved[:, 2]) > 1e-12, moved[:, 2], np.nan)
        return np.linalg.norm(moved[:, :2] / depth[:, None] - x1, axis=1)

    return distance


def inliers_of(
    R: np.ndarray, t: np.ndarray, x0: np.ndarray, x1: np.ndarray, threshold: float
) -> np.ndarray:
    """(N,) bool: root Sampson distance below the threshold and not behind a camera."""
    close = epipolar_distance(essential_from_pose(R, t))(x0, x1) < threshold
    return close & in_front_of_both(R, t, x0, x1)
