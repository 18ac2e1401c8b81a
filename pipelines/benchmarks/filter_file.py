"""`n3match filter-h5` and `filter-colmap` on files with few and with many pairs: time and memory.

Side information is computed from the descriptors, as for users' files.
"""

from __future__ import annotations

import contextlib
import io
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from itertools import islice, product
from pathlib import Path

import h5py
import numpy as np
import torch

from n3match.matching import Features, PutativeMatches, extract_sift, putative_matches
from n3match.pipelines.benchmarks.measure import in_new_process, peak_resident
from n3match.pipelines.filtering.colmap_database import Options, filter_database
from n3match.pipelines.filtering.hloc_files import filter_files
from n3match.pipelines.two_view.demo_pair import load_demo_pair
from n3match.plugins.colmap.database import ColmapDatabase, pair_number

_KEYPOINTS = 4000
# COLMAP's tables: https://colmap.github.io/database.html
_TABLES = """
CREATE TABLE cameras (camera_id INTEGER PRIMARY KEY, model INTEGER, width INTEGER, height INTEGER,
    params BLOB, prior_focal_length INTEGER);
CREATE TABLE images (image_id INTEGER PRIMARY KEY, name TEXT UNIQUE, camera_id INTEGER);
CREATE TABLE keypoints (image_id INTEGER PRIMARY KEY, rows INTEGER, cols INTEGER, data BLOB);
CREATE TABLE descriptors (image_id INTEGER PRIMARY KEY, rows INTEGER, cols INTEGER, data BLOB);
CREATE TABLE matches (pair_id INTEGER PRIMARY KEY, rows INTEGER, cols INTEGER, data BLOB);
CREATE TABLE two_view_geometries (pair_id INTEGER PRIMARY KEY, rows INTEGER, cols INTEGER,
    data BLOB, config INTEGER, F BLOB, E BLOB, H BLOB, qvec BLOB, tvec BLOB);
"""
_PINHOLE = 1  # fx, fy, cx, cy


def run(command: str, pairs: Sequence[int]) -> list[dict]:
    """A row for each number of pairs of 4 000 keypoints.

    filter-h5: with the nearest neighbour of every keypoint, which all go through the filter;
    filter-colmap: with those alone that are nearest both ways, as COLMAP's matcher makes them.
    """
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for count in pairs:
            files, matches = write_files(command, Path(name), count)
            threads = torch.get_num_threads()
            ((seconds, kept, peak),) = in_new_process(_filter, command, files, threads)
            rows.append(
                {
                    command: f"{count} pairs of {_KEYPOINTS} keypoints",
                    "matches of a pair": matches,
                    "seconds": round(seconds, 1),
                    "pairs a second": round(count / seconds, 1),
                    "kept of a pair": round(kept / count),
                    "peak memory above the start, MB": round(peak / 1e6),
                }
            )
    return rows


def write_files(command: str, folder: Path, pairs: int) -> tuple[list[Path], int]:
    """Files for the command, the one it is to write last; matches of each pair.

    The demo's two photographs stand under many names; each pair is one of either.
    """
    first, second = (
        extract_sift(photograph.image, max_keypoints=_KEYPOINTS, root=command == "filter-h5")
        for photograph in load_demo_pair().photographs
    )
    found = putative_matches(
        first.keypoints, first.descriptors, second.keypoints, second.descriptors
    )
    images = 2
    while (images // 2) * (images - images // 2) < pairs:
        images += 1
    left = [f"left/{i:04}.jpg" for i in range(images // 2)]
    right = [f"right/{i:04}.jpg" for i in range(images - images // 2)]
    named = [(name, first) for name in left] + [(name, second) for name in right]
    chosen = list(islice(product(left, right), pairs))
    write = _write_h5 if command == "filter-h5" else _write_database
    return write(folder, named, chosen, found)


def _write_h5(
    folder: Path, images: list[tuple[str, Features]], pairs: list[tuple[str, str]],
    found: PutativeMatches,
) -> tuple[list[Path], int]:
    features, matches = folder / "features.h5", folder / "matches.h5"
    with h5py.File(features, "w") as file:
        for name, sift in images:
            group = file.create_group(name)
            group["keypoints"] = sift.keypoints
            group["descriptors"] = sift.descriptors.T
            group["scores"] = sift.scores
            group["image_size"] = np.array(sift.image_size)
    with h5py.File(matches, "w") as file:
        for name0, name1 in pairs:
            group = file.create_group(f"{name0.replace('/', '-')}/{name1.replace('/', '-')}")
            group["matches0"] = found.index1.astype(np.int16)
            group["matching_scores0"] = np.ones(len(found), np.float16)
    return [features, matches, folder / "filtered.h5"], len(found)


def _write_database(
    folder: Path, images: list[tuple[str, Features]], pairs: list[tuple[str, str]],
    found: PutativeMatches,
) -> tuple[list[Path], int]:
    path = folder / "database.db"
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path)
    connection.executescript(_TABLES)

    def insert(table: str, *values) -> None:
        connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", values)

    def insert_array(table: str, key: int, array: np.ndarray) -> None:
        insert(table, key, *array.shape, array.tobytes())

    for camera, photograph in enumerate(load_demo_pair().photographs):
        K = photograph.K  # COLMAP's pixel centres lie at halves
        params = np.array([K[0, 0], K[1, 1], K[0, 2] + 0.5, K[1, 2] + 0.5])
        height, width = photograph.image.shape
        insert("cameras", camera, _PINHOLE, width, height, params.tobytes(), 1)
    numbers = {name: i for i, (name, _) in enumerate(images, start=1)}
    for name, sift in images:
        number = numbers[name]
        insert("images", number, name, int(name.startswith("right")))
        keypoints = np.column_stack([sift.keypoints + 0.5, sift.sizes, np.radians(sift.angles)])
        insert_array("keypoints", number, keypoints.astype("<f4"))
        insert_array("descriptors", number, sift.descriptors.astype(np.uint8))
    matches = np.stack([found.index0, found.index1], axis=1)[found.mutual].astype("<u4")
    for name0, name1 in pairs:
        insert_array("matches", pair_number(numbers[name0], numbers[name1]), matches)
    connection.commit()
    connection.close()
    return [path, folder / "filtered.db"], len(matches)


def _filter(command: str, files: list[Path], threads: int, connection) -> None:
    """Sends the command's seconds, the matches kept, the growth of the peak memory in bytes."""
    torch.set_num_threads(threads)
    before, start = peak_resident(), time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if command == "filter-h5":
            filter_files(*files)
        else:
            filter_database(*files, Options())
    seconds = time.perf_counter() - start
    peak = peak_resident() - before
    connection.send((seconds, _kept(files[-1]), peak))


def _kept(path: Path) -> int:
    """Matches in a file that a command wrote."""
    if path.suffix == ".db":
        with ColmapDatabase(path) as database:
            return sum(len(database.matches(pair)) for pair in database.pairs())
    with h5py.File(path, "r") as file:
        groups = [group for one in file.values() for group in one.values()]
        return sum(int((group["matches0"][()] >= 0).sum()) for group in groups)
