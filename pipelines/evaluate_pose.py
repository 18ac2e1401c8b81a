"""`n3match evaluate-pose`: match filters and pose estimators compared on pairs with known pose.

Every filter sees the same putative matches, every estimator the matches that the filter kept; its
pose is taken as it is, without doubt. Error of a pair: the larger of the rotation's and the
translation direction's angle (sign ignored), 180° where there is no pose.

With --out, `results.csv` there has a row per pair, filter and estimator. It is written every few
seconds, so a run that was stopped goes on where it was; rows are used again only where the pairs,
the filter (its weights), the seed and the versions of the libraries are the same. Changes to
n3match's own code don't show in its version: give those another folder.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

import cv2
import torch
from tqdm import tqdm

from n3match import weights
from n3match.datasets.two_view import TRUE_MATCH_DISTANCE
from n3match.pipelines.build_pairs import build_pairs
from n3match.pipelines.match_filters import CLASSICAL, DESCRIPTIONS, FilterSource
from n3match.pipelines.pose_protocol import PROTOCOLS, PairEvaluator, check_estimators, choose_pairs
from n3match.pipelines.pose_report import describe_pairs, hardest_third, pose_report
from n3match.pipelines.pose_results import PoseResult, read_results, write_results
from n3match.pipelines.tables import write_text_whole

_SAVE_EVERY_S = 5.0


def evaluate_pose(
    stores: Sequence[str | Path],
    *,
    filters: Sequence[str],
    estimators: Sequence[str],
    out: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    workers: int = 1,
    progress: bool = True,
) -> list[PoseResult]:
    """Filters the pairs of stores, estimates their poses and compares them with the true ones.

    Args:
        stores: files written by build-pairs.
        filters: names (`match_filters.CLASSICAL`, shipped weights), paths of weights, LABEL=PATH.
        estimators: names of PROTOCOLS.
        out: folder for results.csv, whose rows are used again; None: nothing is written.
        limit: that many pairs, evenly spread over all; None for all.
        seed: of the estimators.
        workers: processes, one thread each; 1: everything in this one.

    Returns:
        A row per pair, filter and estimator, sorted.

    Raises:
        FileNotFoundError: no such store. ValueError: an unknown name, a malformed store or
            results.csv, naming it. ImportError: "poselib" is not installed.
        NotADirectoryError: `out` is a file.
    """
    sources = parse_filters(filters)
    check_estimators(estimators)
    check_folder(out)
    for name, value in (("limit", limit), ("workers", workers)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    stores = [Path(store) for store in stores]
    settings = _fingerprints(stores, sources, estimators, seed)
    chosen = choose_pairs(stores, limit)

    path = None if out is None else Path(out) / "results.csv"
    on_file = {} if path is None else {r.key: r for r in read_results(path)}
    wanted = {
        (store.name, pair, source.label, name)
        for store, pair in chosen
        for source in sources
        for name in estimators
    }

    def is_done(key: tuple[str, int, str, str]) -> bool:
        found = on_file.get(key)
        return found is not None and found.settings == settings[key[0], key[2], key[3]]

    jobs = []
    for store, pair in chosen:
        todo = [
            (source.label, name)
            for source in sources
            for name in estimators
            if not is_done((store.name, pair, source.label, name))
        ]
        if todo:
            jobs.append((store, pair, todo))
    evaluator = PairEvaluator(sources, seed, settings)
    saved_at = time.monotonic()
    try:
        with tqdm(
            total=len(chosen), initial=len(chosen) - len(jobs), unit="pair", disable=not progress
        ) as bar:
            for results in _run(evaluator, jobs, workers):
                on_file.update((r.key, r) for r in results)
                bar.update()
                if path is not None and time.monotonic() - saved_at > _SAVE_EVERY_S:
                    write_results(path, list(on_file.values()))
                    saved_at = time.monotonic()
    finally:
        if path is not None and jobs:
            write_results(path, list(on_file.values()))
    return [on_file[key] for key in sorted(wanted)]


def check_folder(out: str | Path | None) -> None:
    """Raises NotADirectoryError where `out` is a file; it need not exist."""
    if out is not None and Path(out).exists() and not Path(out).is_dir():
        raise NotADirectoryError(f"out: {out} is a file, wanted a folder")


def parse_filters(filters: Sequence[str]) -> list[FilterSource]:
    """What the filters named are; a filter named twice counts once.

    Raises:
        ValueError: no filter, an unknown one, or one label for two filters.
    """
    sources = list(dict.fromkeys(FilterSource.parse(text) for text in filters))
    labels = [source.label for source in sources]
    if not sources:
        raise ValueError("filters: none given")
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"filters: the label {twice[0]!r} stands for several filters")
    return sources


def make_stores(
    inputs: Sequence[str | Path], folder: Path, *, max_keypoints: int, workers: int
) -> list[Path]:
    """Stores as they are; for a folder of scenes, the store of its pairs, made in `folder`.

    All pairs with at least 20 common 3-D points, image 0 first by name. A store that is in `folder`
    already is used again.

    Raises:
        FileNotFoundError: no such file or folder. ValueError: see `build_pairs`.
    """
    stores = []
    for path in map(Path, inputs):
        if path.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            store = folder / f"{path.resolve().name}-{max_keypoints}.h5"
            path = build_pairs(
                path, store, max_keypoints=max_keypoints, fixed_direction=True, processes=workers
            )
        elif not path.exists():
            raise FileNotFoundError(f"{path}: no such pair store, nor a folder of scenes")
        stores.append(path)
    return stores


def _run(
    evaluator: PairEvaluator, jobs: Sequence[tuple], workers: int
) -> Iterator[list[PoseResult]]:
    """The results of the jobs, in whatever order they come."""
    workers = min(workers, len(jobs))
    if workers <= 1:
        with _one_thread():
            for job in jobs:
                yield evaluator(*job)
        return
    # Spawned, not forked: a forked child of a process with torch threads may hang.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _start, (evaluator,)
    )
    try:
        for future in as_completed([pool.submit(_work, job) for job in jobs]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


_evaluator: PairEvaluator | None = None  # of this process, where it is a worker


def _start(evaluator: PairEvaluator) -> None:
    global _evaluator
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _evaluator = evaluator


def _work(job: tuple) -> list[PoseResult]:
    return _evaluator(*job)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def _fingerprints(
    stores: Sequence[Path], sources: Sequence[FilterSource], estimators: Sequence[str], seed: int
) -> dict[tuple[str, str, str], str]:
    """Short hashes of everything that a row depends on, by (store, filter, estimator)."""
    of_store = {store.name: _hash_file(store) for store in stores}
    of_filter = {
        source.label: [source.fingerprint(), *_versions("opencv", "kornia", "n3match")]
        for source in sources
    }
    of_estimator = {
        name: [PROTOCOLS[name].options, TRUE_MATCH_DISTANCE, *_versions(PROTOCOLS[name].package)]
        for name in estimators
    }
    return {
        (store, label, name): hashlib.sha256(
            json.dumps([seed, of_store[store], of_filter[label], name, of_estimator[name]]).encode()
        ).hexdigest()[:12]
        for store in of_store
        for label in of_filter
        for name in of_estimator
    }


def _versions(*packages: str) -> list[str]:
    """As in ["opencv 5.0.0"]."""
    return [
        f"{name} {cv2.__version__ if name == 'opencv' else importlib.metadata.version(name)}"
        for name in packages
    ]


def _hash_file(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such pair store")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def make_report(
    results: Sequence[PoseResult], filters: Sequence[str], estimators: Sequence[str],
    *, hardest: bool = False, seed: int = 0,
) -> str:
    """Markdown: what was evaluated and how, the tables, and those of the hardest third."""
    labels = [source.label for source in parse_filters(filters)]
    titles = {name: PROTOCOLS[name].title for name in estimators}
    tables = pose_report(results, labels, titles, seed)
    parts = [describe_pairs(results) + ".", tables]
    if hardest:
        third = hardest_third(results)
        parts += [
            f"The third with the smallest share of right matches: {describe_pairs(third)}.",
            pose_report(third, labels, titles, seed),
        ]
    described = "; ".join(f"{x}: {DESCRIPTIONS[x]}" for x in labels if x in CLASSICAL)
    packages = dict.fromkeys(PROTOCOLS[name].package for name in estimators)
    parts.append(
        "Shares in %, times in ms (median, one thread). A match is right where the squared "
        f"symmetric epipolar distance is below {TRUE_MATCH_DISTANCE:g} in calibrated units. "
        "Pose error: max(rotation, translation direction), 180° without a pose. mAP is binned in "
        "steps of 5°, AUC is the exact area; the interval is a bootstrap over pairs. "
        + (f"Filters: {described}. " if described else "")
        + f"Seed {seed}; {', '.join(_versions(*packages))}."
    )
    return "\n\n".join(parts) + "\n"


def default_filters() -> list[str]:
    """The usual filters, then n3match's own."""
    return [*CLASSICAL, *(n for n in ("sift-cnnet", "sift") if n in weights.shipped())]


