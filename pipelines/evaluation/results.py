"""Results of a pose evaluation as a CSV file: a row per pair, filter and estimator."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from n3match.pipelines.common.processes import Processes
from n3match.pipelines.common.typed_rows import read_rows, write_rows

FAILED_DEG = 180.0
_SAVE_EVERY_S = 5.0


@dataclass(frozen=True)
class PoseResult:
    """One pair, filtered one way, with its pose estimated one way."""

    store: str  # file name of the pair store
    pair: int  # row in the store
    scene: str
    name0: str
    name1: str
    matches: int  # putative ones
    right: int  # of them, by the true pose
    filter: str
    kept: int
    kept_right: int
    read_ms: float  # the pair from the store, undistorted
    filter_ms: float
    estimator: str
    status: str  # of RelativePose
    rotation_error_deg: float | None  # None without a pose
    translation_error_deg: float | None  # 0 … 90, sign ignored; None without a pose
    error_deg: float  # the larger of both, 180 without a pose
    estimator_ms: float
    settings: str  # fingerprint of all that the row depends on

    @property
    def key(self) -> tuple[str, int, str, str]:
        """What there is one row of in a file."""
        return self.store, self.pair, self.filter, self.estimator


def read_results(path: Path) -> list[PoseResult]:
    """The rows of a file that `write_results` wrote, see `read_rows`."""
    return read_rows(path, PoseResult, "evaluate-pose")


def write_results(path: Path, results: list[PoseResult]) -> None:
    """Writes the rows in the order of their keys; a killed run leaves the file as it was."""
    write_rows(path, PoseResult, sorted(results, key=lambda r: r.key))


class ResultFiles:
    """The rows on file and those of a run, written every few seconds.

    One process writes results.csv. Of several, each writes a file of its own while it works
    (results.0.csv, …); `merged` puts all into results.csv. What is left of a job that was stopped
    is put there when the next one starts.

    Args:
        out: folder; None: nothing is written.
        processes: of the job; all see one folder.

    Raises:
        ValueError: a file holds something else, naming it.
    """

    def __init__(self, out: str | Path | None, processes: Processes):
        self.processes = processes
        self._folder = None if out is None else Path(out)
        self._mine: dict[tuple, PoseResult] = {}
        self._saved_at = time.monotonic()
        self._rows: dict[tuple, PoseResult] = {}
        if self._folder is None:
            return
        if processes.is_first:
            self._collect_leftovers()
        processes.wait()
        self._rows = {r.key: r for r in read_results(self._folder / "results.csv")}
        processes.wait()  # all have read before anybody writes

    def has(self, key: tuple[str, int, str, str], settings: str) -> bool:
        found = self._rows.get(key)
        return found is not None and found.settings == settings

    def add(self, results: Sequence[PoseResult]) -> None:
        self._mine.update((r.key, r) for r in results)
        if time.monotonic() - self._saved_at > _SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        """Writes the rows of this process."""
        if self._folder is None or not self._mine:
            return
        if self.processes.size == 1:
            write_results(self._folder / "results.csv", [*(self._rows | self._mine).values()])
        else:
            path = self._folder / f"results.{self.processes.rank}.csv"
            write_results(path, list(self._mine.values()))
        self._saved_at = time.monotonic()

    def merged(self) -> dict[tuple[str, int, str, str], PoseResult]:
        """All rows, in the first process; its results.csv then holds them. {} in the others."""
        rows = dict(self._rows)
        for mine in self.processes.gather(self._mine) or ():
            rows |= mine
        if not self.processes.is_first:
            return {}
        if self._folder is not None and self.processes.size > 1:
            write_results(self._folder / "results.csv", list(rows.values()))
            for path in self._folder.glob("results.*.csv"):
                path.unlink()
        return rows

    def _collect_leftovers(self) -> None:
        leftovers = sorted(self._folder.glob("results.*.csv"))
        if leftovers:
            paths = [self._folder / "results.csv", *leftovers]
            rows = {r.key: r for path in paths for r in read_results(path)}
            write_results(paths[0], list(rows.values()))
            for path in leftovers:
                path.unlink()
