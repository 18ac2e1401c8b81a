"""Pairs of hloc's files through the filter, into a file of the same layout."""

from __future__ import annotations

import functools
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from n3match.files.given import read_text
from n3match.files.hdf5 import copy_plain, open_hdf5, read_array
from n3match.files.new_hdf5 import NewHdf5
from n3match.files.whole import check_target, whole_file
from n3match.matching import is_gradient_histogram, one_to_one
from n3match.nn.match_filter import MatchFilter
from n3match.pipelines.common.devices import placed
from n3match.pipelines.common.fingerprints import file_state, hash_of_files, hash_of_weights
from n3match.pipelines.common.progress import Progress
from n3match.pipelines.common.progress_log import ProgressLog, part_path, remove_leftovers
from n3match.pipelines.filtering.image_cameras import ImageCameras, calibrated_keypoints
from n3match.pipelines.filtering.left_out import LeftOutPair, left_out_line, write_list
from n3match.pipelines.filtering.pair_logits import ImageFeatures, filter_stream, pair_matches
from n3match.pipelines.filtering.two_view_geometry import judged_by, two_view_geometry
from n3match.plugins.hloc import (
    HlocPair,
    find_pair,
    image_names,
    list_pairs,
    read_features,
    read_matches,
    write_matches,
)
from n3match.two_view import PairMatches, probability
from n3match.weights.verdict import ESSENTIAL, FUNDAMENTAL, shipped_verdict, verdict_file

_IMAGES_HELD = 24  # with descriptors; a few megabytes each
_HEAD = struct.Struct("<d?")  # of the log: a pair's probability, whether a focal length is a guess


def filter_files(
    features: Path,
    matches: Path,
    out: Path,
    *,
    colmap: Path | None = None,
    intrinsics: Path | None = None,
    images: Path | None = None,
    pairs: Path | None = None,
    descriptors: bool = True,
    filter: str = "sift",
    min_pair_probability: float | None = None,
    device: str = "cpu",
    half: bool = False,
) -> None:
    """What `n3match filter-h5` does, with its arguments; prints how many.

    Raises:
        OSError, ValueError: naming the file and what is wrong with it.
    """
    if out.absolute() in [path.absolute() for path in (features, matches)]:
        raise ValueError(f"OUT: {out} is an input file, wanted another name")
    check_target(out)
    net = placed(MatchFilter.from_pretrained(filter), device, half)
    cameras = ImageCameras.read(colmap, intrinsics, images)
    judged = min_pair_probability != 0
    depends_on = {  # not on the pairs wanted: these don't change what is found of one
        "format": "n3match-filter-h5-3",
        "files": [file_state(features), file_state(matches)],
        "weights": hash_of_weights(filter),
        "verdict": hash_of_files(verdict_file()),
        "cameras": [file_state(colmap), file_state(intrinsics)],
        "images": str(images),
        "descriptors": descriptors,
        "judged": judged,
        **({"half": True} if half else {}),
    }
    with open_hdf5(features) as found, open_hdf5(matches) as groups:
        if pairs is not None:
            wanted = [find_pair(groups, *names) for names in read_pairs_list(pairs)]
            wanted = list({pair.group: pair for pair in wanted}.values())
        else:
            wanted = list_pairs(groups, image_names(found))
        if not wanted:
            raise ValueError(f"{matches}: holds no pairs (groups with matches0)")
        wanted, unsupported = _usable(wanted, cameras)
        reader = PairReader(found, groups, cameras, net, descriptors)
        with ProgressLog(part_path(out), depends_on) as log:
            if log.discarded:
                print(f"note       {log.path.name} was of other inputs or options: begun anew")
            done, seconds = _judge(net, reader, wanted, log, judged=judged)
            remove_leftovers(out)
            with whole_file(out) as temporary, NewHdf5(temporary) as file:
                counts = [
                    _write(groups, file, pair, log, min_pair_probability) for pair in wanted
                ]
                for pair in unsupported:
                    copy_plain(groups[pair.group], file.require_group(pair.group))
                    file.check()
            left = [pair for _, _, _, pair in counts if pair is not None]
            write_list(out, left)
            log.remove()
    before = len(wanted) - done
    print(f"pairs      {len(wanted)}" + (f", {before} of them done before" if before else ""))
    print(f"cameras    {cameras.describe()}")
    print(f"side       {reader.describe_side_info()}")
    given, kept, guessed = (sum(count[i] for count in counts) for i in range(3))
    print(f"matches    {given} found, {kept} kept")
    print(left_out_line(len(left), len(wanted), guessed, min_pair_probability, out))
    print(f"seconds    {seconds:.2f}; {done / max(seconds, 1e-9):.1f} pairs a second")
    print(f"written    {out}")


