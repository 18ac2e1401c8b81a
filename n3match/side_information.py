"""What descriptors say of a match: the columns that a filter may ask for, by name.

=========== ==================================================================== ==================
column      what it holds                                                        where not known
=========== ==================================================================== ==================
ratio       nearest / second nearest descriptor distance, in [0, 1]              1
mutual      1 where nearest in both directions, else 0                           0
back_ratio  the ratio the other way round, in [0, 2], see `nearest_neighbors`    1
distance    descriptor distance / its mean over the pair's putative matches − 1  0
apart       how far the second nearest lies from the nearest in image 1, from −1 0
            (beside it: one keypoint found twice) to 1 (elsewhere: it repeats)
=========== ==================================================================== ==================
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: What a column holds where nothing is known of it, in the order of the columns in training data.
NEUTRAL = {"ratio": 1.0, "mutual": 0.0, "back_ratio": 1.0, "distance": 0.0, "apart": 0.0}
COLUMNS = tuple(NEUTRAL)

_LARGEST_DISTANCE = 3.0  # times the mean: beyond it is a mistake in the input
_NEAREST, _FARTHEST = 1e-3, 1.0  # calibrated units that stand for −1 and 1, on a log scale


def relative_distance(distance: np.ndarray) -> np.ndarray:
    """The column `distance` from the descriptor distances of one pair.

    Args:
        distance: (N,) of all its putative matches: a choice of them has another mean. Not finite:
            not known.

    Returns:
        (N,) float64; zeros where not known.
    """
    distance = np.asarray(distance, dtype=np.float64)
    known = np.isfinite(distance)
    mean = distance[known].mean() if known.any() else 0.0
    if mean <= 0:
        return np.zeros(len(distance))
    relative = np.where(known, distance, mean) / mean - 1
    return np.minimum(relative, _LARGEST_DISTANCE)


def relative_apart(apart: np.ndarray, focal: float) -> np.ndarray:
    """The column `apart` from the distances between nearest and second nearest.

    Args:
        apart: (N,) pixels; not finite where there is no second nearest.
        focal: focal length of image 1 in pixels.

    Returns:
        (N,) float64 in [−1, 1]; zeros where there is no second.
    """
    apart = np.asarray(apart, dtype=np.float64)
    known = np.isfinite(apart)
    calibrated = np.clip(np.where(known, apart, 1.0) / focal, _NEAREST, _FARTHEST)
    low, high = np.log10(_NEAREST), np.log10(_FARTHEST)
    return np.where(known, 2 * (np.log10(calibrated) - low) / (high - low) - 1, 0.0)


def side_columns(
    names: Sequence[str],
    ratio: np.ndarray,
    mutual: np.ndarray,
    *,
    back_ratio: np.ndarray | None = None,
    distance: np.ndarray | None = None,
    apart: np.ndarray | None = None,
) -> np.ndarray | None:
    """(N, S) columns in the order of `names`; None where a filter asks for none.

    Args:
        names: a filter's `side_information`.
        ratio, mutual, back_ratio, distance, apart: (N,) each, as the columns hold them (see
            `relative_distance`, `relative_apart`); None where not known.

    Raises:
        ValueError: a name that is no column.
    """
    known = {
        "ratio": ratio, "mutual": mutual, "back_ratio": back_ratio, "distance": distance,
        "apart": apart,
    }  # fmt: skip
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"filter: wants side information {unknown}, known here are {[*known]}")
    if not names:
        return None
    columns = (np.full(len(ratio), NEUTRAL[n]) if known[n] is None else known[n] for n in names)
    return np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)
