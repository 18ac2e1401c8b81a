"""Pairs of photographs that show something in common, and pairs that only look alike.

From scenes with COLMAP models, four kinds:

    real         at least `MIN_SHARED` common 3-D points
    other side   one scene; no 3-D point in common, and at most a hundredth of the points that
                 either sees lies in the other's view from less than 90° away: the cameras look at
                 different sides or stretches of it
    other part   one scene; two photographs that do have points in common, but each cut down to a
                 part such that no point that either sees is in both parts, with a margin between;
                 each camera is then turned to the middle of its part: two looks at different
                 stretches of one façade, taken in the same light
    other place  of two scenes
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from pathlib import Path

import numpy as np

from n3match.datasets.scenes.colmap import given_model_folder
from n3match.geometry import calibrated_points
from n3match.plugins.colmap.model import (
    ColmapCamera,
    ColmapImage,
    read_colmap_model,
    read_colmap_points,
    relative_pose,
)

REAL, OTHER_SIDE, OTHER_PART, OTHER_PLACE = "real", "other side", "other part", "other place"
KINDS = (REAL, OTHER_SIDE, OTHER_PART, OTHER_PLACE)
MIN_SHARED = 20
# Points that may lie in both views of an "other side" pair, as a share: models have wrong points.
_STRAY_SHARE = 0.01
_OTHER_SIDE_DEG = 90.0
# Of the part of an image: its least share of the image, and of the points that the image sees;
# the margin is a share of the image's side.
_LEAST_SHARE, _LEAST_POINTS, _MARGIN = 0.25, 30, 0.05
_CUTS = (0.4, 0.5, 0.6)
_LEFT_RIGHT = (0, 2)  # sides of an image, which are left, top, right, bottom


@dataclass(frozen=True, eq=False)
class SeenImage:
    """A photograph with its camera, its pose and the points it sees.

    Attributes:
        scene, name: of it; path: of the file.
        camera: intrinsics; image: pose, x_camera = R X + t, and point ids.
        bounds: (4,) left, top, right, bottom of what it sees, calibrated.
    """

    scene: str
    name: str
    path: Path
    camera: ColmapCamera
    image: ColmapImage
    bounds: np.ndarray

    @property
    def key(self) -> str:
        return f"{self.scene}/{self.name}"

    def project(self, points: np.ndarray) -> np.ndarray:
        """(N, 2) calibrated coordinates of points (N, 3); NaN behind the camera."""
        X = points @ self.image.R.T + self.image.t
        ahead = X[:, 2] > 1e-9
        return np.where(ahead[:, None], X[:, :2] / np.where(ahead, X[:, 2], 1.0)[:, None], np.nan)


@dataclass(frozen=True, eq=False)
class KnownPair:
    """Two photographs of which it is known whether they show something in common.

    Attributes:
        kind: one of KINDS.
        image0, image1: of the pair.
        bounds0, bounds1: (4,) the part of each that counts, calibrated, see `SeenImage.bounds`.
        number: of several of one kind of the same two photographs.
    """

    kind: str
    image0: SeenImage
    image1: SeenImage
    bounds0: np.ndarray
    bounds1: np.ndarray
    number: int = 0

    @property
    def name(self) -> str:
        """Unique among the pairs of some scenes."""
        return f"{self.kind} {self.number}: {self.image0.key} {self.image1.key}"

    @property
    def scenes(self) -> tuple[str, str]:
        return self.image0.scene, self.image1.scene

    def pose(self) -> tuple[np.ndarray, np.ndarray] | None:
        """R, t with x1 ~ R x0 + t between the cameras as they are; None in two scenes."""
        if self.kind == OTHER_PLACE:
            return None
        return relative_pose(self.image0.image, self.image1.image)


@dataclass(frozen=True, eq=False)
class KnownScene:
    """The photographs of a scene by name, and its points: ids (P,), sorted, and places (P, 3)."""

    name: str
    images: dict[str, SeenImage]
    ids: np.ndarray
    places: np.ndarray

    def points_of(self, *images: SeenImage) -> np.ndarray:
        """(N, 3) that any of these sees."""
        ids = np.unique(np.concatenate([image.image.point_ids for image in images]))
        return self.places[np.searchsorted(self.ids, ids[np.isin(ids, self.ids)])]


def read_known_scene(path: Path, name: str) -> KnownScene:
    """A scene with a COLMAP model and photographs in `images/`.

    Raises:
        FileNotFoundError, ValueError: see `n3match.plugins.colmap.model`.
    """
    folder = given_model_folder(path)
    model = read_colmap_model(folder)
    images = {}
    for image_id, image in sorted(model.images.items(), key=lambda item: item[1].name):
        camera = model.camera_of(image_id)
        images[image.name] = SeenImage(
            name, image.name, path / "images" / image.name, camera, image, _bounds(camera)
        )
    points = sorted(read_colmap_points(folder).items())
    ids = np.array([number for number, _ in points], dtype=np.int64)
    return KnownScene(name, images, ids, np.array([place for _, place in points]).reshape(-1, 3))


def _bounds(camera: ColmapCamera) -> np.ndarray:
    """What an image sees for certain: the middles of its sides, where a lens bends least."""
    w, h = camera.width - 1, camera.height - 1
    middles = np.array([[0, h / 2], [w / 2, 0], [w, h / 2], [w / 2, h]])
    x = calibrated_points(middles, camera.K, camera.distortion, camera.lens)
    return np.array([x[0, 0], x[1, 1], x[2, 0], x[3, 1]])


def pairs_of_scene(scene: KnownScene, most: dict[str, int], seed: int = 0) -> list[KnownPair]:
    """Pairs of one scene, at most so many of each kind, drawn at random.

    Args:
        scene: with its points.
        most: by kind; those of two scenes are not made here.
        seed: of the draw; that of one scene doesn't depend on others.
    """
    rng = np.random.default_rng([seed, zlib.crc32(scene.name.encode())])
    couples = list(combinations(scene.images.values(), 2))
    shared = [len(np.intersect1d(a.image.point_ids, b.image.point_ids)) for a, b in couples]
    overlapping = [pair for pair, n in zip(couples, shared) if n >= MIN_SHARED]
    strangers = [pair for pair, n in zip(couples, shared) if n == 0]
    found: list[KnownPair] = []
    for a, b in _drawn(overlapping, rng)[: most.get(REAL, 0)]:
        found.append(KnownPair(REAL, a, b, a.bounds, b.bounds))
    makers = {OTHER_SIDE: (strangers, _other_side), OTHER_PART: (overlapping, _other_parts)}
    for kind, (candidates, make) in makers.items():
        made = (pair for a, b in _drawn(candidates, rng) for pair in make(scene, a, b))
        found += islice(made, most.get(kind, 0))
    return found


def pairs_of_two_scenes(
    scenes: Sequence[KnownScene], one_place: Sequence[Sequence[str]], most: int, seed: int = 0
) -> list[KnownPair]:
    """Pairs of different places, at most so many, of as many pairs of scenes as there are.

    Args:
        scenes: at least two.
        one_place: groups of scenes' names that are, or may be, of one place.
        most: pairs.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    couples = [
        (a, b) for a, b in combinations(scenes, 2)
        if not any({a.name, b.name} <= set(group) for group in one_place)
    ]
    streams = [_couples_of(a, b, rng) for a, b in _drawn(couples, rng)]
    found: list[KnownPair] = []
    while streams and len(found) < most:
        stream = streams.pop(0)
        pair = next(stream, None)
        if pair is not None:
            found.append(pair)
            streams.append(stream)
    return found