@dataclass(frozen=True, eq=False)
class PairOfImages:
    """A pair's group, its images, and the (M,) keypoints of each that are matched."""

    pair: HlocPair
    image0: ImageFeatures
    image1: ImageFeatures
    index0: np.ndarray
    index1: np.ndarray


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
    _with_side_info: int = field(default=0, init=False)
    _without: int = field(default=0, init=False)

    def __post_init__(self):
        self._image = functools.lru_cache(_IMAGES_HELD)(self._read_image)
        self._camera = functools.lru_cache(None)(self.cameras.camera)

    def read(self, pair: HlocPair) -> tuple[PairOfImages, Callable[[], PairMatches]]:
        """Read the matches of a pair.

        Returns:
            The matches with their images, and what makes them ready for the network, in the order
            of the keypoints of image 0: the work that needs no file.

        Raises:
            ValueError: naming the file, the pair or image, and what is wrong.
        """
        images = self._image(pair.name0), self._image(pair.name1)
        counts = (len(image.x) for image in images)
        matched = read_matches(self.matches, pair.group, *counts)
        known = not any(image.descriptors is None for image in images)
        known = known and bool(len(matched[0]) and self.net.side_info)
        self._with_side_info += known
        self._without += not known
        make = functools.partial(pair_matches, self.net, *images, *matched)
        return PairOfImages(pair, *images, *matched), make

    def describe_side_info(self) -> str:
        """How many pairs had side information."""
        parts = {
            "with side information from SIFT descriptors": self._with_side_info,
            "without": self._without,
        }
        return ", ".join(f"{n} pairs {what}" for what, n in parts.items() if n) or "none"

    def _read_image(self, name: str) -> ImageFeatures:
        found = read_features(self.features, name, descriptors=self.use_descriptors)
        camera = self._camera(name, found.size)
        x = calibrated_keypoints(name, found.keypoints, camera)
        descriptors = found.descriptors
        if descriptors is not None and not is_gradient_histogram(descriptors):
            descriptors = None
        return ImageFeatures(found.keypoints, x, camera, found.sizes_angles, descriptors)


def read_pairs_list(path: Path) -> list[tuple[str, str]]:
    """hloc's pairs file: two names on a line.

    Raises:
        FileNotFoundError: no such file. ValueError: another number of words on a line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    pairs = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        words = line.split()
        if words and len(words) != 2:
            raise ValueError(f"{path}: line {number}: found {line!r}, wanted two image names")
        if words:
            pairs.append((words[0], words[1]))
    return pairs


def _usable(
    pairs: list[HlocPair], cameras: ImageCameras
) -> tuple[list[HlocPair], list[HlocPair]]:
    """Pairs to filter, and those of unsupported cameras, which are told."""
    left_out = [p for p in pairs if {p.name0, p.name1} & cameras.unsupported.keys()]
    if left_out:
        names = {name for p in left_out for name in (p.name0, p.name1)} & cameras.unsupported.keys()
        why = cameras.unsupported[min(names)]
        if len(left_out) == len(pairs):
            raise ValueError(f"no pair that can be filtered: {min(names)}: {why}")
        print(
            f"left out   {len(left_out)} of {len(pairs)} pairs, left as they are: of "
            f"{', '.join(sorted(names))}"
        )
        print(f"           {why}")
    unusable = {p.group for p in left_out}
    return [p for p in pairs if p.group not in unusable], left_out


def _judge(
    net, reader: PairReader, pairs: list[HlocPair], log: ProgressLog, *, judged: bool
) -> tuple[int, float]:
    """Logits of all pairs into the log, and the probability of their being real where that is
    asked; how many weren't there before, and the seconds."""

    def judge(found: PairOfImages, matches: PairMatches, logits: np.ndarray) -> bytes:
        probability, geometry = np.nan, judged_by(found.image0, found.image1)
        if judged:
            kept = one_to_one(found.index0, found.index1, logits)
            rows = np.stack([found.index0, found.index1], axis=1)[kept]
            _, probability = two_view_geometry(
                rows, found.image0, found.image1, logits[kept], len(logits)
            )
        return _HEAD.pack(probability, geometry == FUNDAMENTAL) + logits.astype("<f4").tobytes()

    began = time.perf_counter()
    missing = [pair for pair in pairs if pair.group not in log]
    stream = map(reader.read, missing)
    before = len(pairs) - len(missing)
    with Progress(len(pairs), "pair", done=before) as progress:
        for found, result in filter_stream(net, stream, judge):
            log.write(found.pair.group, result)
            progress.update()
    return len(missing), time.perf_counter() - began


def _write(
    matches: h5py.File, out: NewHdf5, pair: HlocPair, log: ProgressLog, least: float | None
) -> tuple[int, int, bool, LeftOutPair | None]:
    """Write a pair's group; the numbers of matches found and kept, whether a focal length is a
    guess, and the pair if it is left out: then it keeps none."""
    result = log.read(pair.group)
    real, guessed = _HEAD.unpack_from(result)
    logits = np.frombuffer(result, "<f4", offset=_HEAD.size).astype(np.float64)
    if least is None:
        least = shipped_verdict().threshold[FUNDAMENTAL if guessed else ESSENTIAL]
    matches0 = read_array(matches[pair.group]["matches0"])
    index0 = np.flatnonzero(matches0 >= 0)
    kept = one_to_one(index0, matches0[index0], logits)
    left_out = None
    if real < least and kept.any():
        left_out = LeftOutPair(pair.name0, pair.name1, real, int(kept.sum()))
        kept = np.zeros_like(kept)
    write_matches(matches, out, pair.group, index0[kept], probability(logits[kept]))
    out.check()
    return len(kept), int(kept.sum()), guessed, left_out
