"""Time and memory as ratios against named baselines, all measured in one run.

PART is ops (the operator), pair (from photographs to a pose), matching, filter, filter-h5,
filter-colmap, training-step or denoise; without any, all of these are measured. gpu checks and
times the operator on a GPU, gpu-networks the shipped filters and a denoiser; without a GPU they say
so and end with status 2. kernels needs none: it compiles the operator's kernels as for an H100 or
H200 and says what became of them; status 1 if registers didn't suffice, products aren't what such a
GPU is fast at, or results are wrong. status counts what is said of generated scenes that have no
pose, or hide it, with and without a filter: how often a confident pose is wrong.
"""

from __future__ import annotations

import argparse

from n3match.pipelines.common.arguments import output_folder

PARTS = (
    "ops", "pair", "matching", "filter", "filter-h5", "filter-colmap", "training-step", "denoise",
)
# Not among the parts that run by default: two need a GPU, one Triton, and one measures no time.
GPU, NETWORKS, KERNELS, STATUS = "gpu", "gpu-networks", "kernels", "status"
_ALL = (*PARTS, GPU, NETWORKS, KERNELS, STATUS)

# N of the operator, keypoints, matches, pairs of a file, matches of a pair; sides of images.
_SIZES = {
    "ops": (500, 1000, 2000, 5000, 10000, 20000),
    "pair": (2000, 4000, 8000),
    "matching": (2000, 8000),
    "filter": (2000,),
    "filter-h5": (100, 1000),
    "filter-colmap": (100, 1000),
    "training-step": (1250,),
    GPU: (2000, 5000, 10000, 20000),
    NETWORKS: (2000,),
    KERNELS: (2000, 5000, 20000),
}
_SIDES = {
    "ops": (128, 256, 512, 1024), "denoise": (512,), GPU: (512,), NETWORKS: (512,),
    KERNELS: (512,),
}


