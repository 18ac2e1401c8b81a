"""Relative pose of two cameras from point matches: robust estimation, then doubt (numpy).

Convention: x1 ~ R x0 + t for a point x0 in camera 0 and x1 in camera 1, ‖t‖ = 1 as the scale is
unknown, E = [t]× R, x1ᵀ E x0 = 0 in calibrated coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from n3match.arguments import check_function, flag, one_of, positive
from n3match.geometry.camera import undistort_checked
from n3match.geometry.checks import (
    check_distortion,
    check_intrinsics,
    check_known,
    check_matches,
    check_probability,
    check_putative,
    check_sampling,
    check_weights,
)
from n3match.geometry.essential import essential_from_pose
from n3match.geometry.estimators import (
    ESTIMATORS,
    Estimate,
    Estimator,
    EstimatorSpec,
    TwoViewProblem,
    choose_estimator,
)
from n3match.geometry.verification.agreement import (
    Matches,
    epipolar_distance,
    inliers_of,
)
from n3match.geometry.verification.pair import pair_probability
from n3match.geometry.verification.planarity import (
    PlaneModel,
    PlaneVerdict,
    compare_with_rival,
    find_plane,
    plane_dominates,
    plane_support,
)
from n3match.geometry.verification.rivals import FLAT_SHARE, rival_deg
from n3match.geometry.verification.rotation_only import (
    RotationModel,
    find_rotation,
    has_parallax,
    search_rotation,
    translation_beside_rotation,
)
from n3match.geometry.verification.support import (
    log10_false_alarms,
    noise_in_thresholds,
    samples_worth_drawing,
)
from n3match.geometry.verification.uncertainty import pose_deviation_deg
from n3match.geometry.verification.verdict import PoseStatus, Verdict, doubtful, hopeless

# Rotations and planes explain matches up to so many standard deviations of the noise, where that is
# more than the threshold: else noise off a rotation passes for parallax.
_NOISE_FACTOR = 2.5
# Beside a rotation, a filter's picks are as if chosen from so many times their number.
_PICKED_FROM = 2
# A threshold cuts off more than a few right matches where noise is above this share of it; how much
# less exact poses are then, as a power, was found on generated scenes.
_NOISE_CUT, _NOISE_POWER = 0.75, 1.5
# A pose with a larger standard deviation (degrees) is not determined by its matches.
_DEVIATION_DEG = 2.5
# With a larger one there may be another pose far off, which a covariance can't tell.
_SURE_DEG = 0.7


@dataclass(frozen=True, eq=False, kw_only=True)
class RelativePose(Verdict):
    """The pose of camera 1 relative to camera 0: x1 ~ R x0 + t.

    R, t and E are None unless `status` is "ok"; only "no_parallax" has an R without t (and as
    inliers the matches that this rotation explains). Points and homography are calibrated.
    """

    R: np.ndarray | None = None  # (3, 3) float64
    t: np.ndarray | None = None  # (3,) float64, length 1
    E: np.ndarray | None = None  # (3, 3) float64, [t]× R, x1ᵀ E x0 = 0


def estimate_relative_pose_from_matches(
    points0: np.ndarray,
    points1: np.ndarray,
    K0: np.ndarray,
    K1: np.ndarray,
    *,
    estimator: str | Estimator = "auto",
    weights: np.ndarray | None = None,
    sampling: str = "uniform",
    threshold: float = 1.0,
    threshold_calibrated: float | None = None,
    confidence: float = 0.9999,
    max_iterations: int | None = None,
    seed: int = 0,
    distortion0: np.ndarray | None = None,
    distortion1: np.ndarray | None = None,
    num_putative: int | None = None,
    logits: np.ndarray | None = None,
    keypoint_change: np.ndarray | None = None,
    min_pair_probability: float | None = None,
    verify: bool = True,
) -> RelativePose:
    """The pose of camera 1 relative to camera 0, with a status that says whether to trust it.

    Few, degenerate or hopeless matches are ordinary results, told apart by `status`:
    "too_few_matches" (fewer than 5; 6 for "kornia", 8 for "eight_point"), "degenerate" (all points
    on a line or a point; a plane that two poses explain; another pose, more than 10° off, that
    explains the matches nearly as well; too much noise for so few matches or so narrow a view),
    "estimation_failed", "no_parallax" (a rotation alone explains the matches: R is given),
    "insufficient_support" (wrong matches alone would give as many inliers; or, where a filter
    picked the matches, the pair is real with too small a probability). Only "ok" has R, t and E.

    Args:
        points0, points1: (N, 2) matched pixels (arrays or CPU tensors); integers are pixel
            centres.
        K0, K1: (3, 3) camera matrices.
        estimator: "poselib", "opencv_usac", "opencv_ransac", "kornia" or "eight_point"; "auto" is
            PoseLib where it is installed, else OpenCV's USAC. Or a function of your own, from a
            `TwoViewProblem` of 5 matches or more to an `Estimate` or None.
        weights: (N,) non-negative, higher is better. Those of "eight_point"; sampling estimators
            use them with `sampling`.
        sampling: "uniform", or "by_weight": samples are drawn of the matches with the largest
            weights first and of more and more of them (PROSAC, Chum & Matas, CVPR 2005); for
            "poselib", "opencv_usac" and your own, whose problem then has a `best_first`.
        threshold: inlier threshold in pixels; divided by the mean focal length for estimators
            that work in calibrated coordinates.
        threshold_calibrated: the same in calibrated units (1e-3 in published evaluations);
            overrides `threshold`.
        confidence: at which sampling stops, between 0 and 1.
        max_iterations: most samples to draw; None: as many as find every pose that could have
            more than chance's support, and no more than the estimator's own, 100 000 (poselib, its
            default), 10 000 (opencv_usac), 20 480 (kornia, its default) or 1000 (opencv_ransac,
            OpenCV's default; your own).
        seed: same seed, same result.
        distortion0, distortion1: lens coefficients in OpenCV's order, or None.
        num_putative: how many matches there were before a filter that looked at the geometry
            picked these; None: these are all. A filter finds agreeing matches among wrong ones,
            so the test against chance must know how many it had to choose from.
        logits: (N,) of a filter that picked these matches. What such picks from wrong matches look
            like was learned: with them `pair_probability` decides in the place of that test.
        keypoint_change: (N, 3) of the matches, see `n3match.matching.keypoint_change`: evidence for
            `pair_probability`, used with logits.
        min_pair_probability: a pose needs at least this `pair_probability`. None: where there are
            logits, the default of what was learned, for this geometry; else 0.3 where fewer than a
            quarter of the putative matches are inliers, and none where more are. 0: the test
            against chance decides alone.
        verify: False returns the estimator's pose as it is, "ok", without the tests for support,
            parallax and planes (for evaluations by published protocols).

    Returns:
        RelativePose, its `probability` None.

    Raises:
        ValueError: wrong shapes, NaN or infinity, singular K, an unknown estimator, or an option
            out of range. TypeError: not numbers. ImportError: "poselib" asked for by name but
            not installed.
    """
    points0, points1 = check_matches(points0, points1)
    K0, K1 = check_intrinsics("K0", K0), check_intrinsics("K1", K1)
    weights = check_weights("weights", weights, len(points0))
    if callable(estimator):
        check_function("estimator", estimator)
        name = getattr(estimator, "__name__", type(estimator).__name__)
        spec = EstimatorSpec(name, estimator, progressive=True)
    else:
        spec = choose_estimator(estimator, ESTIMATORS)
    best_first = _best_first(sampling, weights, spec)
    threshold, confidence, max_iterations, seed = check_sampling(
        threshold, confidence, max_iterations, seed
    )
    if threshold_calibrated is not None:
        threshold_calibrated = positive("threshold_calibrated", threshold_calibrated)
    num_putative, verify = check_putative(num_putative, len(points0)), flag("verify", verify)
    problem = TwoViewProblem(
        undistort_checked(points0, K0, check_distortion("distortion0", distortion0)),
        undistort_checked(points1, K1, check_distortion("distortion1", distortion1)),
        _without_skew(K0),
        _without_skew(K1),
        weights,
        threshold,
        confidence,
        spec.max_iterations if max_iterations is None else max_iterations,
        seed,
        best_first,
    )
    if threshold_calibrated is not None:
        problem = problem.with_threshold_calibrated(threshold_calibrated)

    matches = Matches(
        problem.x0, problem.x1, problem.threshold_calibrated, num_putative,
        *check_known(logits, keypoint_change, len(points0)),
    )
    least = check_probability("min_pair_probability", min_pair_probability)
    if verify and max_iterations is None and len(matches) > spec.fewest_matches:
        worth = samples_worth_drawing(matches, confidence, spec.max_iterations)
        problem = replace(problem, max_iterations=worth)
    return replace(_answer(problem, spec, matches, verify, least), estimator=spec.name)


def _answer(
    problem: TwoViewProblem,
    spec: EstimatorSpec[Estimate],
    matches: Matches,
    verify: bool,
    least: float | None,
) -> RelativePose:
    weights = problem.weights
    usable = len(matches)
    if spec.linear and weights is not None:
        usable = int(np.count_nonzero(weights))
    reason = hopeless(matches, usable, spec.fewest_matches, spec.name)
    if reason is not None:
        return _no_pose(matches, *reason)
    estimate = spec.run(problem)
    if verify and estimate is not None:
        return verify_pose(matches, estimate, linear=spec.linear, min_pair_probability=least)
    if estimate is not None:
        return _pose(estimate)
    rotation = search_rotation(matches) if verify else None
    # Far points agree on a rotation in any scene: others must not agree on a translation.
    if rotation is not None and translation_beside_rotation(matches, rotation) is None:
        return _no_parallax(matches, rotation)
    return _no_pose(matches, PoseStatus.ESTIMATION_FAILED, f"{spec.name} found no model")


def verify_pose(
    matches: Matches,
    estimate: Estimate,
    *,
    linear: bool = False,
    min_pair_probability: float | None = None,
) -> RelativePose:
    """Test a pose on its matches, in this order: rotation alone, support by chance, line, plane,
    exactness, other poses far off.

    In two cases the pose is exchanged for one that explains more matches: when a rotation
    explains nearly everything and the rest agree on a translation that the estimator missed;
    and when the estimator chose the pose of a plane that has many points behind a camera.

    Args:
        matches: all, in calibrated coordinates.
        linear: the estimate is from a linear solver, whose answer on a plane is arbitrary.
        min_pair_probability: see `estimate_relative_pose_from_matches`.
    """
    R, t, inliers = estimate.R, estimate.t, estimate.inliers
    points = matches.x0, matches.x1, matches.threshold
    noise = noise_in_thresholds(matches, epipolar_distance(essential_from_pose(R, t)))
    noisy = matches.wider(max(1.0, _NOISE_FACTOR * noise))
    far = noisy
    if matches.logits is not None:
        # A filter refuses most wrong matches, whatever they agree on: beside a plane that explains
        # most of its picks, the rest are all there are. Beside a rotation it has nothing but wrong
        # ones to pick from, and some that agree are among these.
        noisy = replace(noisy, num_putative=len(matches))
        picked_from = min(matches.num_putative, _PICKED_FROM * len(matches))
        far = replace(noisy, num_putative=picked_from)

    def agreeing(R: np.ndarray, t: np.ndarray) -> np.ndarray:
        return inliers_of(R, t, noisy.x0, noisy.x1, noisy.threshold) | inliers

    detail = ""
    if inliers.any():
        close = agreeing(R, t)
        rotation = find_rotation(far, R, close)
        if rotation is not None and not has_parallax(far, R, t, close, rotation):
            missed = translation_beside_rotation(far, rotation)
            if missed is None:
                return _no_parallax(matches, rotation)
            R, t = rotation.R, missed
            inliers = inliers_of(R, t, *points)
            detail = "nearly no parallax: translation from the few matches off the rotation"

    distance = epipolar_distance(essential_from_pose(R, t))
    alarms = log10_false_alarms(matches, distance)
    # A linear solver's inliers on a plane are as arbitrary as its answer: not these alone.
    close = agreeing(R, t)
    plane = find_plane(noisy, np.ones_like(inliers) if linear else close)
    planar = plane is not None and plane_dominates(noisy, distance, close, plane)
    verdict = PlaneVerdict.KEEP
    if plane is not None and planar and not linear:
        verdict, R, t = compare_with_rival(noisy, R, t, plane)
        if verdict is PlaneVerdict.REPLACE:
            inliers = inliers_of(R, t, *points)
            plane = find_plane(noisy, agreeing(R, t))
            detail = "on a plane: the other pose of its homography has more points in front"
    probability = pair_probability(matches, inliers)
    # A linear solver's inliers on a plane say nothing of the pair either.
    arbitrary = planar and linear
    least = 0.0 if arbitrary else min_pair_probability
    reason = doubtful(matches, inliers, alarms, probability, least)
    if reason is None and arbitrary:
        why = "on a plane the eight-point algorithm has no one answer"
        reason = PoseStatus.DEGENERATE, why
    elif reason is None and verdict is PlaneVerdict.AMBIGUOUS:
        reason = PoseStatus.DEGENERATE, "the matches are on a plane that two poses explain"
    on_plane = plane_support(plane, inliers)
    if reason is None and not linear:
        flat = on_plane.get("homography_support", 0.0) >= FLAT_SHARE
        reason = _left_open(matches, R, t, inliers, noise, plane, flat=flat)
    fields = {"log10_false_alarms": alarms, "pair_probability": probability, **on_plane}
    if reason is not None:
        return _no_pose(matches, *reason, inliers=inliers, **fields)
    return _pose(Estimate(R, t, inliers), detail=detail, **fields)


def _left_open(
    matches: Matches,
    R: np.ndarray,
    t: np.ndarray,
    inliers: np.ndarray,
    noise: float,
    plane: PlaneModel | None,
    *,
    flat: bool,
) -> tuple[PoseStatus, str] | None:
    """Status and detail of a pose that its inliers (N,) don't determine; None: they do.

    Args:
        noise: of the inliers, in thresholds.
        plane, flat: see `rival_deg`.
    """
    # A fit to matches within a threshold that cuts off the noise is worse than least squares.
    inexact = max(1.0, noise / _NOISE_CUT) ** _NOISE_POWER
    noise *= matches.threshold
    deviation = inexact * pose_deviation_deg(
        R, t, matches.x0[inliers], matches.x1[inliers], noise
    )
    if deviation > _DEVIATION_DEG:
        return PoseStatus.DEGENERATE, (
            f"the matches leave the pose open by {deviation:.1f}° (standard deviation)"
        )
    if flat or deviation > _SURE_DEG:
        apart = rival_deg(matches, R, t, noise, plane, flat=flat, inexact=inexact)
        if apart is not None:
            return PoseStatus.DEGENERATE, (
                f"another pose, {apart:.0f}° off, explains the matches nearly as well"
            )
    return None


def _pose(estimate: Estimate, **fields: Any) -> RelativePose:
    E = essential_from_pose(estimate.R, estimate.t)
    return RelativePose(status=PoseStatus.OK, E=E, **vars(estimate), **fields)


def _no_pose(
    matches: Matches, status: PoseStatus, detail: str, **fields: Any
) -> RelativePose:
    fields.setdefault("inliers", np.zeros(len(matches), dtype=bool))
    if "pair_probability" not in fields:
        fields["pair_probability"] = pair_probability(matches, fields["inliers"])
    return RelativePose(status=status, detail=detail, **fields)


def _no_parallax(matches: Matches, rotation: RotationModel) -> RelativePose:
    return RelativePose(
        status=PoseStatus.NO_PARALLAX,
        R=rotation.R,
        inliers=rotation.explained,
        detail="a rotation explains the matches; the translation is not determined",
        pair_probability=pair_probability(matches, rotation.explained),
        **plane_support(find_plane(matches, rotation.explained), rotation.explained),
    )


def _best_first(
    sampling: str, weights: np.ndarray | None, spec: EstimatorSpec
) -> np.ndarray | None:
    one_of("sampling", sampling, ("uniform", "by_weight"))
    if sampling == "uniform":
        return None
    if not spec.progressive:
        can = " and ".join(name for name, other in ESTIMATORS.items() if other.progressive)
        raise ValueError(f"sampling: 'by_weight' is for {can}, got estimator {spec.name!r}")
    if weights is None:
        raise ValueError("sampling: 'by_weight' needs weights, got None")
    return np.argsort(-weights, kind="stable")


def _without_skew(K: np.ndarray) -> np.ndarray:
    return np.array([[K[0, 0], 0.0, K[0, 2]], [0.0, K[1, 1], K[1, 2]], [0.0, 0.0, 1.0]])
