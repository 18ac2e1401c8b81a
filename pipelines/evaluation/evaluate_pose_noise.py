"""Relative poses from noisy photographs: without denoising, and with each of some methods before.

To photographs of scenes with known poses, reduced to --max-size and grey, white Gaussian noise is
added, the same for every method: default_rng([1234, σ, crc32("scene/name")]); the sum is rounded
and clipped to 8 bits, as a file would be. Each method denoises it, told σ; then everything is as
ever: SIFT again, nearest neighbours, one filter, one estimator, whose pose is taken as it is. The
row "no noise" is the photographs as they are. Networks that aren't for a σ are left out there.

With --out, denoised images are kept in images/ and rows in results.csv: a run that was stopped
goes on where it was, and another method or σ costs only itself. table.md holds the table.

Exit status: 0; 2 after an error, told by one line on standard error.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from n3match.pipelines.common.arguments import (
    add_memory_argument,
    add_stored_pixels_argument,
    check_at_least,
    check_folder,
    given_path,
    output_folder,
)
from n3match.pipelines.denoising.arguments import add_method_arguments
from n3match.pipelines.evaluation.choices import PROTOCOLS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "scenes", type=given_path, help="a folder of scenes, of any kind that build-pairs reads"
    )
    parser.add_argument(
        "--sigma", type=float, nargs="+", default=[15.0, 25.0, 50.0], metavar="S",
        help="noise levels in 8-bit units (default: 15 25 50)",
    )
    add_method_arguments(parser)
    add_stored_pixels_argument(parser, ", as for build-pairs")
    parser.add_argument(
        "--pairs", type=int, default=None, metavar="N",
        help="at most so many of each scene, easy and hard ones alike (default: all)",
    )
    parser.add_argument(
        "--against", nargs="+", default=[], metavar="METHOD",
        help="some of the methods, e.g. noisy: also how much more pairs the others solve, and how "
        "many more inliers they have, pair by pair",
    )
    parser.add_argument(
        "--max-size", type=int, default=480, metavar="PIXELS",
        help="longer side of the reduced photographs (default: %(default)s)",
    )
    parser.add_argument("--max-keypoints", type=int, default=2000, metavar="N")
    parser.add_argument("--filter", default="sift", help="as in evaluate-pose; default: sift")
    parser.add_argument(
        "--estimator", choices=tuple(PROTOCOLS), default="opencv_usac", help="default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the pairs and of the estimator")
    add_memory_argument(parser)
    parser.add_argument(
        "--out", type=output_folder,
        help="folder for results.csv, table.md, images/; an existing run goes on",
    )


def main(arguments: argparse.Namespace) -> int:
    import torch

    from n3match.datasets.scenes.source import ReadOptions
    from n3match.files.whole import write_whole
    from n3match.pipelines.common.result_rows import ResultRows
    from n3match.pipelines.denoising.methods import MethodSource, methods_from_arguments
    from n3match.pipelines.evaluation.match_filters import FilterSource
    from n3match.pipelines.evaluation.noise_evaluation import (
        Estimation,
        NoisyViews,
        Treatment,
        evaluate,
        make_report,
        plan,
    )
    from n3match.pipelines.evaluation.protocol import check_estimators
    from n3match.pipelines.evaluation.records import NoiseResult

    for sigma in arguments.sigma:
        if not 0 < sigma <= 255:
            raise ValueError(f"sigma: wanted numbers above 0 and up to 255, got {sigma}")
    check_at_least(1, arguments, "max_size", "max_keypoints")
    if arguments.pairs is not None:
        check_at_least(1, arguments, "pairs")
    methods = methods_from_arguments(arguments)
    labels = [method.label for method in methods]
    for name in arguments.against:
        if name not in labels:
            raise ValueError(f"--against: found {name}, wanted some of {labels}")
    check_estimators([arguments.estimator])
    check_folder(arguments.out)
    treatments, left_out = [Treatment(0.0, MethodSource("noisy", "noisy"))], []
    sigmas = list(dict.fromkeys(arguments.sigma))
    for sigma in sigmas:
        treatments += [Treatment(sigma, m) for m in methods if m.accepts(sigma)]
    for method in methods:
        missing = [f"{sigma:g}" for sigma in sigmas if not method.accepts(sigma)]
        if missing:
            left_out.append(f"{method.label} is not for noise of σ {', '.join(missing)}.")
    if len(treatments) == 1:
        raise ValueError(f"methods: none of the methods is for noise of σ {sigmas}")
    filter = replace(
        FilterSource.parse(arguments.filter), device=arguments.device, half=arguments.half
    )
    estimation = Estimation(filter, arguments.estimator, arguments.seed)
    reading = ReadOptions(stored=arguments.stored_pixels)
    parts = plan(arguments.scenes, arguments.pairs, arguments.seed, reading)
    torch.set_flush_denormal(True)
    temporary = tempfile.TemporaryDirectory() if arguments.out is None else nullcontext()
    with temporary as made:
        folder = Path(arguments.out or made)
        views = NoisyViews(
            folder / "images", arguments.max_size, arguments.max_keypoints,
            arguments.memory,
        )
        rows_on_file = ResultRows(folder / "results.csv", NoiseResult)
        rows = evaluate(parts, treatments, views, estimation, rows_on_file)
        text = make_report(rows, estimation, views, left_out, arguments.against)
        if arguments.out is not None:
            write_whole(folder / "table.md", text)
    print(text, end="")
    return 0
