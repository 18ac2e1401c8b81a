"""What keypoints and descriptors tell of matches beside their positions."""

from __future__ import annotations

import os
from collections.abc import Sequence

import cv2
import numpy as np

from n3match.filtering import as_filter
from n3match.match_filter import MatchFilter
from n3match.plugins.checks import check_indices
from n3match.plugins.opencv.neighbours import find_neighbours
from n3match.side_information import side_columns


def match_information(
    keypoints1: Sequence[cv2.KeyPoint],
    keypoints2: Sequence[cv2.KeyPoint],
    matches1to2: Sequence[cv2.DMatch],
    descriptors1: np.ndarray | None = None,
    descriptors2: np.ndarray | None = None,
    *,
    filter: MatchFilter | str | os.PathLike = "sift",
) -> dict[str, np.ndarray | None]:
    """The keyword arguments by which `find_essential_mat` knows more than the points.

    Args:
        keypoints1, keypoints2, matches1to2: as in `filter_matches`.
        descriptors1, descriptors2: (N1, D), (N2, D) of the keypoints; both or neither.
        filter: the one that is to look at it.

    Returns:
        side (N, S), or None without descriptors, and shapes1, shapes2 (N, 2), for N matches.

    Raises:
        ValueError: naming the argument.
    """
    index1, index2 = match_indices(matches1to2, len(keypoints1), len(keypoints2))
    side = None
    if descriptors1 is not None or descriptors2 is not None:
        for name, descriptors, keypoints in (
            ("descriptors1", descriptors1, keypoints1),
            ("descriptors2", descriptors2, keypoints2),
        ):
            found = None if descriptors is None else len(descriptors)
            if found != len(keypoints):
                raise ValueError(f"{name}: found {found} rows for {len(keypoints)} keypoints")
        near = find_neighbours(descriptors1, descriptors2)
        # A match to another one than the nearest says nothing in favour of itself.
        is_nearest = near.nearest[index1] == index2
        side = side_columns(
            as_filter(filter).side_information,
            np.where(is_nearest, near.ratio[index1], 1.0),
            is_nearest & near.mutual[index1],
        )
    return {
        "side": side,
        "shapes1": keypoint_shapes([keypoints1[i] for i in index1]),
        "shapes2": keypoint_shapes([keypoints2[i] for i in index2]),
    }


def match_indices(
    matches1to2: Sequence[cv2.DMatch], count1: int, count2: int
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) int64 into the count1 keypoints of image 1, and into the count2 of image 2.

    Raises:
        ValueError: an index past the keypoints.
    """
    index1 = np.array([match.queryIdx for match in matches1to2], dtype=np.int64)
    index2 = np.array([match.trainIdx for match in matches1to2], dtype=np.int64)
    check_indices("matches1to2", "queryIdx", index1, "keypoints1", count1)
    check_indices("matches1to2", "trainIdx", index2, "keypoints2", count2)
    return index1, index2


def keypoint_shapes(keypoints: Sequence[cv2.KeyPoint]) -> np.ndarray:
    """(N, 2) float64 sizes and angles."""
    shapes = [(keypoint.size, keypoint.angle) for keypoint in keypoints]
    return np.array(shapes, dtype=np.float64).reshape(-1, 2)
