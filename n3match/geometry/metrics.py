"""Summaries of pose errors over many image pairs (numpy).

Two different numbers are in use, and both are here under their own names: the binned mAP of the
CNNet / N³ / OANet papers and the AUC of later ones.

Both take pose errors in degrees, one a pair; a pair whose pose could not be estimated has an
error of 180.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_BIN_DEG = 5


def mean_average_precision(
    errors: Sequence[float] | np.ndarray, thresholds: Sequence[float] = (5, 10, 20)
) -> dict[float, float]:
    """mAP@τ as published: the mean of acc(5), acc(10), …, acc(τ).

    acc(τ) is the share of pairs with error < τ, so mAP@5 = acc(5),
    mAP@10 = mean(acc(5), acc(10)) and mAP@20 = mean(acc(5), acc(10), acc(15), acc(20)); Yi et
    al. (CVPR 2018), Zhang et al. (ICCV 2019).

    Args:
        errors: (P,) pose errors in degrees, P ≥ 1.
        thresholds: multiples of 5 degrees.

    Returns:
        {threshold: value in 0…1}, in the order of `thresholds`.

    Raises:
        ValueError: no errors, a NaN or negative one, or a threshold that is not a positive
            multiple of 5.
    """
    errors = _check_errors(errors)
    result = {}
    for threshold in thresholds:
        if not threshold > 0 or threshold % _BIN_DEG:
            raise ValueError(
                f"thresholds must be positive multiples of {_BIN_DEG} degrees, got {threshold}"
            )
        bins = np.arange(_BIN_DEG, threshold + _BIN_DEG, _BIN_DEG)
        result[threshold] = float(np.mean([np.mean(errors < edge) for edge in bins]))
    return result


def pose_auc(
    errors: Sequence[float] | np.ndarray, thresholds: Sequence[float] = (5, 10, 20)
) -> dict[float, float]:
    """Area under the recall curve up to each threshold, divided by the threshold.

    The curve joins (0, 0) and the points (i-th smallest error, i / P) by straight lines and is
    constant from the last error below the threshold on (the trapezoid rule of SuperGlue's and
    later evaluations).

    Args:
        errors: (P,) pose errors in degrees, P ≥ 1.
        thresholds: any positive numbers of degrees.

    Returns:
        {threshold: value in 0…1}, in the order of `thresholds`.

    Raises:
        ValueError: no errors, a NaN or negative one, or a threshold that is not positive.
    """
    errors = np.sort(_check_errors(errors))
    recall = np.arange(1, len(errors) + 1) / len(errors)
    result = {}
    for threshold in thresholds:
        if not (threshold > 0 and np.isfinite(threshold)):
            raise ValueError(f"thresholds must be positive and finite, got {threshold}")
        below = int(np.searchsorted(errors, threshold))
        x = np.concatenate(([0.0], errors[:below], [threshold]))
        y = np.concatenate(([0.0], recall[:below], [recall[below - 1] if below else 0.0]))
        area = float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))
        result[threshold] = area / float(threshold)
    return result


def _check_errors(errors: Sequence[float] | np.ndarray) -> np.ndarray:
    array = np.asarray(errors, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"errors must have shape (P,) with P at least 1, got {array.shape}")
    if np.isnan(array).any() or (array < 0).any():
        raise ValueError("errors must be degrees from 0 on, without NaN (a failed pair has 180)")
    return array
