"""Checks that the plugs share: images, cameras and keypoints must speak of the same pixels (numpy).

Every message names the argument, what was found and what was wanted.
"""

from __future__ import annotations

import numpy as np

from n3match.geometry import guess_intrinsics
from n3match.geometry.checks import check_intrinsics

# No lens has a shorter focal length in pixels: such a number is in millimetres, or in image sizes.
_SHORTEST_FOCAL = 10.0
# Detectors that interpolate put keypoints up to about this many pixels outside the image.
_MARGIN = 2.0
# Half of the points farther off the axis than this (focal lengths, 84°) are not seen by a lens.
_WIDEST_MEDIAN = 10.0


def given_or_guessed(
    name: str,
    K: object,
    size_name: str,
    size: tuple[int, int] | None,
    points: np.ndarray | None = None,
) -> np.ndarray:
    """(3, 3) float64 camera matrix: K, checked, or for None a guess from the image's size.

    Args:
        name, K, size, points: as of `check_pixel_camera`.
        size_name: of the argument that tells the size.

    Raises:
        ValueError: as there; neither K nor a size.
    """
    if K is not None:
        return check_pixel_camera(name, K, size, points)
    if size is None:
        raise ValueError(f"{size_name} and {name}: found neither, wanted one of them")
    return guess_intrinsics(size, name=size_name)


def check_pixel_camera(
    name: str, K: object, size: tuple[int, int] | None, points: np.ndarray | None = None
) -> np.ndarray:
    """Require a camera matrix in pixels of this image; returns it as float64.

    Args:
        name: of the argument.
        K: (3, 3).
        size: (width, height); None if unknown: then points and K may both be in other units than
            pixels (calibrated points with the identity are common), but must fit each other.
        points: (N, 2) of the image, looked at only where the size isn't known.

    Raises:
        ValueError: not a camera matrix, a focal length below 10 pixels (millimetres? shares of
            the image's size?), or a principal point outside the image (of another image size?).
    """
    K = check_intrinsics(name, K)
    focal = min(K[0, 0], K[1, 1])
    if size is None:
        if points is not None and len(points) and focal < _SHORTEST_FOCAL:
            off_axis = np.linalg.norm(points - K[:2, 2], axis=1)
            if np.median(off_axis) > _WIDEST_MEDIAN * focal:
                raise ValueError(
                    f"{name} has a focal length of {focal:g}, but its points lie "
                    f"{np.median(off_axis):g} from the principal point (median): {name} must be "
                    "in the units of the points, pixels"
                )
        return K
    if focal < _SHORTEST_FOCAL:
        raise ValueError(
            f"{name} has a focal length of {focal:g}: it must be in pixels, not in millimetres or "
            "relative to the image"
        )
    (width, height), (cx, cy) = size, K[:2, 2]
    if not (0 <= cx <= width and 0 <= cy <= height):
        raise ValueError(
            f"{name} has its principal point at ({cx:g}, {cy:g}), outside the image of "
            f"{width:g} × {height:g}: it must belong to the image at this size"
        )
    return K


def check_inside(
    name: str, points: np.ndarray, size_name: str, size: tuple[int, int]
) -> None:
    """Require points (N, 2) in pixels of an image (width, height), to within 2 pixels.

    Raises:
        ValueError: points outside, as those of an image of another size are.
    """
    outside = ((points < -_MARGIN) | (points > np.array(size) - 1 + _MARGIN)).any(axis=1)
    if outside.any():
        x, y = points[np.flatnonzero(outside)[0]]
        raise ValueError(
            f"{name}: {int(outside.sum())} of {len(points)} lie outside the image of "
            f"{size[0]:g} × {size[1]:g} that {size_name} says, e.g. ({x:g}, {y:g}): they must be "
            "in pixels of an image of that size"
        )


def check_indices(name: str, found: str, index: np.ndarray, keypoints: str, count: int) -> None:
    """Require indices (N,) into `count` keypoints.

    Args:
        name: of the argument that holds the indices. found: which of its numbers they are.
        keypoints: name of what they point at.
    """
    if len(index) and not (index.min() >= 0 and index.max() < count):
        raise ValueError(
            f"{name}: {found} runs from {index.min()} to {index.max()}, "
            f"but {keypoints} holds {count} keypoints"
        )
