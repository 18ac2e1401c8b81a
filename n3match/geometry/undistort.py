"""Lens distortion undone (numpy)."""

from __future__ import annotations

import numpy as np

from n3match.geometry.checks import check_distortion, check_intrinsics, check_points_array
from n3match.geometry.distort import distort_calibrated

_MAX_ITERATIONS = 30
# Calibrated units: far below any keypoint's precision, far above float64 rounding.
_TOLERANCE = 1e-12
_STEP = 1e-6


def undistort_points(
    points: np.ndarray, K: np.ndarray, distortion: np.ndarray | None = None
) -> np.ndarray:
    """Distorted pixels to calibrated, undistorted coordinates.

    Newton's method on OpenCV's distortion model, to about 1e-12; a fixed small number of
    fixed-point steps, as in `cv2.undistortPoints` of OpenCV 4, leaves pixels of error at the
    corners of wide lenses. A point outside the region where the model can be inverted gets the
    closest coordinates that the iteration found.

    Args:
        points: (N, 2) pixels; the centre of the first pixel is (0, 0).
        K: (3, 3) camera matrix [[fx, s, cx], [0, fy, cy], [0, 0, 1]].
        distortion: coefficients in OpenCV's order (k1, k2, p1, p2[, k3[, k4, k5, k6[, s1…s4[,
            τx, τy]]]]), or None for a lens without distortion.

    Returns:
        (N, 2) float64 coordinates on the plane z = 1 of the camera.

    Raises:
        ValueError: wrong shape, NaN or infinity, singular K, wrong number of coefficients.
    """
    points = check_points_array("points", points)
    K = check_intrinsics("K", K)
    coefficients = check_distortion("distortion", distortion)
    return undistort_checked(points, K, coefficients)


def undistort_checked(
    points: np.ndarray, K: np.ndarray, coefficients: np.ndarray | None
) -> np.ndarray:
    """`undistort_points` for arguments that have been checked already."""
    y = (points[:, 1] - K[1, 2]) / K[1, 1]
    x = (points[:, 0] - K[0, 2] - K[0, 1] * y) / K[0, 0]
    distorted = np.stack((x, y), axis=1)
    if coefficients is None or not len(points):
        return distorted
    return _invert(distorted, coefficients)


def _invert(distorted: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Newton with halved steps: a step is kept only where it brings the residual down."""
    x = distorted.copy()
    residual = distorted - distort_calibrated(x, coefficients)
    error = np.abs(residual).max(axis=1)
    step_size = np.ones(len(x))
    for _ in range(_MAX_ITERATIONS):
        if error.max() < _TOLERANCE:
            break
        # Central differences: with steps of 1e-6 the Jacobian is good to about 1e-10.
        columns = [
            (distort_calibrated(x + h, coefficients) - distort_calibrated(x - h, coefficients))
            / (2 * _STEP)
            for h in ((_STEP, 0.0), (0.0, _STEP))
        ]
        (a, c), (b, d) = columns[0].T, columns[1].T
        determinant = a * d - b * c
        determinant = np.where(np.abs(determinant) < 1e-9, 1e-9, determinant)
        step = np.stack(
            (
                (d * residual[:, 0] - b * residual[:, 1]) / determinant,
                (a * residual[:, 1] - c * residual[:, 0]) / determinant,
            ),
            axis=1,
        )
        candidate = x + step_size[:, None] * step
        candidate_residual = distorted - distort_calibrated(candidate, coefficients)
        candidate_error = np.abs(candidate_residual).max(axis=1)
        better = candidate_error < error
        x[better] = candidate[better]
        residual[better] = candidate_residual[better]
        error[better] = candidate_error[better]
        step_size = np.where(better, np.minimum(1.0, step_size * 2), step_size / 2)
    return x
