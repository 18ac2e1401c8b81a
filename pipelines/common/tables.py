"""Markdown tables, and text files that are replaced whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from n3match.pipelines.common.whole_file import whole_file


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
    """Makes the folder and writes the file: afterwards it holds all of `text`, or what it held."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
