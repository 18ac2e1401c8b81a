"""A picture as bands below each other, each as wide as the picture, on a dark ground.

Most are of two photographs beside each other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from n3match.files.whole import whole_file

BACKGROUND = "#16181d"
TEXT = "#e8eaed"
WIDTH_INCHES = 12.0
_DPI = 100
_LEFT = 0.012  # of text, in the picture's width
_GAP = 0.015  # between photographs, of their width


@dataclass(frozen=True)
class Band:
    """`inches` of the picture's height, and what draws on them.

    `draw` gets axes without frame and ticks that fill the band, (0, 0) at the lower left and
    (1, 1) at the upper right.
    """

    inches: float
    draw: Callable[[Axes], None]


def write_sheet(path: str | os.PathLike, bands: Sequence[Band]) -> None:
    """Writes the bands, the first on top, as a PNG 1200 pixels wide.

    Args:
        path: of the picture; written to a temporary file and renamed.
        bands: at least one.

    Raises:
        OSError: the picture can't be written.
    """
    height = sum(band.inches for band in bands)
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=_DPI, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    bottom = height
    for band in bands:
        bottom -= band.inches
        axes = figure.add_axes((0.0, bottom / height, 1.0, band.inches / height))
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.set_axis_off()
        band.draw(axes)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", facecolor=BACKGROUND)


def heading(
    text: str, legend: Sequence[Line2D] = (), *, inches: float = 0.75, size: float = 14
) -> Band:
    """A band with text at the left, and a legend of one row at the right."""

    def draw(axes: Axes) -> None:
        axes.text(_LEFT, 0.5, text, color=TEXT, fontsize=size, va="center", ha="left")
        if legend:
            axes.legend(
                handles=list(legend),
                loc="center right",
                bbox_to_anchor=(0.995, 0.5),
                borderaxespad=0,
                ncols=len(legend),
                frameon=False,
                labelcolor=TEXT,
                fontsize=size - 2,
            )

    return Band(inches, draw)


@dataclass(frozen=True, eq=False)
class SideBySide:
    """Image 0 at the left, image 1 at the right; lengths in units of their height.

    Attributes:
        image0: (H0, W0) grey or (H0, W0, 3) RGB, uint8. image1: the same for image 1.
    """

    image0: np.ndarray
    image1: np.ndarray

    @property
    def inches(self) -> float:
        """Height at the picture's width."""
        return WIDTH_INCHES / self._spans()[1][1]

    def show(self, axes: Axes) -> None:
        """Draws both, dimmed, and sets the limits of the axes."""
        spans = self._spans()
        for image, (left, right) in zip((self.image0, self.image1), spans):
            axes.imshow(_dimmed(image), extent=(left, right, 1, 0), interpolation="antialiased")
        axes.set(xlim=(0, spans[1][1]), ylim=(1, 0), aspect="auto")

    def place(self, side: int, points: np.ndarray) -> np.ndarray:
        """Pixels (N, 2) of image 0 or 1 in the axes; the centre of the first one is (0, 0)."""
        image = (self.image0, self.image1)[side]
        return (points + 0.5) / image.shape[0] + (self._spans()[side][0], 0.0)

    def _spans(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Left and right edge of each."""
        aspect0, aspect1 = (i.shape[1] / i.shape[0] for i in (self.image0, self.image1))
        gap = _GAP * (aspect0 + aspect1)
        return (0.0, aspect0), (aspect0 + gap, aspect0 + gap + aspect1)


def _dimmed(image: np.ndarray) -> np.ndarray:
    """RGB, darker and with less colour, so that the lines stand out."""
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    image = image.astype(np.float32)
    grey = image.mean(axis=2, keepdims=True)
    return (0.65 * (0.6 * image + 0.4 * grey)).astype(np.uint8)
