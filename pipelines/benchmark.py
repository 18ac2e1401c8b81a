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

from n3match.pipelines.benchmarks import (
    denoiser,
    filter_file,
    gpu,
    match_filter,
    matching,
    operator_benchmark,
    operator_dense,
    operator_window,
    training_step,
)
from n3match.pipelines.benchmarks.measurement import Limits
from n3match.pipelines.tables import markdown_table, write_text_whole

PARTS = ("ops", "matching", "filter", "filter-h5", "training-step", "denoise")
GPU = "gpu"  # not among the parts that run by default: it alone needs a GPU


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m n3match.pipelines.benchmark",
                                     description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="|".join((*PARTS, GPU)),
                        help=f"default: all but {GPU}, which without a GPU says so and ends with "
                        f"status {gpu.NO_GPU}")
    parser.add_argument("--sizes", type=int, nargs="*", default=None,
                        help="N of the operator, keypoints of matching, matches of the filter and "
                        "of each pair of a training step; filter-h5: pairs in the file "
                        f"(default: {' '.join(map(str, filter_file.PAIRS))})")
    parser.add_argument("--images", type=int, nargs="*", default=None, metavar="SIDE",
                        help="of the operator's window form and of denoising (default: "
                        f"{' '.join(map(str, operator_window.SIDES))}; denoise: "
                        f"{' '.join(map(str, denoiser.SIDES))}; {GPU}: "
                        f"{' '.join(map(str, gpu.SIDES))})")
    parser.add_argument("--batch", type=int, default=1, help="pairs per call of the operator")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=Limits.seconds,
                        help="for one implementation of the operator, or network, at one size: "
                        "fewer repeats where it takes longer, and baselines of the operator that "
                        "take longer for one call are left out at larger sizes, which the table "
                        "says (default: %(default)g)")
    parser.add_argument("--baseline-memory", type=float, default=Limits.baseline_bytes / 1e9,
                        metavar="GB", help="baselines of the operator that need more are left out, "
                        "which the table says (default: %(default)g)")
    parser.add_argument("--no-memory", action="store_true",
                        help="don't measure the peak memory of the operator, nor of denoising")
    parser.add_argument("--eager", action="store_true",
                        help=f"{GPU}: plain formulas as they are, without the minutes that "
                        "torch.compile takes")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads of torch")
    parser.add_argument("--out", type=Path, default=None,
                        help="folder for benchmark-PART.csv, benchmark-ops.md and .png, "
                        "benchmark-gpu.md")
    arguments = parser.parse_args(argv)
    unknown = set(arguments.parts) - {*PARTS, GPU}
    if unknown:
        parser.error(f"unknown part {sorted(unknown)}: choose from {(*PARTS, GPU)}")
    if arguments.sizes == [] and arguments.images == [] and "ops" in (arguments.parts or PARTS):
        parser.error("nothing to measure: neither --sizes nor --images of the operator")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    heading = (
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"median of {arguments.repeats}"
    )
    print(heading + "\n")
    limits = Limits(
        repeats=arguments.repeats,
        seconds=arguments.seconds,
        baseline_bytes=1e9 * arguments.baseline_memory,
        memory=not arguments.no_memory,
    )
    for part in arguments.parts or PARTS:
        if part == GPU:
            sizes, sides = (
                default if given is None else given
                for given, default in ((arguments.sizes, gpu.SIZES), (arguments.images, gpu.SIDES))
            )
            compiler = (lambda function: function) if arguments.eager else torch.compile
            status = gpu.run(sizes, sides, arguments.repeats, arguments.out, compiler)
            if status:
                return status
            continue
        if part == "ops":
            sizes = operator_dense.SIZES if arguments.sizes is None else arguments.sizes
            sides = operator_window.SIDES if arguments.images is None else arguments.images
            operator_benchmark.run(
                sizes, sides, arguments.batch, limits, arguments.out, heading
            )
            continue
        if part == "matching":
            rows = matching.run(arguments.sizes or [2000, 8000], arguments.repeats)
        elif part == "filter-h5":
            rows = filter_file.run(arguments.sizes or filter_file.PAIRS)
        elif part == "training-step":
            rows = training_step.run(arguments.sizes or training_step.MATCHES, arguments.repeats)
        elif part == "denoise":
            rows = denoiser.run(arguments.images or denoiser.SIDES, limits)
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
