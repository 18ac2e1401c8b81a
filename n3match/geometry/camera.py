"""Cameras: pixels to calibrated coordinates and back, lenses included.

Convention: the centre of the first pixel is (0, 0); calibrated coordinates are those on the plane
z = 1 of the camera, x right and y down; K is [[fx, s, cx], [0, fy, cy], [0, 0, 1]].

A lens is one of `LENSES` with its coefficients. `opencv` is OpenCV's model (k1, k2, p1, p2[, k3[,
k4, k5, k6[, s1…s4[, τx, τy]]]]). The others are those that it cannot describe, with the formulas
of COLMAP's camera models (r² = x² + y² of a point x = (u - cx) / fx, y = (v - cy) / fy):

    equidistant  r = θ (1 + k1 θ² + k2 θ⁴ + k3 θ⁶ + k4 θ⁸), θ = angle to the axis
                 (OPENCV_FISHEYE, RADIAL_FISHEYE, SIMPLE_RADIAL_FISHEYE, FISHEYE, SIMPLE_FISHEYE)
    fov          tan(r ω) / (2 tan(ω / 2)) = tan θ                                  (FOV)
    division     x / (1 + k r²)                                   (DIVISION, SIMPLE_DIVISION)
    thin_prism   r = θ as of `equidistant`, bent by radial, tangential and thin prism terms
                 k1 k2 p1 p2 k3 k4 sx1 sy1                                  (THIN_PRISM_FISHEYE)
    fisheye624   the same by six radial terms, then tangential and prism ones
                 k0 … k5 p0 p1 s0 … s3                              (RAD_TAN_THIN_PRISM_FISHEYE)
    eucm         the enhanced unified model, α and β                                      (EUCM)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
import torch

from n3match.arguments import one_of, positive, real_array
from n3match.geometry.checks import (
    check_distortion,
    check_intrinsics,
    check_leading,
    check_points_array,
    check_size,
    check_tensor,
)

# Coefficients of each lens other than OpenCV's.
_LENGTHS = {
    "equidistant": 4, "fov": 1, "division": 1, "thin_prism": 8, "fisheye624": 12, "eucm": 2,
}
LENSES = ("opencv", *_LENGTHS)
#: Rays further than this from the axis are left out: on z = 1 a pixel there is as wide as dozens
#: at the centre, so distances to epipolar lines mean nothing.
MAX_ANGLE = math.radians(80)
_BISECTIONS = 50
# As COLMAP assumes: a horizontal field of view of 45°, between a phone's and a normal lens.
_FOCAL_GUESS = 1.2
# Of Newton's method. Tolerance and step are calibrated units: the first is far below any
# keypoint's precision and far above float64 rounding.
_MAX_ITERATIONS = 30
_TOLERANCE = 1e-12
_STEP = 1e-6
# Of a fisheye's polynomial: what is left beyond this was not inverted, no ray reaches the pixel.
_UNREACHED = 1e-9


def guess_focal(size: tuple[float, float] | np.ndarray) -> np.ndarray:
    """Focal lengths for images of which only the size is known: 1.2 × the longer side.

    Args:
        size: (..., 2) widths and heights in pixels.

    Returns:
        (...) float64 pixels; a numpy float for one image.

    Raises:
        ValueError: another shape. TypeError: no numbers.
    """
    sizes = real_array("size", size)
    if not sizes.ndim or sizes.shape[-1] != 2:
        raise ValueError(f"size must have shape (..., 2): width, height; got {sizes.shape}")
    return _FOCAL_GUESS * np.max(sizes, axis=-1)


def guess_intrinsics(
    size: tuple[int, int], focal: float | None = None, *, name: str = "size"
) -> np.ndarray:
    """(3, 3) K with square pixels and the principal point at the centre of the image.

    Args:
        size: (width, height) in pixels.
        focal: focal length in pixels; None: `guess_focal`.
        name: of the size, for the error.

    Raises:
        ValueError, TypeError: a size that isn't two positive numbers, a focal length that isn't a
            positive one.
    """
    width, height = check_size(name, size)
    if focal is None:
        focal = float(guess_focal((width, height)))
    focal = positive("focal", focal, " of pixels")
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])


def normalize_points(points: torch.Tensor, K: torch.Tensor) -> torch.Tensor:
    """Pixels to calibrated coordinates without a lens: the first two entries of K⁻¹ (u, v, 1).

    Args:
        points: (..., N, 2) pixels.
        K: (..., 3, 3). Only its upper triangle is read and its values are not checked: fx = 0
            gives infinity. Leading dimensions broadcast.

    Returns:
        (..., N, 2) calibrated coordinates.

    Raises:
        ValueError: a wrong shape. TypeError: not tensors of floating-point numbers.
    """
    check_tensor("points", points, None, 2)
    check_tensor("K", K, 3, 3)
    check_leading({"points": 2, "K": 2}, points=points, K=K)
    fx, skew, cx, fy, cy = _entries(K)
    y = (points[..., 1] - cy) / fy
    x = (points[..., 0] - cx - skew * y) / fx
    return torch.stack((x, y), dim=-1)


def denormalize_points(points: torch.Tensor, K: torch.Tensor) -> torch.Tensor:
    """Calibrated coordinates to pixels without a lens: the inverse of `normalize_points`.

    Args:
        points: (..., N, 2) calibrated coordinates.
        K: (..., 3, 3), read as in `normalize_points`.

    Returns:
        (..., N, 2) pixels.

    Raises:
        ValueError: a wrong shape. TypeError: not tensors of floating-point numbers.
    """
    check_tensor("points", points, None, 2)
    check_tensor("K", K, 3, 3)
    check_leading({"points": 2, "K": 2}, points=points, K=K)
    fx, skew, cx, fy, cy = _entries(K)
    x, y = points[..., 0], points[..., 1]
    return torch.stack((fx * x + skew * y + cx, fy * y + cy), dim=-1)


def _entries(K: torch.Tensor) -> tuple[torch.Tensor, ...]:
    # Slices keep a trailing dimension of one, which broadcasts over the points.
    return K[..., 0, 0:1], K[..., 0, 1:2], K[..., 0, 2:3], K[..., 1, 1:2], K[..., 1, 2:3]


def distort_points(
    points: np.ndarray, K: np.ndarray, distortion: np.ndarray | None = None
) -> np.ndarray:
    """Calibrated, undistorted coordinates to distorted pixels: OpenCV's lens model, then K.

    The inverse of `undistort_points` where the model can be inverted. Far outside the image it
    often can't: a polynomial that bends the wrong way maps such points back into the image.

    Args:
        points: (N, 2) calibrated coordinates.
        K: (3, 3) camera matrix.
        distortion: coefficients in OpenCV's order, or None for a lens without distortion.

    Returns:
        (N, 2) float64 pixels.

    Raises:
        ValueError: wrong shape, NaN or infinity, singular K, wrong number of coefficients.
    """
    points = check_points_array("points", points)
    K = check_intrinsics("K", K)
    coefficients = check_distortion("distortion", distortion)
    if coefficients is not None and len(points):
        points = _distort(points, coefficients)
    return points @ K[:2, :2].T + K[:2, 2]


def undistort_points(
    points: np.ndarray, K: np.ndarray, distortion: np.ndarray | None = None
) -> np.ndarray:
    """Distorted pixels to calibrated, undistorted coordinates.

    Newton's method on OpenCV's lens model, to about 1e-12; a fixed small number of fixed-point
    steps, as in `cv2.undistortPoints` of OpenCV 4, leaves pixels of error at the corners of wide
    lenses. A point outside the region where the model can be inverted gets the closest
    coordinates that the iteration found.

    Args:
        points: (N, 2) pixels.
        K: (3, 3) camera matrix.
        distortion: coefficients in OpenCV's order, or None for a lens without distortion.

    Returns:
        (N, 2) float64 calibrated coordinates.

    Raises:
        ValueError: wrong shape, NaN or infinity, singular K, wrong number of coefficients.
    """
    points = check_points_array("points", points)
    K = check_intrinsics("K", K)
    return undistort_checked(points, K, check_distortion("distortion", distortion))


def undistort_checked(
    points: np.ndarray, K: np.ndarray, coefficients: np.ndarray | None
) -> np.ndarray:
    """`undistort_points` for arguments that have been checked already."""
    y = (points[:, 1] - K[1, 2]) / K[1, 1]
    x = (points[:, 0] - K[0, 2] - K[0, 1] * y) / K[0, 0]
    distorted = np.stack((x, y), axis=1)
    if coefficients is None or not len(points):
        return distorted
    return _undistort(distorted, coefficients)


def calibrated_points(
    points: np.ndarray, K: np.ndarray, distortion: np.ndarray, lens: str = "opencv"
) -> np.ndarray:
    """Pixels of any of the `LENSES` to calibrated coordinates.

    Args:
        points: (N, 2) pixels.
        K: (3, 3) camera matrix.
        distortion: of `lens`: in OpenCV's order; (4,) k1 … k4; (1,) ω; (1,) k; (8,), (12,) or (2,)
            in the order given above.
        lens: one of `LENSES`.

    Returns:
        (N, 2) float64. Of lenses other than OpenCV's NaN for rays more than `MAX_ANGLE` from the
        axis, and for pixels that no ray of the model reaches.

    Raises:
        ValueError: an unknown lens, another number of coefficients; or see `undistort_points`.
    """
    one_of("lens", lens, LENSES)
    if lens == "opencv":
        return undistort_points(points, K, distortion)
    x = undistort_points(points, K)
    k = real_array("distortion", distortion)
    if k.shape != (_LENGTHS[lens],) or not np.isfinite(k).all():
        raise ValueError(
            f"distortion must be {_LENGTHS[lens]} finite numbers for the lens {lens!r}, "
            f"got {k.tolist() if k.ndim == 1 else k.shape}"
        )
    if lens in _BENT:
        x = _unbent(x, lambda angles: _BENT[lens](angles, k))
    radius = np.linalg.norm(x, axis=1)
    if lens in _SCALES:
        scale = _SCALES[lens](radius, k)
        scale[~(np.isfinite(scale) & (scale > 0))] = np.nan
    else:
        angle = _ANGLES[lens](radius, k)
        angle[~(angle < MAX_ANGLE)] = np.nan
        # Both are 1 at the centre of the image, where the ratio has no other value.
        scale = np.divide(np.tan(angle), radius, out=np.ones_like(radius), where=radius > 1e-12)
    found = x * scale[:, None]
    found[~(np.linalg.norm(found, axis=1) < math.tan(MAX_ANGLE))] = np.nan
    return found


def _distort(x: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """(N, 2) undistorted to (N, 2) distorted calibrated coordinates, N ≥ 1."""
    rays = np.concatenate((x, np.ones((len(x), 1))), axis=1)
    none = np.zeros(3)
    projected, _ = cv2.projectPoints(rays, none, none, np.eye(3), coefficients)
    return projected.reshape(-1, 2)


def _undistort(distorted: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    return _inverse(distorted, lambda x: _distort(x, coefficients))[0]


def _inverse(
    distorted: np.ndarray, distort: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Newton with halved steps: a step is kept only where it brings the residual down.

    Returns:
        (N, 2) points that `distort` takes to `distorted`, and (N,) what is left of the residual.
    """
    x = distorted.copy()
    residual = distorted - distort(x)
    error = np.abs(residual).max(axis=1)
    step_size = np.ones(len(x))
    for _ in range(_MAX_ITERATIONS):
        if error.max() < _TOLERANCE:
            break
        # Central differences: with steps of 1e-6 the Jacobian is good to about 1e-10.
        columns = [
            (distort(x + h) - distort(x - h)) / (2 * _STEP) for h in ((_STEP, 0.0), (0.0, _STEP))
        ]
        (a, c), (b, d) = columns[0].T, columns[1].T
        determinant = a * d - b * c
        determinant = np.where(np.abs(determinant) < 1e-9, 1e-9, determinant)
        r0, r1 = residual.T
        step = np.stack(((d * r0 - b * r1) / determinant, (a * r1 - c * r0) / determinant), axis=1)
        candidate = x + step_size[:, None] * step
        candidate_residual = distorted - distort(candidate)
        candidate_error = np.abs(candidate_residual).max(axis=1)
        better = candidate_error < error
        x[better] = candidate[better]
        residual[better] = candidate_residual[better]
        error[better] = candidate_error[better]
        step_size = np.where(better, np.minimum(1.0, step_size * 2), step_size / 2)
    return x, error


