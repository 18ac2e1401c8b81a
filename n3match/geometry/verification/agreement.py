"""How far matches are from a model, and which agree with a pose (numpy).

N matches; distances and thresholds are in units of the points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from n3match.geometry.epipolar import sampson_distance
from n3match.geometry.essential import essential_from_pose, in_front_of_both

# A rotation or homography predicts a point in both directions; with noise in both images its
# error is about twice that of a match from its epipolar line.
TRANSFER_FACTOR = 2.0

#: (N, 2), (N, 2) -> (N,): of matches from a model.
Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Matches:
    """What models are tested on: calibrated coordinates for poses, else pixels."""

    x0: np.ndarray  # (N, 2)
    x1: np.ndarray  # (N, 2)
    threshold: float  # of inliers, in units of the points
    # How many there were before any filter that looked at the geometry: a filter could have picked
    # agreeing matches out of many wrong ones.
    num_putative: int
    # What is known of each: the logit (N,) of the filter that picked them, and how their keypoints
    # change (N, 3), see `n3match.matching.keypoint_change`.
    logits: np.ndarray | None = None
    keypoint_change: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.x0)

    def wider(self, factor: float) -> Matches:
        """The same with the threshold multiplied."""
        return replace(self, threshold=factor * self.threshold)

    def beside(self, explained: np.ndarray) -> Matches:
        """The same where those that a first model explains (N,) are none to choose from."""
        rest = self.num_putative - int(np.count_nonzero(explained))
        return replace(self, num_putative=max(0, rest))


def random_pairs(count: int, of: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays of `count` indices below `of`, never the same in both: minimal samples of two."""
    rng = np.random.default_rng(seed)
    i = rng.integers(of, size=count)
    # A step of 1 to `of` − 1 never ends where it began.
    return i, (i + rng.integers(1, of, size=count)) % of


def epipolar_distance(E: np.ndarray) -> Distance:
    """The root of the Sampson distance to E (3, 3), as a function of matches."""
    return lambda x0, x1: np.sqrt(sampson_distance(x0, x1, E))


def rotation_distance(R: np.ndarray) -> Distance:
    """The distance in image 1 from x0 turned by R (3, 3); infinite behind the camera."""

    def distance(x0: np.ndarray, x1: np.ndarray) -> np.ndarray:
        turned = x0 @ R[:, :2].T + R[:, 2]
        ahead = turned[:, 2] > 1e-9
        depth = np.where(ahead, turned[:, 2], 1.0)
        off = np.linalg.norm(turned[:, :2] / depth[:, None] - x1, axis=1)
        return np.where(ahead, off, np.inf)

    return distance


def homography_distance(H: np.ndarray) -> Distance:
    """The distance in image 1 from H x0; NaN where that is at infinity."""

    def distance(x0: np.ndarray, x1: np.ndarray) -> np.ndarray:
        moved = np.c_[x0, np.ones(len(x0))] @ H.T
        depth = np.where(np.abs(moved[:, 2]) > 1e-12, moved[:, 2], np.nan)
        return np.linalg.norm(moved[:, :2] / depth[:, None] - x1, axis=1)

    return distance


def inliers_of(
    R: np.ndarray, t: np.ndarray, x0: np.ndarray, x1: np.ndarray, threshold: float
) -> np.ndarray:
    """(N,) bool: root Sampson distance below the threshold and not behind a camera."""
    close = epipolar_distance(essential_from_pose(R, t))(x0, x1) < threshold
    return close & in_front_of_both(R, t, x0, x1)
