"""Filter the matches of a COLMAP database, and write two-view geometries of what is left.

Reads cameras, keypoints, matches (and SIFT descriptors, for side information), and writes
for each pair its kept matches, and E, F, H, the relative pose and the inliers as a calibrated
two-view geometry: the mapper can follow at once, without COLMAP's own verification. Cameras are
those of the database (any model but panoramas, whose pairs are left as they are). Where a focal
length is a guess the geometry is uncalibrated, F and H alone. Pairs that are too little likely to
show a common part of the scene are left without matches, and listed in DATABASE.left_out.txt (of
--out: DATABASE2.left_out.txt).

The matches in DATABASE are replaced; --out writes a copy instead. All is written in one
transaction at the end. Stopped at any moment, even by SIGKILL, it goes on when started again
(DATABASE.part or OUT.part holds what is done).
"""

from __future__ import annotations

import argparse
import time

from n3match.pipelines.common.arguments import (
    add_device_arguments,
    add_filter_argument,
    given_path,
    output_file,
)
from n3match.pipelines.filtering.left_out import add_probability_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "database", type=given_path, metavar="DATABASE", help="COLMAP's database.db"
    )
    parser.add_argument(
        "--out", type=output_file(), metavar="DATABASE2",
        help="write a copy, and leave DATABASE as it is"
    )
    parser.add_argument(
        "--no-geometries", action="store_true",
        help="write no two-view geometries (and remove those there): COLMAP verifies the pairs",
    )
    parser.add_argument(
        "--no-descriptors", action="store_true", help="don't compute side information"
    )
    add_probability_argument(parser)
    add_filter_argument(parser)
    add_device_arguments(parser)
    parser.add_argument(
        "--estimator", default="auto",
        help="of the two-view geometries, as in `n3match pose` (default: PoseLib where installed, "
        "else OpenCV's USAC)",
    )
    parser.add_argument(
        "--threshold", type=float, default=1.0, metavar="PIXELS", help="inliers (default: 1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the estimator")


def main(arguments: argparse.Namespace) -> int:
    from n3match.pipelines.filtering.colmap_database import Options, filter_database
    from n3match.pipelines.filtering.left_out import left_out_line

    if not 0 < arguments.threshold < float("inf"):
        raise ValueError(f"--threshold must be positive, got {arguments.threshold}")
    target = arguments.out or arguments.database
    if arguments.out is not None and arguments.out.absolute() == arguments.database.absolute():
        raise ValueError(f"--out: {arguments.out} is DATABASE itself; leave --out away for that")
    least = arguments.min_pair_probability
    began = time.perf_counter()
    counts = filter_database(
        arguments.database,
        arguments.out,
        Options(
            filter=arguments.filter,
            geometries=not arguments.no_geometries,
            descriptors=not arguments.no_descriptors,
            estimator=arguments.estimator,
            threshold=arguments.threshold,
            seed=arguments.seed,
            min_pair_probability=least,
            device=arguments.device,
            half=arguments.half,
        ),
    )
    seconds = time.perf_counter() - began
    pairs, done = counts["pairs"], counts["done"]
    print(f"pairs      {pairs}" + (f", {pairs - done} of them done before" if done < pairs else ""))
    print(f"matches    {counts['kept']} kept, {counts['inliers']} inliers")
    print(left_out_line(counts["left out"], pairs, counts["guessed"], least, target))
    if counts["guessed cameras"]:
        print(
            f"cameras    {counts['guessed cameras']} of {counts['cameras']} with a guessed focal "
            f"length: {counts['guessed']} pairs"
        )
        if not arguments.no_geometries:
            print(
                "           have no calibrated geometry (F in place of E and pose); the mapper "
                "looks for these focal lengths"
            )
    if not arguments.no_geometries:
        kinds = {
            "calibrated": "calibrated", "uncalibrated": "uncalibrated", "panoramic": "panoramic",
            "flat": "of a plane or panoramic",
        }
        told = [f"{counts[key]} {kind}" for key, kind in kinds.items() if counts[key]]
        without = pairs - sum(counts[key] for key in kinds)
        print(f"geometries {', '.join([*told, f'{without} without'])}")
    print(f"seconds    {seconds:.2f}; {done / max(seconds, 1e-9):.1f} pairs a second")
    print(f"written    {target}")
    return 0
