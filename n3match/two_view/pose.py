"""Relative pose from putative matches: filter, then robust estimation."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np

from n3match.geometry import RelativePose, estimate_relative_pose_from_matches
from n3match.nn.match_filter import MatchFilter
from n3match.two_view.filtering import score_matches

# A second try on all matches, should the kept ones give no pose, has to end in a moment too.
_SECOND_TRY_ITERATIONS = 2000


def estimate_relative_pose(
    points0: np.ndarray,
    points1: np.ndarray,
    K0: np.ndarray,
    K1: np.ndarray,
    *,
    side: np.ndarray | None = None,
    shapes0: np.ndarray | None = None,
    shapes1: np.ndarray | None = None,
    filter: MatchFilter | str | os.PathLike | None = "sift",
    estimator: str = "auto",
    threshold: float = 1.0,
    distortion0: np.ndarray | None = None,
    distortion1: np.ndarray | None = None,
    seed: int = 0,
) -> RelativePose:
    """The pose of camera 1 relative to camera 0 from putative matches, most of them wrong.

    Convention: x1 ~ R x0 + t with ‖t‖ = 1 (the scale is unknown), E = [t]× R, x1ᵀ E x0 = 0 in
    calibrated coordinates.

    Args:
        points0, points1: (N, 2) matched pixels; integers are pixel centres.
        K0, K1: (3, 3) camera matrices.
        side: (N, S) side information for the filter, see `score_matches`; None if unknown.
        shapes0, shapes1: (N, 2) keypoint sizes and angles for the filter, likewise.
        filter: "sift" (shipped), another name, a path or a `MatchFilter`; None for no filter.
        estimator: "poselib", "opencv_usac", "opencv_ransac", "kornia", "eight_point", or "auto":
            PoseLib where installed, else OpenCV.
        threshold: inlier threshold in pixels.
        distortion0, distortion1: lens coefficients in OpenCV's order, or None.
        seed: same seed, same result.

    Returns:
        `RelativePose` over all N matches: R, t, E (None unless status is "ok"), inliers (N,) bool,
        probability (N,) in [0, 1] (above ½: kept by the filter; None without filter), status.
        Where the kept matches give no trusted pose, all matches are tried once more, and `detail`
        says so. Too few matches and scenes without an answer are told by `status`.

    Raises:
        ValueError, TypeError: for malformed input, naming the argument.
    """
    options = {
        "estimator": estimator,
        "threshold": threshold,
        "distortion0": distortion0,
        "distortion1": distortion1,
        "seed": seed,
    }
    if filter is None:
        return estimate_relative_pose_from_matches(points0, points1, K0, K1, **options)
    logits = score_matches(
        points0, points1, K0, K1,
        side=side, shapes0=shapes0, shapes1=shapes1, filter=filter,
        distortion0=distortion0, distortion1=distortion1,
    )
    return pose_from_logits(points0, points1, K0, K1, logits, **options)


def pose_from_logits(
    points0: np.ndarray,
    points1: np.ndarray,
    K0: np.ndarray,
    K1: np.ndarray,
    logits: np.ndarray,
    **options,
) -> RelativePose:
    """`estimate_relative_pose` for matches that `score_matches` has scored already.

    Args:
        points0, points1, K0, K1: as there.
        logits: (N,) of the N putative matches; those above 0 are kept.
        options: `estimator`, `threshold`, `distortion0`, `distortion1`, `seed`, as there, and
            others of `n3match.geometry.estimate_relative_pose_from_matches`.
    """
    probability = 1 / (1 + np.exp(-logits))
    kept = logits > 0
    points0 = np.asarray(points0, dtype=np.float64).reshape(-1, 2)
    points1 = np.asarray(points1, dtype=np.float64).reshape(-1, 2)
    pose = estimate_relative_pose_from_matches(
        points0[kept],
        points1[kept],
        K0,
        K1,
        weights=np.tanh(logits[kept]),
        num_putative=len(kept),
        **options,
    )
    if pose.ok or kept.all():
        inliers = np.zeros(len(kept), dtype=bool)
        inliers[kept] = pose.inliers
        return replace(pose, inliers=inliers, probability=probability)
    most = options.pop("max_iterations", None) or _SECOND_TRY_ITERATIONS
    again = estimate_relative_pose_from_matches(
        points0,
        points1,
        K0,
        K1,
        weights=np.maximum(np.tanh(logits), 0.0),
        max_iterations=min(most, _SECOND_TRY_ITERATIONS),
        **options,
    )
    if again.ok or (pose.R is None and again.R is not None):  # a rotation at least
        detail = f"the {int(kept.sum())} kept matches gave no pose ({pose.status}); all were used"
        return replace(again, probability=probability, detail=detail)
    inliers = np.zeros(len(kept), dtype=bool)
    inliers[kept] = pose.inliers
    return replace(pose, inliers=inliers, probability=probability)