_CANDIDATES = {GPU: (2000, 20000), KERNELS: (2000, 20000)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    def defaults(numbers: dict[str, tuple[int, ...]]) -> str:
        return "; ".join(f"{part}: {' '.join(map(str, n))}" for part, n in numbers.items())

    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(_ALL))
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=None, metavar="N",
        help="N of the operator, keypoints of a pair and of matching, matches of the filter and of "
        "each pair of a training step, pairs in the file of filter-h5 and filter-colmap (default: "
        f"{defaults(_SIZES)})",
    )
    parser.add_argument(
        "--images", type=int, nargs="*", default=None, metavar="SIDE",
        help=f"of the operator's window form and of denoising (default: {defaults(_SIDES)})",
    )
    parser.add_argument(
        "--candidates", type=int, nargs="*", default=None, metavar="N",
        help="queries and items of the operator's form with explicit candidates (default: "
        f"{defaults(_CANDIDATES)})",
    )
    parser.add_argument("--batch", type=int, default=1, help="pairs per call of the operator")
    parser.add_argument(
        "--repeats", type=int, default=5,
        help=f"of each call; {STATUS}: scenes of each kind, noise and share of wrong matches",
    )
    parser.add_argument(
        "--filters", nargs="+", default=["none", "sift"], metavar="NAME",
        help=f"{STATUS}: shipped weights or files, which see the points alone, or none (default: "
        "none sift)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N",
        help=f"{STATUS}: another one draws other scenes (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds", type=float, default=10.0,
        help="for one implementation of the operator, or network, at one size: fewer repeats where "
        "it takes longer, and baselines of the operator that take longer for one call are left out "
        "at larger sizes, which the table says (default: %(default)g)",
    )
    parser.add_argument(
        "--baseline-memory", type=float, default=5.0, metavar="GB",
        help="baselines of the operator that need more are left out, which the table says "
        "(default: %(default)g)",
    )
    parser.add_argument(
        "--no-memory", action="store_true",
        help="don't measure the peak memory of the operator, nor of denoising",
    )
    parser.add_argument(
        "--eager", action="store_true",
        help=f"{GPU}: plain formulas as they are, without the minutes that torch.compile takes",
    )
    parser.add_argument(
        "--cases", default="", metavar="TEXT",
        help=f"{GPU}: only those checks with TEXT in their names",
    )
    parser.add_argument(
        "--device", default="cuda", help=f"{NETWORKS}: where they run (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=None, help="CPU threads of torch")
    parser.add_argument(
        "--out", type=output_folder, default=None,
        help="folder for benchmark-PART.csv, benchmark-ops.md and .png, benchmark-gpu.md, …",
    )


def main(arguments: argparse.Namespace) -> int:
    import torch

    unknown = set(arguments.parts) - set(_ALL)
    if unknown:
        raise ValueError(f"unknown part {sorted(unknown)}: choose from {_ALL}")
    parts = arguments.parts or PARTS
    if arguments.sizes == [] and arguments.images == [] and "ops" in parts:
        raise ValueError("nothing to measure: neither --sizes nor --images of the operator")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    heading = (
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"median of {arguments.repeats} (denoise: least CPU seconds)"
    )
    print(heading + "\n")
    for part in parts:
        status = _measure(part, arguments, heading)
        if status:
            return status
    return 0


def _measure(part: str, arguments: argparse.Namespace, heading: str) -> int:
    """Prints, and with --out writes, the figures of one part; its exit status."""
    from n3match.files.whole import write_whole
    from n3match.pipelines.benchmarks.measure import Limits
    from n3match.pipelines.common.tables import csv_text, markdown_table

    sizes = _SIZES.get(part) if arguments.sizes is None else arguments.sizes
    sides = _SIDES.get(part) if arguments.images is None else arguments.images
    indexed = _CANDIDATES.get(part) if arguments.candidates is None else arguments.candidates
    limits = Limits(
        repeats=arguments.repeats,
        seconds=arguments.seconds,
        baseline_bytes=1e9 * arguments.baseline_memory,
        memory=not arguments.no_memory,
    )
    # What a part needs is imported for it alone.
    if part == GPU:
        import torch

        from n3match.pipelines.benchmarks.gpu import operator

        compiler = (lambda function: function) if arguments.eager else torch.compile
        return operator.run(
            sizes, sides, indexed, arguments.repeats, arguments.out, compiler, arguments.cases
        )
    if part == NETWORKS:
        from n3match.pipelines.benchmarks.gpu import networks as gpu_networks

        return gpu_networks.run(
            sizes, sides, arguments.device, arguments.repeats, arguments.out
        )
    if part == KERNELS:
        from n3match.pipelines.benchmarks.gpu import kernels  # imports Triton

        return kernels.run(sizes, sides, indexed, arguments.out)
    if part == STATUS:
        from n3match.pipelines.benchmarks import status

        options = arguments.repeats, arguments.seed
        cases = status.run_cases(arguments.filters, arguments.repeats, seed=arguments.seed)
        report = f"{status.heading(*options)}\n\n{status.status_report(cases)}"
        print(report, flush=True)
        if arguments.out is not None:
            write_whole(arguments.out / "benchmark-status.md", report)
        return 0
    if part == "ops":
        from n3match.pipelines.benchmarks import operator_report

        operator_report.run(sizes, sides, arguments.batch, limits, arguments.out, heading)
        return 0
    if part in ("filter-h5", "filter-colmap"):
        from n3match.pipelines.benchmarks import filter_file

        rows = filter_file.run(part, sizes)
    elif part == "training-step":
        from n3match.pipelines.benchmarks import networks

        rows = networks.training_rows(sizes, arguments.repeats)
    elif part == "denoise":
        from n3match.pipelines.benchmarks import networks

        rows = networks.denoising_rows(sides, limits)
    else:
        from n3match.pipelines.benchmarks import pair_stages

        run = {
            "pair": pair_stages.pair_rows,
            "matching": pair_stages.matching_rows,
            "filter": pair_stages.filter_rows,
        }[part]
        rows = run(sizes, arguments.repeats)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [[row.get(column, "") for column in columns] for row in rows]
    print(markdown_table(columns, cells) + "\n", flush=True)
    if arguments.out is not None:
        write_whole(arguments.out / f"benchmark-{part}.csv", csv_text(columns, cells))
    return 0
