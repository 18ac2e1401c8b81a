"""Pairs of photographs matched and filtered, in parts that are whole on the disk or absent."""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from n3match.files.whole import write_whole
from n3match.matching import keypoint_change, one_to_one, putative_matches
from n3match.nn.match_filter import MatchFilter
from n3match.pipelines.common.devices import placed
from n3match.pipelines.common.fingerprints import (
    file_state,
    hash_of_files,
    hash_of_weights,
    versions,
)
from n3match.pipelines.filtering.colmap_database import result_from_bytes, result_to_bytes
from n3match.pipelines.filtering.image_cameras import ImageCameras
from n3match.pipelines.filtering.pair_logits import ImageFeatures, filter_stream
from n3match.pipelines.filtering.two_view_geometry import judged_pair
from n3match.pipelines.folder.photographs import PhotographReader, Photographs
from n3match.plugins.colmap.database import TwoViewGeometry
from n3match.two_view import PairMatches, probability
from n3match.weights.verdict import verdict_file

# Pairs of a part: few, so that little is lost, but no more files than this.
_LEAST, _MOST, _FILES = 8, 64, 4096


@dataclass(frozen=True)
class MatchOptions:
    """See `n3match match --help`."""

    filter: str = "sift"  # shipped weights, a file, or "none"
    colmap: Path | None = None  # a model with the cameras
    intrinsics: Path | None = None  # a list of them
    geometries: bool = True
    estimator: str = "auto"
    threshold: float = 1.0  # pixels of the photographs as they are matched
    seed: int = 0
    min_pair_probability: float | None = None  # None: the default
    half: bool = False  # precision of the filter, where the device gains by it


@dataclass(frozen=True, eq=False)
class FoundPair:
    """What was found of a pair.

    Attributes:
        matches: (K, 2) uint32 rows of the photographs' keypoints, none of them twice.
        probability: (K,) float32 of each being right, by the filter.
        geometry: of them; None where none was asked for.
        pair_probability: of the pair being real; NaN where nobody asked.
        left_out: kept matches that are not among `matches`, because that is too small.
    """

    matches: np.ndarray
    probability: np.ndarray
    geometry: TwoViewGeometry | None
    pair_probability: float
    left_out: int


@dataclass(frozen=True)
class PairJobs:
    """Matches the pairs of a folder.

    Attributes:
        photographs: of the folder.
        options: how.
        device: where descriptors are compared and the filter runs.
    """

    photographs: Photographs
    options: MatchOptions
    device: str

    def match(self, part: str) -> None:
        """Match the pairs of a part (lines of two names) and write what was found.

        Results don't depend on which other parts there are, nor on how many threads work.
        """
        path = self._path(part)
        if path.exists():
            return
        names = pairs_of(part)
        reader, net = _reader(self.photographs, self.options), self.network()

        def make(name0: str, name1: str) -> Callable[[], _Putative]:
            return lambda: _putative(net, reader, name0, name1, self.device)

        payload = {}
        if net is None:
            for number, pair in enumerate(names):
                found = make(*pair)()
                payload |= self._fields(number, found, np.where(found.mutual, np.inf, -1.0))
        else:
            stream = ((number, make(*pair)) for number, pair in enumerate(names))
            for _, fields in filter_stream(net, stream, self._fields):
                payload |= fields
        buffer = io.BytesIO()
        np.savez(buffer, **payload)
        write_whole(path, buffer.getvalue())

    def read(self, part: str) -> Iterator[tuple[tuple[str, str], FoundPair]]:
        """The pairs of a part with what was found of them."""
        with np.load(self._path(part), allow_pickle=False) as found:
            for number, pair in enumerate(pairs_of(part)):
                result = result_from_bytes(found[f"result{number}"].tobytes())
                yield pair, FoundPair(
                    result.matches, found[f"probability{number}"], result.geometry,
                    result.probability, result.left_out,
                )

    def is_done(self, part: str) -> bool:
        return self._path(part).exists()

    def network(self) -> MatchFilter | None:
        """The filter, kept by the process; None where none is asked for.

        Raises:
            FileNotFoundError, ValueError: it can't be loaded, or there is no such device.
        """
        if self.options.filter == "none":
            return None
        return _network(self.options.filter, self.device, self.options.half)

    def _fields(self, number: int, found: _Putative, logits: np.ndarray) -> dict[str, np.ndarray]:
        kept = np.flatnonzero(one_to_one(found.index0, found.index1, logits))
        kept = kept[np.argsort(found.index0[kept])]  # second nearest neighbours among the others
        matches = np.stack([found.index0, found.index1], axis=1)[kept].astype(np.uint32)
        options = self.options
        filtered = options.filter != "none"
        result = judged_pair(
            0, matches, found.image0, found.image1, logits[kept] if filtered else None,
            len(logits) if filtered else len(matches),
            least=options.min_pair_probability, geometries=options.geometries,
            estimator=options.estimator, threshold=options.threshold * found.file_pixels,
            seed=options.seed,
        )
        # Of none where the pair is left out.
        chances = probability(logits[kept]).astype(np.float32)[: len(result.matches)]
        return {
            f"result{number}": np.frombuffer(result_to_bytes(result), np.uint8),
            f"probability{number}": chances,
        }

    def _path(self, part: str) -> Path:
        keys = [self.photographs.key(name) for name in part.split("\n")]
        text = repr((part, keys, _depends_on(self.options)))
        name = hashlib.sha256(text.encode()).hexdigest()[:32]
        return self.photographs.work / "pairs" / f"{name}.npz"


