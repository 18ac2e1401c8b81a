"""Pairs of a COLMAP database through the filter, with two-view geometries of what is left."""

from __future__ import annotations

import functools
import hashlib
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from n3match.files.whole import check_target, whole_file
from n3match.geometry.estimators import ESTIMATORS, choose_estimator
from n3match.matching import one_to_one
from n3match.nn.match_filter import MatchFilter
from n3match.pipelines.common.devices import placed
from n3match.pipelines.common.fingerprints import hash_of_files, hash_of_weights
from n3match.pipelines.common.progress import Progress
from n3match.pipelines.common.progress_log import ProgressLog, part_path, remove_leftovers
from n3match.pipelines.filtering.image_cameras import calibrated_keypoints
from n3match.pipelines.filtering.left_out import LeftOutPair, write_list
from n3match.pipelines.filtering.pair_logits import ImageFeatures, filter_stream, pair_matches
from n3match.pipelines.filtering.two_view_geometry import judged_pair
from n3match.plugins.colmap.database import (
    CALIBRATED,
    PANORAMIC,
    PLANAR_OR_PANORAMIC,
    UNCALIBRATED,
    ColmapDatabase,
    PairResult,
    TwoViewGeometry,
    checksum,
    pair_ids,
)
from n3match.two_view import PairMatches
from n3match.weights.verdict import verdict_file

_IMAGES_HELD = 24
# Checksum, kept matches, inliers, config (−1: no geometry), probability, matches left out.
_HEAD = struct.Struct("<IIIidI")
_FIELDS = {"E": (3, 3), "F": (3, 3), "H": (3, 3), "qvec": (4,), "tvec": (3,)}


@dataclass(frozen=True)
class Options:
    """See `n3match filter-colmap --help`."""

    filter: str = "sift"  # shipped weights, or a file
    geometries: bool = True
    descriptors: bool = True  # for side information
    estimator: str = "auto"
    threshold: float = 1.0  # pixels
    seed: int = 0
    min_pair_probability: float | None = None  # None: the default
    device: str = "cpu"  # of the filter; half: see `devices.placed`
    half: bool = False


def filter_database(path: Path, out: Path | None, options: Options) -> Counter:
    """Replaces the matches in a database, or writes a copy; goes on where it was stopped.

    Args:
        path: of the database.
        out: of the copy; None: it is changed itself.
        options: how.

    Returns:
        Numbers of "pairs", those "done" in this run, matches "kept", "inliers", pairs whose
        geometry is "calibrated", "uncalibrated" or "panoramic" ("flat": that or a plane), those
        "guessed", that is of a camera with a guessed focal length, "cameras" and
        "guessed cameras"; and "left out", pairs that are too little likely to be real, which
        `left_out.list_path` lists. Pairs of a camera that is not supported are left as they are,
        and are told on standard output.

    Raises:
        OSError, ValueError: naming the file, the pair or image, and what is wrong.
    """
    target = check_target(out or path)
    choose_estimator(options.estimator, ESTIMATORS)
    net = placed(MatchFilter.from_pretrained(options.filter), options.device, options.half)
    with ColmapDatabase(path) as database:
        if out is None:
            database.check_writable()
        reader = DatabaseReader(database, net, options.descriptors)
        pairs = _usable(database.pairs(), reader)
        with ProgressLog(part_path(target), _depends_on(path, options, reader)) as log:
            if log.discarded:
                print(f"note       {log.path.name} was of other inputs or options: begun anew")
            done = _filter(options, net, reader, pairs, log)
            results = ((pair, result_from_bytes(log.read(str(pair)))) for pair in pairs)
            if out is None:
                database.write(results)
            else:
                remove_leftovers(target)
                with whole_file(target) as temporary:
                    database.copy_to(temporary)
                    with ColmapDatabase(temporary) as copy:
                        copy.write(results)
            counts, left_out = _summary(pairs, reader, log)
            # In place those of earlier runs are without matches for good.
            write_list(target, left_out, add=out is None)
            log.remove()
        guessed = [reader.is_guessed(pair) for pair in pairs]
    counts.update(pairs=len(pairs), done=done, guessed=sum(guessed), cameras=len(reader.cameras))
    counts["guessed cameras"] = sum(camera.guessed for camera in reader.cameras.values())
    return counts


