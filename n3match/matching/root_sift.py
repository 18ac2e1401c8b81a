"""RootSIFT: compare SIFT histograms by the Hellinger kernel.

Source: Arandjelović & Zisserman, "Three things everyone should know to improve object retrieval",
CVPR 2012.
"""

import numpy as np


def root_sift(descriptors: np.ndarray) -> np.ndarray:
    """Square root of each descriptor after scaling it to sum 1.

    Args:
        descriptors: (N, D) non-negative histograms, any real dtype.

    Returns:
        (N, D) float32, rows of Euclidean norm 1; an all-zero row stays zero.

    Raises:
        ValueError: not two-dimensional, or a negative or non-finite entry.
    """
    descriptors = np.asarray(descriptors, dtype=np.float32)
    if descriptors.ndim != 2:
        raise ValueError(f"descriptors: found shape {descriptors.shape}, wanted (N, D)")
    if descriptors.size and not (np.isfinite(descriptors).all() and descriptors.min() >= 0):
        raise ValueError("descriptors: found a negative or non-finite entry, wanted histograms")
    total = descriptors.sum(axis=1, keepdims=True)
    return np.sqrt(descriptors / np.where(total > 0, total, 1))
