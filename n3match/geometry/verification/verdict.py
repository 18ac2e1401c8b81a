"""What is said of every estimate: its status, what supports it, and the doubts that come first."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np

from n3match.geometry.verification.agreement import Matches
from n3match.geometry.verification.planarity import points_on_a_line
from n3match.geometry.verification.support import SIGNIFICANT
from n3match.weights.verdict import ESSENTIAL, shipped_verdict

# Few inliers in a crowd of matches, less than this share of it, need this probability of the pair:
# wrong matches aren't independent where a scene repeats itself.
_CROWD_SHARE, _LEAST_IN_CROWD = 0.25, 0.3


class PoseStatus(str, enum.Enum):
    """Why there is a pose or a fundamental matrix, or why there is none."""

    OK = "ok"
    TOO_FEW_MATCHES = "too_few_matches"
    ESTIMATION_FAILED = "estimation_failed"
    DEGENERATE = "degenerate"  # the points don't determine one
    NO_PARALLAX = "no_parallax"  # a rotation alone explains the matches
    # Chance alone, or what looks alike, gives as many inliers.
    INSUFFICIENT_SUPPORT = "insufficient_support"

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
    # log10 of how many models with this support are expected from chance: where "ok" and no filter
    # picked the matches, at most `SIGNIFICANT`. None where the test was not made.
    log10_false_alarms: float | None = None
    # That the inliers lie on something that both images show, in [0, 1], see `verification.pair`;
    # small where there are none. None where nothing was verified.
    pair_probability: float | None = None
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
    matches: Matches,
    inliers: np.ndarray,
    alarms: float,
    pair_probability: float,
    least: float | None,
    geometry: str = ESSENTIAL,
) -> tuple[PoseStatus, str] | None:
    """Status and detail of an estimate that chance or points on a line explain; None: go on.

    Args:
        inliers: (N,) bool. alarms: `log10_false_alarms` of the estimate.
        pair_probability: of the pair. least: that is wanted; None: the default of its geometry.
            Where none is, 0, the test against chance holds for a filter's picks as well.
        geometry: one of `weights.verdict.GEOMETRIES`.
    """
    count = np.count_nonzero(inliers)
    found = f"{count} inliers of {matches.num_putative} putative matches are "
    learned = matches.logits is not None
    if alarms > SIGNIFICANT and not (learned and least != 0):
        return PoseStatus.INSUFFICIENT_SUPPORT, f"{found}no more than chance gives"
    if not learned:
        if least is None:
            least = _LEAST_IN_CROWD if count < _CROWD_SHARE * matches.num_putative else 0.0
    elif least is None:
        least = shipped_verdict().threshold[geometry]
    if pair_probability < least:
        return PoseStatus.INSUFFICIENT_SUPPORT, (
            f"{found}on something in both images with probability {pair_probability:.3f}, at "
            f"least {least:g} wanted"
        )
    if inliers.any() and any(
        points_on_a_line(x[inliers], matches.threshold) for x in (matches.x0, matches.x1)
    ):
        return PoseStatus.DEGENERATE, "all inliers of an image are on one line"
    return None
