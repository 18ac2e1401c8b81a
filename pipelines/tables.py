"""Markdown tables, and text files that are replaced whole."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table with padded cells: first column to the left, all others to the right.

    Raises:
        ValueError: a row with another number of cells than there are columns.
    """
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in (columns, *rows)]
    for row in cells:
        if len(row) != len(columns):
            raise ValueError(f"rows: found one of {len(row)} cells, wanted {len(columns)}: {row}")
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(columns))]
    rule = [
        "-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)
    ]
    lines = [
        [cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))]
        for row in cells
    ]
    lines.insert(1, rule)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_text_whole(path: Path, text: str) -> None:
    """Writes a temporary file and renames it: `path` holds all of it, or what it held before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + f".{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
