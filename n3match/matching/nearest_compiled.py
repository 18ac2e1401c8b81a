"""Nearest neighbours by the compiled loops (n3match.native): exact, on vectors of 16-bit integers.

Descriptors of whole numbers, as SIFT's, are such vectors already, and what is found for them is
final. Others are scaled and rounded; by the triangle inequality a distance then changes by no more
than the lengths of the two roundings, which are known. So a few more than the two nearest are kept:
where they are too close to each other to tell, the differences of the descriptors themselves
decide; where more than were kept may be in question, which is rare, more are kept.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from n3match.native import descriptors

# Of rounded vectors more are kept than are wanted, so that the last tells whether those before it
# are all that come into question.
_KEPT, _KEPT_BACK = 4, 3
_KEPT_BACK_OF_INTEGERS = 2  # the nearest, and the nearest other one
# For those where it doesn't, if they are no more than a tenth.
_KEPT_OF_FEW, _FEW = 32, 0.1
# Beside the roundings to integers: what double precision does to numbers up to 23170.
_SLIGHT = 1e-6

# (a, b) -> (2, N) the two nearest of b for each of a
Scan = Callable[[Tensor, Tensor], np.ndarray]


def two_nearest(
    a: Tensor, b: Tensor, seen: descriptors.Survey, scan: Scan
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The two nearest of image 1 for each descriptor of image 0.

    Args:
        a, b: (N, D), (M, D) float32, contiguous, finite, neither of them empty.
        seen: `descriptors.survey` of them.
        scan: for what integers leave open.

    Returns:
        index (2, N) int64, −1 for none; their squared distances (2, N) float64, inf for none;
        mutual (N,) bool, whether the nearest of the nearest is oneself; ratio (N,) of the distance
        to that from the nearest to its nearest other one, up to rounding, 1 for no other.
    """
    if seen.whole and max(seen.longest) <= descriptors.LONGEST:
        return _of_integers(*descriptors.integers((a, b), 1.0, centre=None, bytes=seen.bytes))
    rounding = _Rounding(a, b, seen)
    (distance, at), (distance_back, at_back) = rounding.nearest(a, b, _KEPT, _KEPT_BACK)
    rows = np.arange(len(a))
    index = rounding.in_order(rows, distance, at, 2, a, b, scan)
    # Only columns that may have someone as their nearest whose nearest they are matter.
    nearest = index[:, 0]
    claimed = np.unique(nearest[distance[:, 0] <= distance_back[nearest, 0] + rounding.apart])
    back = np.full(len(b), -1)
    back[claimed] = rounding.in_order(
        claimed, distance_back[claimed], at_back[claimed], 1, b, a, scan
    )[:, 0]
    squared = descriptors.squared_distances(a, b, np.stack([rows, rows]), index.T)
    mutual = back[nearest] == rows
    other = np.where(mutual, distance_back[nearest, 1], distance_back[nearest, 0])
    return index.T, squared, mutual, _ratio(distance[:, 0], other)


def _of_integers(a: descriptors.Integers, b: descriptors.Integers):
    (squared, at), (squared_back, back) = descriptors.nearest(a, b, 2, _KEPT_BACK_OF_INTEGERS)
    squared = np.where(at >= 0, squared.astype(np.float64), np.inf)
    nearest = at[:, 0]
    mutual = back[nearest, 0] == np.arange(a.count)
    other = _roots(np.where(mutual, squared_back[nearest, 1], squared_back[nearest, 0]))
    return at.T.copy(), squared.T, mutual, _ratio(np.sqrt(squared[:, 0]), other)


class _Rounding:
    """How descriptors of two images become integers.

    Attributes:
        apart: distances that differ by more, in the unit of the integers, are in their true order.
    """

    def __init__(self, a: Tensor, b: Tensor, seen: descriptors.Survey):
        # About their centre vectors are shorter, and their roundings with them.
        self._centre = seen.sums / (len(a) + len(b))
        longest = max(descriptors.survey((a, b), self._centre).longest)
        # A rounded vector may be longer by half the diagonal of a unit cube.
        room = descriptors.LONGEST - 1 - a.shape[1] ** 0.5 / 2
        self._scale = room / longest if longest > 0 else 1.0
        self.apart = 0.0

    def nearest(self, a: Tensor, b: Tensor, keep_a: int, keep_b: int):
        """As `descriptors.nearest`, with distances in float64, not squared, inf for none."""
        a, b = descriptors.integers((a, b), self._scale, centre=self._centre, bytes=False)
        self.apart = max(self.apart, 2 * (a.cut + b.cut + _SLIGHT))
        found = descriptors.nearest(a, b, keep_a, keep_b)
        return tuple((_roots(squared), at) for squared, at in found)

    def in_order(
        self, rows: np.ndarray, distance: np.ndarray, at: np.ndarray, wanted: int,
        left: Tensor, right: Tensor, scan: Scan,
    ) -> np.ndarray:
        """(R, wanted) the truly nearest of `right` for some rows of `left`, −1 for none.

        distance, at: (R, K), from `nearest`, for these rows.
        """
        found = at[:, :wanted].copy()
        with np.errstate(invalid="ignore"):  # no difference of nothing and nothing counts
            doubtful = (np.diff(distance)[:, :wanted] <= self.apart).any(1)
            # There may be more in question than were kept.
            unknown = distance[:, -1] - distance[:, wanted - 1] <= self.apart
        here = doubtful & ~unknown
        found[here] = _nearest_first(left, right, rows[here], at[here])[:, :wanted]
        if not unknown.any():
            return found
        lost = rows[unknown]
        if at.shape[1] < _KEPT_OF_FEW and len(lost) <= len(left) * _FEW:
            distance, at = self.nearest(left[lost], right, _KEPT_OF_FEW, 1)[0]
            found[unknown] = self.in_order(lost, distance, at, wanted, left, right, scan)
        else:
            found[unknown] = scan(left[lost], right)[:wanted].T
        return found


def _roots(squared: np.ndarray) -> np.ndarray:
    return np.where(squared < descriptors.FAR, np.sqrt(squared.astype(np.float64)), np.inf)


def _ratio(distance: np.ndarray, other: np.ndarray) -> np.ndarray:
    """1 where the other is nothing, or there is none."""
    known = np.isfinite(other) & (other > 0)
    return np.where(known, distance / np.where(known, other, 1.0), 1.0)


def _nearest_first(
    left: Tensor, right: Tensor, rows: np.ndarray, candidates: np.ndarray
) -> np.ndarray:
    """Candidates (R, C) of rows (R,), nearest first, those of the lowest number among equals; −1 is
    none."""
    rows = np.broadcast_to(rows[:, None], candidates.shape)
    squared = descriptors.squared_distances(left, right, rows, candidates)
    return np.take_along_axis(candidates, np.lexsort((candidates, squared), axis=-1), axis=-1)
