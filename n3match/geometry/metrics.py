"""Errors of relative poses in degrees, and their summaries over many image pairs.

Two different summaries are in use, and both are here under their own names: the binned mAP of the
CNNet / N³ / OANet papers and the AUC of later ones. Both take one error a pair; a pair whose pose
could not be estimated has, by convention, an error of 180.

... any leading dimensions that broadcast
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from n3match.arguments import (
    dense_tensor,
    found,
    lent_tensor,
    positive,
    real,
    real_array,
    sequence,
)
from n3match.geometry.checks import check_leading

_DEGREES = 180.0 / torch.pi
_BIN_DEG = 5
_LARGEST = 180


def rotation_error_deg(
    R: torch.Tensor | np.ndarray, R_gt: torch.Tensor | np.ndarray
) -> torch.Tensor:
    """Angle of the rotation R_gtᵀ R: (..., 3, 3) and (..., 3, 3) -> (...), 0 to 180 degrees.

    The angle is taken from its sine and cosine together, so that small angles keep their digits
    (arccos of the trace alone loses half of them).

    Args:
        R, R_gt: (..., 3, 3) the estimated and the true rotation.

    Raises:
        ValueError, TypeError: naming the argument.
    """
    R, R_gt = _pair("R", R, "R_gt", R_gt, (3, 3))
    # R_gtᵀ R written out: under autocast a matrix product would drop to half precision.
    d = (R_gt[..., :, :, None] * R[..., :, None, :]).sum(-3)
    axis = torch.stack(
        (
            d[..., 2, 1] - d[..., 1, 2],
            d[..., 0, 2] - d[..., 2, 0],
            d[..., 1, 0] - d[..., 0, 1],
        ),
        dim=-1,
    )
    cosine = (d.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    return torch.atan2(torch.linalg.vector_norm(axis, dim=-1) / 2, cosine) * _DEGREES


def translation_error_deg(
    t: torch.Tensor | np.ndarray, t_gt: torch.Tensor | np.ndarray
) -> torch.Tensor:
    """Angle between two directions whose sign is ignored: (..., 3), (..., 3) -> (...).

    0 to 90 degrees, as in the published evaluations: an essential matrix does not tell t from
    −t. Lengths are ignored; a zero vector has no direction and counts as 90 degrees off.

    Args:
        t, t_gt: (..., 3) the estimated and the true direction, of any length.

    Raises:
        ValueError, TypeError: naming the argument.
    """
    t, t_gt = _pair("t", t, "t_gt", t_gt, (3,))
    t, t_gt = torch.broadcast_tensors(t, t_gt)
    # Each is made a unit vector first: products of tiny lengths would underflow.
    length = torch.linalg.vector_norm(t, dim=-1, keepdim=True)
    length_gt = torch.linalg.vector_norm(t_gt, dim=-1, keepdim=True)
    undefined = ((length == 0) | (length_gt == 0)).squeeze(-1)
    u = t / torch.where(length == 0, 1.0, length)
    v = t_gt / torch.where(length_gt == 0, 1.0, length_gt)
    sine = torch.linalg.vector_norm(torch.linalg.cross(u, v, dim=-1), dim=-1)
    angle = torch.atan2(sine, (u * v).sum(-1).abs()) * _DEGREES
    return torch.where(undefined, 90.0, angle)


def pose_error_deg(
    R: torch.Tensor | np.ndarray,
    t: torch.Tensor | np.ndarray,
    R_gt: torch.Tensor | np.ndarray,
    t_gt: torch.Tensor | np.ndarray,
) -> torch.Tensor:
    """The larger of `rotation_error_deg` and `translation_error_deg`, (...), degrees.

    Args:
        R, R_gt: (..., 3, 3) the estimated and the true rotation.
        t, t_gt: (..., 3) the estimated and the true direction of translation, of any length.

    Raises:
        ValueError, TypeError: naming the argument.
    """
    rotation, translation = rotation_error_deg(R, R_gt), translation_error_deg(t, t_gt)
    check_leading({"R": 0, "t": 0}, R=rotation, t=translation)
    return torch.maximum(rotation, translation)


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
            multiple of 5, at most 180.
    """
    errors = _check_errors(errors)
    result = {}
    for threshold in sequence("thresholds", thresholds, "degrees"):
        degrees = real("thresholds", threshold)
        if not 0 < degrees <= _LARGEST or degrees % _BIN_DEG:
            raise ValueError(
                f"thresholds must be multiples of {_BIN_DEG} degrees, got {degrees:g}: "
                f"from {_BIN_DEG} to {_LARGEST} wanted"
            )
        bins = np.arange(_BIN_DEG, degrees + _BIN_DEG, _BIN_DEG)
        result[_as_key(threshold)] = float(np.mean([np.mean(errors < edge) for edge in bins]))
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
    for threshold in sequence("thresholds", thresholds, "degrees"):
        degrees = positive("thresholds", threshold, " of degrees")
        below = int(np.searchsorted(errors, degrees))
        x = np.concatenate(([0.0], errors[:below], [degrees]))
        y = np.concatenate(([0.0], recall[:below], [recall[below - 1] if below else 0.0]))
        area = float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))
        result[_as_key(threshold)] = area / degrees
    return result


def _as_key(threshold: Any) -> float:
    """A number of degrees as a key of a dictionary: what it was, where that can be one."""
    return threshold if isinstance(threshold, (int, float)) else float(threshold)


def _check_errors(errors: Sequence[float] | np.ndarray) -> np.ndarray:
    array = real_array("errors", errors)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"errors must have shape (P,) with P at least 1, got {array.shape}")
    if np.isnan(array).any() or (array < 0).any():
        raise ValueError("errors must be degrees from 0 on, without NaN (a failed pair has 180)")
    return array


def _pair(
    name0: str, value0: object, name1: str, value1: object, tail: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as floating-point tensors of one dtype; numpy arrays are welcome."""
    tensors = []
    for name, value in ((name0, value0), (name1, value1)):
        if not isinstance(value, (torch.Tensor, np.ndarray)):
            raise TypeError(f"{name} must be a tensor or an array, got {found(value)}")
        is_array = isinstance(value, np.ndarray)
        tensor = lent_tensor(name, value) if is_array else dense_tensor(name, value)
        if tensor.is_complex():
            raise TypeError(f"{name} must be real numbers, got {tensor.dtype}")
        if tuple(tensor.shape[-len(tail) :]) != tail:
            wanted = ", ".join(map(str, tail))
            raise ValueError(f"{name} must have shape (..., {wanted}), got {tuple(tensor.shape)}")
        tensors.append(tensor if tensor.is_floating_point() else tensor.double())
    tails = {name0: len(tail), name1: len(tail)}
    check_leading(tails, **dict(zip(tails, tensors)))
    dtype = torch.promote_types(tensors[0].dtype, tensors[1].dtype)
    return tensors[0].to(dtype), tensors[1].to(dtype)
