"""Filter the matches of hloc (HDF5): the same layout comes out, with the wrong matches gone.

FEATURES and MATCHES are hloc's files (`extract_features`, `match_features`); OUT is like MATCHES,
with −1 in matches0 where the filter rejects and its scores in matching_scores0 (above 0.5 where a
match is kept). hloc's `reconstruction.main` reads it in the place of MATCHES.

Cameras are from --colmap, --intrinsics, EXIF (--images), whichever first knows an image, else
assumed from the image size; what was taken is said. Side information of matches: where FEATURES
holds SIFT's descriptors, ratio and mutual flags are computed from them; otherwise none is given.

Stopped at any moment, even by SIGKILL, it goes on when started again (OUT.part holds what is done).
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm

from n3match import weights
from n3match.match_filter import MatchFilter
from n3match.matching.known_side import is_gradient_histogram, ratio_and_mutual
from n3match.matching.relative_shape import relative_shape
from n3match.pipelines.image_cameras import (
    ImageCameras,
    add_camera_arguments,
    calibrated_keypoints,
)
from n3match.pipelines.pair_scoring import score_stream
from n3match.pipelines.progress_log import (
    ProgressLog,
    file_state,
    part_path,
    remove_leftovers,
)
from n3match.pipelines.whole_file import check_target, whole_file
from n3match.plugins.hloc import (
    HlocFeatures,
    HlocPair,
    find_pair,
    image_names,
    list_pairs,
    read_features,
    read_matches,
    write_matches,
)
from n3match.ragged import PairMatches
from n3match.side_information import side_columns

_IMAGES_HELD = 24  # with descriptors; a few megabytes each


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("features", type=Path, metavar="FEATURES", help="hloc's features.h5")
    parser.add_argument("matches", type=Path, metavar="MATCHES", help="hloc's matches.h5")
    parser.add_argument("out", type=Path, metavar="OUT", help="the file to write")
    add_camera_arguments(parser)
    parser.add_argument(
        "--pairs", type=Path, metavar="FILE", help="hloc's pairs file (lines NAME0 NAME1): filter "
        "and write these alone (default: all pairs in MATCHES)"
    )
    parser.add_argument(
        "--no-descriptors", action="store_true", help="don't compute ratio and mutual flags"
    )
    parser.add_argument(
        "--filter", default="sift", metavar="NAME",
        help="shipped weights or a file of weights (default: %(default)s)",
    )


def main(arguments: argparse.Namespace) -> int:
    paths = [arguments.features, arguments.matches]
    if arguments.out.absolute() in [path.absolute() for path in paths]:
        raise ValueError(f"OUT: {arguments.out} is an input file, wanted another name")
    check_target(arguments.out)
    net = MatchFilter.from_pretrained(arguments.filter)
    cameras = ImageCameras.from_arguments(arguments)
    with _open(arguments.features) as features, _open(arguments.matches) as matches:
        if arguments.pairs is not None:
            pairs = [find_pair(matches, *names) for names in read_pairs_list(arguments.pairs)]
            pairs = list({pair.group: pair for pair in pairs}.values())
        else:
            pairs = list_pairs(matches, image_names(features))
        if not pairs:
            raise ValueError(f"{arguments.matches}: holds no pairs (groups with matches0)")
        reader = PairReader(features, matches, cameras, net, not arguments.no_descriptors)
        with ProgressLog(part_path(arguments.out), _depends_on(arguments)) as log:
            if log.discarded:
                print(f"note       {log.path.name} was of other inputs or options: begun anew")
            done, seconds = _score(net, reader, pairs, log)
            remove_leftovers(arguments.out)
            with whole_file(arguments.out) as temporary, h5py.File(temporary, "w") as out:
                counts = [_write(matches, out, pair, log) for pair in pairs]
            log.remove()
    before = len(pairs) - done
    print(f"pairs      {len(pairs)}" + (f", {before} of them done before" if before else ""))
    print(f"cameras    {cameras.describe()}")
    print(f"side       {reader.describe_side()}")
    print(f"matches    {sum(n for n, _ in counts)} found, {sum(k for _, k in counts)} kept")
    print(f"seconds    {seconds:.2f}; {done / max(seconds, 1e-9):.1f} pairs a second")
    print(f"written    {arguments.out}")
    return 0


@dataclass
class PairReader:
    """Turns groups of hloc's files into matches for the network.

    Attributes:
        features, matches: opened for reading.
        cameras: of the images.
        net: for what it wants to know of each match.
        use_descriptors: compute side information where the descriptors are SIFT's.
    """

    features: h5py.File
    matches: h5py.File
    cameras: ImageCameras
    net: MatchFilter
    use_descriptors: bool
    _with_side: int = field(default=0, init=False)
    _without: int = field(default=0, init=False)

    def __post_init__(self):
        self._image = functools.lru_cache(_IMAGES_HELD)(self._read_image)
        self._camera = functools.lru_cache(None)(self.cameras.camera)

    def read(self, pair: HlocPair) -> PairMatches:
        """The matches of a pair, in the order of the keypoints of its image 0.

        Raises:
            ValueError: naming the file, the pair or image, and what is wrong.
        """
        features0, x0, focal0, sift0 = self._image(pair.name0)
        features1, x1, focal1, sift1 = self._image(pair.name1)
        counts = len(features0), len(features1)
        index0, index1 = read_matches(self.matches, pair.group, *counts)
        side = shape = None
        if sift0 and sift1 and len(index0):
            ratio, mutual = ratio_and_mutual(
                index0, index1, features0.descriptors, features1.descriptors
            )
            side = side_columns(self.net.side_information, ratio, mutual)
        self._with_side += side is not None
        self._without += side is None
        if features0.shapes is not None and features1.shapes is not None:
            shape = relative_shape(
                features0.shapes[index0], features1.shapes[index1], focal0, focal1
            )
        return PairMatches(x0[index0], x1[index1], side, shape)

    def describe_side(self) -> str:
        """How many pairs had side information."""
        parts = {
            "with ratio and mutual flags from SIFT descriptors": self._with_side,
            "without": self._without,
        }
        return ", ".join(f"{n} pairs {what}" for what, n in parts.items() if n) or "none"

    def _read_image(self, name: str) -> tuple[HlocFeatures, np.ndarray, float, bool]:
        found = read_features(self.features, name, descriptors=self.use_descriptors)
        camera = self._camera(name, found.size)
        x = calibrated_keypoints(name, found.keypoints, camera)
        sift = found.descriptors is not None and is_gradient_histogram(found.descriptors)
        return found, x, float(camera.K[0, 0] + camera.K[1, 1]) / 2, sift


def read_pairs_list(path: Path) -> list[tuple[str, str]]:
    """hloc's pairs file: two names on a line.

    Raises:
        FileNotFoundError: no such file. ValueError: another number of words on a line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        if words and len(words) != 2:
            raise ValueError(f"{path}: line {number}: found {line!r}, wanted two image names")
        if words:
            pairs.append((words[0], words[1]))
    return pairs


