"""Scenes that are a plane, which two poses may explain; points on a line (numpy).

N matches; all coordinates and thresholds are calibrated.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import cv2
import numpy as np

from n3match.geometry.metrics import pose_error_deg
from n3match.geometry.verification.agreement import (
    TRANSFER_FACTOR,
    Distance,
    Matches,
    homography_distance,
    inliers_of,
)
from n3match.geometry.verification.support import (
    SIGNIFICANT,
    TRANSLATION_MODEL,
    log10_false_alarms,
)

# A plane is dominant with this share of the inliers: among many wrong matches half as many again as
# its own agree with any pose by chance.
DOMINANT_SHARE = 0.5
# A rival pose of a plane is as good with this share of the pose's own inliers, and better when
# the pose has less than this share of the rival's.
_AS_GOOD, _WORSE = 0.95, 0.8
# Rounds of fitting a homography to all matches that agree with it.
_REFITS = 4
# Poses closer together than this (degrees) are one answer.
_SAME_POSE_DEG = 5.0


class PlaneVerdict(enum.Enum):
    KEEP = "keep"  # no plane, or no other pose explains it as well
    AMBIGUOUS = "ambiguous"  # another pose explains the plane as well
    REPLACE = "replace"  # another pose explains it clearly better


@dataclass(frozen=True)
class PlaneModel:
    """A homography with x1 ~ H x0, and the matches (N,) bool that it explains."""

    H: np.ndarray
    explained: np.ndarray


def points_on_a_line(x: np.ndarray, threshold: float) -> bool:
    """Whether all points (N, 2), N ≥ 1, are within about a threshold of one line (or point)."""
    centred = x - x.mean(axis=0)
    # Root mean square distance from the best line through the centre.
    minor = np.sqrt(max(0.0, np.linalg.eigvalsh(centred.T @ centred / len(x))[0]))
    return bool(minor < threshold)


def find_plane(matches: Matches, inliers: np.ndarray) -> PlaneModel | None:
    """The homography that most inliers (N,) bool agree with; None with fewer than 4 of them."""
    if np.count_nonzero(inliers) < 4:
        return None
    # In units of the threshold: OpenCV's solver expects numbers the size of pixels.
    threshold = matches.threshold
    a, b = matches.x0[inliers] / threshold, matches.x1[inliers] / threshold
    H, _ = cv2.findHomography(
        a,
        b,
        method=cv2.RANSAC,
        ransacReprojThreshold=TRANSFER_FACTOR,
        maxIters=200,
        confidence=0.99,
    )
    # OpenCV's mask is that of the best sample before its refinement (in some versions), which
    # misses many. Refit to all that agree until no more do.
    on_plane = _near_homography(H, a, b)
    for _ in range(_REFITS):
        if np.count_nonzero(on_plane) < 4:
            return None
        refit, _ = cv2.findHomography(a[on_plane], b[on_plane], method=0)
        agreeing = _near_homography(refit, a, b)
        if np.count_nonzero(agreeing) <= np.count_nonzero(on_plane):
            break
        H, on_plane = refit, agreeing
    if np.count_nonzero(on_plane) < 4:
        return None
    explained = np.zeros(len(matches), dtype=bool)
    explained[inliers] = on_plane
    scale = np.diag((threshold, threshold, 1.0))
    return PlaneModel(scale @ H @ np.linalg.inv(scale), explained)


def _near_homography(H: np.ndarray | None, x0: np.ndarray, x1: np.ndarray) -> np.ndarray:
    """(N,) bool: transfer errors below the factor, in units of the threshold."""
    if H is None or not np.isfinite(H).all():
        return np.zeros(len(x0), dtype=bool)
    return homography_distance(H)(x0, x1) < TRANSFER_FACTOR


def plane_support(plane: PlaneModel | None, inliers: np.ndarray) -> dict:
    """What a `Verdict` says of a plane: the share of the inliers (N,) on it, and its homography."""
    if plane is None or not inliers.any():
        return {}
    share = np.count_nonzero(plane.explained & inliers) / np.count_nonzero(inliers)
    return {"homography_support": share, "homography": plane.H}


def plane_dominates(
    matches: Matches, distance: Distance, inliers: np.ndarray, plane: PlaneModel
) -> bool:
    """Whether most inliers are on one plane, and those off it no more than chance gives.
    distance: of matches from the epipolar geometry, see `log10_false_alarms`."""
    explained = plane.explained
    if np.count_nonzero(explained) < DOMINANT_SHARE * np.count_nonzero(inliers):
        return False
    rest = matches.beside(explained)
    off = inliers & ~explained
    return log10_false_alarms(rest, distance, off, TRANSLATION_MODEL) > SIGNIFICANT


def compare_with_rival(
    matches: Matches, R: np.ndarray, t: np.ndarray, plane: PlaneModel
) -> tuple[PlaneVerdict, np.ndarray, np.ndarray]:
    """The pose (R, t) beside the other poses that the plane's homography allows.

    A plane seen by two cameras has up to two poses with all points in front of both
    (Longuet-Higgins 1986), and its points alone can't tell which. Often the second has part of
    the points behind a camera: sampling estimators that don't look at that may have chosen it.

    Returns:
        The verdict, and the R and t to go on with (those given unless REPLACE).
    """
    limit = TRANSFER_FACTOR * matches.threshold
    # What is off the plane is chance's, and speaks for whichever pose was sought with it. All that
    # is on it counts, not what agrees with that pose alone.
    on_plane = homography_distance(plane.H)(matches.x0, matches.x1) < limit
    x0, x1 = matches.x0[on_plane], matches.x1[on_plane]

    def support(pose: tuple[np.ndarray, np.ndarray]) -> int:
        return int(np.count_nonzero(inliers_of(*pose, x0, x1, limit)))

    rivals = [
        pose for pose in poses_of(plane.H) if float(pose_error_deg(*pose, R, t)) > _SAME_POSE_DEG
    ]
    if not rivals:
        return PlaneVerdict.KEEP, R, t
    rival = max(rivals, key=support)
    own, other = support((R, t)), support(rival)
    if own < _WORSE * other:
        return PlaneVerdict.REPLACE, *rival
    if other >= _AS_GOOD * own:
        return PlaneVerdict.AMBIGUOUS, R, t
    return PlaneVerdict.KEEP, R, t


def poses_of(H: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """R and t of the up to four poses of a homography (3, 3); those with no translation are left
    out."""
    count, rotations, translations, _ = cv2.decomposeHomographyMat(H, np.eye(3))
    poses = []
    for R, t in zip(rotations[:count], translations[:count]):
        length = float(np.linalg.norm(t))
        if np.isfinite(R).all() and np.isfinite(length) and length > 0:
            poses.append((np.ascontiguousarray(R), t.ravel() / length))
    return poses
