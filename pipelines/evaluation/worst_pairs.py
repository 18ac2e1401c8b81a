"""Pictures of the pairs on which a filter does worst, its right and wrong matches coloured."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from n3match.datasets.images import read_image_rgb
from n3match.datasets.pairs.dataset import PairDataset
from n3match.datasets.pairs.store import PairRecord
from n3match.pipelines.evaluation.match_filters import FilterSource
from n3match.pipelines.evaluation.protocol import are_right, with_guessed_cameras
from n3match.pipelines.evaluation.results import PoseResult
from n3match.pipelines.plots.matches import plot_matches

_BLANK = 60  # grey of a photograph that isn't there


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
        image = read_image_rgb(path)
        if image.shape[:2] == (height, width):
            return image
    return np.full((height, width), _BLANK, dtype=np.uint8)