def parts_of(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Pairs next to each other, a part a text: jobs have to be told to other processes."""
    size = min(max(len(pairs) // _FILES, _LEAST), _MOST)
    return [
        "\n".join(name for pair in pairs[first : first + size] for name in pair)
        for first in range(0, len(pairs), size)
    ]


def pairs_of(part: str) -> list[tuple[str, str]]:
    """The pairs of a part."""
    names = part.split("\n")
    return list(zip(names[::2], names[1::2]))


@dataclass(frozen=True, eq=False)
class _Putative(PairMatches):
    """Nearest neighbours of a pair, as the network takes them, and what they are."""

    index0: np.ndarray | None = None
    index1: np.ndarray | None = None
    mutual: np.ndarray | None = None
    image0: ImageFeatures | None = None
    image1: ImageFeatures | None = None
    file_pixels: float = 1.0  # of one in which keypoints were sought


def _putative(
    net: MatchFilter | None, reader: PhotographReader, name0: str, name1: str, device: str
) -> _Putative:
    (features0, image0), (features1, image1) = (reader.image(name) for name in (name0, name1))
    second_nearest = net is not None and net.config.wants_second(len(image0.pixels))
    found = putative_matches(
        image0.pixels, features0.descriptors, image1.pixels, features1.descriptors,
        second_nearest=second_nearest, device=device,
    )
    focal0, focal1 = (np.diag(image.camera.K)[:2].mean() for image in (image0, image1))
    rows = found.index0, found.index1
    return _Putative(
        image0.x[rows[0]],
        image1.x[rows[1]],
        None if net is None else found.side_info(
            net.side_info, focal1, binary=net.config.binary_descriptors,
            second_nearest=second_nearest,
        ),
        keypoint_change(
            image0.sizes_angles[rows[0]], image1.sizes_angles[rows[1]], focal0, focal1
        ),
        index0=rows[0], index1=rows[1], mutual=found.mutual, image0=image0, image1=image1,
        file_pixels=float(np.mean([1 / features0.scale, 1 / features1.scale])),
    )


@functools.lru_cache(maxsize=1)
def _network(name: str, device: str, half: bool) -> MatchFilter:
    return placed(MatchFilter.from_pretrained(name), device, half)


@functools.lru_cache(maxsize=1)
def _reader(photographs: Photographs, options: MatchOptions) -> PhotographReader:
    """One for all the threads of a process."""
    return PhotographReader(
        photographs, ImageCameras.read(options.colmap, options.intrinsics, photographs.folder)
    )


@functools.lru_cache(maxsize=4)
def _depends_on(options: MatchOptions) -> tuple:
    weights = "" if options.filter == "none" else hash_of_weights(options.filter)
    cameras = [file_state(path) for path in (options.colmap, options.intrinsics)]
    verdict = hash_of_files(verdict_file())
    return "n3match-folder-2", options, weights, verdict, cameras, versions("opencv", "n3match")
