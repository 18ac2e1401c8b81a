"""`cv2.recoverPose` without its limit on distance."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from n3match.geometry import recover_pose as recover_pose_of_arrays
from n3match.geometry import undistort_points
from n3match.geometry.checks import check_essential
from n3match.plugins.opencv.cameras import Cameras
from n3match.plugins.opencv.essential import find_essential_mat
from n3match.plugins.opencv.overloads import (
    Overload,
    choose,
    is_matrix,
    mask_array,
    point_array,
    shape_of,
)

_CAMERAS = ("cameraMatrix1", "distCoeffs1", "cameraMatrix2", "distCoeffs2")
_OVERLOADS = {
    "estimate": Overload(
        ("points1", "points2", *_CAMERAS, "E", "R", "t", "method", "prob", "threshold", "mask"),
        6,
        lambda values: is_matrix(values["cameraMatrix1"]) and is_matrix(values["cameraMatrix2"]),
    ),
    "one camera": Overload(
        ("E", "points1", "points2", "cameraMatrix", "R", "t", "mask"),
        4,
        lambda values: is_matrix(values["cameraMatrix"]),
    ),
    "two cameras": Overload(
        ("E", "points1", "points2", *_CAMERAS, "mask"),
        7,
        lambda values: is_matrix(values["cameraMatrix1"]) and is_matrix(values["cameraMatrix2"]),
    ),
    "focal": Overload(
        ("E", "points1", "points2", "R", "t", "focal", "pp", "mask"),
        3,
        lambda values: shape_of(values.get("focal", 1.0)) == (),
    ),
}


def recover_pose(*args: Any, **kwargs: Any) -> tuple:
    """R and t of an essential matrix; called like `cv2.recoverPose`, and returns what it returns.

    OpenCV counts a point that is more than 50 baselines away as one behind the camera: distant
    scenes lose their inliers, or the votes for the right pose. Here no distance is too far, so
    there is no `distanceThresh`. One argument list is added, a given E with two cameras::

        (E, points1, points2, cameraMatrix, R, t, mask)              -> retval, R, t, mask
        (E, points1, points2, R, t, focal, pp, mask)                 -> retval, R, t, mask
        (E, points1, points2, cameraMatrix1, distCoeffs1, cameraMatrix2, distCoeffs2, mask)
                                                                     -> retval, R, t, mask
        (points1, points2, cameraMatrix1, distCoeffs1, cameraMatrix2, distCoeffs2, E, R, t,
         method, prob, threshold, mask)                              -> retval, E, R, t, mask

    The last finds E first, with `find_essential_mat`, from the matches that `mask` names.

    Args:
        E: (3, 3), of any scale and sign.
        points1, points2: (N, 2), (N, 1, 2) or (1, N, 2) matched pixels.
        R, t: places for results in C++; here they are not looked at.
        mask: (N, 1), nonzero for the matches that vote; not written to. None: all vote.

    Returns:
        retval, the number of voting matches in front of both cameras, or too far away to tell;
        R (3, 3) and t (3, 1) of length 1 with x2 ~ R x1 + t; mask (N, 1) uint8 of those matches,
        with the values that the given mask has there (255 without one, as in OpenCV). Where the
        last form finds no E: retval 0, and None for E, R and t.

    Raises:
        ValueError, TypeError: naming the argument; an E that is zero, or not finite.
    """
    if "distanceThresh" in kwargs or _has_limit(args):
        raise TypeError("distanceThresh: recover_pose has no limit on distance, leave it out")
    kind, given = choose("recover_pose", _OVERLOADS, args, kwargs)
    points1 = point_array("points1", given["points1"])
    points2 = point_array("points2", given["points2"])
    if len(points1) != len(points2):
        raise ValueError(
            f"points1 and points2 must hold the same number of points, "
            f"got {len(points1)} and {len(points2)}"
        )
    votes = given.get("mask")
    votes = None if votes is None else mask_array("mask", votes, len(points1))
    cameras = Cameras.of(given)
    matrices = cameras.checked(points1, points2)
    if kind == "estimate":
        E, votes = _find(points1, points2, cameras, votes, given)
        if E is None:
            return 0, None, None, None, np.zeros((len(points1), 1), dtype=np.uint8)
    else:
        if given["E"] is None:
            raise ValueError("E is None: no essential matrix was found, so there is no pose")
        E = check_essential("E", given["E"])
    x1, x2 = (
        undistort_points(points, K, distortion)
        for points, K, distortion in zip((points1, points2), matrices, cameras.distortions)
    )
    if votes is None:
        votes = np.full(len(x1), 255, dtype=np.uint8)
    R, t, in_front = recover_pose_of_arrays(E, x1, x2, votes > 0)
    mask = np.where(in_front, votes, 0).astype(np.uint8)[:, None]
    t = t[:, None]
    count = int(np.count_nonzero(mask))
    return (count, E, R, t, mask) if kind == "estimate" else (count, R, t, mask)


def _find(points1, points2, cameras: Cameras, votes, given):
    """E from the voting matches, and (N,) uint8, 1 for its inliers."""
    chosen = np.ones(len(points1), dtype=bool) if votes is None else votes > 0
    E, found = find_essential_mat(
        points1[chosen],
        points2[chosen],
        cameras.matrices[0],
        cameras.distortions[0],
        cameras.matrices[1],
        cameras.distortions[1],
        given.get("method", cv2.RANSAC),
        given.get("prob", 0.999),
        given.get("threshold", 1.0),
    )
    inliers = np.zeros(len(points1), dtype=np.uint8)
    inliers[chosen] = found[:, 0]
    return E, inliers


def _has_limit(args: tuple) -> bool:
    """Whether the call is (E, points1, points2, cameraMatrix, distanceThresh, ...)."""
    return len(args) > 4 and is_matrix(args[3]) and isinstance(args[4], (int, float))
