"""What keypoints and descriptors tell of matches beside their positions."""

from __future__ import annotations

import os
from collections.abc import Sequence

import cv2
import numpy as np

from n3match.geometry.checks import check_intrinsics, check_points_array
from n3match.matching.putative import PutativeMatches, distance_apart
from n3match.nn.match_filter import MatchFilter
from n3match.plugins.cameras import check_indices
from n3match.plugins.opencv.neighbours import find_neighbours, ratio_of
from n3match.two_view import as_filter


def match_information(
    keypoints1: Sequence[cv2.KeyPoint],
    keypoints2: Sequence[cv2.KeyPoint],
    matches1to2: Sequence[cv2.DMatch],
    descriptors1: np.ndarray | None = None,
    descriptors2: np.ndarray | None = None,
    *,
    K2: np.ndarray | None = None,
    filter: MatchFilter | str | os.PathLike = "sift",
) -> dict[str, np.ndarray | None]:
    """The keyword arguments by which `find_essential_mat` knows more than the points.

    Args:
        keypoints1, keypoints2, matches1to2: as in `filter_matches`.
        descriptors1, descriptors2: (N1, D), (N2, D) of the keypoints; both or neither.
        K2: (3, 3) camera matrix of image 2, by which filters that ask for it learn how far apart
            there the nearest and the second nearest are; None: they don't.
        filter: the one that is to look at it.

    Returns:
        side_info (N, S), or None without descriptors, and sizes_angles1, sizes_angles2 (N, 2), for
        N matches.

    Raises:
        ValueError: naming the argument.
    """
    index1, index2 = match_indices(matches1to2, len(keypoints1), len(keypoints2))
    side_info = None
    if descriptors1 is not None or descriptors2 is not None:
        for name, descriptors, keypoints in (
            ("descriptors1", descriptors1, keypoints1),
            ("descriptors2", descriptors2, keypoints2),
        ):
            found = None if descriptors is None else len(descriptors)
            if found != len(keypoints):
                raise ValueError(f"{name}: found {found} rows for {len(keypoints)} keypoints")
        focal2 = None if K2 is None else mean_focal(check_intrinsics("K2", K2))
        found = find_neighbours(descriptors1, descriptors2).putative(
            points_of("keypoints1", keypoints1), points_of("keypoints2", keypoints2)
        )
        net = as_filter(filter)
        side_info = found.side_info_of(
            net.side_info, index1, index2, focal2, binary=net.config.binary_descriptors
        )
    return {
        "side_info": side_info,
        "sizes_angles1": sizes_and_angles([keypoints1[i] for i in index1]),
        "sizes_angles2": sizes_and_angles([keypoints2[i] for i in index2]),
    }


def putative_of_rows(
    rows: Sequence[Sequence[cv2.DMatch]],
    keypoints1: Sequence[cv2.KeyPoint],
    keypoints2: Sequence[cv2.KeyPoint],
) -> PutativeMatches:
    """What rows of `knnMatch` tell of their first matches: nothing but distances is known.

    Whether a keypoint of image 2 has a nearer one in image 1 is seen where that is in a row, too:
    a match counts as mutual where no row has a nearer one of its keypoint. That lets a third more
    matches pass for mutual than are, nearly all of the right ones among them. For which distances
    are taken for Hamming's see `are_hamming`.
    """
    matches = [row[0] for row in rows]
    index1, index2 = match_indices(matches, len(keypoints1), len(keypoints2))
    seconds = [row[1] if len(row) > 1 else None for row in rows]
    second = np.array([-1 if m is None else m.trainIdx for m in seconds], dtype=np.int64)
    check_indices("matches1to2", "trainIdx", second[second >= 0], "keypoints2", len(keypoints2))
    distance = np.array([match.distance for match in matches], dtype=np.float64)
    further = np.array([np.inf if m is None else m.distance for m in seconds], dtype=np.float64)
    nearest = np.full(len(keypoints2), np.inf)
    for row in rows:
        for match in row[:2]:
            nearest[match.trainIdx] = min(nearest[match.trainIdx], match.distance)
    points2 = points_of("keypoints2", keypoints2)
    return PutativeMatches(
        points0=points_of("keypoints1", keypoints1)[index1],
        points1=points2[index2],
        ratio=ratio_of(distance, further),
        mutual=distance <= nearest[index2],
        index0=index1,
        index1=index2,
        distance=distance,
        apart=distance_apart(points2, index2, second),
        binary=are_hamming(distance),
    )


def are_hamming(distance: np.ndarray) -> bool:
    """Whether distances (N,) look like those of binary descriptors: whole numbers, not all zero."""
    return bool((distance == np.rint(distance)).all() and distance.any())


def firsts_of(
    matches1to2: Sequence[cv2.DMatch] | Sequence[Sequence[cv2.DMatch]],
) -> tuple[list[cv2.DMatch], list[Sequence[cv2.DMatch]] | None]:
    """Single matches as they are, or the first of each row; and the rows, empty ones left out.

    None in place of rows where there are single matches, or rows of one only, which tell no more.
    """
    rows = list(matches1to2)
    if all(isinstance(row, cv2.DMatch) for row in rows):
        return rows, None
    rows = [row for row in rows if len(row)]
    return [row[0] for row in rows], rows if any(len(row) > 1 for row in rows) else None


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


def sizes_and_angles(keypoints: Sequence[cv2.KeyPoint]) -> np.ndarray:
    """(N, 2) float64 sizes and angles."""
    found = [(keypoint.size, keypoint.angle) for keypoint in keypoints]
    return np.array(found, dtype=np.float64).reshape(-1, 2)


def points_of(name: str, keypoints: Sequence[cv2.KeyPoint] | np.ndarray) -> np.ndarray:
    """(N, 2) float64 positions of keypoint objects, or of an array that holds them already."""
    if isinstance(keypoints, np.ndarray):
        return check_points_array(name, keypoints)
    return np.array([k.pt for k in keypoints], dtype=np.float64).reshape(-1, 2)


def mean_focal(K: np.ndarray) -> float:
    """Pixels."""
    return (K[0, 0] + K[1, 1]) / 2