def _unbent(bent: np.ndarray, bend: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """(N, 2) θ x / r, NaN where none is bent to the point given."""
    if not len(bent):
        return bent
    angles, error = _inverse(bent, bend)
    angles[error > _UNREACHED] = np.nan
    return angles


def _thin_prism(angles: np.ndarray, k: np.ndarray) -> np.ndarray:
    k1, k2, p1, p2, k3, k4, s1, s2 = k
    r2 = (angles * angles).sum(axis=1, keepdims=True)
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))
    return angles * radial + _tangential(angles, r2, p2, p1) + r2 * np.array([s1, s2])


def _fisheye624(angles: np.ndarray, k: np.ndarray) -> np.ndarray:
    s2 = (angles * angles).sum(axis=1, keepdims=True)
    radial = np.polynomial.polynomial.polyval(s2, np.concatenate(([1.0], k[:6])))
    x = angles * radial
    r2 = (x * x).sum(axis=1, keepdims=True)
    return x + _tangential(x, r2, k[6], k[7]) + r2 * k[[8, 10]] + r2 * r2 * k[[9, 11]]


def _tangential(x: np.ndarray, r2: np.ndarray, p: float, q: float) -> np.ndarray:
    """p (r² + 2 x²) + 2 q x y along x, and the same with exchanged letters along y."""
    factors = np.array([p, q])
    return factors * (r2 + 2 * x * x) + 2 * factors[::-1] * x[:, :1] * x[:, 1:]


