"""Tables as Markdown to read, and as CSV to compute with."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence


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


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The content of a CSV file: nothing for None, line ends as on Unix."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()
