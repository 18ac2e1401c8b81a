"""Kept matches to what COLMAP stores of a pair: E, F, H, pose, inliers."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from n3match.geometry import PoseStatus, estimate_relative_pose_from_matches
from n3match.plugins.colmap.database import CALIBRATED, DEGENERATE, PANORAMIC, TwoViewGeometry
from n3match.plugins.colmap.model import ColmapCamera

_HOMOGRAPHY_PIXELS = 4.0  # COLMAP's own threshold in verification


def two_view_geometry(
    matches: np.ndarray,
    x0: np.ndarray,
    x1: np.ndarray,
    camera0: ColmapCamera,
    camera1: ColmapCamera,
    logits: np.ndarray,
    num_putative: int,
    *,
    estimator: str = "auto",
    threshold: float = 1.0,
    seed: int = 0,
) -> TwoViewGeometry:
    """Robust pose of the kept matches of a pair.

    Args:
        matches: (K, 2) kept matches, indices into the images' keypoints.
        x0, x1: (K, 2) their calibrated coordinates.
        camera0, camera1: of the images.
        logits: (K,) of the filter, positive.
        num_putative: matches before filtering, for the test against chance.
        estimator, threshold, seed: see `n3match.estimate_relative_pose`.

    Returns:
        CALIBRATED with all fields where there is a pose that can be trusted; PANORAMIC with a
        rotation and its homography where that explains all; else DEGENERATE without inliers.
    """
    K0, K1 = camera0.K, camera1.K
    # Pixels of ideal cameras, so that one estimator serves every lens.
    points0, points1 = (x @ K[:2, :2].T + K[:2, 2] for x, K in ((x0, K0), (x1, K1)))
    pose = estimate_relative_pose_from_matches(
        points0, points1, K0, K1,
        weights=np.tanh(logits), num_putative=num_putative,
        estimator=estimator, threshold=threshold, seed=seed,
    )
    inliers = np.asarray(matches[pose.inliers], dtype=np.uint32)
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    C0, C1 = half @ K0, half @ K1
    if pose.status is PoseStatus.NO_PARALLAX:
        H = C1 @ pose.R @ np.linalg.inv(C0)
        return TwoViewGeometry(
            PANORAMIC, inliers, H=H / H[2, 2], qvec=_quaternion(pose.R), tvec=np.zeros(3)
        )
    if not pose.ok:
        return TwoViewGeometry(DEGENERATE, np.zeros((0, 2), np.uint32))
    F = np.linalg.inv(C1).T @ pose.E @ np.linalg.inv(C0)
    H, _ = cv2.findHomography(
        points0[pose.inliers] + 0.5, points1[pose.inliers] + 0.5,
        cv2.USAC_MAGSAC, _HOMOGRAPHY_PIXELS,
    )
    return TwoViewGeometry(
        CALIBRATED, inliers, E=pose.E, F=F / np.linalg.norm(F), H=H,
        qvec=_quaternion(pose.R), tvec=pose.t,
    )


def _quaternion(R: np.ndarray) -> np.ndarray:
    """(4,) w, x, y, z."""
    x, y, z, w = Rotation.from_matrix(R).as_quat(canonical=True)
    return np.array([w, x, y, z])
