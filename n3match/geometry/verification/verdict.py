"""Doubt: whether an estimated pose is more than chance, and the only one (numpy)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from n3match.geometry.relative_pose import PoseStatus
from n3match.geometry.verification.agreement import essential_of, inliers_of
from n3match.geometry.verification.planarity import (
    PlaneModel,
    PlaneVerdict,
    compare_with_rival,
    find_plane,
    plane_dominates,
    points_on_a_line,
)
from n3match.geometry.verification.rotation_only import (
    RotationModel,
    find_rotation,
    has_parallax,
    search_rotation,
    translation_beside_rotation,
)
from n3match.geometry.verification.support import SIGNIFICANT, epipolar_distance, log10_false_alarms


@dataclass(frozen=True)
class Verdict:
    """A status and what goes with it, fields as in `RelativePose`."""

    status: PoseStatus
    R: np.ndarray | None
    t: np.ndarray | None
    inliers: np.ndarray
    homography_support: float | None = None
    homography: np.ndarray | None = None
    log10_false_alarms: float | None = None
    detail: str = ""


def verify_pose(
    x0: np.ndarray,
    x1: np.ndarray,
    R: np.ndarray,
    t: np.ndarray,
    inliers: np.ndarray,
    *,
    threshold: float,
    num_putative: int,
    linear: bool,
) -> Verdict:
    """Test a pose on its matches, in this order: rotation alone, support by chance, line, plane.

    In two cases the pose is exchanged for one that explains more matches: when a rotation
    explains nearly everything and the rest agree on a translation that the estimator missed;
    and when the estimator chose the pose of a plane that has many points behind a camera.

    Args:
        x0, x1: (N, 2) calibrated coordinates of all matches.
        R, t, inliers: (3, 3), (3,), (N,) bool: the estimate.
        threshold: inlier threshold, calibrated units.
        num_putative: number of matches before any geometric filter.
        linear: the estimate is from a linear solver, whose answer on a plane is arbitrary.
    """
    detail = ""
    if inliers.any():
        rotation = find_rotation(x0, x1, R, inliers, threshold, num_putative)
        if rotation is not None and not has_parallax(
            x0, x1, R, t, inliers, rotation, threshold, num_putative
        ):
            missed = translation_beside_rotation(x0, x1, rotation, threshold, num_putative)
            if missed is None:
                return _no_parallax(x0, x1, rotation, threshold)
            R, t = rotation.R, missed
            inliers = inliers_of(R, t, x0, x1, threshold)
            detail = "nearly no parallax: translation from the few matches off the rotation"

    everything = np.ones(len(x0), dtype=bool)
    alarms = log10_false_alarms(
        x0, x1, epipolar_distance(essential_of(R, t)), everything, threshold, num_putative
    )
    # A linear solver's answer on a plane is arbitrary, and so are its inliers: not these alone.
    plane = find_plane(x0, x1, everything if linear else inliers, threshold)
    homography = _support_of(plane, inliers)

    def rejected(status: PoseStatus, why: str) -> Verdict:
        return Verdict(status, None, None, inliers, *homography, alarms, why)

    if alarms > SIGNIFICANT:
        return rejected(
            PoseStatus.INSUFFICIENT_SUPPORT,
            f"{np.count_nonzero(inliers)} inliers of {num_putative} putative matches are no more "
            "than chance gives",
        )
    if inliers.any() and any(points_on_a_line(x[inliers], threshold) for x in (x0, x1)):
        return rejected(PoseStatus.DEGENERATE, "all inliers of an image are on one line")
    if plane is not None and plane_dominates(x0, x1, R, t, inliers, plane, threshold, num_putative):
        if linear:
            return rejected(
                PoseStatus.DEGENERATE, "on a plane the eight-point algorithm has no one answer"
            )
        verdict, R, t = compare_with_rival(x0, x1, R, t, plane, threshold)
        if verdict is PlaneVerdict.AMBIGUOUS:
            return rejected(
                PoseStatus.DEGENERATE, "the matches are on a plane that two poses explain"
            )
        if verdict is PlaneVerdict.REPLACE:
            inliers = inliers_of(R, t, x0, x1, threshold)
            homography = _support_of(find_plane(x0, x1, inliers, threshold), inliers)
            detail = "on a plane: the other pose of its homography has more points in front"
    return Verdict(PoseStatus.OK, R, t, inliers, *homography, alarms, detail)


def verdict_without_model(
    x0: np.ndarray, x1: np.ndarray, *, threshold: float, num_putative: int, why: str
) -> Verdict:
    """What is left to say where the estimator found no model: a rotation alone, or nothing.

    Args: as `verify_pose`; why: detail of the failure.
    """
    rotation = search_rotation(x0, x1, threshold, num_putative)
    # Far points agree on a rotation in any scene: others must not agree on a translation.
    if rotation is not None and (
        translation_beside_rotation(x0, x1, rotation, threshold, num_putative) is None
    ):
        return _no_parallax(x0, x1, rotation, threshold)
    none = np.zeros(len(x0), dtype=bool)
    return Verdict(PoseStatus.ESTIMATION_FAILED, None, None, none, detail=why)


def _no_parallax(
    x0: np.ndarray, x1: np.ndarray, rotation: RotationModel, threshold: float
) -> Verdict:
    plane = find_plane(x0, x1, rotation.explained, threshold)
    return Verdict(
        PoseStatus.NO_PARALLAX,
        rotation.R,
        None,
        rotation.explained,
        *_support_of(plane, rotation.explained),
        detail="a rotation explains the matches; the translation is not determined",
    )


def _support_of(
    plane: PlaneModel | None, inliers: np.ndarray
) -> tuple[float | None, np.ndarray | None]:
    """The share of the inliers that a plane's homography explains, and the homography."""
    if plane is None or not inliers.any():
        return None, None
    share = np.count_nonzero(plane.explained & inliers) / np.count_nonzero(inliers)
    return float(share), plane.H