@dataclass(frozen=True, eq=False)
class PairOfImages:
    """A pair's number, its (M, 2) matches as stored, and its images in their order."""

    number: int
    matches: np.ndarray
    image0: ImageFeatures
    image1: ImageFeatures


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
        self.unsupported = self.database.unsupported_cameras()
        self.images = self.database.images()
        self._image = functools.lru_cache(_IMAGES_HELD)(self._read_image)

    def camera_id(self, image_id: int) -> int:
        if image_id not in self.images:
            raise ValueError(f"{self.database.path}: matches of image {image_id}, which it lacks")
        name, camera_id = self.images[image_id]
        if camera_id not in self.cameras and camera_id not in self.unsupported:
            raise ValueError(f"{self.database.path}: {name} has camera {camera_id}, which it lacks")
        return camera_id

    def is_guessed(self, pair_id: int) -> bool:
        """Whether the focal length of a camera of the pair is a guess."""
        return any(self.cameras[self.camera_id(i)].guessed for i in pair_ids(pair_id))

    def read(self, pair_id: int) -> tuple[PairOfImages, Callable[[], PairMatches]]:
        """Read the matches of a pair.

        Returns:
            The matches as stored with their images, and what makes them ready for the network: the
            work that needs no database.

        Raises:
            ValueError: naming the file, the pair or image, and what is wrong.
        """
        ends = [self._image(image_id) for image_id in pair_ids(pair_id)]
        matches = self.database.matches(pair_id)
        index0, index1 = matches.astype(np.int64).T
        for column, (index, end) in enumerate(zip((index0, index1), ends)):
            if len(index) and index.max() >= len(end.x):
                name = self.images[pair_ids(pair_id)[column]][0]
                raise ValueError(
                    f"{self.database.path}: pair {pair_ids(pair_id)}: a match of keypoint "
                    f"{index.max()}, but {name} has {len(end.x)}"
                )
        make = functools.partial(pair_matches, self.net, *ends, index0, index1)
        return PairOfImages(pair_id, matches, *ends), make

    def _read_image(self, image_id: int) -> ImageFeatures:
        camera = self.cameras[self.camera_id(image_id)]
        found = self.database.keypoints(image_id)
        descriptors = self.database.descriptors(image_id) if self.use_descriptors else None
        if descriptors is not None and len(descriptors) != len(found.points):
            raise ValueError(
                f"{self.database.path}: {self.images[image_id][0]}: {len(found.points)} keypoints "
                f"and {len(descriptors)} descriptors"
            )
        x = calibrated_keypoints(self.images[image_id][0], found.points, camera)
        return ImageFeatures(found.points, x, camera, found.sizes_angles, descriptors)


def _usable(pairs: list[int], reader: DatabaseReader) -> list[int]:
    """The pairs but those of unsupported cameras, which are told."""
    path = reader.database.path
    if not pairs:
        raise ValueError(f"{path}: holds no matches")
    left_out: dict[int, list[int]] = {}
    for pair in pairs:
        for image in pair_ids(pair):
            if reader.camera_id(image) in reader.unsupported:
                left_out.setdefault(image, []).append(pair)
    without = set().union(*left_out.values())
    usable = [pair for pair in pairs if pair not in without]
    cameras = sorted({reader.camera_id(image) for image in left_out})
    if not usable:
        raise ValueError(f"{path}: no pair that can be filtered: {reader.unsupported[cameras[0]]}")
    if left_out:
        names = ", ".join(sorted(reader.images[image][0] for image in left_out))
        print(f"left out   {len(without)} of {len(pairs)} pairs, left as they are: of {names}")
        for camera in cameras:
            print(f"           {reader.unsupported[camera]}")
    return usable


