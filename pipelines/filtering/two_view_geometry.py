"""Kept matches to what COLMAP stores of a pair (E, F, H, pose, inliers), and whether it is real."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from n3match.geometry import (
    PoseStatus,
    calibrated_points,
    estimate_fundamental_from_matches,
    estimate_relative_pose_from_matches,
)
from n3match.geometry.essential import in_front_of_both
from n3match.geometry.estimators import FUNDAMENTAL_ESTIMATORS
from n3match.matching import keypoint_change
from n3match.pipelines.filtering.pair_logits import ImageFeatures
from n3match.plugins.colmap.database import (
    CALIBRATED,
    DEGENERATE,
    PANORAMIC,
    PLANAR_OR_PANORAMIC,
    UNCALIBRATED,
    PairResult,
    TwoViewGeometry,
)
from n3match.weights.verdict import ESSENTIAL, FUNDAMENTAL, shipped_verdict

_HOMOGRAPHY_PIXELS = 4.0  # COLMAP's own threshold in verification
_HALF = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])  # to COLMAP's pixels
_STEP = 0.5  # pixels, of the derivatives of a lens


def judged_pair(
    before: int,
    matches: np.ndarray,
    image0: ImageFeatures,
    image1: ImageFeatures,
    logits: np.ndarray | None,
    num_putative: int,
    *,
    least: float | None = None,
    geometries: bool = True,
    **options,
) -> PairResult:
    """The kept matches of a pair with their geometry; none where the pair is left out.

    Args:
        before: checksum of the matches that these were picked from.
        matches, image0, image1, logits, num_putative: see `two_view_geometry`, as for `options`.
        least: probability of being real below which a pair is left out; None: the default of what
            it is `judged_by`; 0: no pair is.
        geometries: whether the result has a geometry.
    """
    if least is None:
        least = shipped_verdict().threshold[judged_by(image0, image1)]
    if not geometries and least == 0:
        return PairResult(before, matches, None)
    geometry, probability = two_view_geometry(
        matches, image0, image1, logits, num_putative, least=least, **options
    )
    left_out = len(matches) if probability < least else 0
    if left_out:
        matches, geometry = matches[:0], _degenerate()
    return PairResult(before, matches, geometry if geometries else None, probability, left_out)


def judged_by(image0: ImageFeatures, image1: ImageFeatures) -> str:
    """Which of `weights.verdict.GEOMETRIES` tells whether a pair is real: FUNDAMENTAL where a focal
    length is a guess."""
    guessed = image0.camera.guessed or image1.camera.guessed
    return FUNDAMENTAL if guessed else ESSENTIAL


def two_view_geometry(
    matches: np.ndarray,
    image0: ImageFeatures,
    image1: ImageFeatures,
    logits: np.ndarray | None,
    num_putative: int,
    *,
    least: float | None = None,
    estimator: str = "auto",
    threshold: float = 1.0,
    seed: int = 0,
) -> tuple[TwoViewGeometry, float]:
    """Robust pose of the kept matches of a pair; without a known camera, fundamental matrix.

    Args:
        matches: (K, 2) kept matches, indices into the images' keypoints.
        image0, image1: of the pair.
        logits: (K,) of the filter, positive; None: there was none.
        num_putative: matches before filtering, for the test against chance.
        least: `min_pair_probability` of the estimate.
        estimator, threshold, seed: see `n3match.estimate_relative_pose`. An estimator that finds
            no fundamental matrices leaves these to the usual one.

    Returns:
        The geometry, and the probability that the pair is real. CALIBRATED with all fields where
        there is a pose that can be trusted; PANORAMIC with a rotation and its homography where that
        explains all; where a camera's focal length is a guess, or the matches determine no one
        pose, UNCALIBRATED with F and H, or PLANAR_OR_PANORAMIC with H; else DEGENERATE without
        inliers.
    """
    images = image0, image1
    xs = [image.x[rows] for image, rows in zip(images, matches.T)]
    # Pixels of ideal cameras, so that one estimator serves every lens.
    points = [x @ i.camera.K[:2, :2].T + i.camera.K[:2, 2] for x, i in zip(xs, images)]
    options = {
        "threshold": threshold, "seed": seed, "num_putative": num_putative, "logits": logits,
        "min_pair_probability": least,
    }
    kinds = [i.sizes_angles for i in images]
    if kinds[0] is not None and kinds[1] is not None:
        options["keypoint_change"] = keypoint_change(
            *(kind[rows] for kind, rows in zip(kinds, matches.T)), *_focal_lengths(images)
        )
    if judged_by(*images) == FUNDAMENTAL:
        if estimator not in FUNDAMENTAL_ESTIMATORS:
            estimator = "auto"
        return _uncalibrated(matches, points, images, estimator, options)
    K0, K1 = (image.camera.K for image in images)
    pose = estimate_relative_pose_from_matches(
        *points, K0, K1, weights=None if logits is None else np.tanh(logits),
        estimator=estimator, **options,
    )
    probability = pose.pair_probability
    C0, C1 = _HALF @ K0, _HALF @ K1
    if pose.status is PoseStatus.NO_PARALLAX:
        H = C1 @ pose.R @ np.linalg.inv(C0)
        return TwoViewGeometry(
            PANORAMIC, _rows(matches, pose.inliers), H=H / H[2, 2],
            qvec=_quaternion(pose.R), tvec=np.zeros(3),
        ), probability
    if pose.status is PoseStatus.DEGENERATE:
        # On a plane, or where little tells poses apart, the matches are no worse for it.
        options["min_pair_probability"] = 0.0
        return _uncalibrated(matches, points, images, "auto", options)[0], probability
    if not pose.ok:
        return _degenerate(), probability
    inliers = pose.inliers
    if any(image.camera.lens != "opencv" for image in images):
        inliers = _seen_inliers(pose, xs, images, matches, threshold)
    F = np.linalg.inv(C1).T @ pose.E @ np.linalg.inv(C0)
    H, _ = cv2.findHomography(
        points[0][inliers] + 0.5, points[1][inliers] + 0.5, cv2.USAC_MAGSAC, _HOMOGRAPHY_PIXELS
    )
    return TwoViewGeometry(
        CALIBRATED, _rows(matches, inliers), E=pose.E, F=F / np.linalg.norm(F), H=H,
        qvec=_quaternion(pose.R), tvec=pose.t,
    ), probability


def _focal_lengths(images: tuple[ImageFeatures, ImageFeatures]) -> list[float]:
    """Of the points that are estimated from: those of a guessed camera are pixels."""
    if judged_by(*images) == FUNDAMENTAL:
        return [1.0, 1.0]
    return [float(np.diag(image.camera.K)[:2].mean()) for image in images]


def _uncalibrated(
    matches, points, images, estimator: str, options: dict
) -> tuple[TwoViewGeometry, float]:
    sizes = ((image.camera.width, image.camera.height) for image in images)
    found = estimate_fundamental_from_matches(*points, *sizes, estimator=estimator, **options)
    back = np.linalg.inv(_HALF)
    H = None if found.homography is None else _HALF @ found.homography @ back
    if found.ok:
        F = back.T @ found.F @ back
        return TwoViewGeometry(
            UNCALIBRATED, _rows(matches, found.inliers), F=F / np.linalg.norm(F), H=H
        ), found.pair_probability
    alike = PoseStatus.NO_PARALLAX, PoseStatus.DEGENERATE
    if H is None or found.status not in alike or not found.inliers.any():
        return _degenerate(), found.pair_probability
    planar = TwoViewGeometry(PLANAR_OR_PANORAMIC, _rows(matches, found.inliers), H=H)
    return planar, found.pair_probability


def _seen_inliers(pose, xs, images, matches, threshold: float) -> np.ndarray:
    """(K,) bool: inliers by their distance in the pixels of the images themselves.

    A pixel far from the axis of a fisheye is many pixels of an ideal camera: by these the best of
    its matches are outliers.
    """
    h0, h1 = (np.column_stack([x, np.ones(len(x))]) for x in xs)
    lines1, lines0 = h0 @ pose.E.T, h1 @ pose.E
    slopes = [
        np.einsum("kij,ki->kj", _lens_slope(image, rows), lines[:, :2])
        for image, rows, lines in zip(images, matches.T, (lines0, lines1))
    ]
    squared = sum((slope**2).sum(axis=1) for slope in slopes)
    error = (h1 * lines1).sum(axis=1) ** 2
    with np.errstate(invalid="ignore"):  # at the edge of what a lens sees a slope is NaN
        near = error < threshold**2 * squared
    return (near & in_front_of_both(pose.R, pose.t, *xs)) | pose.inliers


def _lens_slope(image: ImageFeatures, rows: np.ndarray) -> np.ndarray:
    """(K, 2, 2) how calibrated coordinates change with pixels, at some keypoints."""
    camera, pixels = image.camera, image.pixels[rows]
    lens = camera.K, camera.distortion, camera.lens
    columns = [
        (calibrated_points(pixels + h, *lens) - calibrated_points(pixels - h, *lens)) / (2 * _STEP)
        for h in ((_STEP, 0.0), (0.0, _STEP))
    ]
    return np.stack(columns, axis=2)


def _rows(matches: np.ndarray, inliers: np.ndarray) -> np.ndarray:
    return np.asarray(matches[inliers], dtype=np.uint32)


def _degenerate() -> TwoViewGeometry:
    return TwoViewGeometry(DEGENERATE, np.zeros((0, 2), np.uint32))


def _quaternion(R: np.ndarray) -> np.ndarray:
    """(4,) w, x, y, z."""
    x, y, z, w = Rotation.from_matrix(R).as_quat(canonical=True)
    return np.array([w, x, y, z])
