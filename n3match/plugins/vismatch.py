"""vismatch: any of its matchers with the filter and a relative pose behind it.

A vismatch matcher is called with two images and returns a dictionary with `matched_kpts0/1`
(N, 2), and the inliers of a homography, `H`, `inlier_kpts0/1`, `num_inliers`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from n3match.geometry import guess_intrinsics
from n3match.nn.match_filter import MatchFilter
from n3match.two_view import as_filter, match_logits, pose_from_logits, probability


class FilteredMatcher:
    """Called like the matcher it wraps; its answer speaks of the kept matches and their pose.

    In the answer, `matched_kpts0/1` are the kept matches (`matched_confidences` the filter's
    probabilities of them, in (½, 1]), `inlier_kpts0/1` and `num_inliers` those of the relative
    pose. `H` is None: inliers are of an essential matrix, not of a homography. New are `E` (3, 3),
    `R` (3, 3), `t` (3,) (x1 ~ R x0 + t; None without a pose) and `status`. All else is the
    matcher's.

    Args:
        matcher: of vismatch, or any callable with such an answer.
        K0, K1: (3, 3) camera matrices of the images as the matcher sees them; None for a focal
            length of 1.2 × the longer side.
        filter: a `MatchFilter`, a shipped name, or a path.
        threshold: of inliers, in pixels.
    """

    def __init__(
        self,
        matcher: Callable[..., dict],
        *,
        K0: np.ndarray | None = None,
        K1: np.ndarray | None = None,
        filter: MatchFilter | str | os.PathLike = "sift",
        threshold: float = 1.0,
    ):
        self.matcher, self.filter, self.threshold = matcher, as_filter(filter), threshold
        self.K0, self.K1 = K0, K1

    def __call__(self, img0: Any, img1: Any) -> dict:
        """The matcher's answer for two images, filtered, with their relative pose.

        Args:
            img0, img1: as the matcher takes them; without K0 or K1, arrays or tensors (C, H, W).

        Raises:
            TypeError: an image whose size can't be told, without its camera matrix.
        """
        answer = dict(self.matcher(img0, img1))
        K0 = _camera("img0", img0) if self.K0 is None else self.K0
        K1 = _camera("img1", img1) if self.K1 is None else self.K1
        points = [
            np.asarray(answer[f"matched_kpts{i}"], np.float64).reshape(-1, 2) for i in (0, 1)
        ]
        logits = match_logits(points[0], points[1], K0, K1, filter=self.filter)
        kept = logits > 0
        pose = pose_from_logits(
            points[0], points[1], K0, K1, logits, threshold=self.threshold
        )
        for i in (0, 1):
            found = np.asarray(answer[f"matched_kpts{i}"]).reshape(-1, 2)
            answer[f"matched_kpts{i}"] = found[kept]
            answer[f"inlier_kpts{i}"] = found[pose.inliers]
        answer["matched_confidences"] = probability(logits[kept])
        answer.update(
            num_inliers=pose.num_inliers, H=None, E=pose.E, R=pose.R, t=pose.t,
            status=str(pose.status),
        )
        return answer


def _camera(name: str, image: Any) -> np.ndarray:
    shape = getattr(image, "shape", None)
    if shape is None or len(shape) != 3:
        raise TypeError(
            f"{name} must be an array or tensor (C, H, W) for its size to be known, "
            f"got {type(image).__name__}; or give K{name[-1]}"
        )
    height, width = shape[1:]
    return guess_intrinsics((width, height), name=name)
