"""Putative matches of known pairs with the filter's logits, kept on the disk once made.

Keypoints are kept for each photograph, matches and logits for each pair, number of keypoints and
weights: what is made of them later, and for other weights what needs no photographs, is quick.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from n3match.datasets.images import ImageFile
from n3match.files.whole import write_whole
from n3match.geometry import calibrated_points
from n3match.matching import (
    exclusive_logits,
    extract_sift,
    keypoint_change,
    putative_matches,
    root_sift,
)
from n3match.nn.match_filter import MatchFilter
from n3match.pipelines.common.devices import placed
from n3match.pipelines.common.fingerprints import hash_of, hash_of_files, hash_of_weights
from n3match.pipelines.verdict.pair_kinds import OTHER_PART, KnownPair, SeenImage, in_bounds
from n3match.two_view import PairMatches, logits_of_many

# Found once in each photograph: the strongest of a part of it are among them.
_DETECTED = 8000
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class KnownMatches:
    """N putative matches of a pair, and what the filter says of them.

    Attributes:
        points0, points1: (N, 2) pixels without distortion; K0, K1: (3, 3) of them.
        size0, size1: (2,) width and height of the images.
        change: (N, 3) see `keypoint_change`; ratio: (N,); mutual: (N,) bool.
        logits: (N,) of the filter.
    """

    points0: np.ndarray
    points1: np.ndarray
    K0: np.ndarray
    K1: np.ndarray
    size0: np.ndarray
    size1: np.ndarray
    change: np.ndarray
    ratio: np.ndarray
    mutual: np.ndarray
    logits: np.ndarray


@dataclass(frozen=True)
class MatchStore:
    """Makes and keeps the matches of known pairs.

    Attributes:
        work: folder for them.
        filter: shipped weights, or a file.
        keypoints: of each photograph, or of the part of it that counts, the strongest.
        points_alone: the filter is told nothing but where the points are.
        device, half: see `devices.placed`. What is kept doesn't say on which device it was made.
    """

    work: Path
    filter: str
    keypoints: int
    points_alone: bool = False
    device: str = "cpu"
    half: bool = False

    def make(self, pair: KnownPair) -> Path:
        """The file with the matches of a pair, which is made where it isn't there."""
        path = self._path(pair)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            np.savez(buffer, **vars(self._matched(pair)))
            write_whole(path, buffer.getvalue())
        return path

    def read(self, pair: KnownPair) -> KnownMatches:
        with np.load(self.make(pair), allow_pickle=False) as found:
            arrays = {name: found[name] for name in found}
        return KnownMatches(
            **{k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in arrays.items()}
        )

    def state(self, pair: KnownPair) -> str:
        """A fingerprint of all that the matches of a pair, and what is known of it, depend on."""
        pose = [] if pair.pose() is None else [x.round(9).tolist() for x in pair.pose()]
        return hash_of([self._path(pair).name, pose])

    def _path(self, pair: KnownPair) -> Path:
        files = [_state(image) for image in (pair.image0, pair.image1)]
        parts = [bounds.round(9).tolist() for bounds in (pair.bounds0, pair.bounds1)]
        text = repr((
            _FORMAT, pair.name, files, parts, self.keypoints, self.points_alone,
            _weights_hash(self.filter), *(["half"] if self.half else []),
        ))
        return self.work / "matches" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz"

    def _matched(self, pair: KnownPair) -> KnownMatches:
        net = _network(self.filter, self.device, self.half)
        turned = pair.kind == OTHER_PART
        ends = [
            _chosen(self.work, image, bounds, self.keypoints, turned)
            for image, bounds in ((pair.image0, pair.bounds0), (pair.image1, pair.bounds1))
        ]
        (points0, K0, size0, desc0, kinds0), (points1, K1, size1, desc1, kinds1) = ends
        second = net.config.wants_second(len(points0)) and not self.points_alone
        found = putative_matches(points0, desc0, points1, desc1, second_nearest=second)
        focal = [float(np.diag(K)[:2].mean()) for K in (K0, K1)]
        change = keypoint_change(kinds0[found.index0], kinds1[found.index1], *focal)
        x0, x1 = (
            (points - K[:2, 2]) / np.diag(K)[:2]
            for points, K in ((found.points0, K0), (found.points1, K1))
        )
        told = (None, None)
        if not self.points_alone:
            side_info = found.side_info(
                net.side_info, focal[1], binary=net.config.binary_descriptors,
                second_nearest=second,
            )
            told = (side_info, change)
        logits = logits_of_many(net, [PairMatches(x0, x1, *told)])[0]
        if second:
            logits = exclusive_logits(found.index0, found.index1, logits)
        small = {
            "points0": found.points0, "points1": found.points1, "change": change,
            "ratio": found.ratio, "logits": logits,
        }
        return KnownMatches(
            K0=K0, K1=K1, size0=size0, size1=size1, mutual=found.mutual,
            **{name: array.astype(np.float32) for name, array in small.items()},
        )


