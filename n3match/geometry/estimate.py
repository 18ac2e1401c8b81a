"""Relative pose of two cameras from point matches: robust estimation, then doubt (numpy)."""

from __future__ import annotations

import numpy as np

from n3match.geometry.checks import (
    check_distortion,
    check_intrinsics,
    check_points_array,
    check_scores,
)
from n3match.geometry.estimators import ESTIMATORS, TwoViewProblem, choose_estimator
from n3match.geometry.estimators.registry import (
    FEWEST_MATCHES,
    MAX_ITERATIONS,
    PROGRESSIVE,
    Estimator,
)
from n3match.geometry.relative_pose import PoseStatus, RelativePose
from n3match.geometry.undistort import undistort_checked
from n3match.geometry.verification.agreement import essential_of
from n3match.geometry.verification.planarity import points_on_a_line
from n3match.geometry.verification.verdict import verdict_without_model, verify_pose


def estimate_relative_pose_from_matches(
    points0: np.ndarray,
    points1: np.ndarray,
    K0: np.ndarray,
    K1: np.ndarray,
    *,
    estimator: str | Estimator = "auto",
    scores: np.ndarray | None = None,
    sampling: str = "uniform",
    threshold: float = 1.0,
    threshold_calibrated: float | None = None,
    confidence: float = 0.9999,
    max_iterations: int | None = None,
    seed: int = 0,
    distortion0: np.ndarray | None = None,
    distortion1: np.ndarray | None = None,
    num_putative: int | None = None,
    verify: bool = True,
) -> RelativePose:
    """The pose of camera 1 relative to camera 0, with a status that says whether to trust it.

    Convention: x1 ~ R x0 + t with ‖t‖ = 1 (the scale is unknown), E = [t]× R.

    Few, degenerate or hopeless matches are ordinary results, told apart by `status`:
    "too_few_matches" (fewer than 5; 6 for "kornia", 8 for "eight_point"), "degenerate" (all points
    on a line or a point; a plane that two poses explain), "estimation_failed", "no_parallax" (a
    rotation alone explains the matches: R is given), "insufficient_support" (wrong matches alone
    would give as many inliers). Only "ok" has R, t and E.

    Args:
        points0, points1: (N, 2) matched pixels (arrays or CPU tensors); integers are pixel
            centres.
        K0, K1: (3, 3) camera matrices.
        estimator: "poselib", "opencv_usac", "opencv_ransac", "kornia" or "eight_point"; "auto" is
            PoseLib where it is installed, else OpenCV's USAC. Or a function of your own, from a
            `TwoViewProblem` of 5 matches or more to an `Estimate` or None.
        scores: (N,) non-negative, higher is better. The weights of "eight_point"; sampling
            estimators use them with `sampling`. The result carries them along.
        sampling: "uniform", or "by_score": samples are drawn of the matches with the best scores
            first and of more and more of them (PROSAC, Chum & Matas, CVPR 2005); for "poselib",
            "opencv_usac" and your own, whose problem then has an `order`.
        threshold: inlier threshold in pixels; divided by the mean focal length for estimators
            that work in calibrated coordinates.
        threshold_calibrated: the same in calibrated units (1e-3 in published evaluations);
            overrides `threshold`.
        confidence: at which sampling stops, between 0 and 1.
        max_iterations: most samples to draw; None: 100 000 (poselib, its default), 10 000
            (opencv_usac), 20 480 (kornia, its default) or 1000 (opencv_ransac, OpenCV's default;
            your own).
        seed: same seed, same result.
        distortion0, distortion1: lens coefficients in OpenCV's order, or None.
        num_putative: how many matches there were before a filter that looked at the geometry
            picked these; None: these are all. A filter finds agreeing matches among wrong ones,
            so the support test must know how many it had to choose from.
        verify: False returns the estimator's pose as it is, "ok", without the tests for support,
            parallax and planes (for evaluations by published protocols).

    Returns:
        RelativePose.

    Raises:
        ValueError: wrong shapes, NaN or infinity, singular K, an unknown estimator, or an option
            out of range. TypeError: not numbers. ImportError: "poselib" asked for by name but
            not installed.
    """
    points0 = check_points_array("points0", points0)
    points1 = check_points_array("points1", points1)
    if len(points0) != len(points1):
        raise ValueError(
            f"points0 and points1 must hold the same number of points, "
            f"got {len(points0)} and {len(points1)}"
        )
    n = len(points0)
    K0, K1 = check_intrinsics("K0", K0), check_intrinsics("K1", K1)
    scores = check_scores("scores", scores, n)
    if callable(estimator):
        name, run, fewest, most_iterations = estimator.__name__, estimator, 5, 1000
    else:
        name = choose_estimator(estimator)
        run, fewest = ESTIMATORS[name], FEWEST_MATCHES[name]
        most_iterations = MAX_ITERATIONS[name]
    order = _sampling_order(sampling, scores, None if callable(estimator) else name)
    _check_options(threshold, threshold_calibrated, confidence, max_iterations, seed)
    if num_putative is None:
        num_putative = n
    elif num_putative < n:
        raise ValueError(
            f"num_putative must be at least the number of matches ({n}), got {num_putative}"
        )
    x0 = undistort_checked(points0, K0, check_distortion("distortion0", distortion0))
    x1 = undistort_checked(points1, K1, check_distortion("distortion1", distortion1))

    problem = TwoViewProblem(
        x0,
        x1,
        _without_skew(K0),
        _without_skew(K1),
        scores,
        threshold,
        confidence,
        most_iterations if max_iterations is None else max_iterations,
        seed,
        order,
    )
    if threshold_calibrated is not None:
        problem = problem.with_threshold_calibrated(threshold_calibrated)

    def result(status: PoseStatus, R=None, t=None, inliers=None, **fields) -> RelativePose:
        return RelativePose(
            R=R,
            t=t,
            E=None if t is None else essential_of(R, t),
            inliers=np.zeros(n, dtype=bool) if inliers is None else inliers,
            scores=scores,
            status=status,
            estimator=name,
            **fields,
        )

    usable = n if scores is None or name != "eight_point" else int(np.count_nonzero(scores))
    if usable < fewest:
        return result(
            PoseStatus.TOO_FEW_MATCHES,
            detail=f"{name} needs at least {fewest} matches, got {usable}",
        )
    limit = problem.threshold_calibrated
    if points_on_a_line(x0, limit) or points_on_a_line(x1, limit):
        return result(
            PoseStatus.DEGENERATE, detail="all points of an image are on one line or point"
        )
    estimate = run(problem)
    if estimate is None:
        why = f"{name} found no model"
        if not verify:
            return result(PoseStatus.ESTIMATION_FAILED, detail=why)
        verdict = verdict_without_model(
            x0, x1, threshold=limit, num_putative=num_putative, why=why
        )
        return result(**vars(verdict))
    if not verify:
        return result(PoseStatus.OK, estimate.R, estimate.t, estimate.inliers)
    verdict = verify_pose(
        x0,
        x1,
        estimate.R,
        estimate.t,
        estimate.inliers,
        threshold=limit,
        num_putative=num_putative,
        linear=name == "eight_point",
    )
    return result(**vars(verdict))


