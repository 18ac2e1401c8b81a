"""What an evaluation does with one pair: filter, estimate, compare with the true pose."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from n3match.datasets.pair_dataset import PairDataset
from n3match.datasets.pair_store import PairRecord
from n3match.datasets.two_view import TRUE_MATCH_DISTANCE
from n3match.geometry import (
    estimate_relative_pose_from_matches,
    rotation_error_deg,
    translation_error_deg,
    undistort_points,
)
from n3match.pipelines.match_filters import Filtered, FilterSource
from n3match.pipelines.pose_results import FAILED_DEG, PoseResult


@dataclass(frozen=True)
class Protocol:
    """How an estimator is run here."""

    title: str
    options: dict[str, float]
    package: str  # whose version matters


PROTOCOLS = {
    "eight_point": Protocol(
        "Weighted eight-point algorithm (no RANSAC), weights of the filter, 1 without", {}, "torch"
    ),
    # Threshold, confidence and iterations (OpenCV's defaults) of the CNNet and N³ evaluations.
    "opencv_ransac": Protocol(
        "OpenCV five-point RANSAC, 1e-3 in calibrated units",
        {"threshold_calibrated": 1e-3, "confidence": 0.999, "max_iterations": 1000},
        "opencv",
    ),
    "opencv_usac": Protocol("OpenCV USAC (MAGSAC++), 1 px", {"threshold": 1.0}, "opencv"),
    "poselib": Protocol("PoseLib LO-RANSAC, 1 px", {"threshold": 1.0}, "poselib"),
}


def check_estimators(estimators: Sequence[str]) -> None:
    """Raises ValueError for none or an unknown one, ImportError where PoseLib is missing."""
    if not estimators:
        raise ValueError("estimators: none given")
    for name in estimators:
        if name not in PROTOCOLS:
            raise ValueError(f"estimators: {name!r} is none of {', '.join(PROTOCOLS)}")
        if name == "poselib" and not importlib.util.find_spec("poselib"):
            raise ImportError(
                "estimators: 'poselib' needs the package poselib: pip install 'n3match[poselib]'"
            )


class PairEvaluator:
    """Filters one pair and estimates its poses; can be sent to other processes.

    Args:
        sources: the filters.
        seed: of the estimators.
        settings: fingerprints for the rows, by (name of the store, label, estimator).
    """

    def __init__(self, sources: Sequence[FilterSource], seed: int, settings: dict):
        self._filters = {source.label: source.load() for source in sources}
        self._seed = seed
        self._settings = settings
        self._data: dict[Path, PairDataset] = {}

    def __call__(
        self, store: Path, pair: int, todo: Sequence[tuple[str, str]]
    ) -> list[PoseResult]:
        """Rows of a store's pair (number `pair`) for each (label of a filter, estimator) of `todo`.

        A filter runs once, whatever the number of estimators.
        """
        if store not in self._data:
            self._data[store] = PairDataset(store)
        record = self._data[store].record(pair)
        right = record.distances_squared < TRUE_MATCH_DISTANCE
        # Undistorted once, in pixels, so that an estimator's time is its own.
        points = [
            undistort_points(p, K, d) @ K[:2, :2].T + K[:2, 2]
            for p, K, d in (
                (record.points0, record.K0, record.distortion0),
                (record.points1, record.K1, record.distortion1),
            )
        ]
        results = []
        for label in dict.fromkeys(label for label, _ in todo):
            prepared = self._filters[label](record)
            began = time.perf_counter()
            filtered = prepared()
            filter_ms = 1000 * (time.perf_counter() - began)
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
                    kept=int(filtered.kept.sum()),
                    kept_right=int((filtered.kept & right).sum()),
                    filter_ms=round(filter_ms, 3),
                    estimator=name,
                    settings=self._settings[store.name, label, name],
                    **self._pose(record, points, filtered, name),
                )
                for wanted, name in todo
                if wanted == label
            ]
        return results

    def _pose(
        self, record: PairRecord, points: list[np.ndarray], filtered: Filtered, name: str
    ) -> dict:
        if name == "eight_point" and filtered.weights is not None:
            # All of them: the best tenth of all matches tells which points are in front.
            used, scores = np.ones_like(filtered.kept), filtered.weights
        else:
            used, scores = filtered.kept, None
        began = time.perf_counter()
        pose = estimate_relative_pose_from_matches(
            points[0][used],
            points[1][used],
            record.K0,
            record.K1,
            estimator=name,
            scores=scores,
            seed=self._seed,
            verify=False,
            **PROTOCOLS[name].options,
        )
        milliseconds = 1000 * (time.perf_counter() - began)
        rotation = translation = None
        error = FAILED_DEG
        if pose.ok:
            rotation = round(float(rotation_error_deg(pose.R, record.R)), 6)
            translation = round(float(translation_error_deg(pose.t, record.t)), 6)
            error = max(rotation, translation)
        return {
            "status": pose.status.value,
            "rotation_error_deg": rotation,
            "translation_error_deg": translation,
            "error_deg": error,
            "estimator_ms": round(milliseconds, 3),
        }
