"""Filter the matches of a COLMAP database, and write two-view geometries of what is left.

Reads cameras, keypoints, matches (and SIFT descriptors, for ratio and mutual flags), and writes
for each pair its kept matches, and E, F, H, the relative pose and the inliers as a calibrated
two-view geometry: the mapper can follow at once, without COLMAP's own verification. Cameras are
those of the database (any model); give them good focal lengths.

The matches in DATABASE are replaced; --out writes a copy instead. All is written in one
transaction at the end. Stopped at any moment, even by SIGKILL, it goes on when started again
(DATABASE.part or OUT.part holds what is done).
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from n3match import weights
from n3match.datasets.colmap import ColmapCamera
from n3match.datasets.colmap_database import (
    CALIBRATED,
    PANORAMIC,
    ColmapDatabase,
    PairResult,
    checksum,
    pair_ids,
)
from n3match.geometry.estimators import ESTIMATORS
from n3match.match_filter import MatchFilter
from n3match.matching.known_side import ratio_and_mutual
from n3match.matching.relative_shape import relative_shape
from n3match.pipelines.image_cameras import calibrated_keypoints
from n3match.pipelines.pair_results import from_bytes, to_bytes
from n3match.pipelines.pair_scoring import score_stream
from n3match.pipelines.progress_log import ProgressLog, part_path, remove_leftovers
from n3match.pipelines.two_view_geometry import two_view_geometry
from n3match.pipelines.whole_file import check_target, whole_file
from n3match.ragged import PairMatches
from n3match.side_information import side_columns

_IMAGES_HELD = 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("database", type=Path, metavar="DATABASE", help="COLMAP's database.db")
    parser.add_argument(
        "--out", type=Path, metavar="DATABASE2", help="write a copy, and leave DATABASE as it is"
    )
    parser.add_argument(
        "--no-geometries", action="store_true",
        help="write no two-view geometries (and remove those there): COLMAP verifies the pairs",
    )
    parser.add_argument(
        "--no-descriptors", action="store_true", help="don't compute ratio and mutual flags"
    )
    parser.add_argument(
        "--filter", default="sift", metavar="NAME",
        help="shipped weights or a file of weights (default: %(default)s)",
    )
    parser.add_argument(
        "--estimator", default="auto", choices=["auto", *sorted(ESTIMATORS)],
        help="of the two-view geometries (default: PoseLib where installed, else OpenCV's USAC)",
    )
    parser.add_argument(
        "--threshold", type=float, default=1.0, metavar="PIXELS", help="inliers (default: 1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the estimator")


def main(arguments: argparse.Namespace) -> int:
    if not 0 < arguments.threshold < float("inf"):
        raise ValueError(f"--threshold must be positive, got {arguments.threshold}")
    target = arguments.out or arguments.database
    if arguments.out is not None and arguments.out.absolute() == arguments.database.absolute():
        raise ValueError(f"--out: {arguments.out} is DATABASE itself; leave --out away for that")
    check_target(target)
    began = time.perf_counter()
    net = MatchFilter.from_pretrained(arguments.filter)
    with ColmapDatabase(arguments.database) as database:
        if arguments.out is None:
            database.check_writable()
        reader = DatabaseReader(database, net, not arguments.no_descriptors)
        pairs = database.pairs()
        if not pairs:
            raise ValueError(f"{database.path}: holds no matches")
        with ProgressLog(part_path(target), _depends_on(arguments, reader)) as log:
            if log.discarded:
                print(f"note       {log.path.name} was of other inputs or options: begun anew")
            done = _filter(arguments, net, reader, pairs, log)
            results = ((pair, from_bytes(log.read(str(pair)))) for pair in pairs)
            if arguments.out is None:
                database.write(results)
            else:
                remove_leftovers(target)
                with whole_file(target) as temporary:
                    database.copy_to(temporary)
                    with ColmapDatabase(temporary) as copy:
                        copy.write(results)
            counts = _counts(pairs, log)
            log.remove()
    seconds = time.perf_counter() - began
    before = len(pairs) - done
    print(f"pairs      {len(pairs)}" + (f", {before} of them done before" if before else ""))
    print(f"matches    {counts['kept']} kept, {counts['inliers']} inliers")
    if not arguments.no_geometries:
        print(
            f"geometries {counts[CALIBRATED]} calibrated, {counts[PANORAMIC]} panoramic, "
            f"{len(pairs) - counts[CALIBRATED] - counts[PANORAMIC]} without"
        )
    print(f"seconds    {seconds:.2f}; {done / max(seconds, 1e-9):.1f} pairs a second")
    print(f"written    {target}")
    return 0


@dataclass
class DatabaseReader:
    """Turns pairs of a database into matches for the network.

    Attributes:
        database: opened.
        net: for what it wants to know of each match.
        use_descriptors: compute side information from SIFT descriptors.
    """

    database: ColmapDatabase
    net: MatchFilter
    use_descriptors: bool

    def __post_init__(self):
        self.cameras = self.database.cameras()
        self.images = self.database.images()
        self._image = functools.lru_cache(_IMAGES_HELD)(self._read_image)

    def camera(self, image_id: int) -> ColmapCamera:
        if image_id not in self.images:
            raise ValueError(f"{self.database.path}: matches of image {image_id}, which it lacks")
        name, camera_id = self.images[image_id]
        if camera_id not in self.cameras:
            raise ValueError(f"{self.database.path}: {name} has camera {camera_id}, which it lacks")
        return self.cameras[camera_id]

    def read(self, pair_id: int) -> tuple[np.ndarray, PairMatches]:
        """(M, 2) matches as stored, and the same for the network.

        Raises:
            ValueError: naming the file, the pair or image, and what is wrong.
        """
        ends = [self._image(image_id) for image_id in pair_ids(pair_id)]
        matches = self.database.matches(pair_id)
        index0, index1 = matches.astype(np.int64).T
        for column, (index, (x, _, _)) in enumerate(zip((index0, index1), ends)):
            if len(index) and index.max() >= len(x):
                name = self.images[pair_ids(pair_id)[column]][0]
                raise ValueError(
                    f"{self.database.path}: pair {pair_ids(pair_id)}: a match of keypoint "
                    f"{index.max()}, but {name} has {len(x)}"
                )
        (x0, shapes0, descriptors0), (x1, shapes1, descriptors1) = ends
        side = shape = None
        if descriptors0 is not None and descriptors1 is not None and len(matches):
            ratio, mutual = ratio_and_mutual(index0, index1, descriptors0, descriptors1)
            side = side_columns(self.net.side_information, ratio, mutual)
        if shapes0 is not None and shapes1 is not None:
            focal0, focal1 = (
                (self.camera(i).K[0, 0] + self.camera(i).K[1, 1]) / 2 for i in pair_ids(pair_id)
            )
            shape = relative_shape(shapes0[index0], shapes1[index1], focal0, focal1)
        return matches, PairMatches(x0[index0], x1[index1], side, shape)

    def _read_image(self, image_id: int):
        camera = self.camera(image_id)
        found = self.database.keypoints(image_id)
        descriptors = self.database.descriptors(image_id) if self.use_descriptors else None
        if descriptors is not None and len(descriptors) != len(found.points):
            raise ValueError(
                f"{self.database.path}: {self.images[image_id][0]}: {len(found.points)} keypoints "
                f"and {len(descriptors)} descriptors"
            )
        x = calibrated_keypoints(self.images[image_id][0], found.points, camera)
        return x, found.shapes, descriptors


def _filter(arguments, net, reader: DatabaseReader, pairs: list[int], log: ProgressLog) -> int:
    """Results of all pairs into the log; how many weren't there before."""
    missing = [pair for pair in pairs if not _is_done(pair, reader.database, log)]

    def stream():
        for pair in missing:
            matches, inputs = reader.read(pair)
            yield (pair, matches, inputs), inputs

    before = len(pairs) - len(missing)
    with tqdm(total=len(pairs), initial=before, unit="pair", disable=None) as bar:
        for (pair, matches, inputs), logits in score_stream(net, stream()):
            kept = logits > 0
            geometry = None
            if not arguments.no_geometries:
                geometry = two_view_geometry(
                    matches[kept], inputs.points0[kept], inputs.points1[kept],
                    *(reader.camera(i) for i in pair_ids(pair)), logits[kept], len(matches),
                    estimator=arguments.estimator, threshold=arguments.threshold,
                    seed=arguments.seed,
                )
            result = PairResult(checksum(matches), matches[kept], geometry)
            log.write(str(pair), to_bytes(result))
            bar.update()
    return len(missing)


