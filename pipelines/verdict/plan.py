"""Which pairs of which scenes a verdict is learned from or put to the test on."""

from __future__ import annotations

import argparse
import dataclasses
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from n3match.datasets.scenes.formats import find_scenes
from n3match.pipelines.verdict.known_matches import MatchStore
from n3match.pipelines.verdict.pair_kinds import (
    OTHER_PART,
    OTHER_SIDE,
    REAL,
    KnownPair,
    KnownScene,
    pairs_of_scene,
    pairs_of_two_scenes,
    read_known_scene,
)

_OPTIONS = {REAL: "real", OTHER_SIDE: "other_side", OTHER_PART: "other_part"}


def read_scenes(folders: Sequence[Path], arguments: argparse.Namespace) -> list[KnownScene]:
    """Scenes with COLMAP models below the folders, of each the photographs that are drawn.

    Raises:
        ValueError: two scenes of one name. FileNotFoundError, ValueError: see `find_scenes`.
    """
    found = [scene for folder in folders for scene in find_scenes(folder, "colmap")]
    names = [scene.name for scene in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"SCENES: the name {twice[0]!r} stands for several scenes")
    scenes = [read_known_scene(scene.path, scene.name) for scene in found]
    if arguments.images is None:
        return scenes
    return [_some_images(scene, arguments.images, arguments.seed) for scene in scenes]


def planned_pairs(
    scenes: Sequence[KnownScene],
    arguments: argparse.Namespace,
    strangers: Sequence[KnownScene] = (),
) -> list[KnownPair]:
    """Pairs of all kinds.

    strangers: more scenes, whose photographs are of other places than those of the first.
    """
    most = {kind: getattr(arguments, option) for kind, option in _OPTIONS.items()}
    pairs = []
    for scene in scenes:
        wanted = {**most, OTHER_SIDE: 0} if scene.name in arguments.turned else most
        pairs += pairs_of_scene(scene, wanted, arguments.seed)
    one_place = [group.split(",") for group in arguments.one_place]
    one_place.append([scene.name for scene in strangers])
    if len(scenes) + len(strangers) > 1:
        pairs += pairs_of_two_scenes(
            [*scenes, *strangers], one_place, arguments.other_place, arguments.seed
        )
    return pairs


def match_stores(arguments: argparse.Namespace) -> list[MatchStore]:
    """One for each number of keypoints."""
    return [
        MatchStore(
            arguments.work, arguments.filter, count, device=arguments.device, half=arguments.half
        )
        for count in dict.fromkeys(arguments.keypoints)
    ]


def _some_images(scene: KnownScene, count: int, seed: int) -> KnownScene:
    rng = np.random.default_rng([seed, zlib.crc32(scene.name.encode())])
    names = sorted(scene.images)
    kept = sorted(rng.permutation(len(names))[:count])
    return dataclasses.replace(scene, images={names[i]: scene.images[names[i]] for i in kept})