def default_estimators() -> list[str]:
    """All that are installed."""
    return [n for n in PROTOCOLS if n != "poselib" or importlib.util.find_spec("poselib")]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs", nargs="+", type=Path, metavar="STORE_OR_SCENES",
        help="pair stores (.h5), or folders of scenes (images/, sparse/)",
    )
    parser.add_argument(
        "--filters", nargs="+", default=None, metavar="FILTER",
        help=f"{', '.join(CLASSICAL)}, sift-cnnet, sift, a file of weights, or LABEL=FILE "
        "(default: all that are named here)",
    )
    parser.add_argument(
        "--estimators", nargs="+", default=None, metavar="ESTIMATOR",
        help=f"{', '.join(PROTOCOLS)} (default: all that are installed)",
    )
    parser.add_argument(
        "--out", type=Path, help="folder for results.csv and table.md; an existing run goes on"
    )
    parser.add_argument(
        "--keypoints", type=int, default=2000, help="per image, for folders of scenes"
    )
    parser.add_argument("--limit", type=int, help="that many pairs, evenly spread over all")
    parser.add_argument(
        "--hardest", action="store_true",
        help="also the tables of the third of pairs with the smallest share of right matches",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--workers", type=int, default=None, help="processes (default: one per core)"
    )


def main(arguments: argparse.Namespace) -> int:
    filters = arguments.filters or default_filters()
    estimators = list(dict.fromkeys(arguments.estimators or default_estimators()))
    parse_filters(filters)  # before minutes are spent on a store
    check_estimators(estimators)
    check_folder(arguments.out)
    workers = _cores() if arguments.workers is None else arguments.workers
    with tempfile.TemporaryDirectory() as temporary:
        stores = make_stores(
            arguments.inputs,
            arguments.out or Path(temporary),
            max_keypoints=arguments.keypoints,
            workers=workers,
        )
        results = evaluate_pose(
            stores,
            filters=filters,
            estimators=estimators,
            out=arguments.out,
            limit=arguments.limit,
            seed=arguments.seed,
            workers=workers,
        )
    report = make_report(
        results, filters, estimators, hardest=arguments.hardest, seed=arguments.seed
    )
    if arguments.out is not None:
        write_text_whole(arguments.out / "table.md", report)
    print(report, end="", file=sys.stdout)
    return 0
