"""Does another pose, far from the one found, explain the matches nearly as well? (numpy)

A covariance tells how far the matches leave a pose open nearby. On planes and nearly plane scenes,
narrow views and few matches among many wrong ones the right pose may be a different one, whose
support is a little smaller by noise and chance alone. It is sought where it is likely: among the
poses of a plane, and by short robust runs on random halves of the matches, which see now the one
and now the other.

N matches; all coordinates are calibrated.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from n3match.geometry.essential import essential_from_pose, in_front_of_both
from n3match.geometry.estimators import ESTIMATORS, TwoViewProblem, choose_estimator
from n3match.geometry.metrics import pose_error_deg
from n3match.geometry.verification.agreement import Matches, epipolar_distance
from n3match.geometry.verification.planarity import PlaneModel, poses_of

# Poses farther apart than this (degrees) contradict each other.
FAR_DEG = 10.0
# Minus log likelihoods of the right pose and of the best fitting one differ, under normal noise, by
# half a chi-square variable of five degrees of freedom: by more about once in 1000.
_MARGIN = 10.0
# Where at least this share of the inliers is on a plane, both of its poses are close to all, and
# what tells them apart is little but noise: more is wanted.
FLAT_SHARE = 0.9
_MARGIN_IF_FLAT = 30.0
# Matches farther off than so many standard deviations are wrong, however far.
_WRONG_FROM = 3.0
_HALVES, _SAMPLES = 10, 100
# Fewer matches fix a pose but can't contradict one.
_FEWEST = 6


def rival_deg(
    matches: Matches,
    R: np.ndarray,
    t: np.ndarray,
    noise: float,
    plane: PlaneModel | None = None,
    *,
    flat: bool = False,
    inexact: float = 1.0,
) -> float | None:
    """How far off (degrees) a pose is that explains the matches nearly as well; None: none found.

    Args:
        R, t: (3, 3), (3,), a pose fitted to the matches.
        noise: standard deviation of right matches' distances from their epipolar lines, at least;
            more where the inliers are farther.
        plane: of the inliers, if there is one. flat: they are on it, but for a few.
        inexact: how much larger the pose's errors are than those of least squares.
    """
    distance = _distance(matches, R, t)
    inliers = distance[distance < matches.threshold]
    noise = max(noise, float(np.sqrt(np.sum(inliers**2) / max(1, len(inliers) - 5))))
    limit = _misfit(distance, noise) + inexact * (_MARGIN_IF_FLAT if flat else _MARGIN)
    for other in _others(matches, plane):
        apart = float(pose_error_deg(*other, R, t))
        if apart > FAR_DEG and _misfit(_distance(matches, *other), noise) < limit:
            return apart
    return None


def _others(
    matches: Matches, plane: PlaneModel | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """R and t of poses that may be rivals."""
    if plane is not None:
        yield from poses_of(plane.H)
    run = choose_estimator("auto", ESTIMATORS).run
    # A camera whose pixels are thresholds: estimators expect numbers the size of pixels.
    camera = np.diag([1 / matches.threshold, 1 / matches.threshold, 1.0])
    rng = np.random.default_rng(0)
    count = max(_FEWEST, len(matches) // 2)
    if count > len(matches):
        return
    for seed in range(_HALVES):
        half = rng.choice(len(matches), count, replace=False)
        found = run(TwoViewProblem(
            matches.x0[half], matches.x1[half], camera, camera, None,
            threshold=1.0, confidence=0.9999, max_iterations=_SAMPLES, seed=seed,
        ))
        if found is not None:
            yield found.R, found.t


def _distance(matches: Matches, R: np.ndarray, t: np.ndarray) -> np.ndarray:
    """(N,) from the epipolar lines; infinite behind a camera."""
    x0, x1 = matches.x0, matches.x1
    distance = epipolar_distance(essential_from_pose(R, t))(x0, x1)
    return np.where(in_front_of_both(R, t, x0, x1), distance, np.inf)


def _misfit(distance: np.ndarray, noise: float) -> float:
    """Minus the logarithm of the likelihood, of wrong matches as of the last that may be right."""
    return float(np.sum(np.minimum(distance / noise, _WRONG_FROM) ** 2) / 2)
