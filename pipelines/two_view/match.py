"""Filtered matches of two photographs, written to a file.

SIFT keypoints, nearest neighbours, the N³ match filter. Pixels are those of the image that
cv2.imread gives: turned by the file's EXIF orientation (--stored-pixels: as stored). The centre of
the first one is (0, 0).

CSV: a header and the columns x0,y0,x1,y1,probability: of being right, in (½, 1] (1 with --filter
none). HDF5: datasets points0 (M, 2), points1 (M, 2), probability (M), index0 (M), index1 (M) into
keypoints0 and keypoints1 (N, 2), and attributes: image0/1, size0/1 (width, height), orientation0/1
(EXIF's), turned0/1 (whether by it), K0/1, distortion0/1 where given, intrinsics0/1 ("given", "exif"
or "assumed"), denoised0/1 (the weights) with --denoise, filter, num_putative.

Exit status: 0 also where no match is kept (the file then holds none); 2 for an error such as an
unreadable photograph.
"""

from __future__ import annotations

import argparse

from n3match.pipelines.common.arguments import output_file
from n3match.pipelines.two_view.arguments import add_view_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_view_arguments(parser)
    parser.add_argument(
        "-o", "--out", type=output_file(".h5", ".hdf5", ".csv"), required=True, metavar="FILE",
        help="ends in .h5, .hdf5 or .csv"
    )


def main(arguments: argparse.Namespace) -> int:
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
            "filter": arguments.filter,
            "seconds": watch.seconds,
            "written": str(arguments.out),
            "picture": None if arguments.plot is None else str(arguments.plot),
        })
        return 0
    for i, photo in enumerate(pair.photographs):
        print(f"image {i}    {view.describe_photograph(photo)}")
    print(f"matches    {len(pair.kept)} found, {pair.kept.sum()} kept")
    print(f"seconds    {view.describe_seconds(watch.seconds)}")
    print(f"written    {arguments.out}")
    if arguments.plot is not None:
        print(f"picture    {arguments.plot}")
    return 0