def _sampling_order(
    sampling: str, scores: np.ndarray | None, estimator: str | None
) -> np.ndarray | None:
    if sampling not in ("uniform", "by_score"):
        raise ValueError(f"sampling must be 'uniform' or 'by_score', got {sampling!r}")
    if sampling == "uniform":
        return None
    if estimator is not None and estimator not in PROGRESSIVE:
        raise ValueError(
            f"sampling: 'by_score' is for {' and '.join(PROGRESSIVE)}, got estimator {estimator!r}"
        )
    if scores is None:
        raise ValueError("sampling: 'by_score' needs scores, got None")
    return np.argsort(-scores, kind="stable")


def _check_options(
    threshold: float,
    threshold_calibrated: float | None,
    confidence: float,
    max_iterations: int | None,
    seed: int,
) -> None:
    if not (threshold > 0 and np.isfinite(threshold)):
        raise ValueError(f"threshold must be a positive number of pixels, got {threshold}")
    if threshold_calibrated is not None and not (
        threshold_calibrated > 0 and np.isfinite(threshold_calibrated)
    ):
        raise ValueError(f"threshold_calibrated must be positive, got {threshold_calibrated}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1 (exclusive), got {confidence}")
    if max_iterations is not None and max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1, got {max_iterations}")
    if not 0 <= seed < 2**31:
        raise ValueError(f"seed must be between 0 and 2³¹ − 1, got {seed}")


def _without_skew(K: np.ndarray) -> np.ndarray:
    return np.array([[K[0, 0], 0.0, K[0, 2]], [0.0, K[1, 1], K[1, 2]], [0.0, 0.0, 1.0]])
