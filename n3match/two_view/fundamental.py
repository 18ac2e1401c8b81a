"""Fundamental matrix from putative matches of images with unknown cameras."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np

from n3match.geometry import (
    FundamentalMatrix,
    estimate_fundamental_from_matches,
    guess_intrinsics,
)
from n3match.nn.match_filter import MatchFilter
from n3match.two_view.filtering import score_matches


def estimate_fundamental(
    points0: np.ndarray,
    points1: np.ndarray,
    size0: tuple[int, int],
    size1: tuple[int, int],
    *,
    side: np.ndarray | None = None,
    shapes0: np.ndarray | None = None,
    shapes1: np.ndarray | None = None,
    filter: MatchFilter | str | os.PathLike = "sift",
    estimator: str = "auto",
    threshold: float = 1.0,
    seed: int = 0,
) -> FundamentalMatrix:
    """The epipolar geometry of two images whose cameras aren't known, from putative matches.

    The filter works in calibrated coordinates; it is given those of a guessed camera (focal length
    1.2 × the longer side, principal point at the centre). The estimator works in pixels.
    Convention: points1ᵀ F points0 = 0 for homogeneous pixels.

    Args:
        points0, points1: (N, 2) matched pixels; integers are pixel centres.
        size0, size1: (width, height) of the images in pixels.
        side: (N, S) side information for the filter, see `score_matches`; None if unknown.
        shapes0, shapes1: (N, 2) keypoint sizes and angles for the filter, likewise.
        filter: "sift" (shipped), another name, a path or a `MatchFilter`.
        estimator: "poselib", "opencv_usac", or "auto": PoseLib where installed, else OpenCV.
        threshold: inlier threshold in pixels.
        seed: same seed, same result.

    Returns:
        `FundamentalMatrix` over all N matches: F (None unless status is "ok"), inliers (N,) bool,
        probability (N,) in [0, 1] (above ½: kept by the filter), status, and the homography with
        its support. Planes, turns of the camera and too few matches are told by `status`.

    Raises:
        ValueError, TypeError: for malformed input, naming the argument.
    """
    K0, K1 = guess_intrinsics(size0, name="size0"), guess_intrinsics(size1, name="size1")
    logits = score_matches(
        points0, points1, K0, K1, side=side, shapes0=shapes0, shapes1=shapes1, filter=filter
    )
    kept = logits > 0
    points0, points1 = (
        np.asarray(p, dtype=np.float64).reshape(-1, 2) for p in (points0, points1)
    )
    found = estimate_fundamental_from_matches(
        points0[kept], points1[kept], size0, size1,
        estimator=estimator, threshold=threshold, seed=seed, num_putative=len(kept),
    )
    inliers = np.zeros(len(kept), dtype=bool)
    inliers[kept] = found.inliers
    return replace(found, inliers=inliers, probability=0.5 * (1.0 + np.tanh(0.5 * logits)))
