"""Filtered matches of two photographs, or of a folder of them, written to a file.

    n3match match A.jpg B.jpg -o FILE      FILE ends in .csv, .h5 or .hdf5
    n3match match FOLDER NAME.db           a COLMAP database with two-view geometries
    n3match match FOLDER OUT               hloc's files in a folder OUT

SIFT keypoints (of two photographs also others), nearest neighbours, the N³ match filter. Pixels are
those of the image that cv2.imread gives: turned by the file's EXIF orientation (--stored-pixels: as
stored). The centre of the first one is (0, 0).

CSV: a header and the columns x0,y0,x1,y1,probability: of being right, in (½, 1] (1 with --filter
none). HDF5: datasets points0 (M, 2), points1 (M, 2), probability (M), index0 (M), index1 (M) into
keypoints0 and keypoints1 (N, 2), and attributes: image0/1, size0/1 (width, height), orientation0/1
(EXIF's), turned0/1 (whether by it), K0/1, distortion0/1 where given, intrinsics0/1 ("given", "exif"
or "assumed"), denoised0/1 (the weights) with --denoise, filter, num_putative.

A folder: keypoints of each photograph once, all pairs or those chosen, no keypoint matched twice
in a pair (--filter none: mutual nearest neighbours). OUT gets features.h5, matches.h5 and
pairs.txt as hloc reads them. Stopped at any moment, even by SIGKILL, it goes on when started again
(OUT.part holds what is done). Pairs that are too little likely to show a common part of the scene
are left out, and listed in OUT/left_out.txt (a database: NAME.db.left_out.txt). For large folders,
on one machine or several that see both folders: `torchrun --nproc-per-node 4 -m
n3match.pipelines.cli match FOLDER OUT`.

Exit status: 0 also where no match is kept (the file then holds none); 1 where a photograph of a
folder could not be read (told on standard error) and the rest was done; 2 for an error such as an
unreadable photograph.
"""

from __future__ import annotations

import argparse
import sys

from n3match.pipelines.common.arguments import output_file
from n3match.pipelines.folder.arguments import (
    DEFAULTS,
    add_folder_arguments,
    folder_run,
)
from n3match.pipelines.two_view.arguments import add_view_arguments

# Of two photographs alone.
_OF_TWO = (
    "intrinsics0", "intrinsics1", "distortion0", "distortion1", "denoise", "sigma", "plot", "out",
    "json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_view_arguments(parser)
    parser.add_argument(
        "-o", "--out", type=output_file(".h5", ".hdf5", ".csv"), metavar="FILE",
        help="of two photographs: ends in .h5, .hdf5 or .csv",
    )
    add_folder_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    if arguments.image0.is_dir():
        return _match_folder(arguments)
    for name in DEFAULTS:
        if name in arguments:
            raise ValueError(
                f"--{name.replace('_', '-')}: is for a folder, {arguments.image0} is none"
            )
    if arguments.out is None:
        raise ValueError("--out: found none, wanted a file for the matches of two photographs")
    return _match_two(arguments)


def _match_folder(arguments: argparse.Namespace) -> int:
    from n3match.pipelines.common.devices import checked_device
    from n3match.pipelines.common.processes import joined_processes
    from n3match.pipelines.folder.match_folder import DATABASE, match_folder, report_lines
    from n3match.pipelines.two_view.match_images import filter_of

    for name in _OF_TWO:
        if getattr(arguments, name, None) not in (None, False):
            raise ValueError(
                f"--{name.replace('_', '-')}: is for two photographs, {arguments.image0} is a "
                "folder: n3match match FOLDER OUT"
            )
    if arguments.feature != "sift":
        raise ValueError(
            f"--feature: found {arguments.feature}, wanted sift: {arguments.image0} is a folder"
        )
    arguments.filter = filter_of(arguments.filter, "sift")
    checked_device(arguments.device)
    arguments.folder, out = arguments.image0, arguments.image1
    run = folder_run(arguments, out, geometries=out.suffix == DATABASE)
    with joined_processes(arguments.device) as processes:
        counts = match_folder(run, processes)
    if counts is None:
        return 0
    print("\n".join(report_lines(run, counts)))
    print(f"written    {out}")
    for line in counts.problems:
        print(f"n3match: {line}", file=sys.stderr)
    return 1 if counts.problems else 0


def _match_two(arguments: argparse.Namespace) -> int:
    from n3match.pipelines.common.stopwatch import Stopwatch
    from n3match.pipelines.two_view import two_photographs as view
    from n3match.pipelines.two_view.matches_file import writer_for

    watch = Stopwatch()
    pair = view.match_from_arguments(arguments, watch)
    writer_for(arguments.out)(arguments.out, pair, arguments.filter)
    if arguments.plot is not None:
        pair.plot(arguments.plot)
    if arguments.json:
        view.print_json({
            "matches": {"found": len(pair.kept), "kept": int(pair.kept.sum())},
            "images": [view.photograph_as_dict(photo) for photo in pair.photographs],
            "pair_probability": pair.pair_probability,
            "filter": arguments.filter,
            "seconds": watch.seconds,
            "written": str(arguments.out),
            "picture": None if arguments.plot is None else str(arguments.plot),
        })
        return 0
    for i, photo in enumerate(pair.photographs):
        print(f"image {i}    {view.describe_photograph(photo)}")
    print(f"matches    {len(pair.kept)} found, {pair.kept.sum()} kept")
    print(f"pair       {view.describe_probability(pair.pair_probability)}")
    print(f"seconds    {view.describe_seconds(watch.seconds)}")
    print(f"written    {arguments.out}")
    if arguments.plot is not None:
        print(f"picture    {arguments.plot}")
    return 0
