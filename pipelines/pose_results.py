"""Results of a pose evaluation as a CSV file: a row per pair, filter and estimator."""

from __future__ import annotations

import csv
import io
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from n3match.pipelines.tables import write_text_whole

FAILED_DEG = 180.0


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


_READ = {
    "str": str,
    "int": int,
    "float": float,
    "float | None": lambda text: float(text) if text else None,
}
_FIELDS = {field.name: _READ[field.type] for field in fields(PoseResult)}


def read_results(path: Path) -> list[PoseResult]:
    """The rows of a file that `write_results` wrote; none where there is no such file.

    Raises:
        ValueError: other columns, or a cell that is no number, naming the file and the line.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        if header != list(_FIELDS):
            raise ValueError(
                f"{path}: not results of evaluate-pose: found columns {header}, "
                f"wanted {list(_FIELDS)}"
            )
        results = []
        for row in reader:
            try:
                values = [read(cell) for read, cell in zip(_FIELDS.values(), row, strict=True)]
            except ValueError as error:
                raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
            results.append(PoseResult(*values))
    return results


def write_results(path: Path, results: list[PoseResult]) -> None:
    """Writes the rows in the order of their keys; a killed run leaves the file as it was."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_FIELDS)
    writer.writerows(astuple(result) for result in sorted(results, key=lambda r: r.key))
    write_text_whole(path, text.getvalue())
