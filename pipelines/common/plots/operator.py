"""A picture of the N³ operator: soft neighbours become hard ones as the temperature falls.

Left, a query among a few points in the plane: one row per neighbour k, one column per temperature,
each point as large as its weight wᵏ. Right, the same with the three nearest points alone as
candidates, where a distribution is a point of a triangle and K distributions are K paths.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon

from n3match import ops
from n3match.files.whole import whole_file

NEIGHBOURS = 3
# Columns of the picture, from nearly uniform to nearly hard, squared units of the plane.
TEMPERATURES = (10.0, 1.0, 0.4, 0.15, 0.02)
POINTS = 14
_PATH = np.geomspace(1e3, 1e-2, 601)

COLOURS = ("#ffd60a", "#4cc9f0", "#ff5d8f")  # of w¹, w², w³
_BACKGROUND = "#16181d"
_PANEL = "#1f232b"
_TEXT = "#e8eaed"
_FAINT = "#8b93a1"
_DOT = "#5b6372"  # a point without weight
_SIZE_INCHES, _DPI = (16.0, 7.9), 100
_SUPERSCRIPTS = ("¹", "²", "³")
_LARGEST_AREA = 620.0  # of a point with weight 1, points²
_VERTICES = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])


@dataclass(frozen=True, eq=False)
class Scene:
    """A query at the origin and its candidates, nearest first."""

    points: np.ndarray  # (O, 2)
    distances: np.ndarray  # (O,) squared


def make_scene(seed: int = 0) -> Scene:
    """Points well apart from each other; the three nearest at clearly different distances and in
    different directions, so that the temperatures and rings of the picture suit every seed."""
    rng = np.random.default_rng(seed)
    while True:
        points = np.empty((0, 2))
        for _ in range(POINTS):
            drawn = rng.uniform(-1.75, 1.75, (12, 2))
            taken = np.concatenate((points, np.zeros((1, 2))))  # the query too
            apart = np.linalg.norm(drawn[:, None] - taken, axis=-1).min(1)
            points = np.concatenate((points, drawn[[apart.argmax()]]))
        distances = (points**2).sum(1)
        order = distances.argsort()
        points, distances = points[order], distances[order]
        gaps = np.diff(distances[: NEIGHBOURS + 1])
        directions = points[:NEIGHBOURS] / np.sqrt(distances[:NEIGHBOURS, None])
        cosines = (directions @ directions.T)[~np.eye(NEIGHBOURS, dtype=bool)]
        fit = 0.3 < distances[0] < 0.7 and gaps.min() > 0.14 and gaps.max() < 0.4
        if fit and cosines.max() < 0.2:
            return Scene(points, distances)


def weights_at(distances: np.ndarray, temperatures, recursion: str) -> np.ndarray:
    """(T, O, K) weights of one query at each temperature."""
    d = torch.from_numpy(np.asarray(distances, dtype=np.float64))
    log_t = torch.as_tensor(temperatures, dtype=torch.float64).log()[None, :, None]
    d = d.expand(1, log_t.shape[1], len(d))
    return ops.n3_weights(d, NEIGHBOURS, log_t, recursion=recursion)[0].numpy()


def draw_operator(path: str | os.PathLike, seed: int = 0) -> Scene:
    """Writes the picture as a PNG, 1600 pixels wide, and returns what it shows.

    Raises:
        OSError: the picture can't be written.
    """
    scene = make_scene(seed)
    figure = Figure(figsize=_SIZE_INCHES, dpi=_DPI, facecolor=_BACKGROUND)
    FigureCanvasAgg(figure)
    figure.text(
        0.018, 0.952, "N³: K soft nearest neighbours that turn hard as the temperature t falls",
        color=_TEXT, fontsize=20, weight="bold", va="center",
    )
    figure.text(
        0.018, 0.905,
        "Every wᵏ is a softmax over the candidates, after the mass of the earlier choices is taken "
        "out:   a¹ = −d² / t,   wᵏ = softmax(aᵏ),   aᵏ⁺¹ = aᵏ + log(1 − wᵏ) / t",
        color=_FAINT, fontsize=13, va="center",
    )
    _draw_panels(figure, scene)
    _draw_simplex(figure, scene)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", facecolor=_BACKGROUND)
    return scene


def _draw_panels(figure: Figure, scene: Scene) -> None:
    left, bottom, width, height = 0.075, 0.105, 0.575, 0.735
    columns, rows, gap = len(TEMPERATURES), NEIGHBOURS, 0.006
    weights = weights_at(scene.distances, TEMPERATURES, "poster")
    for k in range(rows):
        for column, t in enumerate(TEMPERATURES):
            axes = figure.add_axes(
                (
                    left + column * width / columns,
                    bottom + (rows - 1 - k) * height / rows,
                    width / columns - gap,
                    height / rows - 2 * gap,
                ),
                facecolor=_PANEL,
            )
            _draw_panel(axes, scene, weights[column, :, k], k)
            if k == 0:
                axes.set_title(f"t = {t:g}", color=_TEXT, fontsize=15, pad=7)
        middle = bottom + (rows - 0.5 - k) * height / rows
        figure.text(
            left / 2 + 0.003, middle, f"w{_SUPERSCRIPTS[k]}", color=COLOURS[k], fontsize=24,
            weight="bold", ha="center", va="bottom",
        )
        figure.text(
            left / 2 + 0.003, middle - 0.008, ("nearest", "second\nnearest", "third\nnearest")[k],
            color=_FAINT, fontsize=12, ha="center", va="top", linespacing=1.2,
        )
    figure.text(
        left, 0.087,
        "Each point is as large as its weight: in every panel the weights sum to 1.",
        color=_TEXT, fontsize=13, va="top",
    )
    handles = [
        Line2D([], [], marker="P", linestyle="", color=_TEXT, markersize=10, label="query"),
        Line2D(
            [], [], marker="o", linestyle="", markerfacecolor="none", markeredgecolor=_TEXT,
            markersize=13, markeredgewidth=1.6,
            label="hard k-th nearest, and its share of the weight",
        ),
        Line2D(
            [], [], marker="D", linestyle="", markerfacecolor=_BACKGROUND, markeredgecolor=_TEXT,
            markersize=7, label="zᵏ = Σ wᵏ·point, the output",
        ),
    ]
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(left - 0.008, 0.068), ncols=3,
        frameon=False, labelcolor=_TEXT, fontsize=12, handletextpad=0.3, columnspacing=1.6,
    )


def _draw_panel(axes: Axes, scene: Scene, weights: np.ndarray, k: int) -> None:
    colour, points = COLOURS[k], scene.points
    # Room below for the share; one scale in x and y.
    axes.set(xlim=(-2.09, 2.09), ylim=(-2.46, 1.94), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
    for point, weight in zip(points, weights):
        axes.plot(*np.stack((np.zeros(2), point), 1), color=colour, linewidth=2.2,
                  alpha=float(weight) ** 0.7, zorder=1, solid_capstyle="round")
    axes.scatter(*points.T, s=14, color=_DOT, linewidths=0, zorder=2)
    axes.scatter(*points.T, s=_LARGEST_AREA * weights, color=colour, linewidths=0, alpha=0.92,
                 zorder=3)
    axes.scatter(*points[k], s=_LARGEST_AREA * 1.3, facecolors="none", edgecolors=_TEXT,
                 linewidths=1.6, zorder=4)
    axes.scatter(0, 0, marker="P", s=95, color=_TEXT, linewidths=0, zorder=5)
    axes.scatter(*(weights @ points), marker="D", s=34, facecolors=_BACKGROUND, edgecolors=_TEXT,
                 linewidths=1.3, zorder=6)
    axes.text(0.97, 0.03, f"{100 * weights[k]:.0f} %", color=_TEXT, fontsize=11,
              transform=axes.transAxes, ha="right", va="bottom")


def what_to_see(scene: Scene) -> list[str]:
    """Lines that tell what the picture shows, with the shares of its own points."""
    shares = weights_at(scene.distances, TEMPERATURES, "poster")
    first, last = (
        ", ".join(f"{100 * shares[column, k, k]:.0f} %" for k in range(NEIGHBOURS))
        for column in (0, -1)
    )
    return [
        f"One query, {POINTS} candidates, {NEIGHBOURS} soft neighbours; the temperature falls from "
        "left to right.",
        f"t = {TEMPERATURES[0]:<5g} nearly uniform: the nearest three get {first} of w¹, w², w³",
        f"t = {TEMPERATURES[-1]:<5g} the hard nearest neighbours, in order: {last}",
        "In between all is differentiable. Right: the paths in the triangle of all distributions",
        'over three candidates. Solid, and on the left: recursion="poster"; dotted: "released",',
        'the default, whose w² and w³ first head for ½, ½ (docs/operator.md).',
    ]


def _draw_simplex(figure: Figure, scene: Scene) -> None:
    axes = figure.add_axes((0.668, 0.275, 0.322, 0.6))
    axes.set(xlim=(-0.16, 1.16), ylim=(-0.17, 0.98), aspect="equal")
    axes.set_axis_off()
    axes.add_patch(Polygon(_VERTICES, facecolor=_PANEL, edgecolor=_FAINT, linewidth=1.2))
    near = scene.distances[:NEIGHBOURS]
    released = weights_at(near, _PATH, "released")
    poster = weights_at(near, _PATH, "poster")
    marks = weights_at(near, TEMPERATURES, "poster")
    for k in range(NEIGHBOURS):
        axes.plot(*(released[:, :, k] @ _VERTICES).T, color=COLOURS[k], linewidth=1.7,
                  linestyle=(0, (1, 1.6)), zorder=2)
        axes.plot(*(poster[:, :, k] @ _VERTICES).T, color=COLOURS[k], linewidth=3.2, zorder=3,
                  solid_capstyle="round")
        axes.scatter(*(marks[:, :, k] @ _VERTICES).T, s=46, color=COLOURS[k],
                     edgecolors=_BACKGROUND, linewidths=1.4, zorder=4)
    for k, (name, shift, ha, va) in enumerate(
        (("all weight on\nthe nearest", (0, -0.04), "center", "top"),
         ("all on the\nsecond", (0, -0.04), "center", "top"),
         ("all on the third", (0, 0.04), "center", "bottom"))
    ):
        axes.text(*(_VERTICES[k] + shift), name, color=COLOURS[k], fontsize=13, ha=ha, va=va)
    axes.scatter(*_VERTICES.mean(0), s=60, color=_TEXT, zorder=5, linewidths=0)
    axes.annotate("uniform\n(t → ∞)", _VERTICES.mean(0), (0.84, 0.55), color=_TEXT, fontsize=12,
                  arrowprops={"arrowstyle": "-", "color": _TEXT, "linewidth": 0.8})
    figure.text(
        0.672, 0.252, "The ringed three alone: a distribution is a point here",
        color=_TEXT, fontsize=13, va="top",
    )
    figure.text(
        0.672, 0.214,
        "Solid, the five temperatures as dots: as on the left, t also\n"
        "divides log(1 − w) (the poster's formula, recursion=\"poster\").\n"
        "Dotted: it doesn't (the authors' released code, the default).\n"
        "Computed exactly, w² and w³ then head for ½, ½ on the first\n"
        "two, and turn hard only where the nearest leads by 745 in\n"
        "d² / t: there it is certain in double precision, and taken.",
        color=_FAINT, fontsize=11.5, va="top", linespacing=1.4,
    )
