"""How time and memory of the operator grow, as a log-log picture with the slope of every line."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from n3match.pipelines.benchmarks.measurement import (
    AUTHORS,
    FLOAT32,
    GATHERING,
    OURS,
    PLAIN,
    PRODUCTS,
    Measurement,
)
from n3match.whole_file import whole_file

_COLOURS = {
    OURS: "#d62246", PRODUCTS: "#6c757d", PLAIN: "#1d70b8", GATHERING: "#2a9d55",
    AUTHORS: "#e07a1f", FLOAT32: "#7b3fa0",
}
_UNITS = {"dense": "N", "window": "pixels"}
_TITLES = {"dense": "All items are candidates", "window": "Windows of an image"}


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Exponent p of values ~ sizes^p, by least squares of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def plot_growth(path: str | os.PathLike, rows: Sequence[Measurement]) -> None:
    """Writes a PNG: a column for each form, time above memory.

    Raises:
        OSError: the picture can't be written.
    """
    forms = [form for form in _UNITS if any(row.form == form for row in rows)]
    memory = any(row.peak_bytes is not None for row in rows)
    height = 2 if memory else 1
    figure = Figure(figsize=(7.5 * len(forms), 6.0 * height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(height, len(forms), squeeze=False)
    for column, form in enumerate(forms):
        mine = [row for row in rows if row.form == form]
        grid[0][column].set_title(_TITLES[form], fontsize=14)
        _draw(grid[0][column], mine, lambda row: row.seconds, "seconds")
        if memory:
            _draw(
                grid[1][column],
                mine,
                lambda row: row.peak_bytes and row.peak_bytes / 1e6,
                "peak memory above the inputs, MB",
            )
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _draw(axes: Axes, rows: Sequence[Measurement], value, name: str) -> None:
    form = rows[0].form
    exponent = 1 if form == "dense" else 2  # sides of images are drawn by their pixels
    sides = sorted({row.size for row in rows})
    for implementation in dict.fromkeys(row.implementation for row in rows):
        for gradients in (False, True):
            points = [
                (row.size**exponent, value(row))
                for row in rows
                if (row.implementation, row.gradients) == (implementation, gradients)
                and value(row)
            ]
            if not points:
                continue
            x, y = zip(*points)
            passes = "with gradients" if gradients else "forward"
            growth = f"  ~ {_UNITS[form]}^{slope(x, y):.2f}" if len(points) > 1 else ""
            axes.plot(
                x, y, marker="o", markersize=5, color=_COLOURS[implementation],
                linestyle="--" if gradients else "-", linewidth=2,
                label=f"{implementation}, {passes}{growth}",
            )
    axes.set(xscale="log", yscale="log", ylabel=name)
    axes.xaxis.set_major_locator(FixedLocator([side**exponent for side in sides]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: f"{x:.0f}" if form == "dense" else f"{x**0.5:.0f}²")
    )
    axes.set_xlabel("N queries, N items" if form == "dense" else "pixels")
    axes.grid(alpha=0.3)
    axes.legend(
        fontsize=9, frameon=False, ncols=2, handlelength=3.4, loc="upper center",
        bbox_to_anchor=(0.5, -0.12),
    )
