"""How long each stage takes for a pair, from photographs to the pose."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from n3match.datasets.images import read_image_gray
from n3match.datasets.pairs.dataset import PairDataset
from n3match.datasets.pairs.store import open_store
from n3match.matching import extract_sift, putative_matches
from n3match.pipelines.common.stopwatch import Stopwatch
from n3match.pipelines.common.tables import markdown_table
from n3match.whole_file import write_whole
from n3match.pipelines.evaluation.results import PoseResult
from n3match.pipelines.evaluation.worst_pairs import find_image

_PAIRS = 5  # measured


def measure_features(
    stores: Sequence[Path], images: Sequence[Path], cache: Path | None
) -> dict[str, float] | None:
    """Median seconds of "sift" (both photographs) and "matching" for a pair, one thread.

    Measured on a few pairs, evenly spread; the stores hold what came of it, not how long it took.

    Args:
        stores: that build-pairs made.
        images: folders of scenes with the photographs.
        cache: file that keeps the seconds for the next time; None: none.

    Returns:
        None where the photographs aren't there, or the stores are of other features.
    """
    chosen = [str(store.resolve()) for store in stores]
    if cache is not None and cache.exists():
        known = json.loads(cache.read_text(encoding="utf-8"))
        if known.get("stores") == chosen:
            return known["seconds"]
    pairs = []
    for store in stores:
        with open_store(store) as file:
            settings = json.loads(file.attrs.get("settings", "{}"))
            count = len(file["xs"])
        if settings.get("feature") != "opencv-sift-root":
            return None
        pairs += [(store, i, settings["max_keypoints"]) for i in range(count)]
    few = [pairs[i * len(pairs) // _PAIRS] for i in range(_PAIRS)] if pairs else []
    runs = []
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        for store, pair, max_keypoints in dict.fromkeys(few):
            record = PairDataset(store).record(pair)
            paths = [find_image(record, side, images) for side in (0, 1)]
            if None in paths:
                return None
            watch = Stopwatch()
            photographs = [read_image_gray(path) for path in paths]
            with watch.stage("sift"):
                found = [extract_sift(image, max_keypoints) for image in photographs]
            with watch.stage("matching"):
                putative_matches(
                    found[0].keypoints, found[0].descriptors,
                    found[1].keypoints, found[1].descriptors,
                )
            runs.append(watch.seconds)
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])
    seconds = {name: float(np.median([run[name] for run in runs])) for name in runs[0]}
    if cache is not None:
        write_whole(cache, json.dumps({"stores": chosen, "seconds": seconds}))
    return seconds


def stage_table(
    results: Sequence[PoseResult],
    filters: Sequence[str],
    estimators: Sequence[str],
    features: dict[str, float] | None,
) -> str:
    """Markdown: median seconds of a pair by stage, a row per filter.

    "read pair" is from the store, with distortion taken out.

    Args:
        results: rows of all filters and estimators.
        filters, estimators: in the order wanted.
        features: of `measure_features`; None leaves these stages out.
    """
    features = features or {}
    rows = []
    for label in filters:
        of = [r for r in results if r.filter == label]
        stages = [
            *features.values(),
            _median(r.read_ms for r in of),
            _median(r.filter_ms for r in of),
            *(_median(r.estimator_ms for r in of if r.estimator == n) for n in estimators),
        ]
        rows.append([label, *(f"{s:.3f}" for s in stages)])
    return markdown_table(["filter", *features, "read pair", "run filter", *estimators], rows)


def _median(milliseconds) -> float:
    return float(np.median(list(milliseconds))) / 1000
