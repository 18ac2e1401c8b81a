"""`python -m n3match.pipelines.benchmark`: time and memory as ratios against named baselines.

Every claim of speed or memory in the README comes from one run of this command.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from pathlib import Path

import torch

from n3match.pipelines.benchmarks import match_filter, matching, operator
from n3match.pipelines.tables import markdown_table, write_text_whole

PARTS = ("ops", "matching", "filter")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m n3match.pipelines.benchmark",
                                     description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="|".join(PARTS), help="default: all")
    parser.add_argument("--sizes", type=int, nargs="+", default=None,
                        help="N of the operator, keypoints of matching, matches of the filter")
    parser.add_argument("--batch", type=int, default=4, help="pairs per call of the operator")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory-size", type=int, default=20000,
                        help="N at which the operator's peak memory is taken; 0 for none")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads of torch")
    parser.add_argument("--out", type=Path, default=None, help="folder for benchmark-PART.csv")
    arguments = parser.parse_args(argv)
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown part {sorted(unknown)}: choose from {PARTS}")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, "
          f"median of {arguments.repeats}\n")
    for part in arguments.parts or PARTS:
        if part == "ops":
            rows = operator.run(arguments.sizes or [2000], arguments.batch, arguments.repeats,
                                arguments.memory_size)
        elif part == "matching":
            rows = matching.run(arguments.sizes or [2000, 8000], arguments.repeats)
        else:
            rows = match_filter.run(arguments.sizes or [2000], arguments.repeats)
        columns = list(dict.fromkeys(column for row in rows for column in row))
        cells = [[row.get(column, "") for column in columns] for row in rows]
        print(markdown_table(columns, cells) + "\n", flush=True)
        if arguments.out is not None:
            text = io.StringIO()
            csv.writer(text).writerows([columns, *cells])
            write_text_whole(arguments.out / f"benchmark-{part}.csv", text.getvalue())
    return 0


if __name__ == "__main__":
    sys.exit(main())
