"""Runs filters and estimators on the pairs of stores, using again what is on file.

Work is spread over processes in two ways that go together: `workers` of this machine, and the
processes of a job under `torchrun`, which each take a share of the pairs; the first one puts their
rows together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import cv2
import torch

from n3match.datasets.pairs.sample import TRUE_MATCH_DISTANCE
from n3match.pipelines.common.arguments import check_folder
from n3match.pipelines.common.fingerprints import hash_of, hash_of_files, versions
from n3match.pipelines.common.processes import Processes
from n3match.pipelines.common.progress import Progress
from n3match.pipelines.common.result_rows import ResultRows
from n3match.pipelines.common.workers import worker_died, worker_pool
from n3match.pipelines.evaluation.choices import PROTOCOLS
from n3match.pipelines.evaluation.match_filters import FilterSource, parse_filters
from n3match.pipelines.evaluation.protocol import PairEvaluator, check_estimators, choose_pairs
from n3match.pipelines.evaluation.records import PoseResult


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
    processes: Processes | None = None,
    focal_guess: bool = False,
    sampling: str = "uniform",
    device: str = "cpu",
    half: bool = False,
) -> list[PoseResult]:
    """Filters the pairs of stores, estimates their poses and compares them with the true ones.

    Args:
        stores: files written by build-pairs.
        filters: names (`choices.DESCRIPTIONS`, shipped weights), paths of weights, LABEL=PATH; of
            one label for several weights the rows are LABEL 1, LABEL 2, …
        estimators: names of PROTOCOLS.
        out: folder for results.csv, whose rows are used again; None: nothing is written.
        limit: that many pairs, evenly spread over all; None for all.
        seed: of the estimators.
        workers: processes, one thread each; 1: everything in this one.
        progress: show on standard error how far it is.
        processes: of a job under torchrun, which share the pairs and see one `out`.
        focal_guess: the filters don't know the cameras, see `with_guessed_cameras`.
        sampling: of the estimators, see `find_pose`.
        device, half: of the filters that are networks, see `devices.placed`.

    Returns:
        A row per pair, filter and estimator, sorted; none but in the first of the processes.

    Raises:
        FileNotFoundError: no such store. ValueError: an unknown name, a malformed store or
            results.csv, naming it. ImportError: "poselib" is not installed.
        NotADirectoryError: `out` is a file.
    """
    sources = parse_filters(filters, device, half)
    check_estimators(estimators, sampling)
    check_folder(None if out is None else Path(out))
    for name, value in (("limit", limit), ("workers", workers)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    stores = [Path(store) for store in stores]
    chosen = choose_pairs(stores, limit)
    settings = _fingerprints(stores, sources, estimators, seed, focal_guess, sampling)

    wanted = {
        (store.name, pair, source.label, name)
        for store, pair in chosen
        for source in sources
        for name in estimators
    }
    path = None if out is None else Path(out) / "results.csv"
    files = ResultRows(path, PoseResult, processes)
    jobs = []
    for store, pair in chosen:
        todo = [
            (source.label, name)
            for source in sources
            for name in estimators
            if files.find(
                (store.name, pair, source.label, name), settings[store.name, source.label, name]
            )
            is None
        ]
        if todo:
            jobs.append((store, pair, todo))
    evaluator = PairEvaluator(sources, seed, settings, focal_guess, sampling)
    try:
        with Progress(
            len(chosen), "pair", done=len(chosen) - len(jobs),
            shown=progress and files.processes.is_first,
        ) as bar:
            mine = jobs[files.processes.rank :: files.processes.size]
            for results in _run(evaluator, mine, workers):
                files.add(results)
                bar.update(files.processes.size)
    finally:
        files.save()
    rows = files.merged()
    return [rows[key] for key in sorted(wanted)] if files.processes.is_first else []


def _run(
    evaluator: PairEvaluator, jobs: Sequence[tuple], workers: int
) -> Iterator[list[PoseResult]]:
    """The results of the jobs, in whatever order they come."""
    workers = min(workers, len(jobs))
    if workers <= 1:
        with one_thread():
            for job in jobs:
                yield evaluator(*job)
        return
    pool = worker_pool(workers, _keep, evaluator)
    try:
        for future in as_completed([pool.submit(_work, job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool as error:
        raise worker_died("with --out what is done is kept", "--workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


_evaluator: PairEvaluator | None = None  # of this process, where it is a worker


def _keep(evaluator: PairEvaluator) -> None:
    global _evaluator
    _evaluator = evaluator


def _work(job: tuple) -> list[PoseResult]:
    return _evaluator(*job)


@contextmanager
def one_thread() -> Iterator[None]:
    """For torch and OpenCV, so that times compare."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def _fingerprints(
    stores: Sequence[Path],
    sources: Sequence[FilterSource],
    estimators: Sequence[str],
    seed: int,
    focal_guess: bool,
    sampling: str,
) -> dict[tuple[str, str, str], str]:
    """Short hashes of everything that a row depends on, by (store, filter, estimator)."""
    of_store = {store.name: hash_of_files(store) for store in stores}
    of_filter = {
        source.label: [
            source.fingerprint(),
            *versions("opencv", "kornia", "n3match"),
            *(["focal guess"] if focal_guess else []),
        ]
        for source in sources
    }
    of_estimator = {
        name: [
            PROTOCOLS[name].options,
            TRUE_MATCH_DISTANCE,
            *versions(PROTOCOLS[name].package),
            *([sampling] if sampling != "uniform" else []),
        ]
        for name in estimators
    }
    return {
        (store, label, name): hash_of(
            [seed, of_store[store], of_filter[label], name, of_estimator[name]]
        )[:12]
        for store in of_store
        for label in of_filter
        for name in of_estimator
    }
