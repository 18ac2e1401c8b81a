"""How exactly matches determine a pose: the covariance of a least-squares fit (numpy).

N matches; all coordinates are calibrated.
"""

from __future__ import annotations

import numpy as np

from n3match.geometry.epipolar import sampson_distance
from n3match.geometry.essential import essential_from_pose

# Of the information that matches give: what rounding may leave of none.
_ROUNDING = 1e-14


def pose_deviation_deg(
    R: np.ndarray, t: np.ndarray, x0: np.ndarray, x1: np.ndarray, noise: float
) -> float:
    """Standard deviation in degrees of a pose fitted to matches by their Sampson distances.

    The larger one of the rotation's and the translation direction's, each about its worst axis.

    Args:
        R, t: (3, 3), (3,). x0, x1: (N, 2) inliers.
        noise: standard deviation of their distances from the epipolar lines, at least; more where
            they are farther.

    Returns:
        Infinite for fewer than 6 matches, and where they leave something open.
    """
    if len(x0) <= 5:
        return np.inf
    a = np.c_[x0, np.ones(len(x0))]
    b = np.c_[x1, np.ones(len(x1))]
    E = essential_from_pose(R, t)
    lines = np.c_[(a @ E.T)[:, :2], (b @ E)[:, :2]]
    scale = np.linalg.norm(lines, axis=1, keepdims=True)
    turned = a @ R.T
    # Of bᵀ [t]× R a by t, in the plane across it, and by a turn of R.
    across = np.linalg.svd(t[None])[2][1:].T
    by_t = np.cross(turned, b) @ across
    by_R = (turned @ t)[:, None] * b - np.sum(turned * b, axis=1, keepdims=True) * t
    J = np.c_[by_t, by_R] / np.maximum(scale, 1e-12)
    variance = max(noise**2, np.sum(sampson_distance(x0, x1, E)) / (len(x0) - 5))
    information = J.T @ J
    # Noise looks like parallax: of the normals to epipolar planes, in both images.
    by_noise = np.cross(turned[:, None], np.eye(3)[:2]) @ across / np.maximum(scale, 1e-12)[:, None]
    information[:2, :2] -= 2 * variance * np.einsum("nij,nik->jk", by_noise, by_noise)
    if np.linalg.eigvalsh(information)[0] <= _ROUNDING * np.trace(information):
        return np.inf
    covariance = variance * np.linalg.inv(information)
    worst = max(
        np.linalg.eigvalsh(block)[-1] for block in (covariance[:2, :2], covariance[2:, 2:])
    )
    return float(np.degrees(np.sqrt(max(worst, 0.0))))
