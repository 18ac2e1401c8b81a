"""Which matches agree with a given pose (numpy; calibrated coordinates and thresholds)."""

from __future__ import annotations

import numpy as np
import torch

from n3match.geometry.cheirality import in_front_of_both
from n3match.geometry.epipolar import essential_from_pose
from n3match.geometry.verification.support import epipolar_distance

# A rotation or homography predicts a point in both directions; with noise in both images its
# error is about twice that of a match from its epipolar line.
TRANSFER_FACTOR = 2.0


def essential_of(R: np.ndarray, t: np.ndarray) -> np.ndarray:
    """`essential_from_pose` for arrays."""
    return essential_from_pose(torch.from_numpy(R), torch.from_numpy(t)).numpy()


def inliers_of(
    R: np.ndarray, t: np.ndarray, x0: np.ndarray, x1: np.ndarray, threshold: float
) -> np.ndarray:
    """(N,) bool: root Sampson distance below the threshold and not behind a camera."""
    close = epipolar_distance(essential_of(R, t))(x0, x1) < threshold
    return close & in_front_of_both(*map(torch.from_numpy, (R, t, x0, x1))).numpy()
