"""Pairs of images that differ by a rotation, or nearly so (numpy).

Without parallax the translation is arbitrary: a sampling estimator returns a confident E with
the right rotation and any direction at all. N matches; all coordinates and thresholds are
calibrated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from n3match.geometry.essential import essential_from_pose
from n3match.geometry.verification.agreement import (
    TRANSFER_FACTOR,
    Matches,
    epipolar_distance,
    inliers_of,
    random_pairs,
    rotation_distance,
)
from n3match.geometry.verification.support import (
    ROTATION_MODEL,
    SIGNIFICANT,
    TRANSLATION_MODEL,
    log10_false_alarms,
)

# Motion below the threshold counts as parallax when it is this many times the epipolar noise
# (ratio of variances): then the matches are far more exact than the threshold says.
_SUB_THRESHOLD_RATIO = 10.0
_TRANSLATION_SAMPLES = 200
_ROTATION_SAMPLES = 300


@dataclass(frozen=True)
class RotationModel:
    """A rotation with x1 ~ R x0, and the matches (N,) bool that it explains."""

    R: np.ndarray
    explained: np.ndarray


def find_rotation(matches: Matches, R: np.ndarray, inliers: np.ndarray) -> RotationModel | None:
    """The rotation near R, fitted to the inliers (N,) bool, if it explains more matches than
    chance."""
    x0, x1 = matches.x0, matches.x1
    rotation = fit_rotation(x0[inliers], x1[inliers], R, matches.threshold)
    distance = rotation_distance(rotation)
    transferred = matches.wider(TRANSFER_FACTOR)
    if log10_false_alarms(transferred, distance, model=ROTATION_MODEL) > SIGNIFICANT:
        return None
    return RotationModel(rotation, distance(x0, x1) < transferred.threshold)


def has_parallax(
    matches: Matches, R: np.ndarray, t: np.ndarray, inliers: np.ndarray, rotation: RotationModel
) -> bool:
    """Whether the pose (R, t) explains the matches better than the rotation does.

    Either more of its inliers are off the rotation than chance would put on epipolar lines; or
    the inliers agree with the epipolar lines so exactly that their smaller disagreement with the
    rotation is not noise.
    """
    if _translation_is_significant(matches, R, t, inliers & ~rotation.explained, rotation):
        return True
    both = inliers & rotation.explained
    n = int(np.count_nonzero(both))
    if n < 8:
        return False
    a, b = matches.x0[both], matches.x1[both]
    # Noise variance per degree of freedom: a transfer error has two components, each with the
    # noise of both images; a Sampson distance has one.
    epipolar = float(np.sum(epipolar_distance(essential_from_pose(R, t))(a, b) ** 2)) / (n - 5)
    transfer = float(np.sum(rotation_distance(rotation.R)(a, b) ** 2) / 2) / (2 * n - 3)
    # What float32 keypoints leave of an exact rotation must not pass for parallax.
    rounding = (1e-2 * matches.threshold) ** 2
    return transfer > _SUB_THRESHOLD_RATIO * epipolar + rounding


def translation_beside_rotation(matches: Matches, rotation: RotationModel) -> np.ndarray | None:
    """The translation direction that the matches off the rotation agree on; None if by chance.

    With a few near points in front of a far scene, sampling estimators are satisfied with the
    far points and any t. Given R, two matches fix t: both epipolar planes contain it, so
    t ~ (R x0 × x1) × (R y0 × y1).

    Returns:
        (3,) unit vector, its sign such that most of those matches are in front of both cameras.
    """
    off = np.flatnonzero(~rotation.explained)
    if len(off) < 3:
        return None
    a, b, threshold = matches.x0[off], matches.x1[off], matches.threshold
    rays0, rays1 = _rays(a) @ rotation.R.T, _rays(b)
    normals = np.cross(rays0, rays1)
    i, j = random_pairs(_TRANSLATION_SAMPLES, len(off))
    t = _direction_with_most_support(np.cross(normals[i], normals[j]), rays0, rays1, threshold)
    if t is None:
        return None
    supporters = inliers_of(rotation.R, t, a, b, threshold)
    if np.count_nonzero(supporters) < 3:
        return None
    # Least squares over the supporters: the direction in all of their epipolar planes.
    chosen = normals[supporters]
    chosen = chosen / np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-12)
    refined = np.linalg.eigh(chosen.T @ chosen)[1][:, 0]
    refined = refined if refined @ t > 0 else -refined
    refined_supporters = inliers_of(rotation.R, refined, a, b, threshold)
    if np.count_nonzero(refined_supporters) >= np.count_nonzero(supporters):
        t, supporters = refined, refined_supporters
    beside = np.zeros(len(matches), dtype=bool)
    beside[off] = supporters
    return t if _translation_is_significant(matches, rotation.R, t, beside, rotation) else None


def search_rotation(matches: Matches) -> RotationModel | None:
    """The rotation that explains most matches, sought without a first guess.

    For matches on which an estimator of essential matrices finds no model at all, as five-point
    solvers do on an exact rotation. Two matches give a rotation: that of the frames which their
    rays span.

    Returns:
        None where there are fewer than 2 matches, or chance explains as many.
    """
    if len(matches) < 2:
        return None
    rays0, rays1 = _rays(matches.x0), _rays(matches.x1)
    i, j = random_pairs(_ROTATION_SAMPLES, len(matches))
    frames0, frames1 = _frames(rays0[i], rays0[j]), _frames(rays1[i], rays1[j])
    samples = frames1 @ frames0.mT
    limit = TRANSFER_FACTOR * matches.threshold
    near = np.linalg.norm(rays0 @ samples.mT - rays1, axis=2) < limit
    best = int(np.count_nonzero(near, axis=1).argmax())
    if not near[best].any():
        return None
    return find_rotation(matches, samples[best], near[best])


def _frames(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(S, 3, 3) right-handed orthonormal columns, the first along a + b, the last normal to both.

    Equal rays span no frame: theirs are 0, and explain nothing.
    """

    def unit(x: np.ndarray) -> np.ndarray:
        length = np.linalg.norm(x, axis=-1, keepdims=True)
        return x / np.where(length > 0, length, np.inf)

    first, last = unit(a + b), unit(np.cross(a, b))
    return np.stack([first, np.cross(last, first), last], axis=-1)


