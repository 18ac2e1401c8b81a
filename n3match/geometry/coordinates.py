"""Pixels to calibrated coordinates and back (no distortion; see `undistort_points`).

... any leading dimensions that broadcast · N points
"""

from __future__ import annotations

import torch

from n3match.geometry.checks import check_tensor


def normalize_points(points: torch.Tensor, K: torch.Tensor) -> torch.Tensor:
    """Pixels to calibrated coordinates: the first two entries of K⁻¹ (u, v, 1).

    Args:
        points: (..., N, 2) pixels; the centre of the first pixel is (0, 0).
        K: (..., 3, 3) camera matrix [[fx, s, cx], [0, fy, cy], [0, 0, 1]]. Only its upper
            triangle is read and its values are not checked: fx = 0 gives infinity.

    Returns:
        (..., N, 2) coordinates on the plane z = 1 of the camera, x right and y down.
    """
    check_tensor("points", points, None, 2)
    check_tensor("K", K, 3, 3)
    fx, skew, cx, fy, cy = _entries(K)
    y = (points[..., 1] - cy) / fy
    x = (points[..., 0] - cx - skew * y) / fx
    return torch.stack((x, y), dim=-1)


def denormalize_points(points: torch.Tensor, K: torch.Tensor) -> torch.Tensor:
    """Calibrated coordinates to pixels: the inverse of `normalize_points`.

    Args:
        points: (..., N, 2) coordinates on the plane z = 1 of the camera, x right and y down.
        K: (..., 3, 3) camera matrix, read as in `normalize_points`.

    Returns:
        (..., N, 2) pixels; the centre of the first pixel is (0, 0).
    """
    check_tensor("points", points, None, 2)
    check_tensor("K", K, 3, 3)
    fx, skew, cx, fy, cy = _entries(K)
    x, y = points[..., 0], points[..., 1]
    return torch.stack((fx * x + skew * y + cx, fy * y + cy), dim=-1)


def _entries(K: torch.Tensor) -> tuple[torch.Tensor, ...]:
    # Slices keep a trailing dimension of one, which broadcasts over the points.
    return K[..., 0, 0:1], K[..., 0, 1:2], K[..., 0, 2:3], K[..., 1, 1:2], K[..., 1, 2:3]
