"""All that an evaluation of poses gives at one number of keypoints: stores, pictures, report."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from n3match.datasets.images import read_image_gray
from n3match.datasets.pairs.dataset import PairDataset
from n3match.datasets.pairs.store import open_store, read_feature, read_settings
from n3match.files.whole import write_whole
from n3match.matching import extract_features, putative_matches
from n3match.pipelines.common.arguments import cores_of_a_process
from n3match.pipelines.common.processes import Processes
from n3match.pipelines.common.stopwatch import Stopwatch
from n3match.pipelines.evaluation.choices import PROTOCOLS
from n3match.pipelines.evaluation.figures import (
    find_image,
    plot_precision,
    plot_recall,
    plot_worst_pairs,
)
from n3match.pipelines.evaluation.match_filters import groups, names_in_tables, parse_filters
from n3match.pipelines.evaluation.pose_evaluation import evaluate_pose, one_thread
from n3match.pipelines.evaluation.report import make_report, pooled, training_report
from n3match.pipelines.pairs.sources import photograph_folders, source_options, stores_of

_PAIRS = 5  # whose photographs are gone through again, to measure how long that takes


def evaluate_budget(
    arguments: argparse.Namespace,
    budget: int,
    filters: Sequence[str],
    estimators: Sequence[str],
    folder: Path,
    processes: Processes,
) -> str:
    """The report at one number of keypoints; its figures go to figures/, below --out.

    Args:
        folder: for stores that are made here.
    """
    workers, device = arguments.workers, str(processes.device)
    if workers is None:
        workers = cores_of_a_process() if processes.device.type == "cpu" else 1
    stores = None
    if processes.is_first:
        # All pairs with at least 20 common 3-D points, image 0 first by name.
        stores = stores_of(
            arguments.inputs, folder, source_options(arguments),
            max_keypoints=budget, fixed_direction=True, processes=workers,
        )
    stores = processes.from_first(stores)
    runs = [
        evaluate_pose(
            stores,
            filters=filters,
            estimators=estimators,
            out=_folder_of_seed(arguments, seed),
            limit=arguments.limit,
            seed=seed,
            workers=workers,
            processes=processes,
            focal_guess=arguments.focal_guess,
            sampling=arguments.sampling,
            device=device,
            half=arguments.half,
        )
        for seed in range(arguments.seed, arguments.seed + arguments.seeds)
    ]
    results = [row for rows in runs for row in rows]
    if not processes.is_first:
        return ""
    sources = parse_filters(filters, device, arguments.half)
    labels, trained = names_in_tables(sources), groups(sources)
    trainings = training_report(results, trained, estimators) if trained else ""
    results = pooled(results, trained)
    images = [*photograph_folders(arguments.inputs, arguments.image_root), *arguments.images]
    features = None
    figures = None
    if arguments.out is not None:
        figures = arguments.out / "figures"
        if len(arguments.keypoints) > 1:
            figures /= str(budget)
    if images:
        cache = None if figures is None else figures / "stage-times.json"
        features = measure_features(stores, images, cache)
    if figures is not None:
        titles = {name: PROTOCOLS[name].title for name in estimators}
        plot_recall(figures / "recall.png", results, labels, titles)
        plot_precision(figures / "precision.png", results, labels)
        if arguments.worst:
            plot_worst_pairs(
                figures / "worst", runs[0], sources[-1], stores, images, arguments.worst,
                focal_guess=arguments.focal_guess,
            )
    return make_report(
        results, labels, estimators, hardest=arguments.hardest, seed=arguments.seed,
        seeds=arguments.seeds, features=features, focal_guess=arguments.focal_guess,
        sampling=arguments.sampling, against=arguments.against, trainings=trainings,
    )


def _folder_of_seed(arguments: argparse.Namespace, seed: int) -> Path | None:
    """Where the rows of a run are kept."""
    if arguments.out is None or arguments.seeds == 1:
        return arguments.out
    return arguments.out / f"seed-{seed}"


def measure_features(
    stores: Sequence[Path], images: Sequence[Path], cache: Path | None
) -> dict[str, float] | None:
    """Median seconds of "features" (both photographs) and "matching" for a pair, one thread.

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
            most, count = read_settings(file).get("max_keypoints"), len(file["xs"])
            kind = read_feature(file)
        if kind is None or not isinstance(most, int):
            return None
        pairs += [(store, i, kind, most) for i in range(count)]
    few = [pairs[i * len(pairs) // _PAIRS] for i in range(_PAIRS)] if pairs else []
    runs = []
    with one_thread():
        for store, pair, kind, max_keypoints in dict.fromkeys(few):
            record = PairDataset(store).record(pair)
            paths = [find_image(record, side, images) for side in (0, 1)]
            if None in paths:
                return None
            watch = Stopwatch()
            photographs = [read_image_gray(path) for path in paths]
            with watch.stage("features"):
                found = [extract_features(image, kind, max_keypoints) for image in photographs]
            with watch.stage("matching"):
                putative_matches(
                    found[0].keypoints, found[0].descriptors,
                    found[1].keypoints, found[1].descriptors, binary=found[0].binary,
                )
            runs.append(watch.seconds)
    seconds = {name: float(np.median([run[name] for run in runs])) for name in runs[0]}
    if cache is not None:
        write_whole(cache, json.dumps({"stores": chosen, "seconds": seconds}))
    return seconds
