"""Which of several argument lists a call follows, as OpenCV's Python binding finds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from n3match.arguments import number_array, real_array
from n3match.geometry.checks import check_points_array


@dataclass(frozen=True)
class Overload:
    """Names in OpenCV's order, how many of them are required, and a test of the values."""

    names: tuple[str, ...]
    required: int
    fits: Callable[[Mapping[str, Any]], bool]

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
        """Values by name; None where they don't fit this list."""
        given = dict(zip(self.names, args))
        if len(args) > len(self.names) or set(kwargs) - set(self.names) or set(kwargs) & set(given):
            return None
        given.update(kwargs)
        if any(name not in given for name in self.names[: self.required]):
            return None
        return given if self.fits(given) else None


def choose(
    function: str, overloads: Mapping[str, Overload], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """The first overload that fits, by its key, and its arguments by name.

    Raises:
        TypeError: none does; the message lists them.
    """
    for key, overload in overloads.items():
        bound = overload.bind(args, kwargs)
        if bound is not None:
            return key, bound
    known = "; ".join(f"({', '.join(overload.names)})" for overload in overloads.values())
    found = [*(type(value).__name__ for value in args), *kwargs]
    raise TypeError(f"{function}: found arguments {found}, which fit none of {known}")


def is_matrix(value: object) -> bool:
    """Whether it has two dimensions, both more than one, as a camera matrix does."""
    shape = shape_of(value)
    return len(shape) == 2 and min(shape) > 1


def shape_of(value: object) -> tuple[int, ...]:
    """(): of no array, nor nested lists that are one."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape)
    try:
        return np.shape(value)
    except (TypeError, ValueError):  # rows of several lengths
        return ()


def point_array(name: str, points: object) -> np.ndarray:
    """(N, 2) float64 of any of OpenCV's layouts: (N, 2), (N, 1, 2), (1, N, 2).

    Raises:
        ValueError: another shape, NaN or infinite numbers. TypeError: not numbers.
    """
    array = real_array(name, points)
    if array.ndim == 3 and array.shape[2] == 2 and 1 in array.shape[:2]:
        array = array.reshape(-1, 2)
    return check_points_array(name, array)


def mask_array(name: str, mask: object, count: int) -> np.ndarray:
    """(N,) uint8 of a mask (N, 1), (1, N) or (N,)."""
    array = number_array(name, mask)
    if array.size != count or array.ndim > 2:
        raise ValueError(f"{name} must have shape (N, 1) = {(count, 1)}, got {array.shape}")
    values = array.reshape(-1)
    with np.errstate(invalid="ignore"):
        found = values.astype(np.uint8)
    return found if (found == values).all() else (values != 0).astype(np.uint8)
