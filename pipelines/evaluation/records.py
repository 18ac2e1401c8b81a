"""What an evaluation holds of a pair: the answer of its filter, and its row of results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from n3match.datasets.pairs.store import PairRecord

FAILED_DEG = 180.0


@dataclass(frozen=True)
class Filtered:
    """What a filter says of N putative matches.

    Attributes:
        kept: (N,) bool.
        weights: (N,) in [0, 1), 0 where not kept, for the weighted eight-point algorithm; None
            where the filter has none: all kept matches count alike.
        points: (N, 2) twice, pixels as detected, where it speaks of N matches of its own rather
            than of the nearest neighbours, second nearest ones among them; None otherwise.
    """

    kept: np.ndarray
    weights: np.ndarray | None = None
    points: tuple[np.ndarray, np.ndarray] | None = None


PreparedFilter = Callable[[], Filtered]
PairFilter = Callable[[PairRecord], PreparedFilter]


@dataclass(frozen=True)
class PoseResult:
    """One pair, filtered one way, with its pose estimated one way."""

    command: ClassVar[str] = "evaluate-pose"

    store: str  # file name of the pair store
    pair: int  # row in the store
    scene: str
    name0: str
    name1: str
    matches: int  # putative ones
    right: int  # of them, by the true pose
    filter: str
    kept: int
    kept_right: int
    read_ms: float  # the pair from the store, undistorted
    filter_ms: float
    estimator: str
    status: str  # of RelativePose
    rotation_error_deg: float | None  # None without a pose
    translation_error_deg: float | None  # 0 … 90, sign ignored; None without a pose
    error_deg: float  # the larger of both, 180 without a pose
    estimator_ms: float
    settings: str  # fingerprint of all that the row depends on

    @property
    def key(self) -> tuple[str, int, str, str]:
        """What there is one row of in a file."""
        return self.store, self.pair, self.filter, self.estimator


@dataclass(frozen=True)
class NoiseResult:
    """One pair at one noise level, treated one way."""

    command: ClassVar[str] = "evaluate-pose-noise"

    scene: str
    name0: str
    name1: str
    sigma: float  # 8-bit units; 0: no noise
    method: str
    matches: int  # putative ones
    right: int  # of them, by the true pose
    kept: int
    kept_right: int
    inliers: int
    status: str  # of RelativePose
    error_deg: float  # 180 without a pose
    settings: str  # fingerprint of all that the row depends on

    @property
    def key(self) -> tuple:
        return self.scene, self.name0, self.name1, self.sigma, self.method