def _equidistant_angle(radius: np.ndarray, k: np.ndarray) -> np.ndarray:
    """θ of r by bisection, on the part of the polynomial that rises from 0."""
    grid = np.linspace(0, MAX_ANGLE, 2000)
    falls = np.flatnonzero(np.diff(_distorted_angle(grid, k)) <= 0)
    top = grid[falls[0]] if len(falls) else grid[-1]
    low, high = np.zeros_like(radius), np.full_like(radius, top)
    for _ in range(_BISECTIONS):
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


def _division_scale(radius: np.ndarray, k: np.ndarray) -> np.ndarray:
    return 1 / (1 + k[0] * radius**2)


def _eucm_scale(radius: np.ndarray, k: np.ndarray) -> np.ndarray:
    alpha, beta = k
    s = beta * radius**2
    with np.errstate(invalid="ignore"):  # beyond the circle that α > ½ has
        root = np.sqrt(1 - (2 * alpha - 1) * s)
    return (alpha * root + 1 - alpha) / (1 - alpha * alpha * s)


# How each lens is undone: a bend of θ x / r, the angle of a radius, or what stretches a point.
_BENT = {"thin_prism": _thin_prism, "fisheye624": _fisheye624}
_ANGLES = {
    "equidistant": _equidistant_angle,
    "fov": lambda radius, k: _fov_angle(radius, float(k[0])),
    "thin_prism": lambda radius, k: radius.copy(),
    "fisheye624": lambda radius, k: radius.copy(),
}
_SCALES = {"division": _division_scale, "eucm": _eucm_scale}
