"""Filter the matches of hloc (HDF5): the same layout comes out, with the wrong matches gone.

FEATURES and MATCHES are hloc's files (`extract_features`, `match_features`); OUT is like MATCHES,
with −1 in matches0 where the filter rejects, and in matching_scores0 its probability of each match
that is kept, above 0.5. hloc's `reconstruction.main` reads it in the place of MATCHES.

Pairs that are too little likely to show a common part of the scene keep no match, and are listed in
OUT.left_out.txt.

Cameras are from --colmap, --intrinsics, EXIF (--images), whichever first knows an image, else
assumed from the image size; what was taken is said. Side information of matches (ratio, mutual flag
and whatever else the filter asks for): from SIFT's descriptors where FEATURES holds them; otherwise
none is given.

Stopped at any moment, even by SIGKILL, it goes on when started again (OUT.part holds what is done).
"""

from __future__ import annotations

import argparse

from n3match.pipelines.common.arguments import (
    add_device_arguments,
    add_filter_argument,
    given_path,
    output_file,
)
from n3match.pipelines.filtering.left_out import add_probability_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("features", type=given_path, metavar="FEATURES", help="hloc's features.h5")
    parser.add_argument("matches", type=given_path, metavar="MATCHES", help="hloc's matches.h5")
    parser.add_argument("out", type=output_file(), metavar="OUT", help="the file to write")
    parser.add_argument(
        "--colmap", type=given_path, metavar="FOLDER",
        help="a COLMAP model (cameras and images, .bin "
        "or .txt) with the cameras of the images"
    )
    parser.add_argument(
        "--intrinsics", type=given_path, metavar="FILE",
        help="a text file of lines NAME MODEL WIDTH HEIGHT PARAMETERS…, as hloc's query lists: "
        "COLMAP's camera models, the first pixel's centre at (0.5, 0.5)",
    )
    parser.add_argument(
        "--images", type=given_path, metavar="FOLDER", help="the photographs, for their EXIF data"
    )
    parser.add_argument(
        "--pairs", type=given_path, metavar="FILE",
        help="hloc's pairs file (lines NAME0 NAME1): filter "
        "and write these alone (default: all pairs in MATCHES)"
    )
    parser.add_argument(
        "--no-descriptors", dest="descriptors", action="store_false",
        help="don't compute side information"
    )
    add_probability_argument(parser)
    add_filter_argument(parser)
    add_device_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    from n3match.pipelines.filtering.hloc_files import filter_files

    filter_files(**vars(arguments))
    return 0
