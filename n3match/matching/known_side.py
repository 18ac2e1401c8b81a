"""What descriptors say of matches that were made elsewhere: ratio and mutual flag."""

from __future__ import annotations

import numpy as np

from n3match.matching.nearest import nearest_neighbors


def is_gradient_histogram(descriptors: np.ndarray) -> bool:
    """Whether descriptors look like SIFT's or RootSIFT's: 128 numbers, none of them negative.

    The shipped filters learnt what a ratio means from those. Learned descriptors (SuperPoint,
    DISK, …) have both signs, and their ratios lie elsewhere.
    """
    if descriptors.ndim != 2 or descriptors.shape[1] != 128 or not len(descriptors):
        return False
    return bool(np.isfinite(descriptors).all() and descriptors.min() >= 0)


def ratio_and_mutual(
    index0: np.ndarray, index1: np.ndarray, desc0: np.ndarray, desc1: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Ratio and mutual flag of given matches, as `putative_matches` has them.

    Args:
        index0, index1: (M,) rows of `desc0` and `desc1` that are matched.
        desc0, desc1: (N0, D), (N1, D).

    Returns:
        (M,) float64 ratio of nearest to second nearest distance, 1 where `index1` isn't the
        nearest; (M,) bool, nearest in both directions. Where no two matches share a keypoint of
        image 1 the matcher has made them mutual already, and all are taken to be.
    """
    made_mutual = len(np.unique(index1)) == len(index1)
    if made_mutual:  # the other rows of image 0 tell nothing more
        desc0, index0 = desc0[index0], np.arange(len(index0))
    found = nearest_neighbors(desc0, desc1)
    is_nearest = found.index.numpy()[index0] == index1
    ratio = np.where(is_nearest, found.ratio.numpy()[index0], 1.0)
    if made_mutual:
        return ratio, np.ones(len(index1), dtype=bool)
    return ratio, is_nearest & found.mutual.numpy()[index0]


def side_columns(
    names: tuple[str, ...], ratio: np.ndarray, mutual: np.ndarray
) -> np.ndarray | None:
    """(M, S) side information for a filter that wants these columns; None where it wants none.

    Raises:
        ValueError: a name other than "ratio" and "mutual".
    """
    known = {"ratio": ratio, "mutual": mutual}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"filter: wants side information {unknown}, known here are {[*known]}")
    return np.stack([known[n].astype(np.float64) for n in names], axis=1) if names else None
