"""cv2.KeyPoint and cv2.DMatch in, the same cv2.DMatch objects out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence

import cv2
import numpy as np

from n3match.geometry.checks import check_size
from n3match.nn.match_filter import MatchFilter
from n3match.plugins.cameras import check_inside, given_or_guessed
from n3match.plugins.opencv.information import (
    are_hamming,
    firsts_of,
    match_indices,
    match_information,
    mean_focal,
    points_of,
    putative_of_rows,
    sizes_and_angles,
)
from n3match.two_view import as_filter, match_logits
from n3match.weights import default_filter

Matches = Sequence[cv2.DMatch] | Sequence[Sequence[cv2.DMatch]]


def filter_matches(
    size1: tuple[int, int],
    size2: tuple[int, int],
    keypoints1: Sequence[cv2.KeyPoint],
    keypoints2: Sequence[cv2.KeyPoint],
    matches1to2: Matches,
    withRotation: bool | None = None,
    withScale: bool | None = None,
    thresholdFactor: float | None = None,
    *,
    K1: np.ndarray | None = None,
    K2: np.ndarray | None = None,
    distortion1: np.ndarray | None = None,
    distortion2: np.ndarray | None = None,
    descriptors1: np.ndarray | None = None,
    descriptors2: np.ndarray | None = None,
    side_info: np.ndarray | None = None,
    filter: MatchFilter | str | os.PathLike = "auto",
) -> list[cv2.DMatch]:
    """The matches worth keeping: called like `cv2.xfeatures2d.matchGMS`, with cameras.

    Args:
        size1, size2: (width, height) of the images in pixels.
        keypoints1, keypoints2: of image 1 and image 2; their sizes and angles help where the
            detector gives them.
        matches1to2: putative matches, queryIdx into keypoints1 and trainIdx into keypoints2; best
            without a ratio test. Or rows of them as `knnMatch` gives them, the nearest first: each
            row stands for its first match, and the others say how sure that is.
        withRotation, withScale, thresholdFactor: of `matchGMS`. They have no effect, and a warning
            says so: the filter knows neither grid nor threshold, and minds no turn or scale.
        K1, K2: (3, 3) camera matrices; None: focal length 1.2 × the longer side, principal point
            at the centre.
        distortion1, distortion2: lens coefficients in OpenCV's order, or None.
        descriptors1, descriptors2: (N1, D), (N2, D) of the keypoints, both or neither: side
            information is then found from them, not from rows.
        side_info: (N, S) a row per match, see `n3match.match_logits`, instead of descriptors;
            None: of rows, what their distances tell; of single matches nothing is assumed.
        filter: a `MatchFilter`, a shipped name, or a path. "auto": "orb" where descriptors are
            uint8 or, without descriptors, all distances whole numbers (Hamming's), else "sift".

    Returns:
        The kept ones of the DMatch objects given (of rows, their first), in their order.

    Raises:
        ValueError, TypeError: naming the argument, e.g. for an index past the keypoints, a camera
            matrix or keypoints that belong to an image of another size.
    """
    if any(value is not None for value in (withRotation, withScale, thresholdFactor)):
        warnings.warn(
            "filter_matches: withRotation, withScale and thresholdFactor are of matchGMS and have "
            "no effect",
            stacklevel=2,
        )
    check_size("size1", size1)
    check_size("size2", size2)
    matches, rows = firsts_of(matches1to2)
    index1, index2 = match_indices(matches, len(keypoints1), len(keypoints2))
    matched1, matched2 = [keypoints1[i] for i in index1], [keypoints2[i] for i in index2]
    cameras = pixel_cameras(
        (points_of("keypoints1", matched1), points_of("keypoints2", matched2)),
        (size1, size2), (K1, K2), names=("keypoints1", "keypoints2", "size1", "size2"),
    )
    net = as_filter(_chosen(filter, descriptors1, matches))
    if descriptors1 is not None or descriptors2 is not None:
        if side_info is not None:
            raise ValueError("side_info and descriptors: found both, wanted one of them")
        side_info = match_information(
            keypoints1, keypoints2, matches, descriptors1, descriptors2, K2=cameras[1], filter=net
        )["side_info"]
    elif side_info is None and rows is not None:
        side_info = putative_of_rows(rows, keypoints1, keypoints2).side_info(
            net.side_info, mean_focal(cameras[1]), binary=net.config.binary_descriptors
        )
    logits = keypoint_match_logits(
        matched1, matched2, cameras, (distortion1, distortion2),
        names=("keypoints1", "keypoints2"), side_info=side_info, filter=net,
    )
    return [match for match, logit in zip(matches, logits) if logit > 0]


def _chosen(
    filter: MatchFilter | str | os.PathLike, descriptors: np.ndarray | None,
    matches: Sequence[cv2.DMatch],
) -> MatchFilter | str | os.PathLike:
    if not (isinstance(filter, str) and filter == "auto"):
        return filter
    if descriptors is not None:
        return default_filter(binary=getattr(descriptors, "dtype", None) == np.uint8)
    return default_filter(binary=are_hamming(np.array([match.distance for match in matches])))


def pixel_cameras(
    points: tuple[np.ndarray, np.ndarray],
    sizes: tuple[tuple[int, int] | None, tuple[int, int] | None],
    matrices: tuple[np.ndarray | None, np.ndarray | None],
    *,
    names: tuple[str, str, str, str],
) -> list[np.ndarray]:
    """Both camera matrices, checked against the matched points, or guessed.

    Args:
        points: (N, 2) pixels of each image.
        sizes: (width, height); None: unknown, the matrix is then needed.
        matrices: K1 and K2; None: a guess.
        names: of the keypoints and of the sizes in messages.
    """
    cameras = []
    for i, (size, K) in enumerate(zip(sizes, matrices)):
        if size is not None:
            check_inside(names[i], points[i], names[i + 2], size)
        cameras.append(given_or_guessed(f"K{i + 1}", K, names[i + 2], size, points[i]))
    return cameras


def keypoint_match_logits(
    matched1: Sequence[cv2.KeyPoint] | np.ndarray,
    matched2: Sequence[cv2.KeyPoint] | np.ndarray,
    cameras: Sequence[np.ndarray],
    distortions: tuple[np.ndarray | None, np.ndarray | None],
    *,
    names: tuple[str, str],
    side_info: np.ndarray | None,
    filter: MatchFilter,
) -> np.ndarray:
    """(N,) logits of matches given by their N keypoints in each image.

    Args:
        matched1, matched2: keypoint objects, whose sizes and angles are used, or (N, 2) pixels.
        cameras: of `pixel_cameras`.
        distortions: lens coefficients in OpenCV's order, or None.
        names: of the keypoints in messages.
        side_info, filter: as in `filter_matches`.
    """
    known: dict[str, np.ndarray] = {}
    if not isinstance(matched1, np.ndarray) and not isinstance(matched2, np.ndarray):
        known = {
            "sizes_angles0": sizes_and_angles(matched1), "sizes_angles1": sizes_and_angles(matched2)
        }
    return match_logits(
        points_of(names[0], matched1),
        points_of(names[1], matched2),
        *cameras,
        side_info=side_info,
        filter=filter,
        distortion0=distortions[0],
        distortion1=distortions[1],
        **known,
    )
