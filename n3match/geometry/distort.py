"""Lens distortion applied (numpy)."""

from __future__ import annotations

import cv2
import numpy as np

from n3match.geometry.checks import check_distortion, check_intrinsics, check_points_array


def distort_points(
    points: np.ndarray, K: np.ndarray, distortion: np.ndarray | None = None
) -> np.ndarray:
    """Calibrated, undistorted coordinates to distorted pixels: OpenCV's distortion model, then K.

    The inverse of `undistort_points` where the model can be inverted. Far outside the image it
    often can't: a polynomial that bends the wrong way maps such points back into the image.

    Args:
        points: (N, 2) coordinates on the plane z = 1 of the camera.
        K: (3, 3) camera matrix [[fx, s, cx], [0, fy, cy], [0, 0, 1]].
        distortion: coefficients as in `undistort_points`, or None for a lens without distortion.

    Returns:
        (N, 2) float64 pixels; the centre of the first pixel is (0, 0).

    Raises:
        ValueError: wrong shape, NaN or infinity, singular K, wrong number of coefficients.
    """
    points = check_points_array("points", points)
    K = check_intrinsics("K", K)
    coefficients = check_distortion("distortion", distortion)
    if coefficients is not None and len(points):
        points = distort_calibrated(points, coefficients)
    return points @ K[:2, :2].T + K[:2, 2]


def distort_calibrated(x: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """(N, 2) undistorted to (N, 2) distorted calibrated coordinates, N ≥ 1, nothing checked."""
    rays = np.concatenate((x, np.ones((len(x), 1))), axis=1)
    none = np.zeros(3)
    projected, _ = cv2.projectPoints(rays, none, none, np.eye(3), coefficients)
    return projected.reshape(-1, 2)
