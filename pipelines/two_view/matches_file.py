"""The files that `n3match match` writes, CSV or HDF5."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from n3match.files.new_hdf5 import NewHdf5
from n3match.files.whole import whole_file
from n3match.pipelines.common.tables import csv_text
from n3match.pipelines.two_view.match_images import MatchedPair

FORMAT = "n3match-matches-2"


def writer_for(path: Path):
    """`write_csv` or `write_hdf5`, by the ending of the path: .csv, .h5 or .hdf5."""
    return write_csv if path.suffix.lower() == ".csv" else write_hdf5


def write_csv(path: str | os.PathLike, pair: MatchedPair, filter_name: str) -> None:
    """The kept matches as x0,y0,x1,y1,probability in pixels of the files' images."""
    kept = pair.kept
    rows = np.column_stack((pair.points0[kept], pair.points1[kept], pair.probability[kept]))
    # Float32 keypoints have no more digits than these.
    text = [[f"{value:.5f}" for value in row] for row in rows]
    columns = ("x0", "y0", "x1", "y1", "probability")
    with whole_file(path) as temporary:
        temporary.write_text(csv_text(columns, text), encoding="utf-8", newline="")


def write_hdf5(path: str | os.PathLike, pair: MatchedPair, filter_name: str) -> None:
    """The kept matches with keypoints and cameras; the layout is told by `n3match match --help`."""
    kept = pair.kept
    with whole_file(path) as temporary, NewHdf5(temporary) as file:
        file["points0"], file["points1"] = pair.points0[kept], pair.points1[kept]
        file["probability"] = pair.probability[kept]
        file["index0"], file["index1"] = pair.putative.index0[kept], pair.putative.index1[kept]
        file.attrs["format"] = FORMAT
        file.attrs["filter"] = filter_name
        file.attrs["num_putative"] = len(kept)
        for i, (photo, features) in enumerate(zip(pair.photographs, pair.features)):
            file[f"keypoints{i}"] = photo.to_file(features.keypoints.astype(np.float64))
            file.attrs[f"image{i}"] = photo.name
            file.attrs[f"size{i}"] = photo.size
            file.attrs[f"orientation{i}"] = photo.orientation
            file.attrs[f"turned{i}"] = photo.turned
            file.attrs[f"K{i}"] = photo.file_K
            file.attrs[f"intrinsics{i}"] = photo.intrinsics
            if photo.distortion is not None:
                file.attrs[f"distortion{i}"] = photo.distortion
            if photo.denoised:
                file.attrs[f"denoised{i}"] = photo.denoised
