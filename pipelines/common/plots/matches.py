"""A picture of matches: photographs side by side, kept matches over faint rejected ones.

With a pose, epipolar lines below; with a filter, a histogram of its probabilities below that.
"""

from __future__ import annotations

import os

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from n3match.files.whole import check_target
from n3match.geometry import RelativePose
from n3match.matching import PutativeMatches
from n3match.pipelines.common.plots.epipolar import epipolar_bands
from n3match.pipelines.common.plots.probabilities import (
    KEPT_COLOUR,
    REJECTED_COLOUR,
    probability_bands,
)
from n3match.pipelines.common.plots.sheet import Band, SideBySide, heading, write_sheet
from n3match.pipelines.two_view.photograph import Photograph

RIGHT_COLOUR, WRONG_COLOUR = "#57d968", "#ff5a4f"
# More lines than these make a plane of colour; then they get more transparent.
_OPAQUE_KEPT = 150
_OPAQUE_REJECTED = 500


def plot_two_view(
    path: str | os.PathLike,
    photographs: tuple[Photograph, Photograph],
    putative: PutativeMatches,
    kept: np.ndarray,
    logits: np.ndarray | None,
    pose: RelativePose | None = None,
) -> None:
    """Writes a PNG of the matches of two photographs.

    Args:
        path: of the picture; written to a temporary file and renamed.
        photographs: image 0 and image 1.
        putative: N matches in pixels of `Photograph.image`.
        kept: (N,) bool.
        logits: (N,) the filter's; a histogram is below the matches. None: no filter.
        pose: of these matches; its epipolar lines, or why there are none, are in between. None
            where none was asked for.

    Raises:
        ValueError: another ending than .png. OSError: a photograph can't be read again, the
            picture can't be written.
    """
    check_target(path, ".png")
    images = SideBySide(*(photo.rgb() for photo in photographs))
    title = f"{len(kept)} putative matches, {np.count_nonzero(kept)} kept"
    if pose is not None:
        title += f", {pose.num_inliers} inliers" if pose.ok else f", no pose: {pose.status}"
    bands = match_bands(images, putative.points0, putative.points1, kept, title)
    if pose is not None:
        bands += epipolar_bands(images, photographs, putative, pose)
    known, mutual = np.arange(len(kept)), putative.mutual
    if logits is not None and putative.near_mutual is not None:
        # −inf: second nearest neighbours, at which this filter doesn't look.
        known = np.flatnonzero(logits > -np.inf)
        mutual = putative.near_mutual if len(known) == len(kept) else mutual
        logits = logits[known]
    write_sheet(path, bands + probability_bands(logits, mutual[known]))


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
    images = SideBySide(image0, image1)
    write_sheet(path, match_bands(images, points0, points1, kept, title, right))


def match_bands(
    images: SideBySide,
    points0: np.ndarray,
    points1: np.ndarray,
    kept: np.ndarray,
    title: str,
    right: np.ndarray | None = None,
) -> list[Band]:
    """The bands of `plot_matches`: title and legend, photographs with lines."""
    points0, points1 = (np.asarray(p, dtype=np.float64).reshape(-1, 2) for p in (points0, points1))
    kept = np.asarray(kept, dtype=bool)
    if not len(points0) == len(points1) == len(kept):
        raise ValueError(
            "points0, points1 and kept must have one row per match, got "
            f"{len(points0)}, {len(points1)} and {len(kept)}"
        )
    ends0, ends1 = images.place(0, points0), images.place(1, points1)
    lines = np.stack((ends0, ends1), axis=1)
    rejected_count = int((~kept).sum())
    groups = {"kept": (KEPT_COLOUR, kept)}
    if right is not None:
        right = np.asarray(right, dtype=bool)
        groups = {
            "kept, right": (RIGHT_COLOUR, kept & right),
            "kept, wrong": (WRONG_COLOUR, kept & ~right),
        }

    def draw(axes: Axes) -> None:
        images.show(axes)
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

    legend = [
        *(
            Line2D([], [], color=colour, linewidth=2, label=f"{name} ({chosen.sum()})")
            for name, (colour, chosen) in groups.items()
        ),
        Line2D(
            [], [], color=REJECTED_COLOUR, alpha=0.35, linewidth=2,
            label=f"rejected ({rejected_count})",
        ),
    ]
    return [heading(title, legend), Band(images.inches, draw)]
