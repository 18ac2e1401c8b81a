"""The part of a picture that shows a pose: some inliers, each with its epipolar lines."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patheffects import withStroke

from n3match.geometry import RelativePose, epipolar_lines, undistort_points
from n3match.matching import PutativeMatches
from n3match.pipelines.common.plots.sheet import BACKGROUND, Band, SideBySide, heading
from n3match.pipelines.two_view.photograph import Photograph

# Neighbours in this list are unlike each other.
COLOURS = (
    "#ff595e", "#4cc9f0", "#ffca3a", "#b388ff", "#8ac926", "#ff8fd0",
    "#2ec4b6", "#ff924c", "#5b8cff", "#d0f45b", "#e63bff", "#e0c3a0",
)  # fmt: skip
_CASING = [withStroke(linewidth=2.8, foreground=BACKGROUND, alpha=0.6)]
_LETTERS_A_LINE = 120
# Points count so much against lines: two points far apart may be on one line, drawn twice then.
_PLACE = 0.25


@dataclass(frozen=True, eq=False)
class DrawnLines:
    """Matches chosen to be drawn, and their lines.

    Attributes:
        chosen: (M,) of the N putative matches.
        lines: for image 0 and image 1, per match the pieces that `epipolar_lines` gives: those in
            image 0 belong to the points of image 1, and the other way round.
    """

    chosen: np.ndarray
    lines: tuple[list[list[np.ndarray]], list[list[np.ndarray]]]


def epipolar_bands(
    images: SideBySide,
    photographs: tuple[Photograph, Photograph],
    putative: PutativeMatches,
    pose: RelativePose,
) -> list[Band]:
    """Photographs with points and lines below a heading; without a pose, a band that says why."""
    if not pose.ok:
        reason = f"No epipolar lines, as there is no pose: {pose.status}"
        lines = textwrap.wrap(
            f"{reason} ({pose.detail})" if pose.detail else reason, _LETTERS_A_LINE
        )
        return [heading("\n".join(lines), inches=0.35 + 0.22 * len(lines), size=13)]
    drawn = lines_to_draw(photographs, putative, pose)
    text = (
        f"Epipolar lines of {len(drawn.chosen)} of {pose.num_inliers} inliers: "
        "where, by the pose, the other photograph's point of that colour must be"
    )

    def draw(axes: Axes) -> None:
        images.show(axes)
        points = putative.points0, putative.points1
        for side in (0, 1):
            for i, pieces, colour in zip(drawn.chosen, drawn.lines[side], COLOURS):
                axes.add_collection(
                    LineCollection(
                        [images.place(side, piece) for piece in pieces],
                        colors=colour, linewidths=1.4, path_effects=_CASING,
                    )
                )
                axes.scatter(
                    *images.place(side, points[side][[i]]).T,
                    s=46, color=colour, edgecolors=BACKGROUND, linewidths=1.2, zorder=3,
                )

    return [heading(text, inches=0.6, size=13), Band(images.inches, draw)]


def lines_to_draw(
    photographs: tuple[Photograph, Photograph], putative: PutativeMatches, pose: RelativePose
) -> DrawnLines:
    """Inliers of a pose that are spread over both images, a dozen at most, with their lines.

    The photographs are drawn as they are, so a lens with distortion bends the lines.
    """
    photo0, photo1 = photographs
    inliers = np.flatnonzero(pose.inliers)
    points0, points1 = (
        np.asarray(p, np.float64)[inliers] for p in (putative.points0, putative.points1)
    )
    rows = spread_out(
        undistort_points(points0, photo0.K, photo0.distortion),
        undistort_points(points1, photo1.K, photo1.distortion),
        pose.E,
        len(COLOURS),
    )
    in_image1 = epipolar_lines(
        points0[rows], pose.E, photo0.K, photo1.K, photo1.image.shape[::-1],
        distortion0=photo0.distortion, distortion1=photo1.distortion,
    )
    in_image0 = epipolar_lines(
        points1[rows], pose.E.T, photo1.K, photo0.K, photo0.image.shape[::-1],
        distortion0=photo1.distortion, distortion1=photo0.distortion,
    )
    return DrawnLines(inliers[rows], (in_image0, in_image1))


def spread_out(x0: np.ndarray, x1: np.ndarray, E: np.ndarray, count: int) -> np.ndarray:
    """Matches to draw where all would be a tangle: their lines and points far from each other's.

    First the match nearest to the middle of all, then always the one farthest from those chosen.

    Args:
        x0, x1: (N, 2) calibrated coordinates.
        E: (3, 3), x1ᵀ E x0 = 0.
        count: how many, at most; a match at the same place as one chosen is left out.

    Returns:
        (M,) indices in the order chosen.
    """
    if not len(x0):
        return np.zeros(0, dtype=int)
    places = np.hstack((x0, x1))
    rays0, rays1 = (np.column_stack((x, np.ones(len(x)))) for x in (x0, x1))

    def distance_to(row: int) -> np.ndarray:
        apart = np.linalg.norm(places - places[row], axis=1)
        to_lines = _from_line(E @ rays0[row], rays1) + _from_line(E.T @ rays1[row], rays0)
        return np.where(apart > 0, to_lines + _PLACE * apart, 0.0)

    chosen = [int(np.argmin(np.linalg.norm(places - places.mean(axis=0), axis=1)))]
    distance = distance_to(chosen[0])
    while len(chosen) < count and distance.max() > 0:
        chosen.append(int(np.argmax(distance)))
        distance = np.minimum(distance, distance_to(chosen[-1]))
    return np.array(chosen)


def _from_line(line: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """(N,) distances of points to a line; 0 where it is an epipole's, which is none."""
    norm = np.linalg.norm(line[:2])
    return np.abs(rays @ line) / norm if norm > 0 else np.zeros(len(rays))
