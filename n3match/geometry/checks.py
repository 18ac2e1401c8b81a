"""Argument checks shared by the geometry functions, and arrays where tensors are worked with.

Every message names the argument, what was found and what was wanted.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from n3match.arguments import dense_tensor, found, lent_tensor, positive, real, real_array, whole

# OpenCV and PoseLib count them in 32 bits.
_MOST_ITERATIONS = 2**31 - 1
# Of all that any images have; larger ones leave the numbers that NumPy counts with.
_MOST_PUTATIVE = 2**53


def arrays_too(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of tensors for numpy arrays as well: then its results are arrays.

    Formulas are written once, on tensors; arrays lend them their memory, so nothing is copied.
    """

    names = [*inspect.signature(function).parameters]

    @functools.wraps(function)
    def call(*args, **kwargs):
        if not any(isinstance(value, np.ndarray) for value in (*args, *kwargs.values())):
            return function(*args, **kwargs)
        lent = {
            name: lent_tensor(name, value) if isinstance(value, np.ndarray) else value
            for name, value in [*zip(names, args), *kwargs.items()]
        }
        result = function(**lent)
        several = isinstance(result, tuple)
        # A tensor among them may want a gradient, which an array can't carry.
        found = tuple(a.detach().numpy() for a in (result if several else (result,)))
        return found if several else found[0]

    return call


def check_tensor(name: str, value: Any, *tail: int | None, kind: Any = torch.Tensor) -> None:
    """Require a floating-point tensor (`kind` np.ndarray: array) whose last dimensions are `tail`
    (None: any size)."""
    if not isinstance(value, kind):
        wanted = f"{kind.__module__}.{kind.__name__}"
        raise TypeError(f"{name} must be a {wanted}, got {found(value)}")
    if isinstance(value, torch.Tensor):
        dense_tensor(name, value)
    floating = value.dtype.kind == "f" if kind is np.ndarray else value.is_floating_point()
    if not floating:
        raise TypeError(f"{name} must have a floating-point dtype, got {value.dtype}")
    shape = tuple(value.shape)
    if len(shape) < len(tail) or any(
        want is not None and have != want
        for have, want in zip(shape[len(shape) - len(tail) :], tail)
    ):
        wanted = ", ".join("N" if size is None else str(size) for size in tail)
        raise ValueError(f"{name} must have shape (..., {wanted}), got {shape}")


def check_leading(tails: dict[str, int], **arrays: Any) -> None:
    """Require leading dimensions, all but the last `tails` of each, that broadcast."""
    if torch.compiler.is_compiling():
        return  # a graph's sizes would become constants
    shapes = {n: tuple(a.shape)[: a.ndim - tails[n]] for n, a in arrays.items()}
    try:
        np.broadcast_shapes(*shapes.values())
    except ValueError:
        told = " and ".join(f"{name} {tuple(a.shape)}" for name, a in arrays.items())
        raise ValueError(f"{told}: leading dimensions don't broadcast") from None


def check_same_length(name0: str, x0: Any, name1: str, x1: Any) -> None:
    """Require as many points (dimension -2) in x0 as in x1."""
    if x0.shape[-2] != x1.shape[-2]:
        raise ValueError(
            f"{name0} and {name1} must hold the same number of points, "
            f"got shapes {tuple(x0.shape)} and {tuple(x1.shape)}"
        )


def check_points_array(name: str, value: object) -> np.ndarray:
    """Require finite (N, 2) numbers; returns them as a contiguous float64 array."""
    array = real_array(name, value)
    if array.ndim != 2 or array.shape[1] != 2:
        # An empty list has shape (0,): no matches is an ordinary input, not a mistake.
        if array.size == 0:
            return np.zeros((0, 2))
        raise ValueError(f"{name} must have shape (N, 2), got {array.shape}")
    if not np.isfinite(array).all():
        bad = ~np.isfinite(array).all(axis=1)
        raise ValueError(
            f"{name} must be finite, got NaN or infinity in {int(bad.sum())} of {len(array)} rows "
            f"(first: row {int(np.flatnonzero(bad)[0])})"
        )
    return np.ascontiguousarray(array)


def check_intrinsics(name: str, value: object) -> np.ndarray:
    """Require an invertible upper-triangular 3x3 camera matrix; returns it as float64."""
    K = real_array(name, value)
    if K.shape != (3, 3):
        raise ValueError(f"{name} must have shape (3, 3), got {K.shape}")
    if not np.isfinite(K).all():
        raise ValueError(f"{name} must be finite, got {K.tolist()}")
    if K[0, 0] <= 0 or K[1, 1] <= 0:
        raise ValueError(
            f"{name} must have positive focal lengths, got fx={K[0, 0]:g}, fy={K[1, 1]:g} "
            "(a singular camera matrix has no calibrated coordinates)"
        )
    if K[1, 0] != 0 or not np.array_equal(K[2], (0.0, 0.0, 1.0)):
        raise ValueError(f"{name} must be [[fx, s, cx], [0, fy, cy], [0, 0, 1]], got {K.tolist()}")
    return K