def _chosen(
    work: Path, image: SeenImage, bounds: np.ndarray, count: int, turned: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The strongest keypoints within the bounds: pixels of an ideal camera, its K, its size,
    descriptors, sizes and angles.

    turned: of a camera that looks at the middle of the bounds.
    """
    found = _keypoints(work, image)
    camera = image.camera
    first = found["keypoints"] if turned else found["keypoints"][:count]
    x = calibrated_points(
        first.astype(np.float64), camera.K, camera.distortion, camera.lens
    )
    inside = np.isfinite(x).all(1)
    if turned:
        with np.errstate(invalid="ignore"):
            inside &= in_bounds(x, bounds)
    rows = np.flatnonzero(inside)[:count]
    x = x[rows]
    corners = bounds[[[0, 1], [2, 1], [2, 3], [0, 3]]]
    K, size = camera.K.copy(), np.array([camera.width, camera.height])
    if turned:
        R = turn_to_middle(bounds)
        x, corners = _turned(x, R), _turned(corners, R)
        low, high = corners.min(axis=0), corners.max(axis=0)
        K[:2, 2] = -low * np.diag(K)[:2]
        size = np.ceil((high - low) * np.diag(K)[:2]).astype(int)
    pixels = x @ K[:2, :2].T + K[:2, 2]
    return pixels, K, size, root_sift(found["descriptors"][rows]), found["sizes_angles"][rows]


def turn_to_middle(bounds: np.ndarray) -> np.ndarray:
    """(3, 3) R of the least turn of a camera that puts the middle of the bounds on its axis."""
    x = bounds.reshape(2, 2).mean(axis=0)
    ray = np.append(x, 1.0) / np.hypot(np.hypot(*x), 1.0)
    axis = np.cross(ray, (0.0, 0.0, 1.0))  # as long as the sine of the angle
    sine = float(np.linalg.norm(axis))
    angle = np.arcsin(sine) / sine if sine > 0 else 1.0
    return Rotation.from_rotvec(angle * axis).as_matrix()


def _turned(x: np.ndarray, R: np.ndarray) -> np.ndarray:
    X = x @ R[:, :2].T + R[:, 2]
    return X[:, :2] / X[:, 2:]


@lru_cache(maxsize=4096)
def _state(image: SeenImage) -> list[str]:
    """What it depends on; not its file's time, which a copy of the scene changes."""
    return [image.key, _hash_of_photograph(image.path)]


@cache
def _hash_of_photograph(path: Path) -> str:
    return hash_of_files(path)


@lru_cache(maxsize=16)
def _keypoints(work: Path, image: SeenImage) -> dict[str, np.ndarray]:
    text = repr((_FORMAT, _DETECTED, _state(image)))
    name = hashlib.sha256(text.encode()).hexdigest()[:32]
    path = work / "keypoints" / f"{name}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # COLMAP's cameras are for the pixels as stored.
        found = extract_sift(ImageFile(image.path).gray(stored=True), _DETECTED, root=False)
        buffer = io.BytesIO()
        np.savez(
            buffer, keypoints=found.keypoints, sizes_angles=found.sizes_angles,
            descriptors=found.descriptors.astype(np.uint8),
        )
        write_whole(path, buffer.getvalue())
    with np.load(path, allow_pickle=False) as found:
        return dict(found)


@lru_cache(maxsize=1)
def _network(name: str, device: str, half: bool) -> MatchFilter:
    return placed(MatchFilter.from_pretrained(name), device, half)


@lru_cache(maxsize=1)
def _weights_hash(name: str) -> str:
    return hash_of_weights(name)
