"""Dataclasses as rows of a CSV file, checked when they are read."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import astuple, fields
from pathlib import Path

from n3match.pipelines.common.tables import write_text_whole

_READ = {
    "str": str,
    "int": int,
    "float": float,
    "float | None": lambda text: float(text) if text else None,
}


def read_rows(path: Path, kind: type, command: str) -> list:
    """The rows of a file that `write_rows` wrote; none where there is no such file.

    Args:
        path: of the file.
        kind: a dataclass of str, int, float and float | None, whose annotations are strings.
        command: whose results they are, for messages.

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
                f"{path}: not results of {command}: found columns {header}, "
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


def write_rows(path: Path, kind: type, rows: Iterable) -> None:
    """Writes the rows in the order given; a killed run leaves the file as it was."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(kind)])
    writer.writerows(astuple(row) for row in rows)
    write_text_whole(path, text.getvalue())
