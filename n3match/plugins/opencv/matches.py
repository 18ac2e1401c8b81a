"""cv2.KeyPoint and cv2.DMatch in, the same cv2.DMatch objects out."""

from __future__ import annotations

import os
from collections.abc import Sequence

import cv2
import numpy as np

from n3match.geometry.checks import check_points_array, check_size
from n3match.nn.match_filter import MatchFilter
from n3match.plugins.cameras import check_inside, given_or_guessed
from n3match.plugins.opencv.information import match_indices, match_information, sizes_and_angles
from n3match.two_view import match_logits


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
    descriptors1: np.ndarray | None = None,
    descriptors2: np.ndarray | None = None,
    side_info: np.ndarray | None = None,
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
        descriptors1, descriptors2: (N1, D), (N2, D) of the keypoints, both or neither: side
            information is then found from them.
        side_info: (N, S) a row per match, see `n3match.match_logits`, instead of descriptors;
            None: where the matches are one-way, whether each is mutual can't be told, and nothing
            is assumed.
        filter: a `MatchFilter`, a shipped name, or a path.

    Returns:
        The kept ones of the DMatch objects given, in their order.

    Raises:
        ValueError, TypeError: naming the argument, e.g. for an index past the keypoints, a camera
            matrix or keypoints that belong to an image of another size.
    """
    check_size("size1", size1)
    check_size("size2", size2)
    matches = list(matches1to2)
    index1, index2 = match_indices(matches, len(keypoints1), len(keypoints2))
    if descriptors1 is not None or descriptors2 is not None:
        if side_info is not None:
            raise ValueError("side_info and descriptors: found both, wanted one of them")
        side_info = match_information(
            keypoints1, keypoints2, matches, descriptors1, descriptors2, filter=filter
        )["side_info"]
    logits = keypoint_match_logits(
        [keypoints1[i] for i in index1],
        [keypoints2[i] for i in index2],
        size1,
        size2,
        K1=K1,
        K2=K2,
        names=("keypoints1", "keypoints2", "size1", "size2"),
        side_info=side_info,
        filter=filter,
        distortion1=distortion1,
        distortion2=distortion2,
    )
    return [match for match, logit in zip(matches, logits) if logit > 0]


def keypoint_match_logits(
    matched1: Sequence[cv2.KeyPoint] | np.ndarray,
    matched2: Sequence[cv2.KeyPoint] | np.ndarray,
    size1: tuple[int, int] | None,
    size2: tuple[int, int] | None,
    *,
    K1: np.ndarray | None,
    K2: np.ndarray | None,
    names: tuple[str, str, str, str],
    side_info: np.ndarray | None,
    filter: MatchFilter | str | os.PathLike,
    distortion1: np.ndarray | None = None,
    distortion2: np.ndarray | None = None,
) -> np.ndarray:
    """(N,) logits of matches given by their N keypoints in each image.

    Args:
        matched1, matched2: keypoint objects, whose sizes and angles are used, or (N, 2) pixels.
        size1, size2: (width, height); None: unknown, K1 or K2 is then needed.
        names: of the keypoints and of the sizes in messages; the rest as in `filter_matches`.
    """
    points1, points2 = points_of(names[0], matched1), points_of(names[1], matched2)
    cameras = []
    for name, K, points, keypoints, size_name, size in (
        ("K1", K1, points1, names[0], names[2], size1),
        ("K2", K2, points2, names[1], names[3], size2),
    ):
        if size is not None:
            check_inside(keypoints, points, size_name, size)
        cameras.append(given_or_guessed(name, K, size_name, size, points))
    known: dict[str, np.ndarray] = {}
    if not isinstance(matched1, np.ndarray) and not isinstance(matched2, np.ndarray):
        known = {
            "sizes_angles0": sizes_and_angles(matched1), "sizes_angles1": sizes_and_angles(matched2)
        }
    return match_logits(
        points1,
        points2,
        *cameras,
        side_info=side_info,
        filter=filter,
        distortion0=distortion1,
        distortion1=distortion2,
        **known,
    )


def points_of(name: str, keypoints: Sequence[cv2.KeyPoint] | np.ndarray) -> np.ndarray:
    """(N, 2) float64 positions of keypoint objects, or of an array that holds them already."""
    if isinstance(keypoints, np.ndarray):
        return check_points_array(name, keypoints)
    return np.array([k.pt for k in keypoints], dtype=np.float64).reshape(-1, 2)
