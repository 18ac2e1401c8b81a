"""`cv2.findEssentialMat` with the learned filter before the estimator."""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np

from n3match.arguments import one_of, real, whole
from n3match.geometry import RelativePose
from n3match.geometry.estimators import ESTIMATORS
from n3match.nn.match_filter import MatchFilter
from n3match.plugins.opencv.cameras import Cameras
from n3match.plugins.opencv.estimators import estimator_of, estimator_with
from n3match.plugins.opencv.overloads import (
    Overload,
    choose,
    is_matrix,
    mask_array,
    point_array,
    shape_of,
)
from n3match.two_view import change_between, match_logits, pose_from_logits


def _is_method(values: dict) -> bool:
    return isinstance(values.get("method", cv2.RANSAC), (int, str))


def _is_focal(values: dict) -> bool:
    centre = values.get("pp", (0, 0))
    return shape_of(values.get("focal", 1.0)) == () and shape_of(centre) == (2,)


_OVERLOADS = {
    "usac": Overload(
        ("cameraMatrix1", "cameraMatrix2", "dist_coeff1", "dist_coeff2", "params", "mask"),
        5,
        lambda values: isinstance(values["params"], cv2.UsacParams),
    ),
    "two cameras": Overload(
        ("cameraMatrix1", "distCoeffs1", "cameraMatrix2", "distCoeffs2",
         "method", "prob", "threshold", "mask"),
        4,
        lambda values: (
            is_matrix(values["cameraMatrix1"])
            and is_matrix(values["cameraMatrix2"])
            and _is_method(values)
        ),
    ),
    "one camera": Overload(
        ("cameraMatrix", "method", "prob", "threshold", "maxIters", "mask"),
        1,
        lambda values: is_matrix(values["cameraMatrix"]) and _is_method(values),
    ),
    "focal": Overload(
        ("focal", "pp", "method", "prob", "threshold", "maxIters", "mask"),
        0,
        lambda values: (
            _is_focal(values) and _is_method(values)
        ),
    ),
}  # fmt: skip


def find_essential_mat(
    points1: np.ndarray,
    points2: np.ndarray,
    *args: Any,
    side_info: np.ndarray | None = None,
    sizes_angles1: np.ndarray | None = None,
    sizes_angles2: np.ndarray | None = None,
    filter: MatchFilter | str | os.PathLike | None = "sift",
    **kwargs: Any,
) -> tuple[np.ndarray | None, np.ndarray]:
    """The essential matrix of putative matches; called like `cv2.findEssentialMat`.

    All four of OpenCV's argument lists, in its order and with its names and defaults::

        (points1, points2, cameraMatrix, method, prob, threshold, maxIters, mask)
        (points1, points2, focal, pp, method, prob, threshold, maxIters, mask)
        (points1, points2, cameraMatrix1, distCoeffs1, cameraMatrix2, distCoeffs2,
         method, prob, threshold, mask)
        (points1, points2, cameraMatrix1, cameraMatrix2, dist_coeff1, dist_coeff2, params, mask)

    The learned filter sees all the matches; OpenCV's estimator those it keeps (all of them once
    more, should these give no pose). Each camera's own matrix and distortion are applied.

    Args:
        points1, points2: (N, 2), (N, 1, 2) or (1, N, 2) matched pixels; best without ratio test.
        method: cv2.RANSAC, cv2.LMEDS, one of cv2.USAC_…, or the name of an estimator of
            `n3match.estimate_relative_pose` ("poselib", …).
        threshold: inlier threshold in the unit of the points.
        mask: (N, 1) uint8 array to be overwritten with the mask, as OpenCV does.
        side_info: (N, S) side information, see `n3match.match_logits`.
        sizes_angles1, sizes_angles2: (N, 2) keypoint sizes and angles, see there;
            `match_information` finds all three, and on hard pairs they matter much.
        filter: a `MatchFilter`, a shipped name, or a path; None for none.

    Returns:
        E (3, 3) float64 of Frobenius norm 1, x2ᵀ K2⁻ᵀ E K1⁻¹ x1 = 0, and mask (N, 1) uint8, 1 for
        inliers. Never several matrices on top of each other. (None, zeros) where there is no pose
        to be trusted: fewer than 5 matches, no parallax, a plane that two poses explain, or no
        more inliers than chance gives. `n3match.estimate_relative_pose` tells which.

    Raises:
        ValueError, TypeError: naming the argument.
    """
    known = {
        "side_info": side_info, "sizes_angles1": sizes_angles1, "sizes_angles2": sizes_angles2
    }
    pose, mask = _estimate(points1, points2, args, kwargs, known, filter)
    found = pose.inliers.astype(np.uint8)[:, None] if pose.ok else _nothing(pose)
    if mask is not None:
        _overwrite(mask, found)
    return (pose.E / np.linalg.norm(pose.E) if pose.ok else None), found


def _nothing(pose: RelativePose) -> np.ndarray:
    return np.zeros((len(pose.inliers), 1), dtype=np.uint8)


def _overwrite(mask: np.ndarray, found: np.ndarray) -> None:
    if not isinstance(mask, np.ndarray):
        raise TypeError(f"mask must be an array to write to, got {type(mask).__name__}")
    mask_array("mask", mask, len(found))
    if not mask.flags.writeable:
        raise ValueError("mask must be an array to write to, got a read-only one")
    if mask.dtype.kind not in "biuf":
        raise TypeError(f"mask must be an array of uint8, got {mask.dtype}")
    mask[...] = found.reshape(mask.shape)


def _estimate(
    points1, points2, args: tuple, kwargs: dict, known: dict[str, np.ndarray | None], filter
) -> tuple[RelativePose, np.ndarray | None]:
    points1, points2 = point_array("points1", points1), point_array("points2", points2)
    kind, given = choose("find_essential_mat", _OVERLOADS, args, kwargs)
    cameras = Cameras.of(given)
    matrices = cameras.checked(points1, points2)
    options: dict[str, Any] = dict(zip(("distortion0", "distortion1"), cameras.distortions))
    lenses = dict(options)
    if kind == "usac":
        params = given["params"]
        options |= {"estimator": estimator_with(params), "threshold": params.threshold}
    else:
        prob = real("prob", given.get("prob", 0.999))
        if not 0 < prob < 1:
            raise ValueError(f"prob must be between 0 and 1 (exclusive), got {prob:g}")
        method = given.get("method", cv2.RANSAC)
        if isinstance(method, str):
            one_of("method", method, ("auto", *ESTIMATORS))
        options |= {
            "estimator": method if isinstance(method, str) else estimator_of(method),
            "threshold": given.get("threshold", 1.0),
            "confidence": prob,
            "max_iterations": whole("maxIters", given.get("maxIters", 1000), 1, 2**31 - 1),
        }
    logits = None
    if filter is not None:
        logits = match_logits(
            points1,
            points2,
            *matrices,
            side_info=known["side_info"],
            sizes_angles0=known["sizes_angles1"],
            sizes_angles1=known["sizes_angles2"],
            filter=filter,
            **lenses,
        )
    for name, value in known.items():
        if filter is None and value is not None:
            raise ValueError(f"{name}: found one without a filter to look at it")
    change = change_between(known["sizes_angles1"], known["sizes_angles2"], *matrices)
    pose = pose_from_logits(
        points1, points2, *matrices, logits, keypoint_change=change, **options
    )
    return pose, given.get("mask")