def _filter(
    options: Options, net, reader: DatabaseReader, pairs: list[int], log: ProgressLog
) -> int:
    """Results of all pairs into the log; how many weren't there before."""
    missing = [pair for pair in pairs if not _is_done(pair, reader.database, log)]

    stream = (reader.read(pair) for pair in missing)

    def result(pair: PairOfImages, inputs: PairMatches, logits: np.ndarray) -> PairResult:
        kept = one_to_one(*pair.matches.T, logits)
        return judged_pair(
            checksum(pair.matches), pair.matches[kept], pair.image0, pair.image1, logits[kept],
            len(pair.matches), least=options.min_pair_probability, geometries=options.geometries,
            estimator=options.estimator, threshold=options.threshold, seed=options.seed,
        )

    before = len(pairs) - len(missing)
    with Progress(len(pairs), "pair", done=before) as progress:
        for pair, found in filter_stream(net, stream, result):
            log.write(str(pair.number), result_to_bytes(found))
            progress.update()
    return len(missing)


def _is_done(pair: int, database: ColmapDatabase, log: ProgressLog) -> bool:
    """Whether the log's result is from the matches that are there now, or is them."""
    if str(pair) not in log:
        return False
    result = result_from_bytes(log.read(str(pair)))
    return checksum(database.matches(pair)) in (result.before, checksum(result.matches))


def _summary(
    pairs: list[int], reader: DatabaseReader, log: ProgressLog
) -> tuple[Counter, list[LeftOutPair]]:
    """Numbers of all kinds, and the pairs that are left out."""
    counts, left_out = Counter(), []
    for pair in pairs:
        result = result_from_bytes(log.read(str(pair)))
        counts["kept"] += len(result.matches)
        if result.left_out:
            names = (reader.images[i][0] for i in pair_ids(pair))
            left_out.append(LeftOutPair(*names, result.probability, result.left_out))
        if result.geometry is not None:
            counts["inliers"] += len(result.geometry.inliers)
            counts["calibrated"] += result.geometry.config == CALIBRATED
            counts["uncalibrated"] += result.geometry.config == UNCALIBRATED
            counts["panoramic"] += result.geometry.config == PANORAMIC
            counts["flat"] += result.geometry.config == PLANAR_OR_PANORAMIC
    counts["left out"] = len(left_out)
    return counts, left_out


def _depends_on(database: Path, options: Options, reader: DatabaseReader) -> dict:
    """What results depend on, beside each pair's matches. Not the file's time: that changes when
    the results are written, or when anyone opens the database."""
    cameras = {key: str(vars(camera)) for key, camera in sorted(reader.cameras.items())}
    state = repr((cameras, sorted(reader.images.items())))
    return {
        "format": "n3match-filter-colmap-3",
        "database": str(database.absolute()),
        "content": hashlib.sha256(state.encode()).hexdigest(),
        "weights": hash_of_weights(options.filter),
        "verdict": hash_of_files(verdict_file()),
        "options": [
            *(v for k, v in vars(options).items() if k not in ("filter", "device", "half")),
            *(["half"] if options.half else []),
        ],
    }


def result_to_bytes(result: PairResult) -> bytes:
    geometry = result.geometry
    judged = result.probability, result.left_out
    if geometry is None:
        head = _HEAD.pack(result.before, len(result.matches), 0, -1, *judged)
        return head + result.matches.astype("<u4").tobytes()
    head = _HEAD.pack(
        result.before, len(result.matches), len(geometry.inliers), geometry.config, *judged
    )
    parts = [head, result.matches.astype("<u4").tobytes(), geometry.inliers.astype("<u4").tobytes()]
    for name, shape in _FIELDS.items():
        value = getattr(geometry, name)  # NaN stands for none
        parts.append(np.array(np.full(shape, np.nan) if value is None else value, "<f8").tobytes())
    return b"".join(parts)


def result_from_bytes(data: bytes) -> PairResult:
    before, kept, inliers, config, *judged = _HEAD.unpack_from(data)
    offset = _HEAD.size

    def take(kind: str, shape: tuple[int, ...]) -> np.ndarray:
        nonlocal offset
        found = np.frombuffer(data, kind, int(np.prod(shape)), offset).reshape(shape)
        offset += found.nbytes
        return found

    matches = take("<u4", (kept, 2))
    if config < 0:
        return PairResult(before, matches, None, *judged)
    rows = take("<u4", (inliers, 2))
    fields = {name: take("<f8", shape) for name, shape in _FIELDS.items()}
    fields = {name: None if np.isnan(v).any() else v for name, v in fields.items()}
    return PairResult(before, matches, TwoViewGeometry(config, rows, **fields), *judged)