def fit_rotation(
    x0: np.ndarray, x1: np.ndarray, start: np.ndarray, threshold: float, steps: int = 6
) -> np.ndarray:
    """The rotation with x1 ~ R x0 for as many matches as possible, from a first guess.

    Iteratively re-weighted least squares on rays (Kabsch / Wahba) with Cauchy weights.

    Args:
        x0, x1: (N, 2). start: (3, 3) rotation to start from. threshold: scale of the weights.

    Returns:
        (3, 3) rotation.
    """
    rays0, rays1 = _rays(x0), _rays(x1)
    R = start
    for step in range(steps):
        # Wide at first, so that a start that is slightly off still sees its matches.
        scale = threshold * max(1.0, 16.0 / 4**step)
        distance = np.linalg.norm(rays1 - rays0 @ R.T, axis=1)
        weights = 1.0 / (1.0 + (distance / scale) ** 2)
        U, _, Vt = np.linalg.svd((rays1 * weights[:, None]).T @ rays0)
        R = U @ np.diag((1.0, 1.0, np.linalg.det(U @ Vt))) @ Vt
    return R


def _direction_with_most_support(
    directions: np.ndarray, rays0: np.ndarray, rays1: np.ndarray, threshold: float
) -> np.ndarray | None:
    """Of ±directions (S, 3) the unit t that most pairs of unit rays (M, 3) agree with.

    A pair agrees when rays1 is within the threshold (as an angle) of the plane of t and rays0,
    with both depths positive. All are products of S×3 and 3×M: no loop over directions.
    """
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    t = (directions / np.where(lengths > 0, lengths, 1.0))[lengths[:, 0] > 0]
    if not len(t):
        return None
    normals = np.cross(rays0, rays1)
    sine = np.sqrt(np.maximum(1.0 - (t @ rays0.T) ** 2, 1e-12))
    near = np.abs(t @ normals.T) < threshold * sine
    # The signs of the two depths, as in `recover_pose`.
    depth1 = t @ np.cross(normals, rays0).T
    depth0 = t @ np.cross(normals, rays1).T
    ahead = np.count_nonzero(near & (depth0 > 0) & (depth1 > 0), axis=1)
    behind = np.count_nonzero(near & (depth0 < 0) & (depth1 < 0), axis=1)
    best = int(np.maximum(ahead, behind).argmax())
    return t[best] if ahead[best] >= behind[best] else -t[best]


def _translation_is_significant(
    matches: Matches, R: np.ndarray, t: np.ndarray, beside: np.ndarray, rotation: RotationModel
) -> bool:
    """Whether the matches `beside` the rotation are more on epipolar lines than chance puts."""
    distance = epipolar_distance(essential_from_pose(R, t))
    rest = matches.beside(rotation.explained)
    return log10_false_alarms(rest, distance, beside, TRANSLATION_MODEL) < SIGNIFICANT


def _rays(x: np.ndarray) -> np.ndarray:
    rays = np.c_[x, np.ones(len(x))]
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)
