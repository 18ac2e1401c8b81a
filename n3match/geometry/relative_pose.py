"""The result type of robust relative pose estimation."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np


class PoseStatus(str, enum.Enum):
    """Why there is a pose, or why there is none."""

    OK = "ok"
    TOO_FEW_MATCHES = "too_few_matches"
    ESTIMATION_FAILED = "estimation_failed"
    DEGENERATE = "degenerate"  # the points don't determine one pose
    NO_PARALLAX = "no_parallax"  # a rotation alone explains the matches
    INSUFFICIENT_SUPPORT = "insufficient_support"  # chance alone gives as many inliers

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, eq=False)
class RelativePose:
    """The pose of camera 1 relative to camera 0: x1 ~ R x0 + t.

    R, t and E are None unless `status` is "ok"; only "no_parallax" has an R without t (and as
    inliers the matches that this rotation explains).
    """

    R: np.ndarray | None  # (3, 3) float64
    t: np.ndarray | None  # (3,) float64, length 1
    E: np.ndarray | None  # (3, 3) float64, [t]× R, x1ᵀ E x0 = 0 in calibrated coordinates
    inliers: np.ndarray  # (N,) bool, of the matches given
    scores: np.ndarray | None  # (N,) float64, as given
    status: PoseStatus
    estimator: str  # its name, never "auto"
    # Share of the inliers that one homography explains (near 1: a plane, or no parallax);
    # None where there was no estimate to look at.
    homography_support: float | None = None
    # (3, 3), that homography: x1 ~ H x0 in calibrated coordinates; None as above.
    homography: np.ndarray | None = None
    # log10 of how many models with this support are expected from chance (see
    # `log10_false_alarms`); None where the test was not made.
    log10_false_alarms: float | None = None
    detail: str = ""  # one sentence for people

    @property
    def num_inliers(self) -> int:
        """How many of the matches are inliers."""
        return int(np.count_nonzero(self.inliers))

    @property
    def ok(self) -> bool:
        """Whether R, t and E are there and can be trusted as far as the tests can tell."""
        return self.status is PoseStatus.OK
