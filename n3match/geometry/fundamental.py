"""Fundamental matrix of two images with unknown cameras: robust estimation, then doubt (numpy).

Convention: points1ᵀ F points0 = 0 in homogeneous pixels, whose first centre is (0, 0).

Pixels throughout, but where a camera is guessed. Without cameras a plane and a turn of the camera
look alike: one homography explains the matches, and any fundamental matrix compatible with it. They
are told apart by whether the homography is K1 R K0⁻¹ for cameras with some focal length.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize_scalar

from n3match.geometry.camera import guess_intrinsics
from n3match.geometry.checks import (
    check_known,
    check_matches,
    check_probability,
    check_putative,
    check_sampling,
)
from n3match.geometry.estimators import (
    FUNDAMENTAL_ESTIMATORS,
    EstimatorSpec,
    FundamentalEstimate,
    TwoViewProblem,
    choose_estimator,
)
from n3match.geometry.verification.agreement import (
    TRANSFER_FACTOR,
    Matches,
    epipolar_distance,
    homography_distance,
    rotation_distance,
)
from n3match.geometry.verification.pair import pair_probability
from n3match.geometry.verification.planarity import (
    PlaneModel,
    find_plane,
    plane_dominates,
    plane_support,
)
from n3match.geometry.verification.rotation_only import fit_rotation
from n3match.geometry.verification.support import (
    FUNDAMENTAL_MODEL,
    HOMOGRAPHY_MODEL,
    SIGNIFICANT,
    log10_false_alarms,
)
from n3match.geometry.verification.verdict import PoseStatus, Verdict, doubtful, hopeless
from n3match.weights.verdict import FUNDAMENTAL

# A rotation is all there is where it explains this share of what the homography explains.
_ROTATION_SHARE = 0.95
# Focal lengths are sought from the guess divided to the guess multiplied by this.
_FOCAL_FACTOR = 4.0


@dataclass(frozen=True, eq=False, kw_only=True)
class FundamentalMatrix(Verdict):
    """The epipolar geometry of two images: points1ᵀ F points0 = 0 in homogeneous pixels.

    F is None unless `status` is "ok". Inliers are its, or those of the homography where that is all
    there is; the homography is in pixels.
    """

    F: np.ndarray | None = None  # (3, 3) float64, unit norm


def estimate_fundamental_from_matches(
    points0: np.ndarray,
    points1: np.ndarray,
    size0: tuple[int, int],
    size1: tuple[int, int],
    *,
    estimator: str = "auto",
    threshold: float = 1.0,
    confidence: float = 0.9999,
    max_iterations: int | None = None,
    seed: int = 0,
    num_putative: int | None = None,
    logits: np.ndarray | None = None,
    keypoint_change: np.ndarray | None = None,
    min_pair_probability: float | None = None,
) -> FundamentalMatrix:
    """The fundamental matrix of two images, with a status that says whether to trust it.

    Status: "ok"; "too_few_matches" (fewer than 7); "degenerate" (one homography explains the
    matches, as on a plane, or all points are on a line: F isn't determined); "no_parallax" (so does
    a turn of the camera alone); "insufficient_support" (wrong matches alone would give as many
    inliers; or a filter's picks are real with too small a probability); "estimation_failed". In the
    second and third of these the homography is given.

    Args:
        points0, points1: (N, 2) matched pixels; integers are pixel centres.
        size0, size1: (width, height) of the images, to tell a turn of the camera from a plane.
        estimator: "poselib", "opencv_usac", or "auto": PoseLib where installed, else OpenCV.
        threshold: inlier threshold in pixels.
        confidence: at which sampling stops, between 0 and 1.
        max_iterations: most samples to draw; None: 10 000.
        seed: same seed, same result.
        num_putative: how many matches there were before a filter picked these; None: these are all.
        logits, keypoint_change, min_pair_probability: as of `estimate_relative_pose_from_matches`.

    Returns:
        FundamentalMatrix, its `probability` None.

    Raises:
        ValueError, TypeError: naming the argument. ImportError: "poselib" is not installed.
    """
    x0, x1 = check_matches(points0, points1)
    cameras = guess_intrinsics(size0, name="size0"), guess_intrinsics(size1, name="size1")
    spec = choose_estimator(estimator, FUNDAMENTAL_ESTIMATORS)
    threshold, confidence, max_iterations, seed = check_sampling(
        threshold, confidence, max_iterations, seed
    )
    num_putative = check_putative(num_putative, len(x0))
    problem = TwoViewProblem(
        x0, x1, np.eye(3), np.eye(3), None, threshold, confidence,
        spec.max_iterations if max_iterations is None else max_iterations, seed,
    )
    known = check_known(logits, keypoint_change, len(x0))
    matches = Matches(x0, x1, threshold, num_putative, *known)
    least = check_probability("min_pair_probability", min_pair_probability)
    return replace(_answer(problem, spec, cameras, matches, least), estimator=spec.name)


def _answer(
    problem: TwoViewProblem,
    spec: EstimatorSpec[FundamentalEstimate],
    cameras: tuple[np.ndarray, np.ndarray],
    matches: Matches,
    least: float | None,
) -> FundamentalMatrix:
    everything = np.ones(len(matches), dtype=bool)

    def no_matrix(status: PoseStatus, detail: str, inliers=~everything, **fields):
        if "pair_probability" not in fields:
            fields["pair_probability"] = pair_probability(matches, ~everything, FUNDAMENTAL)
        return FundamentalMatrix(status=status, detail=detail, inliers=inliers, **fields)

    reason = hopeless(matches, len(matches), spec.fewest_matches, spec.name)
    if reason is not None:
        return no_matrix(*reason)
    found = spec.run(problem)
    plane = find_plane(matches, everything if found is None else found.inliers)
    if found is None:
        if plane is None or _by_chance(matches, plane):
            return no_matrix(PoseStatus.ESTIMATION_FAILED, f"{spec.name} found no model")
        reason, explained = _without_parallax(matches, plane, cameras), plane.explained
        probability = pair_probability(matches, explained, FUNDAMENTAL)
        fields = {"pair_probability": probability, **plane_support(plane, explained)}
        return no_matrix(*reason, explained, **fields)
    distance = epipolar_distance(found.F)
    alarms = log10_false_alarms(matches, distance, model=FUNDAMENTAL_MODEL)
    probability = pair_probability(matches, found.inliers, FUNDAMENTAL)
    fields = {
        "log10_false_alarms": alarms,
        "pair_probability": probability,
        **plane_support(plane, found.inliers),
    }
    reason = doubtful(matches, found.inliers, alarms, probability, least, FUNDAMENTAL)
    if reason is None and plane is not None and (
        plane_dominates(matches, distance, found.inliers, plane)
    ):
        reason = _without_parallax(matches, plane, cameras)
    if reason is not None:
        return no_matrix(*reason, found.inliers, **fields)
    return FundamentalMatrix(status=PoseStatus.OK, **vars(found), **fields)


def _by_chance(matches: Matches, plane: PlaneModel) -> bool:
    transferred, distance = matches.wider(TRANSFER_FACTOR), homography_distance(plane.H)
    return log10_false_alarms(transferred, distance, model=HOMOGRAPHY_MODEL) > SIGNIFICANT


def _without_parallax(
    matches: Matches, plane: PlaneModel, cameras: tuple[np.ndarray, np.ndarray]
) -> tuple[PoseStatus, str]:
    """Status and detail for matches that one homography explains.

    K1⁻¹ H K0 is a multiple of a rotation, all its singular values alike, where the camera only
    turned. The focal lengths are sought together, as a multiple of the guessed ones.
    """

    def calibrated(log_factor: float) -> tuple[np.ndarray, list[np.ndarray]]:
        zoom = np.diag((np.exp(log_factor), np.exp(log_factor), 1.0))
        K0, K1 = (K @ zoom for K in cameras)
        return np.linalg.inv(K1) @ plane.H @ K0, [K0, K1]

    def unlike(log_factor: float) -> float:
        values = np.log(np.linalg.svd(calibrated(log_factor)[0], compute_uv=False) + 1e-300)
        return float(values[0] - values[2])

    reach = np.log(_FOCAL_FACTOR)
    best = minimize_scalar(unlike, bounds=(-reach, reach), method="bounded").x
    M, (K0, K1) = calibrated(best)
    U, _, Vt = np.linalg.svd(M * np.sign(np.linalg.det(M)))
    a, b = (
        (x[plane.explained] - K[:2, 2]) / np.diag(K)[:2]
        for x, K in ((matches.x0, K0), (matches.x1, K1))
    )
    limit = matches.threshold / K1[0, 0]
    rotation = fit_rotation(a, b, U @ Vt, limit)
    explained = rotation_distance(rotation)(a, b) < TRANSFER_FACTOR * limit
    if np.mean(explained) >= _ROTATION_SHARE:
        return (
            PoseStatus.NO_PARALLAX,
            "a turn of the camera explains the matches; F is not determined",
        )
    return PoseStatus.DEGENERATE, "the matches are on a plane; F is not determined"
