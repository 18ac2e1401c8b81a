"""The whole benchmark of the operator: tables to read, CSV to compute with, a picture of growth."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from n3match.files.whole import whole_file, write_whole
from n3match.pipelines.benchmarks import operator_dense, operator_window
from n3match.pipelines.benchmarks.ceilings import measure_ceilings
from n3match.pipelines.benchmarks.measure import (
    AUTHORS,
    FLOAT32,
    GATHERING,
    OURS,
    PLAIN,
    PRODUCTS,
    Limits,
    Measurement,
)
from n3match.pipelines.common.tables import csv_text, markdown_table

_SHORT = {
    PRODUCTS: "products", PLAIN: "plain", FLOAT32: "float32", GATHERING: "gathering",
    AUTHORS: "authors'",
}
_MISSING = "—"
_COLOURS = {
    OURS: "#d62246", PRODUCTS: "#6c757d", PLAIN: "#1d70b8", GATHERING: "#2a9d55",
    AUTHORS: "#e07a1f", FLOAT32: "#7b3fa0",
}
_UNITS = {"dense": "N", "window": "pixels"}
_TITLES = {"dense": "All items are candidates", "window": "Windows of an image"}


def run(
    sizes: Sequence[int],
    sides: Sequence[int],
    batch: int,
    limits: Limits,
    out: Path | None,
    heading: str,
) -> list[Measurement]:
    """Prints the tables; with `out`, writes benchmark-ops.md, .csv and .png into that folder.

    Args:
        sizes: N of the dense form; none leaves it out. sides: of the window form's images.
        batch: pairs per call of the dense form.
        heading: what the machine is, first line of the Markdown file.
    """
    ceilings = measure_ceilings()
    parts = [f"{heading}; {ceilings.describe()}."]
    print(ceilings.describe() + "\n", flush=True)
    rows: list[Measurement] = []
    for title, measure in (
        (
            f"All items are candidates ({operator_dense.describe(batch)}):",
            lambda: operator_dense.measure_dense(sizes, batch, limits, ceilings),
        ),
        (
            f"Windows of an image ({operator_window.describe()}):",
            lambda: operator_window.measure_windows(sides, limits, ceilings),
        ),
    ):
        found = measure()
        if found:
            rows += found
            parts += [title, table(found)]
            print("\n\n".join(parts[-2:]) + "\n", flush=True)
    if out is not None:
        write_whole(out / "benchmark-ops.md", "\n\n".join(parts) + "\n")
        write_whole(out / "benchmark-ops.csv", figures_as_csv(rows))
        plot_growth(out / "benchmark-ops.png", rows)
    return rows


def table(rows: Sequence[Measurement]) -> str:
    """One Markdown table of one form: a line for each size and pass, and notes below."""
    names = list(dict.fromkeys(row.implementation for row in rows))
    others = [name for name in names if name != OURS]
    memory = any(row.peak_bytes is not None for row in rows)
    columns = ["N" if rows[0].form == "dense" else "image", f"{OURS}, s"]
    for name in others:
        over = f"{OURS} / {_SHORT[name]}" if name == PRODUCTS else f"{_SHORT[name]} / {OURS}"
        columns += [f"{_SHORT[name]}, s", over]
    columns.append("of the ceiling")
    if memory:
        columns += [f"{_SHORT.get(name, name)}, MB" for name in names if name != PRODUCTS]

    lines, notes = [], []
    for key in dict.fromkeys((row.size, row.gradients) for row in rows):
        found = {row.implementation: row for row in rows if (row.size, row.gradients) == key}
        ours = found[OURS]
        line = [label(ours), _number(ours.seconds)]
        for name in others:
            ratio = None
            if found[name].seconds is not None:
                ratio = found[name].seconds / ours.seconds
                ratio = 1 / ratio if name == PRODUCTS else ratio
            line += [_number(found[name].seconds), _number(ratio)]
            if found[name].note:
                notes.append(f"{label(ours)}: {name} {found[name].note}.")
        line.append(_MISSING if ours.attained is None else f"{100 * ours.attained:.0f} %")
        if memory:
            line += [_megabytes(found[name].peak_bytes) for name in names if name != PRODUCTS]
        lines.append(line)
    return "\n\n".join([markdown_table(columns, lines), *(["\n".join(notes)] if notes else [])])


def label(row: Measurement) -> str:
    return f"{row.size_label} with gradients" if row.gradients else row.size_label


def _number(value: float | None) -> str:
    """Three significant digits."""
    if value is None:
        return _MISSING
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _megabytes(value: int | None) -> str:
    return _MISSING if value is None else _number(value / 1e6)


def figures_as_csv(rows: Sequence[Measurement]) -> str:
    """One line for each figure, all digits."""
    return csv_text(
        (
            "form", "size", "pass", "implementation", "seconds", "peak_bytes", "floor_seconds",
            "note",
        ),
        [
            [
                row.form, row.size, "forward and backward" if row.gradients else "forward",
                row.implementation, row.seconds, row.peak_bytes, row.floor_seconds, row.note,
            ]
            for row in rows
        ],
    )


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
