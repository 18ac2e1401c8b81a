"""The operator's benchmark as tables: Markdown to read, CSV to compute with."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from n3match.pipelines.benchmarks.measurement import (
    AUTHORS,
    FLOAT32,
    GATHERING,
    OURS,
    PLAIN,
    PRODUCTS,
    Measurement,
)
from n3match.pipelines.common.tables import markdown_table

_SHORT = {
    PRODUCTS: "products", PLAIN: "plain", FLOAT32: "float32", GATHERING: "gathering",
    AUTHORS: "authors'",
}
_MISSING = "—"


def table(rows: Sequence[Measurement]) -> str:
    """One Markdown table of one form: a line for each size and pass, and notes below."""
    names = list(dict.fromkeys(row.implementation for row in rows))
    others = [name for name in names if name != OURS]
    memory = any(row.peak_bytes is not None for row in rows)
    columns = ["N" if rows[0].form == "dense" else "image", f"{OURS}, s"]
    for name in others:
        over = f"{OURS} / {_SHORT[name]}" if name == PRODUCTS else f"{_SHORT[name]} / {OURS}"
        columns += [f"{_SHORT[name]}, s", over]
    columns.append("of the ceiling")
    if memory:
        columns += [f"{_SHORT.get(name, name)}, MB" for name in names if name != PRODUCTS]

    lines, notes = [], []
    for key in dict.fromkeys((row.size, row.gradients) for row in rows):
        found = {row.implementation: row for row in rows if (row.size, row.gradients) == key}
        ours = found[OURS]
        line = [label(ours), _number(ours.seconds)]
        for name in others:
            ratio = None
            if found[name].seconds is not None:
                ratio = found[name].seconds / ours.seconds
                ratio = 1 / ratio if name == PRODUCTS else ratio
            line += [_number(found[name].seconds), _number(ratio)]
            if found[name].note:
                notes.append(f"{label(ours)}: {name} {found[name].note}.")
        line.append(_MISSING if ours.attained is None else f"{100 * ours.attained:.0f} %")
        if memory:
            line += [_megabytes(found[name].peak_bytes) for name in names if name != PRODUCTS]
        lines.append(line)
    return "\n\n".join([markdown_table(columns, lines), *(["\n".join(notes)] if notes else [])])


def label(row: Measurement) -> str:
    return f"{row.size_label} with gradients" if row.gradients else row.size_label


def _number(value: float | None) -> str:
    """Three significant digits."""
    if value is None:
        return _MISSING
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _megabytes(value: int | None) -> str:
    return _MISSING if value is None else _number(value / 1e6)


def csv_text(rows: Sequence[Measurement]) -> str:
    """One line for each figure, all digits."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(
        ["form", "size", "pass", "implementation", "seconds", "peak_bytes", "floor_seconds", "note"]
    )
    for row in rows:
        values = (row.seconds, row.peak_bytes, row.floor_seconds)
        writer.writerow(
            [
                row.form,
                row.size,
                "forward and backward" if row.gradients else "forward",
                row.implementation,
                *("" if value is None else value for value in values),
                row.note,
            ]
        )
    return text.getvalue()
