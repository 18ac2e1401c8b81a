"""Which of several argument lists a call follows, as OpenCV's Python binding finds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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
    return value is not None and np.ndim(value) == 2 and min(np.shape(value)) > 1


def point_array(name: str, points: object) -> np.ndarray:
    """(N, 2) float64 of any of OpenCV's layouts: (N, 2), (N, 1, 2), (1, N, 2).

    Raises:
        ValueError: another shape, NaN or infinite numbers. TypeError: not numbers.
    """
    shape = np.shape(points)
    if len(shape) == 3 and shape[2] == 2 and 1 in shape[:2]:
        points = np.reshape(points, (-1, 2))
    return check_points_array(name, points)


def mask_array(name: str, mask: object, count: int) -> np.ndarray:
    """(N,) uint8 of a mask (N, 1), (1, N) or (N,)."""
    array = np.asarray(mask)
    if array.size != count or array.ndim > 2:
        raise ValueError(f"{name} must have shape (N, 1) = {(count, 1)}, got {array.shape}")
    return array.reshape(-1).astype(np.uint8)
