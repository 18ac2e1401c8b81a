"""Fundamental matrix of two images with unknown cameras: robust estimation, then doubt (numpy).

Pixels throughout, but where a camera is guessed. Without cameras a plane and a turn of the camera
look alike: one homography explains the matches, and any fundamental matrix compatible with it. They
are told apart by whether the homography is K1 R K0⁻¹ for cameras with some focal length.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from n3match.geometry.checks import check_points_array, check_scores
from n3match.geometry.estimators.fundamental import FEWEST_MATCHES, SOLVERS
from n3match.geometry.intrinsics import guess_intrinsics
from n3match.geometry.relative_pose import PoseStatus
from n3match.geometry.verification.agreement import TRANSFER_FACTOR
from n3match.geometry.verification.planarity import (
    PlaneModel,
    find_plane,
    homography_distance,
    nothing_off_plane,
    points_on_a_line,
)
from n3match.geometry.verification.rotation_only import fit_rotation
from n3match.geometry.verification.support import (
    FUNDAMENTAL_MODEL,
    HOMOGRAPHY_MODEL,
    SIGNIFICANT,
    epipolar_distance,
    log10_false_alarms,
    rotation_distance,
)

# A rotation is all there is where it explains this share of what the homography explains.
_ROTATION_SHARE = 0.95
# Focal lengths are sought from the guess divided to the guess multiplied by this.
_FOCAL_FACTOR = 4.0


@dataclass(frozen=True, eq=False)
class FundamentalMatrix:
    """The epipolar geometry of two images: points1ᵀ F points0 = 0 in homogeneous pixels."""

    F: np.ndarray | None  # (3, 3) float64, unit norm; None unless `status` is "ok"
    inliers: np.ndarray  # (N,) bool: of F, or of the homography where that is all there is
    scores: np.ndarray | None  # (N,) float64, as given
    status: PoseStatus
    estimator: str  # its name, never "auto"
    # Share of the inliers that one homography explains (near 1: a plane, or no parallax), and the
    # homography (3, 3), points1 ~ H points0 in pixels; None where there was nothing to look at.
    homography_support: float | None = None
    homography: np.ndarray | None = None
    # log10 of how many models with this support are expected from chance.
    log10_false_alarms: float | None = None
    detail: str = ""  # one sentence for people

    @property
    def num_inliers(self) -> int:
        """How many of the matches are inliers."""
        return int(np.count_nonzero(self.inliers))

    @property
    def ok(self) -> bool:
        """Whether F is there and can be trusted as far as the tests can tell."""
        return self.status is PoseStatus.OK


def estimate_fundamental_from_matches(
    points0: np.ndarray,
    points1: np.ndarray,
    size0: tuple[int, int],
    size1: tuple[int, int],
    *,
    estimator: str = "auto",
    scores: np.ndarray | None = None,
    threshold: float = 1.0,
    confidence: float = 0.9999,
    max_iterations: int = 10_000,
    seed: int = 0,
    num_putative: int | None = None,
) -> FundamentalMatrix:
    """The fundamental matrix of two images, with a status that says whether to trust it.

    Status: "ok"; "too_few_matches" (fewer than 7); "degenerate" (one homography explains the
    matches, as on a plane, or all points are on a line: F isn't determined); "no_parallax" (so does
    a turn of the camera alone); "insufficient_support" (wrong matches alone would give as many
    inliers); "estimation_failed". In the second and third of these the homography is given.

    Args:
        points0, points1: (N, 2) matched pixels; integers are pixel centres.
        size0, size1: (width, height) of the images, to tell a turn of the camera from a plane.
        estimator: "poselib", "opencv_usac", or "auto": PoseLib where installed, else OpenCV.
        scores: (N,) non-negative; the result carries them along.
        threshold: inlier threshold in pixels.
        confidence: at which sampling stops, between 0 and 1.
        max_iterations: most samples to draw.
        seed: same seed, same result.
        num_putative: how many matches there were before a filter picked these; None: these are all.

    Raises:
        ValueError, TypeError: naming the argument. ImportError: "poselib" is not installed.
    """
    x0, x1 = check_points_array("points0", points0), check_points_array("points1", points1)
    n = len(x0)
    if len(x1) != n:
        raise ValueError(
            f"points0 and points1 must hold the same number of points, got {n} and {len(x1)}"
        )
    cameras = guess_intrinsics(size0, "size0"), guess_intrinsics(size1, "size1")
    scores = check_scores("scores", scores, n)
    name = _chosen(estimator)
    if not (threshold > 0 and np.isfinite(threshold)):
        raise ValueError(f"threshold must be a positive number of pixels, got {threshold}")
    num_putative = n if num_putative is None else num_putative
    if num_putative < n:
        raise ValueError(
            f"num_putative must be at least the number of matches ({n}), got {num_putative}"
        )

    def result(status: PoseStatus, inliers=None, F=None, plane=None, **fields) -> FundamentalMatrix:
        inliers = np.zeros(n, dtype=bool) if inliers is None else inliers
        share = None
        if plane is not None and inliers.any():
            share = np.count_nonzero(plane.explained & inliers) / np.count_nonzero(inliers)
        H = None if plane is None else plane.H
        return FundamentalMatrix(F, inliers, scores, status, name, share, H, **fields)

    if n < FEWEST_MATCHES:
        detail = f"{FEWEST_MATCHES} matches are needed, got {n}"
        return result(PoseStatus.TOO_FEW_MATCHES, detail=detail)
    if points_on_a_line(x0, threshold) or points_on_a_line(x1, threshold):
        detail = "all points of an image are on one line or point"
        return result(PoseStatus.DEGENERATE, detail=detail)

    everything = np.ones(n, dtype=bool)
    found = SOLVERS[name](x0, x1, threshold, confidence, max_iterations, seed)
    plane = find_plane(x0, x1, everything if found is None else found[1], threshold)
    if found is None:
        if plane is None or _alarms_of_plane(x0, x1, plane, threshold, num_putative) > SIGNIFICANT:
            return result(PoseStatus.ESTIMATION_FAILED, detail=f"{name} found no model")
        status, detail = _without_parallax(x0, x1, plane, cameras, threshold)
        return result(status, plane.explained, plane=plane, detail=detail)
    F, inliers = found
    distance = epipolar_distance(F)
    alarms = log10_false_alarms(
        x0, x1, distance, everything, threshold, num_putative, FUNDAMENTAL_MODEL
    )
    fields = {"plane": plane, "log10_false_alarms": alarms}
    if alarms > SIGNIFICANT:
        detail = (
            f"{np.count_nonzero(inliers)} inliers of {num_putative} putative matches are no more "
            "than chance gives"
        )
        return result(PoseStatus.INSUFFICIENT_SUPPORT, inliers, detail=detail, **fields)
    if any(points_on_a_line(x[inliers], threshold) for x in (x0, x1)):
        detail = "all inliers of an image are on one line"
        return result(PoseStatus.DEGENERATE, inliers, detail=detail, **fields)
    if plane is not None and nothing_off_plane(
        x0, x1, distance, inliers, plane, threshold, num_putative
    ):
        status, detail = _without_parallax(x0, x1, plane, cameras, threshold)
        return result(status, inliers, detail=detail, **fields)
    return result(PoseStatus.OK, inliers, F, **fields)


def _chosen(estimator: str) -> str:
    if estimator == "auto":
        return "poselib" if importlib.util.find_spec("poselib") else "opencv_usac"
    if estimator not in SOLVERS:
        raise ValueError(
            f"estimator must be 'auto' or one of {', '.join(sorted(SOLVERS))}, got {estimator!r}"
        )
    return estimator


def _alarms_of_plane(x0, x1, plane: PlaneModel, threshold: float, num_putative: int) -> float:
    return log10_false_alarms(
        x0,
        x1,
        homography_distance(plane.H),
        np.ones(len(x0), dtype=bool),
        TRANSFER_FACTOR * threshold,
        num_putative,
        HOMOGRAPHY_MODEL,
    )


def _without_parallax(
    x0: np.ndarray,
    x1: np.ndarray,
    plane: PlaneModel,
    cameras: tuple[np.ndarray, np.ndarray],
    threshold: float,
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
        (x[plane.explained] - K[:2, 2]) / np.diag(K)[:2] for x, K in ((x0, K0), (x1, K1))
    )
    limit = threshold / K1[0, 0]
    rotation = fit_rotation(a, b, U @ Vt, limit)
    explained = rotation_distance(rotation)(a, b) < TRANSFER_FACTOR * limit
    if np.mean(explained) >= _ROTATION_SHARE:
        return (
            PoseStatus.NO_PARALLAX,
            "a turn of the camera explains the matches; F is not determined",
        )
    return PoseStatus.DEGENERATE, "the matches are on a plane; F is not determined"