def check_essential(name: str, value: object) -> np.ndarray:
    """Require a finite 3x3 matrix other than zero; returns it as float64."""
    E = real_array(name, value)
    if E.shape != (3, 3):
        raise ValueError(f"{name} must have shape (3, 3), got {E.shape}")
    if not np.isfinite(E).all() or not E.any():
        raise ValueError(f"{name} must be finite and not zero, got {E.tolist()}")
    return E


def check_size(name: str, value: object) -> tuple[float, float]:
    """Require (width, height), both positive."""
    size = real_array(name, value)
    if size.shape != (2,) or not np.isfinite(size).all() or size.min() < 1:
        shown = value if size.shape == (2,) else found(value)
        raise ValueError(f"{name} must be (width, height) in pixels, both positive, got {shown}")
    return float(size[0]), float(size[1])


def check_distortion(name: str, value: object) -> np.ndarray | None:
    """Require OpenCV-order coefficients (4, 5, 8, 12 or 14 of them) or None.

    None is also the answer when all coefficients are zero: there is nothing to undo.
    """
    if value is None:
        return None
    coefficients = real_array(name, value).ravel()
    if coefficients.size not in (0, 4, 5, 8, 12, 14):
        raise ValueError(
            f"{name} must hold 4, 5, 8, 12 or 14 coefficients in OpenCV's order "
            f"(k1, k2, p1, p2[, k3[, ...]]), got {coefficients.size}"
        )
    if not np.isfinite(coefficients).all():
        raise ValueError(f"{name} must be finite, got {coefficients.tolist()}")
    return coefficients if coefficients.any() else None


def check_weights(name: str, value: object, length: int) -> np.ndarray | None:
    """Require `length` finite, non-negative numbers, or None."""
    if value is None:
        return None
    weights = real_array(name, value)
    if weights.shape != (length,):
        raise ValueError(f"{name} must have shape ({length},), got {weights.shape}")
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError(f"{name} must be finite and not negative")
    return weights


def check_matches(points0: object, points1: object) -> tuple[np.ndarray, np.ndarray]:
    """Require as many points0 (N, 2) as points1; returns both as contiguous float64 arrays."""
    x0, x1 = check_points_array("points0", points0), check_points_array("points1", points1)
    if len(x0) != len(x1):
        raise ValueError(
            f"points0 and points1 must hold the same number of points, got {len(x0)} and {len(x1)}"
        )
    return x0, x1


def check_putative(num_putative: int | None, length: int) -> int:
    """Require at least `length` matches before a filter; None: as many."""
    if num_putative is None:
        return length
    num_putative = whole("num_putative", num_putative, most=_MOST_PUTATIVE)
    if num_putative < length:
        raise ValueError(
            f"num_putative must be at least the number of matches ({length}), got {num_putative}"
        )
    return num_putative


def check_known(
    logits: object, keypoint_change: object, length: int
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Require `length` logits, infinite ones too, and as many rows (N, 3), or None for either."""
    if logits is not None:
        logits = real_array("logits", logits)
        if logits.shape != (length,) or np.isnan(logits).any():
            raise ValueError(f"logits must have shape ({length},) without NaN, got {logits.shape}")
    if keypoint_change is not None:
        keypoint_change = real_array("keypoint_change", keypoint_change)
        if keypoint_change.shape != (length, 3) or not np.isfinite(keypoint_change).all():
            raise ValueError(
                f"keypoint_change must be finite, of shape ({length}, 3), "
                f"got {keypoint_change.shape}"
            )
    return logits, keypoint_change


def check_probability(name: str, value: object) -> float | None:
    """Require a number in [0, 1], or None."""
    if value is None:
        return None
    number = real(name, value)
    if not 0 <= number <= 1:
        raise ValueError(f"{name} must be between 0 and 1, got {number}")
    return number


def check_sampling(
    threshold: float, confidence: float, max_iterations: int | None, seed: int
) -> tuple[float, float, int | None, int]:
    """Require options of a robust estimator that are in range; returns them as Python's numbers."""
    threshold = positive("threshold", threshold, " of pixels")
    confidence = real("confidence", confidence)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1 (exclusive), got {confidence}")
    if max_iterations is not None:
        max_iterations = whole("max_iterations", max_iterations, 1, _MOST_ITERATIONS)
    return threshold, confidence, max_iterations, whole("seed", seed, 0, 2**31 - 1)
