"""Pictures of an evaluation: recall, precision against the share of right matches, worst pairs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from n3match.datasets.images import ImageFile
from n3match.datasets.pairs.dataset import PairDataset
from n3match.datasets.pairs.store import PairRecord
from n3match.files.whole import whole_file
from n3match.pipelines.common.plots.matches import plot_matches
from n3match.pipelines.evaluation.match_filters import FilterSource
from n3match.pipelines.evaluation.protocol import are_right, with_guessed_cameras
from n3match.pipelines.evaluation.records import PoseResult

LARGEST_DEG = 20.0
_BINS = 6
_DPI = 110
_BLANK = 60  # grey of a photograph that isn't there
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

    A point per pair (a mean over the runs of a filter), and means over groups of pairs of equal
    number.
    """
    figure = Figure(figsize=(6.4, 4.8), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    for number, label in enumerate(filters):
        pairs: dict[tuple[str, int], list[PoseResult]] = {}
        for r in results:
            if r.filter == label:
                pairs.setdefault((r.store, r.pair), []).append(r)
        runs = pairs.values()
        share = np.array([100 * rows[0].right / max(rows[0].matches, 1) for rows in runs])
        precision = np.array(
            [100 * np.mean([r.kept_right / max(r.kept, 1) for r in rows]) for rows in runs]
        )
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


def worst_pairs(results: Sequence[PoseResult], label: str, count: int) -> list[tuple[str, int]]:
    """(store, pair) of the largest errors of a filter, means over the estimators, worst first."""
    errors: dict[tuple[str, int], list[float]] = {}
    for r in results:
        if r.filter == label:
            errors.setdefault((r.store, r.pair), []).append(r.error_deg)
    return sorted(errors, key=lambda key: (-np.mean(errors[key]), key))[:count]


def plot_worst_pairs(
    folder: Path,
    results: Sequence[PoseResult],
    source: FilterSource,
    stores: Sequence[Path],
    images: Sequence[Path],
    count: int,
    *,
    focal_guess: bool = False,
) -> list[Path]:
    """Writes `count` pictures, called by rank and pair; those of an earlier run are removed.

    Args:
        folder: of the pictures.
        results: of the evaluation.
        source: the filter; it is run again on these pairs.
        stores: those evaluated.
        images: folders of scenes where the photographs may be; a pair without is drawn on grey.
        focal_guess: the filter saw the pairs `with_guessed_cameras`.
    """
    paths = {store.name: store for store in stores}
    filter_ = source.load()
    written = []
    for rank, (store, pair) in enumerate(worst_pairs(results, source.label, count), 1):
        record = PairDataset(paths[store]).record(pair)
        filtered = filter_(with_guessed_cameras(record) if focal_guess else record)()
        points = filtered.points or (record.points0, record.points1)
        rows = [r for r in results if (r.store, r.pair, r.filter) == (store, pair, source.label)]
        errors = sorted(r.error_deg for r in rows)
        span = f"{errors[0]:.1f}°" + (f" … {errors[-1]:.1f}°" if len(errors) > 1 else "")
        names = "-".join(re.sub(r"\W+", "_", Path(n).stem) for n in (record.name0, record.name1))
        path = folder / f"{rank:02d}-{re.sub(r'[^A-Za-z0-9]+', '_', record.scene)}-{names}.png"
        folder.mkdir(parents=True, exist_ok=True)
        plot_matches(
            path,
            *(_photograph(record, side, images) for side in (0, 1)),
            *points,
            filtered.kept,
            right=are_right(record, filtered),
            title=f"{source.label}, {record.scene}: error {span}",
        )
        written.append(path)
    for old in set(folder.glob("[0-9][0-9]-*.png")) - set(written):
        old.unlink()
    return written


def find_image(record: PairRecord, side: int, folders: Sequence[Path]) -> Path | None:
    """Where the photograph of a pair is below folders of scenes; None where it isn't."""
    name = (record.name0, record.name1)[side]
    for folder in folders:
        for place in (folder / record.scene / "images", folder / "images", folder):
            if (place / name).is_file():
                return place / name
    return None


def _photograph(record: PairRecord, side: int, folders: Sequence[Path]) -> np.ndarray:
    width, height = (record.size0, record.size1)[side]
    path = find_image(record, side, folders)
    if path is not None:
        file = ImageFile(path)
        image = file.rgb(stored=file.is_stored_frame((width, height), usually=True))
        if image.shape[:2] == (height, width):
            return image
    return np.full((height, width), _BLANK, dtype=np.uint8)
