"""Rows of an evaluation of poses under noise: CSV file and Markdown table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from n3match.geometry import mean_average_precision
from n3match.pipelines.common.tables import markdown_table
from n3match.pipelines.common.typed_rows import read_rows, write_rows
from n3match.pipelines.evaluation.report import THRESHOLDS_DEG, bootstrap_interval

_COMMAND = "evaluate-pose-noise"
_SAVE_EVERY_S = 5.0
NO_NOISE = "no noise"


@dataclass(frozen=True)
class NoiseRow:
    """One pair at one noise level, treated one way."""

    scene: str
    name0: str
    name1: str
    sigma: float  # 8-bit units; 0: no noise
    method: str
    matches: int  # putative ones
    right: int  # of them, by the true pose
    kept: int
    kept_right: int
    inliers: int
    status: str  # of RelativePose
    error_deg: float  # 180 without a pose
    settings: str  # fingerprint of all that the row depends on

    @property
    def key(self) -> tuple:
        return self.scene, self.name0, self.name1, self.sigma, self.method


class NoiseRows:
    """The rows on file and new ones, written every few seconds.

    Raises:
        ValueError: the file holds something else, naming it.
    """

    def __init__(self, path: Path):
        self._path = path
        self._rows = {row.key: row for row in read_rows(path, NoiseRow, _COMMAND)}
        self._saved_at = time.monotonic()

    def find(self, key: tuple, settings: str) -> NoiseRow | None:
        found = self._rows.get(key)
        return found if found is not None and found.settings == settings else None

    def add(self, row: NoiseRow) -> None:
        self._rows[row.key] = row
        if time.monotonic() - self._saved_at > _SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        write_rows(self._path, NoiseRow, (self._rows[key] for key in sorted(self._rows)))
        self._saved_at = time.monotonic()


def noise_table(rows: Sequence[NoiseRow]) -> str:
    """Means over pairs for each noise level and method, as Markdown; shares in percent."""
    columns = ["noise σ", "method", "matches", "right", "kept", "kept right", "inliers"]
    columns += ["mAP@5 [95 % CI]", *(f"mAP@{t}" for t in THRESHOLDS_DEG[1:]), "no pose"]
    cells = []
    for sigma, method in dict.fromkeys((r.sigma, r.method) for r in rows):
        own = [r for r in rows if (r.sigma, r.method) == (sigma, method)]
        errors = [r.error_deg for r in own]
        smallest = THRESHOLDS_DEG[0]
        marks = mean_average_precision(errors, THRESHOLDS_DEG)
        low, high = bootstrap_interval(sum(e < smallest for e in errors), len(own))
        cells.append([
            f"{sigma:g}",
            NO_NOISE if sigma == 0 else method,
            *(
                f"{np.mean([getattr(r, name) for r in own]):.0f}"
                for name in ("matches", "right", "kept", "kept_right", "inliers")
            ),
            f"{100 * marks[smallest]:.1f} [{100 * low:.0f}, {100 * high:.0f}]",
            *(f"{100 * marks[t]:.1f}" for t in THRESHOLDS_DEG[1:]),
            sum(r.status != "ok" for r in own),
        ])
    return markdown_table(columns, cells)
