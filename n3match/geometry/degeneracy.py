"""Configurations of matches that don't determine one relative pose (numpy).

Points may be (nearly) on one line, the cameras may differ by a rotation alone, or the scene may
be a plane that two poses explain equally well. All tests are a few milliseconds.

All coordinates and thresholds are calibrated; N matches.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch

from n3match.geometry.cheirality import recover_pose
from n3match.geometry.epipolar import essential_from_pose
from n3match.geometry.pose_error import pose_error_deg
from n3match.geometry.support import (
    ROTATION_MODEL,
    TRANSLATION_MODEL,
    epipolar_distance,
    log10_false_alarms,
    rotation_distance,
)

# A rotation or homography predicts a point in both directions; with noise in both images its
# error is about twice that of a match from its epipolar line.
TRANSFER_FACTOR = 2.0
# log10 of expected false alarms below which matches are more than chance.
SIGNIFICANT = -3.0
# Motion below the threshold counts as parallax when it is this many times the epipolar noise
# (ratio of variances): then the matches are far more exact than the threshold says.
_SUB_THRESHOLD_RATIO = 10.0
# A plane is dominant, and a rival pose of it is as good, with this share of the inliers.
_DOMINANT_SHARE = 0.95
# Poses closer together than this (degrees) are one answer.
_SAME_POSE_DEG = 5.0


def points_on_a_line(x: np.ndarray, threshold: float) -> bool:
    """Whether all points (N, 2), N ≥ 1, are within about a threshold of one line (or point)."""
    centred = x - x.mean(axis=0)
    # Root mean square distance from the best line through the centre.
    minor = np.sqrt(max(0.0, np.linalg.eigvalsh(centred.T @ centred / len(x))[0]))
    return bool(minor < threshold)


def fit_rotation(
    x0: np.ndarray, x1: np.ndarray, start: np.ndarray, threshold: float, steps: int = 6
) -> np.ndarray:
    """The rotation with x1 ~ R x0 for as many matches as possible, from a first guess.

    Iteratively re-weighted least squares on rays (Kabsch / Wahba) with Cauchy weights.

    Args:
        x0, x1: (N, 2). start: (3, 3) rotation to start from. threshold: scale of the weights.

    Returns:
        (3, 3) rotation.
    """
    rays0, rays1 = _rays(x0), _rays(x1)
    R = start
    for step in range(steps):
        # Wide at first, so that a start that is slightly off still sees its matches.
        scale = threshold * max(1.0, 16.0 / 4**step)
        distance = np.linalg.norm(rays1 - rays0 @ R.T, axis=1)
        weights = 1.0 / (1.0 + (distance / scale) ** 2)
        U, _, Vt = np.linalg.svd((rays1 * weights[:, None]).T @ rays0)
        R = U @ np.diag((1.0, 1.0, np.linalg.det(U @ Vt))) @ Vt
    return R


def rotation_alone(
    x0: np.ndarray,
    x1: np.ndarray,
    R: np.ndarray,
    t: np.ndarray,
    inliers: np.ndarray,
    threshold: float,
    num_putative: int,
) -> tuple[np.ndarray, np.ndarray] | None:
    """The rotation and its inliers (N,), where it explains the matches as well as (R, t) does.

    None where there is parallax: more inliers of (R, t) off the rotation than chance would put
    on epipolar lines; or inliers that agree with the epipolar lines so exactly that their
    smaller disagreement with the rotation is not noise. None as well where the rotation itself
    has no more matches than chance gives it.

    Args:
        x0, x1: (N, 2) all matches. inliers: (N,) bool, those of the pose (R, t).
    """
    R_only = fit_rotation(x0[inliers], x1[inliers], R, threshold)
    off_rotation = rotation_distance(R_only)
    limit = TRANSFER_FACTOR * threshold
    distance = off_rotation(x0, x1)
    explained = distance < limit
    everything = np.ones(len(x0), dtype=bool)
    alarms = log10_false_alarms(
        x0, x1, off_rotation, everything, limit, num_putative, ROTATION_MODEL
    )
    if alarms > SIGNIFICANT:
        return None
    E = essential_of(R, t)
    if _more_than_chance(x0, x1, E, inliers & ~explained, explained, threshold, num_putative):
        return None

    both = inliers & explained
    n = int(np.count_nonzero(both))
    if n >= 8:
        # Noise variance per degree of freedom: a transfer error has two components, each with
        # the noise of both images; a Sampson distance has one.
        epipolar = float(np.sum(epipolar_distance(E)(x0[both], x1[both]) ** 2)) / (n - 5)
        transfer = float(np.sum(distance[both] ** 2) / 2) / (2 * n - 3)
        # What float32 keypoints leave of an exact rotation must not pass for parallax.
        rounding = (1e-2 * threshold) ** 2
        if transfer > _SUB_THRESHOLD_RATIO * epipolar + rounding:
            return None
    return R_only, explained


def fit_homography(
    x0: np.ndarray, x1: np.ndarray, threshold: float
) -> tuple[np.ndarray | None, np.ndarray]:
    """The homography (3, 3) that most matches agree with, and which do: (N,) bool.

    (None, all False) with under 4 matches or where the fit fails.
    """
    nothing = np.zeros(len(x0), dtype=bool)
    if len(x0) < 4:
        return None, nothing
    H, mask = cv2.findHomography(
        x0,
        x1,
        method=cv2.RANSAC,
        ransacReprojThreshold=TRANSFER_FACTOR * threshold,
        maxIters=500,
        confidence=0.99,
    )
    if H is None or mask is None or not np.isfinite(H).all():
        return None, nothing
    return H, mask.ravel() > 0


def plane_dominates(
    x0: np.ndarray,
    x1: np.ndarray,
    R: np.ndarray,
    t: np.ndarray,
    inliers: np.ndarray,
    on_plane: np.ndarray,
    threshold: float,
    num_putative: int,
) -> bool:
    """Whether nearly all inliers are on one plane, and those off it no more than chance.

    Args:
        x0, x1: (N, 2) all matches. inliers, on_plane: (N,) bool.
    """
    if np.count_nonzero(on_plane) < _DOMINANT_SHARE * max(1, np.count_nonzero(inliers)):
        return False
    off_plane = inliers & ~on_plane
    E = essential_of(R, t)
    return not _more_than_chance(x0, x1, E, off_plane, on_plane, threshold, num_putative)


def plane_has_rival_pose(
    x0: np.ndarray,
    x1: np.ndarray,
    R: np.ndarray,
    t: np.ndarray,
    H: np.ndarray,
    threshold: float,
) -> bool:
    """Whether the plane's homography has a second pose that explains the matches as well.

    A plane seen by two cameras has up to two poses with all points in front of both
    (Longuet-Higgins 1986); its points alone can't tell which.

    Args:
        x0, x1: (M, 2) the inliers of (R, t). H: (3, 3), x1 ~ H x0.
    """
    count, rotations, translations, _ = cv2.decomposeHomographyMat(H, np.eye(3))
    for rival_R, rival_t in zip(rotations[:count], translations[:count]):
        rival_t = rival_t.ravel()
        length = float(np.linalg.norm(rival_t))
        if not (np.isfinite(rival_R).all() and np.isfinite(length) and length > 0):
            continue
        rival_t = rival_t / length
        if float(pose_error_deg(rival_R, rival_t, R, t)) < _SAME_POSE_DEG:
            continue
        if _share_explained(x0, x1, rival_R, rival_t, threshold) >= _DOMINANT_SHARE:
            return True
    return False


def essential_of(R: np.ndarray, t: np.ndarray) -> np.ndarray:
    """`essential_from_pose` for arrays."""
    return essential_from_pose(torch.from_numpy(R), torch.from_numpy(t)).numpy()


def _more_than_chance(
    x0: np.ndarray,
    x1: np.ndarray,
    E: np.ndarray,
    beside: np.ndarray,
    explained: np.ndarray,
    threshold: float,
    num_putative: int,
) -> bool:
    """Whether the matches `beside` a simpler model support E's translation significantly.

    Of the putative matches, those `explained` by the simpler model have no say.
    """
    rest = max(0, num_putative - int(np.count_nonzero(explained)))
    alarms = log10_false_alarms(
        x0, x1, epipolar_distance(E), beside, threshold, rest, TRANSLATION_MODEL
    )
    return alarms < SIGNIFICANT


def _share_explained(
    x0: np.ndarray, x1: np.ndarray, R: np.ndarray, t: np.ndarray, threshold: float
) -> float:
    """Share of matches near the epipolar lines of (R, ±t) and in front of both cameras."""
    E = essential_of(R, t)
    voted_R, _, in_front = recover_pose(*map(torch.from_numpy, (E, x0, x1)))
    if float(pose_error_deg(voted_R.numpy(), t, R, t)) > _SAME_POSE_DEG:
        return 0.0  # this E has its points in front with the other rotation
    close = epipolar_distance(E)(x0, x1) < TRANSFER_FACTOR * threshold
    return float(np.mean(close & in_front.numpy()))


def _rays(x: np.ndarray) -> np.ndarray:
    rays = np.concatenate((x, np.ones((len(x), 1))), axis=1)
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)
