"""Figures of an evaluation: recall curves, and precision against the share of right matches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from n3match.whole_file import whole_file
from n3match.pipelines.evaluation.results import PoseResult

LARGEST_DEG = 20.0
_BINS = 6
_DPI = 110
_DASHES = ("-", "--", ":", "-.")


def recall_curve(errors: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Points of the curve (error in degrees, share of the pairs with no larger one).

    From (0, 0) in steps up to LARGEST_DEG.
    """
    ordered = np.sort(np.asarray(errors, dtype=np.float64))
    x = np.append(ordered[ordered <= LARGEST_DEG], LARGEST_DEG)
    y = np.searchsorted(ordered, x, side="right") / len(ordered)
    return np.concatenate([[0.0], x]), np.concatenate([[0.0], y])


def binned_means(x: np.ndarray, y: np.ndarray, bins: int = _BINS) -> tuple[np.ndarray, np.ndarray]:
    """Means of x and y over groups of (nearly) equally many points, in the order of x."""
    order = np.argsort(x, kind="stable")
    groups = [g for g in np.array_split(order, min(bins, len(order))) if len(g)]
    return np.array([x[g].mean() for g in groups]), np.array([y[g].mean() for g in groups])


def plot_recall(
    path: Path, results: Sequence[PoseResult], filters: Sequence[str], estimators: dict[str, str]
) -> None:
    """Writes a PNG with a panel for each estimator ({name: title}) and a curve for each filter."""
    figure = Figure(figsize=(5.2 * len(estimators), 4.4), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(estimators), squeeze=False)[0]
    for panel, (name, title) in zip(panels, estimators.items()):
        for number, label in enumerate(filters):
            errors = [r.error_deg for r in results if (r.filter, r.estimator) == (label, name)]
            x, y = recall_curve(errors)
            panel.step(x, 100 * y, where="post", label=label, **_style(number))
        panel.set(
            title=title.partition(",")[0].partition(" (no")[0], xlim=(0, LARGEST_DEG),
            ylim=(0, 100), xlabel="pose error, degrees", ylabel="pairs with no larger error, %",
        )
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=8, loc="lower right")
    _save(figure, path)


def plot_precision(path: Path, results: Sequence[PoseResult], filters: Sequence[str]) -> None:
    """Writes a PNG: for each filter, precision against the share of right putative matches.

    A point per pair, and means over groups of pairs of equal number.
    """
    figure = Figure(figsize=(6.4, 4.8), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    for number, label in enumerate(filters):
        pairs = {(r.store, r.pair): r for r in results if r.filter == label}.values()
        share = np.array([100 * r.right / max(r.matches, 1) for r in pairs])
        precision = np.array([100 * r.kept_right / max(r.kept, 1) for r in pairs])
        style = _style(number)
        panel.scatter(share, precision, s=6, alpha=0.25, color=style["color"], linewidths=0)
        panel.plot(*binned_means(share, precision), label=label, marker="o", markersize=3, **style)
    panel.set(
        xlim=(0, 100), ylim=(0, 102), xlabel="right among the putative matches, %",
        ylabel="right among the kept matches, %",
    )
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8, loc="lower right")
    _save(figure, path)


def _style(number: int) -> dict:
    colours = colormaps["tab10"].colors
    return {
        "color": colours[number % len(colours)],
        "linestyle": _DASHES[number // len(colours) % len(_DASHES)],
    }


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")
