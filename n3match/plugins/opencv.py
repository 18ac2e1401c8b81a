"""OpenCV: cv2.KeyPoint and cv2.DMatch in, the same cv2.DMatch objects out."""

from __future__ import annotations

import os
from collections.abc import Sequence

import cv2
import numpy as np

from n3match.filtering import score_matches
from n3match.match_filter import MatchFilter


def filter_matches(
    size1: tuple[int, int],
    size2: tuple[int, int],
    keypoints1: Sequence[cv2.KeyPoint],
    keypoints2: Sequence[cv2.KeyPoint],
    matches1to2: Sequence[cv2.DMatch],
    *,
    K1: np.ndarray | None = None,
    K2: np.ndarray | None = None,
    distortion1: np.ndarray | None = None,
    distortion2: np.ndarray | None = None,
    side: np.ndarray | None = None,
    filter: MatchFilter | str | os.PathLike = "sift",
) -> list[cv2.DMatch]:
    """The matches worth keeping: called like `cv2.xfeatures2d.matchGMS`, with cameras.

    Args:
        size1, size2: (width, height) of the images in pixels.
        keypoints1, keypoints2: of image 1 and image 2; their sizes and angles help where the
            detector gives them.
        matches1to2: putative matches, queryIdx into keypoints1 and trainIdx into keypoints2; best
            without a ratio test.
        K1, K2: (3, 3) camera matrices; None: focal length 1.2 × the longer side, principal point
            at the centre.
        distortion1, distortion2: lens coefficients in OpenCV's order, or None.
        side: (N, S) side information, a row per match, see `n3match.score_matches`; None: where
            the matches are one-way, whether each is mutual can't be told, and nothing is assumed.
        filter: a `MatchFilter`, a shipped name, or a path.

    Returns:
        The kept ones of the DMatch objects given, in their order.

    Raises:
        ValueError, TypeError: naming the argument, e.g. for an index past the keypoints.
    """
    K1 = _intrinsics("size1", size1, K1)
    K2 = _intrinsics("size2", size2, K2)
    matches = list(matches1to2)
    points1 = _points("keypoints1", keypoints1, [m.queryIdx for m in matches], "queryIdx")
    points2 = _points("keypoints2", keypoints2, [m.trainIdx for m in matches], "trainIdx")
    logits = score_matches(
        points1,
        points2,
        K1,
        K2,
        side=side,
        shapes0=_shapes(keypoints1, [m.queryIdx for m in matches]),
        shapes1=_shapes(keypoints2, [m.trainIdx for m in matches]),
        filter=filter,
        distortion0=distortion1,
        distortion1=distortion2,
    )
    return [match for match, logit in zip(matches, logits) if logit > 0]


def _intrinsics(name: str, size: tuple[int, int], K: np.ndarray | None) -> np.ndarray:
    width, height = _size(name, size)
    if K is not None:
        return K
    focal = 1.2 * max(width, height)
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])


def _size(name: str, size: tuple[int, int]) -> tuple[int, int]:
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"{name} must be (width, height), both positive, got {tuple(size)}")
    return int(size[0]), int(size[1])


def _points(name: str, keypoints, index: list[int], index_name: str) -> np.ndarray:
    if index and not 0 <= min(index) <= max(index) < len(keypoints):
        raise ValueError(
            f"matches1to2: {index_name} runs from {min(index)} to {max(index)}, "
            f"but {name} holds {len(keypoints)} keypoints"
        )
    return np.array([keypoints[i].pt for i in index], dtype=np.float64).reshape(-1, 2)


def _shapes(keypoints, index: list[int]) -> np.ndarray:
    shapes = [(keypoints[i].size, keypoints[i].angle) for i in index]
    return np.array(shapes, dtype=np.float64).reshape(-1, 2)
