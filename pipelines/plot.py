"""A picture of matches: both photographs side by side, kept matches over faint rejected ones."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from n3match.datasets.images import read_image_rgb
from n3match.pipelines.two_view import TwoView
from n3match.pipelines.whole_file import check_target, whole_file

KEPT_COLOUR = "#ffd60a"
RIGHT_COLOUR, WRONG_COLOUR = "#57d968", "#ff5a4f"
REJECTED_COLOUR = "#ffffff"
_BACKGROUND = "#16181d"
_TEXT = "#e8eaed"
_WIDTH_INCHES = 12.0
_DPI = 100
_GAP = 0.015  # between the photographs, of the picture's width
_BAND_INCHES = 0.75  # above the photographs, for the title and the legend
# More lines than these make a plane of colour; then they get more transparent.
_OPAQUE_KEPT = 150
_OPAQUE_REJECTED = 500


def check_picture_target(path: str | os.PathLike) -> None:
    """Asked before the work that a picture is drawn of.

    Raises:
        ValueError: another ending than .png. OSError: no file can be written there.
    """
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"{path}: pictures are PNG files, wanted a name that ends in .png")
    check_target(path)


def plot_two_view(path: str | os.PathLike, view: TwoView, *, note: str = "") -> None:
    """Draws the matches of two photographs that were read from files; see `plot_matches`."""
    images = []
    for photo in view.photographs:
        rgb = read_image_rgb(photo.path)
        height, width = photo.image.shape
        if rgb.shape[:2] != (height, width):
            rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
        images.append(rgb)
    kept = view.kept
    title = f"{len(kept)} putative matches, {np.count_nonzero(kept)} kept"
    plot_matches(
        path,
        images[0],
        images[1],
        view.putative.points0,
        view.putative.points1,
        kept,
        title=f"{title}, {note}" if note else title,
    )


def plot_matches(
    path: str | os.PathLike,
    image0: np.ndarray,
    image1: np.ndarray,
    points0: np.ndarray,
    points1: np.ndarray,
    kept: np.ndarray,
    *,
    title: str,
    right: np.ndarray | None = None,
) -> None:
    """Writes a PNG with both images at one height, and a line for each match.

    Args:
        path: of the picture; written to a temporary file and renamed.
        image0: (H0, W0) grey or (H0, W0, 3) RGB, uint8. image1: the same for image 1.
        points0, points1: (N, 2) pixels of the matches.
        kept: (N,) bool; kept matches get one colour, the others faint lines below them.
        title: one line above the images.
        right: (N,) bool, where it is known: the kept matches get two colours then.

    Raises:
        ValueError: shapes that don't fit. OSError: the picture can't be written.
    """
    points0, points1 = (np.asarray(p, dtype=np.float64).reshape(-1, 2) for p in (points0, points1))
    kept = np.asarray(kept, dtype=bool)
    if not len(points0) == len(points1) == len(kept):
        raise ValueError(
            "points0, points1 and kept must have one row per match, got "
            f"{len(points0)}, {len(points1)} and {len(kept)}"
        )
    # In units of image height: image 0 from x = 0, image 1 behind a gap.
    aspect0, aspect1 = (image.shape[1] / image.shape[0] for image in (image0, image1))
    gap = _GAP * (aspect0 + aspect1)
    total = aspect0 + gap + aspect1
    ends0 = (points0 + 0.5) / image0.shape[0]
    ends1 = (points1 + 0.5) / image1.shape[0] + (aspect0 + gap, 0.0)

    height_inches = _WIDTH_INCHES / total
    figure = Figure(
        figsize=(_WIDTH_INCHES, height_inches + _BAND_INCHES), dpi=_DPI, facecolor=_BACKGROUND
    )
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, height_inches / (height_inches + _BAND_INCHES)))
    axes.imshow(_dimmed(image0), extent=(0, aspect0, 1, 0), interpolation="antialiased")
    axes.imshow(_dimmed(image1), extent=(aspect0 + gap, total, 1, 0), interpolation="antialiased")
    axes.set(xlim=(0, total), ylim=(1, 0), aspect="auto")
    axes.set_axis_off()

    lines = np.stack((ends0, ends1), axis=1)
    rejected_count = int((~kept).sum())
    groups = {"kept": (KEPT_COLOUR, kept)}
    if right is not None:
        right = np.asarray(right, dtype=bool)
        groups = {
            "kept, right": (RIGHT_COLOUR, kept & right),
            "kept, wrong": (WRONG_COLOUR, kept & ~right),
        }
    axes.add_collection(
        LineCollection(
            lines[~kept],
            colors=REJECTED_COLOUR,
            linewidths=0.5,
            alpha=0.2 * min(1.0, _OPAQUE_REJECTED / max(1, rejected_count)) ** 0.5,
        )
    )
    fade = min(1.0, _OPAQUE_KEPT / max(1, int(kept.sum()))) ** 0.5
    for colour, chosen in groups.values():
        axes.add_collection(
            LineCollection(lines[chosen], colors=colour, linewidths=0.8, alpha=0.75 * fade)
        )
        for ends in (ends0, ends1):
            axes.scatter(*ends[chosen].T, s=5, color=colour, linewidths=0)

    figure.text(
        0.012, 1 - 0.5 * _BAND_INCHES / figure.get_figheight(), title,
        color=_TEXT, fontsize=14, va="center", ha="left",
    )
    figure.legend(
        handles=[
            *(
                Line2D([], [], color=colour, linewidth=2, label=f"{name} ({chosen.sum()})")
                for name, (colour, chosen) in groups.items()
            ),
            Line2D(
                [], [], color=REJECTED_COLOUR, alpha=0.35, linewidth=2,
                label=f"rejected ({rejected_count})",
            ),
        ],
        loc="center right",
        bbox_to_anchor=(0.995, 1 - 0.5 * _BAND_INCHES / figure.get_figheight()),
        ncols=len(groups) + 1,
        frameon=False,
        labelcolor=_TEXT,
        fontsize=12,
    )
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", facecolor=_BACKGROUND)


def _dimmed(image: np.ndarray) -> np.ndarray:
    """RGB, darker and with less colour, so that the lines stand out."""
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    image = image.astype(np.float32)
    grey = image.mean(axis=2, keepdims=True)
    return (0.65 * (0.6 * image + 0.4 * grey)).astype(np.uint8)
