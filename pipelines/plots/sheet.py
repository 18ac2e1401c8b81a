"""A picture as bands below each other, each as wide as the picture, on a dark ground."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from n3match.whole_file import whole_file

BACKGROUND = "#16181d"
TEXT = "#e8eaed"
WIDTH_INCHES = 12.0
_DPI = 100
_LEFT = 0.012  # of text, in the picture's width


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
