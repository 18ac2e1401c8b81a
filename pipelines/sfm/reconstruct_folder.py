"""A folder of photographs to camera poses and 3-D points: n3match's matches, COLMAP's mapper.

OUT becomes a folder with

    database.db         COLMAP's, with keypoints, filtered matches and two-view geometries
    sparse/             the model with the most photographs: cameras, images, points3D (.bin)
    reconstruction.png  cameras and points, from above and from the side
    summary.json        the numbers that are printed, and more
    database.db.left_out.txt  pairs that are too little likely to show a common part of the scene

Keypoints, pairs and filter are those of `n3match match FOLDER NAME.db`. Where the photographs tell
no focal length it is a guess, which the mapper corrects. Needs pycolmap
(`pip install "n3match[colmap]"`).

Stopped at any moment, even by SIGKILL, it goes on when started again; a finished OUT is told again
where photographs and options are the same, and made anew where they aren't. Several processes
(`torchrun`) share the matching.

Exit status: 0; 1 where no poses were found, or photographs could not be read (told on standard
error); 2 after an error.
"""

from __future__ import annotations

import argparse
import sys

from n3match.pipelines.common.arguments import (
    add_device_arguments,
    add_filter_argument,
    given_path,
    output_folder,
)
from n3match.pipelines.folder.arguments import add_folder_arguments, folder_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=given_path, metavar="FOLDER", help="of photographs")
    parser.add_argument("out", type=output_folder, metavar="OUT", help="the folder to make")
    parser.add_argument(
        "--max-keypoints", type=int, default=4000, metavar="N",
        help="SIFT keypoints per photograph (default: %(default)s)",
    )
    parser.add_argument(
        "--max-size", type=int, default=1600, metavar="PIXELS",
        help="larger photographs are matched with the longer side reduced to this; all results are "
        "in the files' own pixels (default: %(default)s)",
    )
    add_filter_argument(parser, ', or "none"')
    add_device_arguments(parser)
    parser.add_argument(
        "--threads", type=int, default=None, metavar="N",
        help="that the mapper may use (default: one for each core)",
    )
    add_folder_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    from n3match.pipelines.common.arguments import check_at_least
    from n3match.pipelines.common.devices import checked_device
    from n3match.pipelines.common.processes import joined_processes
    from n3match.pipelines.sfm.folder_model import reconstruct_folder

    checked_device(arguments.device)
    check_at_least(1, arguments, "threads")
    if arguments.out.resolve().is_relative_to(arguments.folder.resolve()):
        raise ValueError(
            f"OUT: {arguments.out} lies in {arguments.folder}, wanted it outside: its picture "
            "would be one of the photographs"
        )
    arguments.out.mkdir(parents=True, exist_ok=True)
    run = folder_run(arguments, arguments.out / "database.db", geometries=True)
    with joined_processes(arguments.device) as processes:
        summary = reconstruct_folder(run, arguments.out, processes, threads=arguments.threads)
    if summary is None:
        return 0
    for line in summary["problems"]:
        print(f"n3match: {line}", file=sys.stderr)
    return 1 if summary["problems"] or not summary["registered"] else 0
