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
    found = nearest_neighbors(desc0, desc1)
    is_nearest = found.index.numpy()[index0] == index1
    ratio = np.where(is_nearest, found.ratio.numpy()[index0], 1.0)
    if len(np.unique(index1)) == len(index1):
        return ratio, np.ones(len(index1), dtype=bool)
    return ratio, is_nearest & found.mutual.numpy()[index0]
