"""The part of a picture that shows how many matches got which probability of a filter."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from n3match.pipelines.common.plots.sheet import TEXT, Band, heading

KEPT_COLOUR, REJECTED_COLOUR = "#ffd60a", "#ffffff"
REJECTED_ALPHA = 0.45
_INCHES = 2.4
# Ticks, on an axis of logits.
_TICKS = (0.0001, 0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 0.9999)
_BIN = 0.25  # logits
_LIMIT = 11.0  # logits beyond are counted in the outermost bins


def probability_bands(logits: np.ndarray | None, mutual: np.ndarray) -> list[Band]:
    """A histogram of probabilities below a heading; without a filter, a band that says so.

    Args:
        logits: (N,) the filter's, kept above 0; None where there was no filter.
        mutual: (N,) bool: each the other's nearest neighbour, or among the two nearest. Matches
            that aren't may all have been given one and the same logit, unseen; that is said beside
            it.
    """
    if logits is None:
        return [heading("No probabilities, as there is no filter", inches=0.57, size=13)]
    if not len(logits):
        return [heading("No probabilities, as there are no matches", inches=0.57, size=13)]

    def draw(band: Axes) -> None:
        axes = band.inset_axes((0.05, 0.22, 0.938, 0.74), facecolor="none")
        draw_histogram(axes, logits, mutual)

    title = "Probabilities by the filter: matches in each bar, on a log scale"
    return [heading(title, inches=0.5, size=13), Band(_INCHES, draw)]


def draw_histogram(axes: Axes, logits: np.ndarray, mutual: np.ndarray) -> None:
    """Bars of the kept and of the rejected; 0, the probability ½, is an edge between bars."""
    kept = logits > 0
    edges = bin_edges(logits)
    within = np.clip(logits, edges[0], edges[-1])
    for chosen, colour, alpha in (
        (~kept, REJECTED_COLOUR, REJECTED_ALPHA), (kept, KEPT_COLOUR, 1.0)
    ):
        counts = counts_of(within[chosen], edges)
        axes.bar(
            edges[:-1], counts, width=0.9 * _BIN, align="edge", color=colour, alpha=alpha,
            linewidth=0,
        )
    axes.axvline(0, color=TEXT, linewidth=1.4, linestyle=(0, (4, 3)))
    # Few are kept of many: on a linear axis they would not be seen.
    axes.set_yscale("log")
    highest = counts_of(within, edges).max()
    axes.set(xlim=(edges[0], edges[-1]), ylim=(0.6, 2.2 * highest))
    axes.text(
        0.12, 0.97, "kept above ½", transform=axes.get_xaxis_transform(), color=TEXT,
        fontsize=11, va="top",
    )
    unseen = within[~mutual]
    if len(unseen) > 1 and np.ptp(unseen) == 0:
        axes.text(
            unseen[0] + 0.5 * _BIN, highest, f"{len(unseen)} not mutual: not looked at",
            color=TEXT, fontsize=11, va="center",
        )
    ticks = {np.log(p / (1 - p)): f"{p:g}" for p in _TICKS}
    ticks = {t: label for t, label in ticks.items() if edges[0] <= t <= edges[-1]}
    if logits.min() < edges[0]:
        ticks[edges[0] + 0.45 * _BIN] = "less"
    if logits.max() > edges[-1]:
        ticks[edges[-1] - 0.55 * _BIN] = "more"
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:g}"))
    axes.set_xlabel("probability", color=TEXT, fontsize=11)
    axes.tick_params(colors=TEXT, labelsize=10)
    axes.tick_params(which="minor", left=False)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(TEXT)


def bin_edges(logits: np.ndarray) -> np.ndarray:
    """(B + 1,) around all logits within the limits, 0 among them and not the first or last."""
    low, high = np.clip((logits.min(), logits.max()), -_LIMIT, _LIMIT)
    first = min(-1, int(np.floor(low / _BIN)) - 1)
    last = max(1, int(np.ceil(high / _BIN)) + 1)
    return np.arange(first, last + 1) * _BIN


def counts_of(logits: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(B,) how many are in each bin; a bin has its upper edge, so that a logit of 0 isn't kept."""
    bins = np.searchsorted(edges, logits, side="left") - 1
    return np.bincount(np.maximum(bins, 0), minlength=len(edges) - 1)[: len(edges) - 1]
