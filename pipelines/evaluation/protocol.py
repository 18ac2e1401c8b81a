"""What an evaluation does with one pair: filter, estimate, compare with the true pose."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from n3match.datasets.pairs.dataset import PairDataset
from n3match.datasets.pairs.sample import TRUE_MATCH_DISTANCE
from n3match.datasets.pairs.store import PairRecord, has_extras, open_store
from n3match.geometry import (
    RelativePose,
    essential_from_pose,
    estimate_relative_pose_from_matches,
    guess_intrinsics,
    rotation_error_deg,
    symmetric_epipolar_distance,
    translation_error_deg,
    undistort_points,
)
from n3match.geometry.estimators import ESTIMATORS, choose_estimator
from n3match.pipelines.evaluation.choices import PROTOCOLS, SAMPLINGS
from n3match.pipelines.evaluation.match_filters import FilterSource
from n3match.pipelines.evaluation.records import (
    FAILED_DEG,
    Filtered,
    PoseResult,
    PreparedFilter,
)


def check_estimators(estimators: Sequence[str], sampling: str = "uniform") -> None:
    """Raises ValueError for none, an unknown one or one that can't sample so, ImportError where
    PoseLib is missing."""
    if sampling not in SAMPLINGS:
        raise ValueError(f"sampling: {sampling!r} is none of {', '.join(SAMPLINGS)}")
    if not estimators:
        raise ValueError("estimators: none given")
    for name in estimators:
        if name not in PROTOCOLS:
            raise ValueError(f"estimators: {name!r} is none of {', '.join(PROTOCOLS)}")
        if sampling == "by_weight" and not ESTIMATORS[name].progressive:
            can = " and ".join(n for n in PROTOCOLS if ESTIMATORS[n].progressive)
            raise ValueError(f"sampling: 'by_weight' is for {can}, not for {name!r}")
        choose_estimator(name, ESTIMATORS)


class PairEvaluator:
    """Filters one pair and estimates its poses; can be sent to other processes.

    Args:
        sources: the filters.
        seed: of the estimators.
        settings: fingerprints for the rows, by (name of the store, label, estimator).
        focal_guess: the filters see the pairs `with_guessed_cameras`; estimators don't.
        sampling: of SAMPLINGS, see `find_pose`.
    """

    def __init__(
        self,
        sources: Sequence[FilterSource],
        seed: int,
        settings: dict,
        focal_guess: bool = False,
        sampling: str = "uniform",
    ):
        self._filters = {source.label: source.load() for source in sources}
        self._seed = seed
        self._settings = settings
        self._focal_guess = focal_guess
        self._sampling = sampling
        self._data: dict[Path, PairDataset] = {}

    def __call__(
        self, store: Path, pair: int, todo: Sequence[tuple[str, str]]
    ) -> list[PoseResult]:
        """Rows of a store's pair (number `pair`) for each (label of a filter, estimator) of `todo`.

        A filter runs once, whatever the number of estimators.
        """
        began = time.perf_counter()
        record = self.record(store, pair)
        right = record.distances_squared < TRUE_MATCH_DISTANCE
        points = undistorted_pixels(record)
        read_ms = 1000 * (time.perf_counter() - began)
        results = []
        for label in dict.fromkeys(label for label, _ in todo):
            prepared = self._prepared(label, record)
            began = time.perf_counter()
            filtered = prepared()
            filter_ms = 1000 * (time.perf_counter() - began)
            kept, kept_right = count_kept(record, filtered)
            results += [
                PoseResult(
                    store=store.name,
                    pair=pair,
                    scene=record.scene,
                    name0=record.name0,
                    name1=record.name1,
                    matches=len(right),
                    right=int(right.sum()),
                    filter=label,
                    kept=kept,
                    kept_right=kept_right,
                    read_ms=round(read_ms, 3),
                    filter_ms=round(filter_ms, 3),
                    estimator=name,
                    settings=self._settings[store.name, label, name],
                    **estimate_pose(record, points, filtered, name, self._seed, self._sampling),
                )
                for wanted, name in todo
                if wanted == label
            ]
        return results

    def record(self, store: Path, pair: int) -> PairRecord:
        if store not in self._data:
            self._data[store] = PairDataset(store)
        return self._data[store].record(pair)

    def filtered(self, store: Path, pair: int, label: str) -> tuple[PairRecord, Filtered]:
        """A pair and what the filter of that label says of it."""
        record = self.record(store, pair)
        return record, self._prepared(label, record)()

    def _prepared(self, label: str, record: PairRecord) -> PreparedFilter:
        seen = with_guessed_cameras(record) if self._focal_guess else record
        return self._filters[label](seen)


def with_guessed_cameras(record: PairRecord) -> PairRecord:
    """The pair as someone sees it who knows neither camera nor lens, see `guess_intrinsics`."""
    K0, K1 = guess_intrinsics(record.size0), guess_intrinsics(record.size1)
    none = np.zeros(0)
    x0, x1 = undistort_points(record.points0, K0), undistort_points(record.points1, K1)
    xs = np.concatenate([x0, x1], axis=1).astype(record.xs.dtype)
    second = None if record.second is None else with_guessed_cameras(record.second)
    return replace(
        record, xs=xs, K0=K0, K1=K1, distortion0=none, distortion1=none, second=second
    )


def choose_pairs(stores: Sequence[Path], limit: int | None) -> list[tuple[Path, int]]:
    """(store, number of the pair) of all pairs, or of `limit` of them, evenly spread.

    Raises:
        FileNotFoundError, ValueError: a bad store, one without cameras, two of one name, no pairs.
    """
    pairs = []
    for store in stores:
        with open_store(store) as file:
            if not has_extras(file):
                raise ValueError(
                    f"{store}: has no pixels, cameras and names (an OANet dump?); "
                    "a store made by build-pairs is wanted"
                )
            pairs += [(store, i) for i in range(len(file["xs"]))]
    names = [store.name for store in stores]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"stores: several are called {twice[0]}, rename one")
    if not pairs:
        raise ValueError(f"stores: no pairs in {', '.join(names) or 'nothing'}")
    if limit is None or limit >= len(pairs):
        return pairs
    return [pairs[i * len(pairs) // limit] for i in range(limit)]


def undistorted_pixels(record: PairRecord) -> list[np.ndarray]:
    """The matches' points (N, 2) in images 0 and 1, distortion taken out."""
    return [
        _undistorted(points, K, distortion)
        for points, K, distortion in (
            (record.points0, record.K0, record.distortion0),
            (record.points1, record.K1, record.distortion1),
        )
    ]


