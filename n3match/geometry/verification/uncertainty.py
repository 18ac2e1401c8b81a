"""How exactly matches determine a pose: the covariance of a least-squares fit (numpy).

N matches; all coordinates are calibrated.
"""

from __future__ import annotations

import numpy as np

from n3match.geometry.essential import essential_from_pose


def pose_deviation_deg(
    R: np.ndarray, t: np.ndarray, x0: np.ndarray, x1: np.ndarray, noise: float
) -> float:
    """Standard deviation in degrees of a pose fitted to matches by their Sampson distances.

    The larger one of the rotation's and the translation direction's, each about its worst axis.

    Args:
        R, t: (3, 3), (3,). x0, x1: (N, 2) inliers.
        noise: standard deviation of their distances from the epipolar lines.

    Returns:
        Infinite for fewer than 5 matches, and where they leave something open.
    """
    if len(x0) < 5:
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
    information = J.T @ J
    if np.linalg.matrix_rank(information) < 5:
        return np.inf
    covariance = noise**2 * np.linalg.inv(information)
    worst = max(
        np.linalg.eigvalsh(block)[-1] for block in (covariance[:2, :2], covariance[2:, 2:])
    )
    return float(np.degrees(np.sqrt(max(worst, 0.0))))
