"""Filtered matches of two photographs, written to a file.

SIFT keypoints, nearest neighbours, the N³ match filter. Pixels are those stored in the file (an
EXIF orientation is not applied), the centre of the first one is (0, 0).

CSV: a header and the columns x0,y0,x1,y1,score; scores lie in (½, 1], higher is better (1 with
--filter none). HDF5: datasets points0 (M, 2), points1 (M, 2), scores (M), index0 (M), index1 (M)
into keypoints0 and keypoints1 (N, 2), and attributes: image0/1, size0/1 (width, height), K0/1,
distortion0/1 where given, intrinsics0/1 ("given", "exif" or "assumed"), denoised0/1 (the weights)
with --denoise, filter, num_putative.

Exit status: 0 also where no match is kept (the file then holds none); 2 for an error such as an
unreadable photograph.
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path

import h5py
import numpy as np

from n3match.pipelines.common.stopwatch import Stopwatch
from n3match.whole_file import check_target, whole_file
from n3match.pipelines.plots.matches import check_picture_target
from n3match.pipelines.two_view.match_images import MatchedPair
from n3match.pipelines.two_view.view_arguments import (
    add_view_arguments,
    describe_photograph,
    describe_seconds,
    match_from_arguments,
)

FORMAT = "n3match-matches-1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_view_arguments(parser)
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="FILE", help="ends in .h5, .hdf5 or .csv"
    )


def main(arguments: argparse.Namespace) -> int:
    write = writer_for(arguments.out)
    check_target(arguments.out)
    if arguments.plot is not None:
        check_picture_target(arguments.plot)
    watch = Stopwatch()
    pair = match_from_arguments(arguments, watch)
    write(arguments.out, pair, arguments.filter)
    if arguments.plot is not None:
        pair.plot(arguments.plot)
    for i, photo in enumerate(pair.photographs):
        print(f"image {i}    {describe_photograph(photo)}")
    print(f"matches    {len(pair.kept)} found, {np.count_nonzero(pair.kept)} kept")
    print(f"seconds    {describe_seconds(watch.seconds)}")
    print(f"written    {arguments.out}")
    if arguments.plot is not None:
        print(f"picture    {arguments.plot}")
    return 0


def writer_for(path: Path):
    """`write_csv` or `write_hdf5`, by the ending of the path.

    Raises:
        ValueError: another ending.
    """
    writers = {".csv": write_csv, ".h5": write_hdf5, ".hdf5": write_hdf5}
    if path.suffix.lower() not in writers:
        raise ValueError(f"--out must end in .h5, .hdf5 or .csv, got {path.name!r}")
    return writers[path.suffix.lower()]


def write_csv(path: str | os.PathLike, pair: MatchedPair, filter_name: str) -> None:
    """The kept matches as x0,y0,x1,y1,score in pixels of the files' images."""
    kept = pair.kept
    rows = np.column_stack((pair.points0[kept], pair.points1[kept], pair.probability[kept]))
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(("x0", "y0", "x1", "y1", "score"))
        # Float32 keypoints have no more digits than these.
        out.writerows([f"{value:.5f}" for value in row] for row in rows)


def write_hdf5(path: str | os.PathLike, pair: MatchedPair, filter_name: str) -> None:
    """The kept matches with keypoints and cameras; the layout is in this file's docstring."""
    kept = pair.kept
    with whole_file(path) as temporary, h5py.File(temporary, "w") as file:
        file["points0"], file["points1"] = pair.points0[kept], pair.points1[kept]
        file["scores"] = pair.probability[kept]
        file["index0"], file["index1"] = pair.putative.index0[kept], pair.putative.index1[kept]
        file.attrs["format"] = FORMAT
        file.attrs["filter"] = filter_name
        file.attrs["num_putative"] = len(kept)
        for i, (photo, features) in enumerate(zip(pair.photographs, pair.features)):
            file[f"keypoints{i}"] = photo.to_file(features.keypoints.astype(np.float64))
            file.attrs[f"image{i}"] = photo.name
            file.attrs[f"size{i}"] = photo.size
            file.attrs[f"K{i}"] = photo.file_K
            file.attrs[f"intrinsics{i}"] = photo.intrinsics
            if photo.distortion is not None:
                file.attrs[f"distortion{i}"] = photo.distortion
            if photo.denoised:
                file.attrs[f"denoised{i}"] = photo.denoised
