"""Epipolar lines as they are seen in an image: clipped to it, and bent by its lens (numpy)."""

from __future__ import annotations

import numpy as np

from n3match.geometry.camera import distort_points, undistort_checked
from n3match.geometry.checks import (
    check_distortion,
    check_essential,
    check_intrinsics,
    check_points_array,
    check_size,
)

# Straight pieces that stand for a bent line, from edge to edge of the image.
_PIECES = 256
# Along each edge of the image, to find how far it reaches in undistorted coordinates.
_PER_EDGE = 33
_MARGIN = 0.01
# Pixels by which a point may miss itself, its distortion undone and applied again.
_ROUND_TRIP = 0.01
# An epipole has no line: its normal is rounding noise against E and the point.
_NO_NORMAL = 1e-12


def epipolar_lines(
    points0: np.ndarray,
    E: np.ndarray,
    K0: np.ndarray,
    K1: np.ndarray,
    size1: tuple[int, int],
    *,
    distortion0: np.ndarray | None = None,
    distortion1: np.ndarray | None = None,
) -> list[list[np.ndarray]]:
    """Where in image 1 the match of each point of image 0 must be: {x1 : x1ᵀ E x0 = 0}.

    The other way round, the lines in image 0 of points in image 1, are
    `epipolar_lines(points1, E.T, K1, K0, size0)`, with the lenses exchanged likewise.

    Args:
        points0: (N, 2) pixels of image 0, distorted as the image is.
        E: (3, 3) essential matrix, x1ᵀ E x0 = 0 in calibrated coordinates; any scale.
        K0, K1: (3, 3) camera matrices.
        size1: (width, height) of image 1; its edges are half a pixel outside the outermost centres.
        distortion0, distortion1: lens coefficients in OpenCV's order, or None.

    Returns:
        For each point its line in image 1 as pieces, each (M, 2) pixels to be joined by straight
        strokes, M ≥ 2: one piece of two points without distortion; a curve with it. No piece where
        the line misses the image, nor for an epipole, which has no line.

    Raises:
        ValueError: wrong shape, NaN or infinity, singular K, wrong number of coefficients.
    """
    points0 = check_points_array("points0", points0)
    E = check_essential("E", E)
    K0, K1 = check_intrinsics("K0", K0), check_intrinsics("K1", K1)
    d0 = check_distortion("distortion0", distortion0)
    d1 = check_distortion("distortion1", distortion1)
    width, height = check_size("size1", size1)
    image = np.array([[-0.5, -0.5], [width - 0.5, height - 0.5]])

    x0 = np.column_stack((undistort_checked(points0, K0, d0), np.ones(len(points0))))
    border = undistort_checked(_border(image), K1, d1)
    margin = _MARGIN * np.ptp(border, axis=0)  # the border bulges between its points
    reach = np.stack((border.min(axis=0) - margin, border.max(axis=0) + margin))
    shortest = _NO_NORMAL * np.linalg.norm(E) * np.linalg.norm(x0, axis=1)
    lines: list[list[np.ndarray]] = []
    for line, least in zip(x0 @ E.T, shortest):
        squared = line[:2] @ line[:2]
        if squared <= least**2:
            lines.append([])
            continue
        nearest, along = -line[2] * line[:2] / squared, np.array([-line[1], line[0]])
        enter, leave = _inside(nearest[None], along[None], reach)
        if not enter[0] < leave[0]:
            lines.append([])
            continue
        steps = np.linspace(enter[0], leave[0], 2 if d1 is None else _PIECES + 1)
        curve = nearest + steps[:, None] * along
        pixels = distort_points(curve, K1, d1)
        sound = np.ones(len(pixels), dtype=bool)
        if d1 is not None:
            # Beyond the lens's reach the polynomial may fold points back into the image.
            again = (undistort_checked(pixels, K1, d1) - curve) @ K1[:2, :2].T
            sound = np.abs(again).max(axis=1) < _ROUND_TRIP
        lines.append(_clipped(pixels, sound, image))
    return lines


def _border(box: np.ndarray) -> np.ndarray:
    """(4 · _PER_EDGE, 2) points along the edges of a box ((x, y) lowest, (x, y) highest)."""
    x, y = np.linspace(box[0], box[1], _PER_EDGE).T
    (left, top), (right, bottom) = box
    horizontal = [np.column_stack((x, np.full_like(x, edge))) for edge in (top, bottom)]
    vertical = [np.column_stack((np.full_like(y, edge), y)) for edge in (left, right)]
    return np.concatenate((*horizontal, *vertical))


def _inside(
    start: np.ndarray, step: np.ndarray, box: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest s with start + s · step in the box; lowest ≥ highest where none.

    Liang and Barsky's clipping, "A New Concept and Method for Line Clipping" (1984).

    Args:
        start, step: (N, 2). box: (2, 2), lowest and highest (x, y).

    Returns:
        (N,), (N,): infinite where nothing bounds s.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = (box[0] - start) / step, (box[1] - start) / step
    level = step == 0  # always inside in this direction, or never
    within = level & (box[0] <= start) & (start <= box[1])
    enter = np.where(level, np.where(within, -np.inf, np.inf), np.minimum(low, high))
    leave = np.where(level, np.where(within, np.inf, -np.inf), np.maximum(low, high))
    return enter.max(axis=1), leave.min(axis=1)


def _clipped(pixels: np.ndarray, sound: np.ndarray, image: np.ndarray) -> list[np.ndarray]:
    """The parts of a polyline (M, 2) in the image, of strokes between sound points."""
    start, step = pixels[:-1], np.diff(pixels, axis=0)
    enter, leave = _inside(start, step, image)
    enter, leave = np.maximum(enter, 0.0), np.minimum(leave, 1.0)
    seen = (enter < leave) & sound[:-1] & sound[1:]
    pieces: list[list[np.ndarray]] = []
    for i in np.flatnonzero(seen):
        goes_on = i > 0 and seen[i - 1] and enter[i] == 0 and leave[i - 1] == 1
        if not goes_on:
            pieces.append([start[i] + enter[i] * step[i]])
        pieces[-1].append(start[i] + leave[i] * step[i])
    return [np.array(piece) for piece in pieces]
