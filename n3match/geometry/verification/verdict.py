"""What is said of every estimate: its status, what supports it, and the doubts that come first."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np

from n3match.geometry.verification.agreement import Matches
from n3match.geometry.verification.planarity import points_on_a_line
from n3match.geometry.verification.support import SIGNIFICANT


class PoseStatus(str, enum.Enum):
    """Why there is a pose or a fundamental matrix, or why there is none."""

    OK = "ok"
    TOO_FEW_MATCHES = "too_few_matches"
    ESTIMATION_FAILED = "estimation_failed"
    DEGENERATE = "degenerate"  # the points don't determine one
    NO_PARALLAX = "no_parallax"  # a rotation alone explains the matches
    INSUFFICIENT_SUPPORT = "insufficient_support"  # chance alone gives as many inliers

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, eq=False, kw_only=True)
class Verdict:
    """What `RelativePose` and `FundamentalMatrix` have in common."""

    status: PoseStatus
    inliers: np.ndarray  # (N,) bool, of the matches given
    estimator: str = ""  # its name, never "auto"
    # (N,) in [0, 1] of being right, the filter's; above ½: kept. None without a filter.
    probability: np.ndarray | None = None
    # Share of the inliers that one homography explains (near 1: a plane, or no parallax), and
    # that homography (3, 3), x1 ~ H x0 in the coordinates of the estimate; None where there was
    # nothing to look at.
    homography_support: float | None = None
    homography: np.ndarray | None = None
    # log10 of how many models with this support are expected from chance: at most `SIGNIFICANT`
    # where "ok". None where the test was not made.
    log10_false_alarms: float | None = None
    detail: str = ""  # one sentence for people

    @property
    def num_inliers(self) -> int:
        """How many of the matches are inliers."""
        return int(np.count_nonzero(self.inliers))

    @property
    def ok(self) -> bool:
        """Whether the answer is there and can be trusted as far as the tests can tell."""
        return self.status is PoseStatus.OK


def hopeless(
    matches: Matches, usable: int, fewest: int, name: str
) -> tuple[PoseStatus, str] | None:
    """Status and detail of matches that are not worth an estimate; None: go on.

    Args:
        usable: how many of them count. fewest: that the estimator `name` needs.
    """
    if usable < fewest:
        detail = f"{name} needs at least {fewest} matches, got {usable}"
        return PoseStatus.TOO_FEW_MATCHES, detail
    if any(points_on_a_line(x, matches.threshold) for x in (matches.x0, matches.x1)):
        return PoseStatus.DEGENERATE, "all points of an image are on one line or point"
    return None


def doubtful(
    matches: Matches, inliers: np.ndarray, alarms: float
) -> tuple[PoseStatus, str] | None:
    """Status and detail of an estimate that chance or points on a line explain; None: go on.

    Args:
        inliers: (N,) bool. alarms: `log10_false_alarms` of the estimate.
    """
    if alarms > SIGNIFICANT:
        return PoseStatus.INSUFFICIENT_SUPPORT, (
            f"{np.count_nonzero(inliers)} inliers of {matches.num_putative} putative matches are "
            "no more than chance gives"
        )
    if inliers.any() and any(
        points_on_a_line(x[inliers], matches.threshold) for x in (matches.x0, matches.x1)
    ):
        return PoseStatus.DEGENERATE, "all inliers of an image are on one line"
    return None
