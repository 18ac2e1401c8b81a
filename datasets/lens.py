"""Pixels of any camera model to calibrated coordinates on the plane z = 1 (numpy).

`opencv` is the model of `n3match.geometry.undistort_points`. The others are lenses that it cannot
describe, under the names and with the formulas of COLMAP's camera models (camera coordinates
X, Y, Z; r² = x² + y² of a point (u - cx) / fx, (v - cy) / fy of the image):

    equidistant  r = θ (1 + k1 θ² + k2 θ⁴ + k3 θ⁶ + k4 θ⁸), θ = angle to the axis
                 (OPENCV_FISHEYE, RADIAL_FISHEYE, SIMPLE_RADIAL_FISHEYE, FISHEYE, SIMPLE_FISHEYE)
    fov          tan(r ω) / (2 tan(ω / 2)) = tan θ                                  (FOV)
    division     x / (1 + k r²)                                   (DIVISION, SIMPLE_DIVISION)
"""

import math

import numpy as np

from n3match.geometry import undistort_points

LENSES = ("opencv", "equidistant", "fov", "division")
#: Rays further than this from the axis are left out: on z = 1 a pixel there is as wide as dozens
#: at the centre, so distances to epipolar lines mean nothing.
MAX_ANGLE = math.radians(80)
_STEPS = 50


def calibrated_points(
    points: np.ndarray, K: np.ndarray, distortion: np.ndarray, lens: str = "opencv"
) -> np.ndarray:
    """Pixels as detected to (N, 2) float64 coordinates on z = 1; NaN where there are none.

    NaN marks rays of a fisheye lens more than `MAX_ANGLE` from the axis, and pixels that no ray of
    the model reaches.

    Args:
        points: (N, 2) pixels, the first pixel's centre at (0, 0).
        K: (3, 3); `lens` one of LENSES with its coefficients `distortion`: OpenCV's order; (4,)
            k1 … k4; (1,) ω; (1,) k.

    Raises:
        ValueError: an unknown lens, or see `n3match.geometry.undistort_points`.
    """
    if lens == "opencv":
        return undistort_points(points, K, distortion)
    if lens not in LENSES:
        raise ValueError(f"lens: found {lens!r}, wanted one of {', '.join(LENSES)}")
    x = undistort_points(points, K)
    radius = np.linalg.norm(x, axis=1)
    if lens == "division":
        scale = 1 / (1 + float(distortion[0]) * radius**2)
        scale[~(np.isfinite(scale) & (scale > 0))] = np.nan
    else:
        angle = (
            _equidistant_angle(radius, np.asarray(distortion, np.float64))
            if lens == "equidistant"
            else _fov_angle(radius, float(distortion[0]))
        )
        angle[~(angle < MAX_ANGLE)] = np.nan
        # Both are 1 at the centre of the image, where the ratio has no other value.
        scale = np.divide(np.tan(angle), radius, out=np.ones_like(radius), where=radius > 1e-12)
    found = x * scale[:, None]
    found[~(np.linalg.norm(found, axis=1) < math.tan(MAX_ANGLE))] = np.nan
    return found


def _equidistant_angle(radius: np.ndarray, k: np.ndarray) -> np.ndarray:
    """θ of r by bisection, on the part of the polynomial that rises from 0."""
    grid = np.linspace(0, MAX_ANGLE, 2000)
    falls = np.flatnonzero(np.diff(_distorted_angle(grid, k)) <= 0)
    top = grid[falls[0]] if len(falls) else grid[-1]
    low, high = np.zeros_like(radius), np.full_like(radius, top)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        below = _distorted_angle(middle, k) < radius
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    angle = (low + high) / 2
    angle[radius > _distorted_angle(np.array([top]), k)[0]] = np.nan
    return angle


def _distorted_angle(angle: np.ndarray, k: np.ndarray) -> np.ndarray:
    s = angle * angle
    return angle * (1 + s * (k[0] + s * (k[1] + s * (k[2] + s * k[3]))))


def _fov_angle(radius: np.ndarray, omega: float) -> np.ndarray:
    if abs(omega) < 1e-6:  # no distortion in the limit
        return np.arctan(radius)
    inside = radius * abs(omega) < math.pi / 2
    ratio = np.tan(np.where(inside, radius * abs(omega), 0)) / (2 * math.tan(abs(omega) / 2))
    return np.where(inside, np.arctan(ratio), np.nan)