def _couples_of(
    scene0: KnownScene, scene1: KnownScene, rng: np.random.Generator
) -> Iterator[KnownPair]:
    images = [(a, b) for a in scene0.images.values() for b in scene1.images.values()]
    for a, b in _drawn(images, rng):
        yield KnownPair(OTHER_PLACE, a, b, a.bounds, b.bounds)


def _drawn(items: list, rng: np.random.Generator) -> list:
    return [items[i] for i in rng.permutation(len(items))]


def in_bounds(x: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """(N,) bool, False for NaN."""
    return ((x >= bounds[:2]) & (x <= bounds[2:])).all(axis=1)


def _other_side(scene: KnownScene, a: SeenImage, b: SeenImage) -> Iterator[KnownPair]:
    centres = [-image.image.R.T @ image.image.t for image in (a, b)]
    for image, other in ((a, b), (b, a)):
        points = scene.points_of(image)
        if not len(points):
            return
        to0, to1 = (centre - points for centre in centres)
        cosine = (to0 * to1).sum(1) / np.linalg.norm(to0, axis=1) / np.linalg.norm(to1, axis=1)
        same_side = cosine > np.cos(np.radians(_OTHER_SIDE_DEG))
        if np.mean(in_bounds(other.project(points), other.bounds) & same_side) > _STRAY_SHARE:
            return
    yield KnownPair(OTHER_SIDE, a, b, a.bounds, b.bounds)


def _other_parts(scene: KnownScene, a: SeenImage, b: SeenImage) -> Iterator[KnownPair]:
    """Pairs of parts, at most two: with the part of image 0 at its left and at its right; at its
    top and bottom where neither can be. Of each side that whose smaller part is largest first.

    What lies beside each other on a façade looks more alike than what lies above each other.
    """
    points = scene.points_of(a, b)
    x0, x1 = a.project(points), b.project(points)
    seen0, seen1 = (image.project(scene.points_of(image)) for image in (a, b))
    found: dict[int, tuple[float, np.ndarray, np.ndarray]] = {}
    for side, part0, share0 in _parts(a.bounds):
        if np.count_nonzero(in_bounds(seen0, part0)) < _LEAST_POINTS:
            continue
        for part1, share1 in _free_parts(b.bounds, x1[in_bounds(x0, part0)]):
            share = min(share0, share1)
            enough = np.count_nonzero(in_bounds(seen1, part1)) >= _LEAST_POINTS
            if enough and share > max(_LEAST_SHARE, found.get(side, (0.0,))[0]):
                found[side] = share, part0, part1
    sides = [side for side in _LEFT_RIGHT if side in found] or sorted(found)
    sides.sort(key=lambda side: -found[side][0])
    for number, side in enumerate(sides):
        yield KnownPair(OTHER_PART, a, b, *found[side][1:], number)


def _parts(bounds: np.ndarray) -> Iterator[tuple[int, np.ndarray, float]]:
    """Parts of an image at one of its four sides: the side, the part, its share of the image."""
    for side in range(4):
        opposite = (side + 2) % 4
        for cut in _CUTS:
            part = bounds.copy()
            part[opposite] = bounds[side] + cut * (bounds[opposite] - bounds[side])
            yield side, part, cut


def _free_parts(bounds: np.ndarray, taken: np.ndarray) -> Iterator[tuple[np.ndarray, float]]:
    """Parts of an image at its four sides that have none of the points (N, 2), with their shares.
    """
    taken = taken[in_bounds(taken, bounds)]
    for side in range(4):
        opposite, axis = (side + 2) % 4, side % 2
        length = bounds[opposite] - bounds[side]  # negative at the right and the bottom
        shares = (taken[:, axis] - bounds[side]) / length
        share = min(shares, default=1.0 + _MARGIN) - _MARGIN
        part = bounds.copy()
        part[opposite] = bounds[side] + share * length
        yield part, share
