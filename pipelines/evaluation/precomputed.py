"""Matches that something else made, read from HDF5, in the place of a match filter.

Two layouts are read:
- hloc: a group per pair (names with "/" as "-", joined by "/", in old files by "_") with `matches0`
  (N0,): for each keypoint of image 0 the keypoint of image 1, or −1. The keypoints are those of a
  features file (`keypoints` (N, 2) per image), given as MATCHES.h5,FEATURES.h5; without one they
  are those of the pair store.
- `n3match match`: a file per pair, given alone or as a folder of them.

Image names are those in the pair store, alone or behind the scene's name or scene/images/.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from n3match.datasets.pairs.store import PairRecord
from n3match.files.hdf5 import attribute, kind_of, member, open_hdf5, read_array
from n3match.pipelines.common.fingerprints import hash_of_files
from n3match.pipelines.evaluation.records import Filtered, PreparedFilter
from n3match.pipelines.two_view.matches_file import FORMAT

_MOST = 10_000_000  # keypoints or matches of a dataset


@dataclass(frozen=True)
class PrecomputedMatches:
    """The matches of files, as a filter: call it with a pair.

    Attributes:
        matches: an HDF5 file, or a folder of those of `n3match match`.
        features: hloc's keypoints; None for the pair store's.
    """

    matches: Path
    features: Path | None = None

    @classmethod
    def parse(cls, text: str) -> PrecomputedMatches | None:
        """MATCHES.h5, MATCHES.h5,FEATURES.h5 or a folder; None where it is none of these."""
        matches, comma, features = text.partition(",")
        path = Path(matches)
        if comma and path.is_file() and Path(features).is_file():
            return cls(path, Path(features))
        if not comma and (path.is_dir() or (path.is_file() and h5py.is_hdf5(path))):
            return cls(path)
        return None

    def fingerprint(self) -> str:
        """Text that changes when one of the files does."""
        features = [self.features] if self.features else []
        return hash_of_files(*self._files, *features)

    def __call__(self, record: PairRecord) -> PreparedFilter:
        """
        Raises:
            ValueError: the files don't have the pair, or hold something malformed.
        """
        filtered = self._own(record) if self._by_name else self._hloc(record)
        return lambda: filtered

    @cached_property
    def _files(self) -> list[Path]:
        if not self.matches.is_dir():
            return [self.matches]
        files = sorted(p for p in self.matches.iterdir() if p.suffix in (".h5", ".hdf5"))
        if not files:
            raise ValueError(f"filters: {self.matches}: no .h5 files in this folder")
        return files

    @cached_property
    def _by_name(self) -> list[tuple[Path, Path, Path]]:
        """Files of `n3match match` with the paths of their images; none for hloc."""
        found = []
        for path in self._files:
            with open_hdf5(path) as file:
                is_ours = attribute(file, "format")
                if isinstance(is_ours, str) and is_ours == FORMAT:
                    names = [attribute(file, f"image{i}") for i in (0, 1)]
                    if not all(isinstance(name, str) for name in names):
                        raise ValueError(f"{path}: has no attributes image0, image1")
                    found.append((path, *map(Path, names)))
                elif self.matches.is_dir():
                    raise ValueError(f"{path}: not a file of `n3match match`, as a folder holds")
        return found

    def _own(self, record: PairRecord) -> Filtered:
        names = [Path(name).parts for name in (record.name0, record.name1)]
        fitting = [
            entry
            for entry in self._by_name
            if all(
                path.parts[-len(name) :] == name for path, name in zip(entry[1:], names)
            )
        ]
        if len(fitting) > 1:  # names that several scenes use
            fitting = [e for e in fitting if all(record.scene in p.parts for p in e[1:])]
        if len(fitting) != 1:
            raise self._error(record, f"{len(fitting)} files for this pair")
        path = fitting[0][0]
        with open_hdf5(path) as file:
            points0, points1 = (_array(path, file, f"points{i}", 2) for i in (0, 1))
            probability = _array(path, file, "probability", 1)
            sizes = [attribute(file, f"size{i}") for i in (0, 1)]
            sizes = [() if size is None else tuple(np.ravel(size).tolist()) for size in sizes]
        if not len(points0) == len(points1) == len(probability):
            raise self._error(
                record, f"{path.name}: points0, points1, probability of unequal length"
            )
        for found, wanted in zip(sizes, (record.size0, record.size1)):
            if found and (len(found) != 2 or found != tuple(wanted)):
                raise self._error(
                    record,
                    f"{path.name}: its points are in pixels of {found[0]} x {found[1]}, the "
                    f"store's of {wanted[0]} x {wanted[1]} (a photograph that EXIF turns? "
                    "n3match match --stored-pixels)",
                )
        probability = np.clip(probability, 0.5, 1 - 1e-12)
        # Back from the logistic function to the logit, and to the filter's weight.
        weights = np.tanh(np.log(probability / (1 - probability)))
        return Filtered(np.ones(len(weights), dtype=bool), weights, (points0, points1))

    def _hloc(self, record: PairRecord) -> Filtered:
        path = self.matches
        with open_hdf5(path) as file:
            group, is_reversed = self._group(file, record)
            matches0 = _array(path, group, "matches0", 1)
        first = np.flatnonzero(matches0 >= 0)
        pair = [first, matches0[first].astype(np.int64)]
        if is_reversed:
            pair.reverse()
        if self.features is None:
            record = record.with_second()  # which have keypoints that are nobody's nearest
            keypoints = [
                _known_keypoints(index, points)
                for index, points in (
                    (record.index0, record.points0), (record.index1, record.points1)
                )
            ]
        else:
            with open_hdf5(self.features) as file:
                keypoints = [
                    self._keypoints(file, record, names) for names in _candidates(record)
                ]
        points = []
        for side, (index, known) in enumerate(zip(pair, keypoints)):
            # Beyond the end stands a keypoint that nobody knows.
            found = np.append(known, [[np.nan, np.nan]], axis=0)[np.minimum(index, len(known))]
            unknown = int(np.isnan(found[:, 0]).sum())
            if unknown:
                where = (
                    "the store's matches don't have: name the features file as well, as "
                    "MATCHES.h5,FEATURES.h5"
                    if self.features is None
                    else f"{self.features.name} doesn't have"
                )
                raise self._error(
                    record,
                    f"{unknown} of {len(found)} matches are of keypoints of image {side} that "
                    f"{where}",
                )
            points.append(found)
        return Filtered(np.ones(len(first), dtype=bool), None, tuple(points))

    def _group(self, file: h5py.File, record: PairRecord) -> tuple[h5py.Group, bool]:
        for name0, name1 in zip(*_candidates(record)):
            plain0, plain1 = (name.replace("/", "-") for name in (name0, name1))
            for joint in ("/", "_"):
                for a, b, is_reversed in ((plain0, plain1, False), (plain1, plain0, True)):
                    group = member(file, f"{a}{joint}{b}")
                    if isinstance(group, h5py.Group) and member(group, "matches0") is not None:
                        return group, is_reversed
        raise self._error(record, "no such pair")

    def _keypoints(self, file: h5py.File, record: PairRecord, names: list[str]) -> np.ndarray:
        for name in names:
            group = member(file, name)
            if isinstance(group, h5py.Group):
                return _array(self.features, group, "keypoints", 2)
        raise self._error(record, f"no keypoints of {names[0]} in {self.features.name}")

    def _error(self, record: PairRecord, what: str) -> ValueError:
        return ValueError(
            f"filters: {self.matches}: {record.scene}, {record.name0} and {record.name1}: {what}"
        )


def _candidates(record: PairRecord) -> list[list[str]]:
    """What images 0 and 1 may be called in a file, likeliest first."""
    return [
        [name, f"{record.scene}/{name}", f"{record.scene}/images/{name}"]
        for name in (record.name0, record.name1)
    ]


def _known_keypoints(index: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N, 2) keypoints by number; NaN for those in none of the store's matches."""
    told = (index >= 0) & (index < _MOST)
    known = np.full((int(index[told].max(initial=-1)) + 1, 2), np.nan)
    known[index[told]] = points[told]
    return known


def _array(path: Path, group: h5py.Group, name: str, dimensions: int) -> np.ndarray:
    """A dataset of numbers, (N,) or (N, 2), as float64."""
    data = member(group, name)
    where = f"{path}: {group.name.rstrip('/')}/{name}"
    if not isinstance(data, h5py.Dataset) or kind_of(data) not in "iuf":
        raise ValueError(f"{where}: found no numbers, wanted a dataset of them")
    wanted = "(N,)" if dimensions == 1 else "(N, 2)"
    if data.shape is None or data.ndim != dimensions or (dimensions == 2 and data.shape[1] != 2):
        raise ValueError(f"{where}: found shape {data.shape}, wanted {wanted}")
    if data.shape[0] > _MOST:
        raise ValueError(f"{where}: found {data.shape[0]} rows, wanted at most {_MOST}")
    values = read_array(data).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{where}: holds NaN or infinite numbers")
    return values
