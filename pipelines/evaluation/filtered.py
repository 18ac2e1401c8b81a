"""What a match filter answers, whichever kind it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from n3match.datasets.pairs.store import PairRecord


@dataclass(frozen=True)
class Filtered:
    """What a filter says of N putative matches.

    Attributes:
        kept: (N,) bool.
        weights: (N,) in [0, 1), 0 where not kept, for the weighted eight-point algorithm; None
            where the filter has none: all kept matches count alike.
        points: (N, 2) twice, pixels as detected, where it speaks of N matches of its own rather
            than of the putative ones; None otherwise.
    """

    kept: np.ndarray
    weights: np.ndarray | None = None
    points: tuple[np.ndarray, np.ndarray] | None = None


PreparedFilter = Callable[[], Filtered]
PairFilter = Callable[[PairRecord], PreparedFilter]