def _undistorted(points: np.ndarray, K: np.ndarray, distortion: np.ndarray) -> np.ndarray:
    return undistort_points(points, K, distortion) @ K[:2, :2].T + K[:2, 2]


def are_right(record: PairRecord, filtered: Filtered) -> np.ndarray:
    """Which of the matches that `filtered` speaks of are right, (N,) bool."""
    if filtered.points is None:
        return record.distances_squared < TRUE_MATCH_DISTANCE
    x0, x1 = (
        undistort_points(points, K, distortion)
        for points, K, distortion in zip(
            filtered.points, (record.K0, record.K1), (record.distortion0, record.distortion1)
        )
    )
    E = essential_from_pose(record.R, record.t)
    return symmetric_epipolar_distance(x0, x1, E) < TRUE_MATCH_DISTANCE


def count_kept(record: PairRecord, filtered: Filtered) -> tuple[int, int]:
    """How many matches are kept, and how many of them are right."""
    return int(filtered.kept.sum()), int((filtered.kept & are_right(record, filtered)).sum())


def estimate_pose(
    record: PairRecord,
    points: list[np.ndarray],
    filtered: Filtered,
    name: str,
    seed: int = 0,
    sampling: str = "uniform",
) -> dict:
    """Status, errors and time of an estimator on what a filter kept: fields of `PoseResult`.

    Args: as `find_pose`.
    """
    pose, milliseconds = find_pose(record, points, filtered, name, seed, sampling)
    return {
        "status": pose.status.value,
        **pose_errors(record, pose),
        "estimator_ms": round(milliseconds, 3),
    }


def pose_errors(record: PairRecord, pose: RelativePose) -> dict:
    """Degrees between an estimated pose and a pair's true one: fields of `PoseResult`."""
    rotation = translation = None
    error = FAILED_DEG
    if pose.ok:
        rotation = round(float(rotation_error_deg(pose.R, record.R)), 6)
        translation = round(float(translation_error_deg(pose.t, record.t)), 6)
        error = max(rotation, translation)
    return {
        "rotation_error_deg": rotation,
        "translation_error_deg": translation,
        "error_deg": error,
    }


def find_pose(
    record: PairRecord,
    points: list[np.ndarray],
    filtered: Filtered,
    name: str,
    seed: int = 0,
    sampling: str = "uniform",
) -> tuple[RelativePose, float]:
    """The pose that an estimator finds on what a filter kept, and milliseconds.

    Args:
        record: the pair.
        points: its `undistorted_pixels`, made beforehand so that an estimator's time is its own.
        filtered: of this pair.
        name, seed: of the estimator.
        sampling: "by_weight": largest weights first; where the filter gives none, smallest ratios
            of descriptor distances (of putative matches; matches of another origin in their order).
    """
    if filtered.points is not None:
        cameras = ((record.K0, record.distortion0), (record.K1, record.distortion1))
        points = [_undistorted(p, *camera) for p, camera in zip(filtered.points, cameras)]
    if name == "eight_point" and filtered.weights is not None:
        # All of them: the best tenth of all matches tells which points are in front.
        used, weights = np.ones_like(filtered.kept), filtered.weights
    else:
        used, weights = filtered.kept, None
        if sampling == "by_weight":
            weights = sampling_weights(record, filtered)[used]
    began = time.perf_counter()
    pose = estimate_relative_pose_from_matches(
        points[0][used],
        points[1][used],
        record.K0,
        record.K1,
        estimator=name,
        weights=weights,
        sampling=sampling,
        seed=seed,
        verify=False,
        **PROTOCOLS[name].options,
    )
    return pose, 1000 * (time.perf_counter() - began)


def sampling_weights(record: PairRecord, filtered: Filtered) -> np.ndarray:
    """(N,) the better the higher, not negative."""
    if filtered.weights is not None:
        return filtered.weights
    if filtered.points is not None:
        return np.ones(len(filtered.kept))
    return 1.0 - record.ratio