def _is_done(pair: int, database: ColmapDatabase, log: ProgressLog) -> bool:
    """Whether the log's result is from the matches that are there now, or is them."""
    if str(pair) not in log:
        return False
    result = from_bytes(log.read(str(pair)))
    return checksum(database.matches(pair)) in (result.before, checksum(result.matches))


def _counts(pairs: list[int], log: ProgressLog) -> Counter:
    counts = Counter()
    for pair in pairs:
        result = from_bytes(log.read(str(pair)))
        counts["kept"] += len(result.matches)
        if result.geometry is not None:
            counts["inliers"] += len(result.geometry.inliers)
            counts[result.geometry.config] += 1
    return counts


def _depends_on(arguments: argparse.Namespace, reader: DatabaseReader) -> dict:
    """What results depend on, beside each pair's matches. Not the file's time: that changes when
    the results are written, or when anyone opens the database."""
    cameras = {key: str(vars(camera)) for key, camera in sorted(reader.cameras.items())}
    state = repr((cameras, sorted(reader.images.items())))
    return {
        "format": "n3match-filter-colmap-1",
        "database": str(arguments.database.absolute()),
        "content": hashlib.sha256(state.encode()).hexdigest(),
        "weights": hashlib.sha256(weights.find(arguments.filter).read_bytes()).hexdigest(),
        "options": [
            arguments.no_geometries, arguments.no_descriptors, arguments.estimator,
            arguments.threshold, arguments.seed,
        ],
    }