def _score(net, reader: PairReader, pairs: list[HlocPair], log: ProgressLog) -> tuple[int, float]:
    """Logits of all pairs into the log; how many weren't there before, and the seconds."""
    began = time.perf_counter()
    missing = [pair for pair in pairs if pair.group not in log]
    stream = ((pair, reader.read(pair)) for pair in missing)
    before = len(pairs) - len(missing)
    with tqdm(total=len(pairs), initial=before, unit="pair", disable=None) as bar:
        for pair, logits in score_stream(net, stream):
            log.write(pair.group, logits.astype("<f4").tobytes())
            bar.update()
    return len(missing), time.perf_counter() - began


def _write(matches: h5py.File, out: h5py.File, pair: HlocPair, log: ProgressLog) -> tuple[int, int]:
    """Write a pair's group; the numbers of matches found and kept."""
    logits = np.frombuffer(log.read(pair.group), "<f4").astype(np.float64)
    index0 = np.flatnonzero(matches[pair.group]["matches0"][()] >= 0)
    kept = logits > 0
    scores = 0.5 * (1 + np.tanh(0.5 * logits[kept]))  # the logistic function
    write_matches(matches, out, pair.group, index0[kept], scores)
    return len(kept), int(kept.sum())


def _depends_on(arguments: argparse.Namespace) -> dict:
    """What logits depend on; the pairs wanted don't change those of a pair."""
    found = weights.find(arguments.filter)
    return {
        "format": "n3match-filter-h5-1",
        "files": [file_state(arguments.features), file_state(arguments.matches)],
        "weights": hashlib.sha256(Path(found).read_bytes()).hexdigest(),
        "cameras": [file_state(arguments.colmap), file_state(arguments.intrinsics)],
        "images": str(arguments.images),
        "descriptors": not arguments.no_descriptors,
    }


def _open(path: Path) -> h5py.File:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path}: not a readable HDF5 file ({error})") from error
