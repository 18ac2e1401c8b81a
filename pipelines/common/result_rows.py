"""Results as rows of a CSV file that a run adds to, and goes on from after it was stopped.

A row is a dataclass of str, int, float and float | None, whose annotations are strings, with a
property `key` (what there is one row of in a file), a field `settings` (a fingerprint of all that
the row depends on) and, for messages, the class's `command` whose results they are.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterable, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Generic, TypeVar

from n3match.files.whole import write_whole
from n3match.pipelines.common.processes import Processes
from n3match.pipelines.common.tables import csv_text

Row = TypeVar("Row")

_SAVE_EVERY_S = 5.0
_READ = {
    "str": str,
    "int": int,
    "float": float,
    "float | None": lambda text: float(text) if text else None,
}


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of a file that `write_rows` wrote; none where there is no such file.

    Raises:
        ValueError: other columns, or a cell that is no number, naming the file and the line.
    """
    if not path.exists():
        return []
    columns = {field.name: _READ[field.type] for field in fields(kind)}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        if header != list(columns):
            raise ValueError(
                f"{path}: not results of {kind.command}: found columns {header}, "
                f"wanted {list(columns)}"
            )
        rows = []
        for cells in reader:
            try:
                values = [read(cell) for read, cell in zip(columns.values(), cells, strict=True)]
            except ValueError as error:
                raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
            rows.append(kind(*values))
    return rows


def write_rows(path: Path, kind: type[Row], rows: Iterable[Row]) -> None:
    """Writes the rows in the order given; a killed run leaves the file as it was."""
    columns = [field.name for field in fields(kind)]
    write_whole(path, csv_text(columns, map(astuple, rows)))


class ResultRows(Generic[Row]):
    """The rows on file and those of a run, written every few seconds in the order of their keys.

    Of several processes each writes a file of its own while it works (results.0.csv, …); `merged`
    puts all into one. What is left of a job that was stopped is put there when the next one starts.

    Args:
        path: of the file; None: nothing is read or written.
        kind: of the rows.
        processes: of the job; all see one folder.

    Raises:
        ValueError: a file holds something else, naming it.
    """

    def __init__(self, path: Path | None, kind: type[Row], processes: Processes | None = None):
        self.processes = processes or Processes()
        self._path, self._kind = path, kind
        self._mine: dict[tuple, Row] = {}
        self._saved_at = time.monotonic()
        self._rows: dict[tuple, Row] = {}
        if path is None:
            return
        if self.processes.is_first:
            leftovers = sorted(path.parent.glob(f"{path.stem}.*{path.suffix}"))
            if leftovers:
                self._write({r.key: r for file in (path, *leftovers) for r in self._read(file)})
                _remove(leftovers)
        self.processes.wait()
        self._rows = {row.key: row for row in self._read(path)}
        self.processes.wait()  # all have read before anybody writes

    def find(self, key: tuple, settings: str) -> Row | None:
        """The row that was on file, where it was made with these settings."""
        found = self._rows.get(key)
        return found if found is not None and found.settings == settings else None

    def add(self, rows: Sequence[Row]) -> None:
        self._mine.update((row.key, row) for row in rows)
        if time.monotonic() - self._saved_at > _SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        """Writes the rows of this process."""
        if self._path is None or not self._mine:
            return
        if self.processes.size == 1:
            self._write(self._rows | self._mine)
        else:
            own = f"{self._path.stem}.{self.processes.rank}{self._path.suffix}"
            self._write(self._mine, self._path.with_name(own))
        self._saved_at = time.monotonic()

    def merged(self) -> dict[tuple, Row]:
        """All rows, in the first process; its file then holds them. {} in the others."""
        rows = dict(self._rows)
        for mine in self.processes.gather(self._mine) or ():
            rows |= mine
        if not self.processes.is_first:
            return {}
        if self._path is not None and self.processes.size > 1:
            self._write(rows)
            _remove(self._path.parent.glob(f"{self._path.stem}.*{self._path.suffix}"))
        return rows

    def _read(self, path: Path) -> list[Row]:
        return read_rows(path, self._kind)

    def _write(self, rows: dict[tuple, Row], path: Path | None = None) -> None:
        write_rows(path or self._path, self._kind, (rows[key] for key in sorted(rows)))


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink()
