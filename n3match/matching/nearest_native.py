"""Nearest neighbours by the compiled loops (n3match.native): exact, on vectors of 16-bit integers.

Descriptors of whole numbers, as SIFT's, are such vectors already, and what is found for them is final.
Others are scaled and rounded; by the triangle inequality a distance then changes by no more than the
lengths of the two roundings, which are known. So a few more than the two nearest are kept: where they
are too close to each other to tell, the differences of the descriptors themselves decide; where even
more might be in question, which is rare, the row is left to the caller.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from n3match import native
from n3match.native import descriptors

# Of rounded vectors more are kept than can be wanted, so that the last tells whether those before it
# are all that come into question.
_KEPT, _KEPT_BACK = 4, 3
# Beside the roundings to integers: what double precision does to numbers up to 23170.
_SLIGHT = 1e-6

# (a, b) -> (2, N) the two nearest of b for each of a
Scan = Callable[[Tensor, Tensor], np.ndarray]


def usable(like: Tensor) -> bool:
    return like.device.type == "cpu" and native.available()


def two_nearest(
    a: Tensor, b: Tensor, seen: descriptors.Survey, scan: Scan
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two nearest of image 1 for each descriptor of image 0.

    Args:
        a, b: (N, D), (M, D) float32, contiguous, finite, neither of them empty.
        seen: `descriptors.survey` of them.
        scan: for what integers leave open.

    Returns:
        index (2, N) int64, −1 for none; their squared distances (2, N) float64, inf for none;
        mutual (N,) bool, whether the nearest of the nearest is oneself.
    """
    if seen.whole and max(seen.longest) <= descriptors.LONGEST:
        return _of_integers(*descriptors.integers((a, b), 1.0, centre=None, bytes=seen.bytes))
    # About their centre vectors are shorter, and their roundings with them.
    centre = seen.sums / (len(a) + len(b))
    longest = max(descriptors.survey((a, b), centre).longest)
    # A rounded vector may be longer by half the diagonal of a unit cube.
    room = descriptors.LONGEST - 1 - a.shape[1] ** 0.5 / 2
    rounded = descriptors.integers(
        (a, b), room / longest if longest > 0 else 1.0, centre=centre, bytes=False
    )
    (squared, at), (squared_back, at_back) = descriptors.nearest(*rounded, _KEPT, _KEPT_BACK)
    # Further apart than this two distances are in their true order.
    apart = 2 * (rounded[0].cut + rounded[1].cut + _SLIGHT)
    distance, distance_back = _roots(squared), _roots(squared_back)
    rows = np.arange(len(a))

    def exact(i: np.ndarray, j: np.ndarray) -> np.ndarray:
        return descriptors.squared_distances(a, b, i, j)

    index = at[:, :2].T.copy()
    doubtful, unknown = _in_question(distance, 2, apart)
    chosen = rows[doubtful & ~unknown]
    index[:, chosen] = _nearest_first(chosen, at[chosen, :-1], exact)[:, :2].T
    if unknown.any():
        index[:, unknown] = scan(a[unknown], b)

    # Only columns that may have someone as their nearest whose nearest they are matter.
    claimed = np.unique(index[0][distance[:, 0] <= distance_back[index[0], 0] + apart])
    back = np.full(len(b), -1)
    back[claimed] = at_back[claimed, 0]
    doubtful, unknown = (flags[claimed] for flags in _in_question(distance_back, 1, apart))
    chosen = claimed[doubtful & ~unknown]
    back[chosen] = _nearest_first(
        chosen, at_back[chosen, :-1], lambda j, i: exact(np.maximum(i, 0), np.where(i < 0, -1, j))
    )[:, 0]
    unknown = claimed[unknown]
    if len(unknown):
        back[unknown] = scan(b[unknown], a)[0]
    return index, exact(np.stack([rows, rows]), index), back[index[0]] == rows


def _of_integers(a: descriptors.Integers, b: descriptors.Integers):
    (squared, at), (_, back) = descriptors.nearest(a, b, 2, 1)
    squared = np.where(at >= 0, squared.astype(np.float64), np.inf)
    return at.T.copy(), squared.T, back[at[:, 0], 0] == np.arange(a.count)


def _roots(squared: np.ndarray) -> np.ndarray:
    return np.where(squared < descriptors.FAR, np.sqrt(squared.astype(np.float64)), np.inf)


def _in_question(distance: np.ndarray, wanted: int, apart: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows of (R, K) distances in order of which the first `wanted` may truly have another order or
    be others, and rows of which those may be none of the K."""
    with np.errstate(invalid="ignore"):  # no difference of nothing and nothing counts
        doubtful = (np.diff(distance)[:, :wanted] <= apart).any(1)
        unknown = distance[:, -1] - distance[:, wanted - 1] <= apart
    return doubtful, unknown


def _nearest_first(rows: np.ndarray, candidates: np.ndarray, exact) -> np.ndarray:
    """Candidates (R, C) of rows (R,), nearest first, those of the lowest number among equals; −1 is
    none."""
    squared = exact(np.broadcast_to(rows[:, None], candidates.shape), candidates)
    return np.take_along_axis(candidates, np.lexsort((candidates, squared), axis=-1), axis=-1)
