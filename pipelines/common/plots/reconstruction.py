"""A picture of a reconstruction: its points in their colours and its cameras."""

from __future__ import annotations

import os

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from n3match.files.whole import whole_file
from n3match.pipelines.common.plots.sheet import BACKGROUND, TEXT, WIDTH_INCHES

_CAMERAS = "#ffd60a"
_POINTS = 40_000  # more don't show
_FRUSTUM = 0.04  # depth of a camera's pyramid, in extents of the cameras
_CORNERS = np.array([[-0.6, -0.45, 1], [0.6, -0.45, 1], [0.6, 0.45, 1], [-0.6, 0.45, 1]])
_MARGIN = 0.05


def draw_reconstruction(
    path: str | os.PathLike,
    points: np.ndarray,
    colours: np.ndarray,
    R: np.ndarray,
    centres: np.ndarray,
) -> None:
    """Writes a PNG: points and cameras from above and from the side.

    Args:
        path: of the picture; written to a temporary file and renamed.
        points: (P, 3); colours: (P, 3) uint8 red, green, blue.
        R: (C, 3, 3) rotations from the world to the cameras; centres: (C, 3) of these.

    Raises:
        OSError: the picture can't be written.
    """
    axes = upright_axes(R, centres)
    step = max(1, len(points) // _POINTS)
    points, colours = points[::step], colours[::step] / 255.0
    extent = max(float(np.ptp(centres, axis=0).max()), 1e-9)
    pyramids = centres[:, None] + _FRUSTUM * extent * np.einsum("nji,cj->nci", R, _CORNERS)
    figure = Figure(figsize=(WIDTH_INCHES, WIDTH_INCHES / 2), dpi=100, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    for column, (title, rows) in enumerate((("from above", (0, 2)), ("from the side", (0, 1)))):
        plot = figure.add_axes((column / 2, 0, 0.5, 1), facecolor=BACKGROUND)
        project = axes[list(rows)].T
        flat, places = points @ project, centres @ project
        plot.scatter(*flat.T, s=1.5, c=colours, linewidths=0)
        ends = pyramids @ project
        sides = [np.stack([place, end]) for place, four in zip(places, ends) for end in four]
        frames = [np.concatenate([four, four[:1]]) for four in ends]
        plot.add_collection(LineCollection([*sides, *frames], colors=_CAMERAS, linewidths=0.8))
        plot.set_aspect("equal")
        low, high = _limits(flat, places)
        plot.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        plot.set_axis_off()
        plot.text(
            0.03, 0.96, f"{title}: {len(R)} cameras, {len(points) * step} points"
            if column == 0 else title,
            color=TEXT, transform=plot.transAxes, va="top",
        )
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", facecolor=BACKGROUND)


def upright_axes(R: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(3, 3) rows: right, up, and towards whoever looks from the side.

    Up is where the cameras' upper edges point on average; right is where they are spread most.
    """
    up = -R[:, 1].mean(axis=0)
    up /= max(np.linalg.norm(up), 1e-12)
    flat = (centres - centres.mean(axis=0)) @ (np.eye(3) - np.outer(up, up))
    right = np.linalg.svd(flat, full_matrices=True)[2][0]
    right -= up * (up @ right)
    right /= max(np.linalg.norm(right), 1e-12)
    return np.stack([right, up, np.cross(right, up)])


def _limits(points: np.ndarray, cameras: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All cameras, and the points but for the few that lie far out."""
    low, high = cameras.min(axis=0), cameras.max(axis=0)
    if len(points):
        near = np.percentile(points, [2, 98], axis=0)
        low, high = np.minimum(low, near[0]), np.maximum(high, near[1])
    side = max(float((high - low).max()), 1e-9) * (0.5 + _MARGIN)
    middle = (low + high) / 2
    return middle - side, middle + side
