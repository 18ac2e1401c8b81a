"""How good the poses are that a network leads to, on pairs it isn't trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from n3match.datasets.pairs.dataset import PairDataset
from n3match.datasets.pairs.sample import TRUE_MATCH_DISTANCE
from n3match.geometry import mean_average_precision
from n3match.nn.match_filter import MatchFilter
from n3match.pipelines.common.processes import Processes
from n3match.pipelines.evaluation.match_filters import learned
from n3match.pipelines.evaluation.protocol import (
    check_estimators,
    choose_pairs,
    count_kept,
    estimate_pose,
    undistorted_pixels,
)

# The first of these decides which weights are the best, the next among equals.
MARKS = ("mAP@5", "mAP@10", "mAP@20")
NUMBERS = (*MARKS, "precision", "recall")


class Validation:
    """Runs a network on pairs of known pose, shared among processes.

    Args:
        stores: files written by build-pairs.
        estimator: a name of `evaluation.choices.PROTOCOLS`.
        limit: that many pairs at most, evenly spread over all.

    Raises:
        FileNotFoundError, ValueError, ImportError: no such store, one without cameras, an
            unknown estimator or one that isn't installed.
    """

    def __init__(self, stores: Sequence[str | Path], estimator: str, limit: int):
        check_estimators([estimator])
        self._estimator = estimator
        self._pairs = choose_pairs([Path(store) for store in stores], limit)
        self._data = {Path(store): PairDataset(store) for store in stores}

    def __call__(self, net: MatchFilter, processes: Processes) -> dict[str, float]:
        """The NUMBERS, shares of 1; the same in all processes."""
        filter_ = MatchFilter(net.config)
        filter_.load_state_dict(net.state_dict())
        filter_.to(processes.device).eval()
        rows = torch.zeros(len(self._pairs), 3, dtype=torch.float64)
        for place in range(processes.rank, len(self._pairs), processes.size):
            rows[place] = torch.tensor(self._row(filter_, *self._pairs[place]))
        errors, precision, recall = processes.sum(rows.to(processes.device)).cpu().unbind(1)
        marks = mean_average_precision(errors.numpy(), (5, 10, 20)).values()
        return dict(zip(NUMBERS, (*marks, precision.mean().item(), recall.mean().item())))

    def _row(self, net: MatchFilter, store: Path, pair: int) -> tuple[float, float, float]:
        """Error in degrees, precision, recall (1 where there is nothing right to find)."""
        record = self._data[store].record(pair)
        right = record.distances_squared < TRUE_MATCH_DISTANCE
        filtered = learned(net, record)()
        found = estimate_pose(record, undistorted_pixels(record), filtered, self._estimator)
        kept, kept_right = count_kept(record, filtered)
        recall = kept_right / right.sum() if right.any() else 1.0
        return found["error_deg"], kept_right / max(1, kept), float(recall)
