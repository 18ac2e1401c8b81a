"""The whole benchmark of the operator: measured, printed as it comes, written to a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from n3match.pipelines.benchmarks import operator_dense, operator_window
from n3match.pipelines.benchmarks.ceilings import measure_ceilings
from n3match.pipelines.benchmarks.measurement import Limits, Measurement
from n3match.pipelines.benchmarks.operator_growth import plot_growth
from n3match.pipelines.benchmarks.operator_report import csv_text, table
from n3match.whole_file import write_whole


def run(
    sizes: Sequence[int],
    sides: Sequence[int],
    batch: int,
    limits: Limits,
    out: Path | None,
    heading: str,
) -> list[Measurement]:
    """Prints the tables; with `out`, writes benchmark-ops.md, .csv and .png into that folder.

    Args:
        sizes: N of the dense form; none leaves it out. sides: of the window form's images.
        batch: pairs per call of the dense form.
        heading: what the machine is, first line of the Markdown file.
    """
    ceilings = measure_ceilings()
    parts = [f"{heading}; {ceilings.describe()}."]
    print(ceilings.describe() + "\n", flush=True)
    rows: list[Measurement] = []
    for title, measure in (
        (
            f"All items are candidates ({operator_dense.describe(batch)}):",
            lambda: operator_dense.measure_dense(sizes, batch, limits, ceilings),
        ),
        (
            f"Windows of an image ({operator_window.describe()}):",
            lambda: operator_window.measure_windows(sides, limits, ceilings),
        ),
    ):
        found = measure()
        if found:
            rows += found
            parts += [title, table(found)]
            print("\n\n".join(parts[-2:]) + "\n", flush=True)
    if out is not None:
        write_whole(out / "benchmark-ops.md", "\n\n".join(parts) + "\n")
        write_whole(out / "benchmark-ops.csv", csv_text(rows))
        plot_growth(out / "benchmark-ops.png", rows)
    return rows
