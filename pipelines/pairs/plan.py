"""Which pairs of which scenes go into a training store, and in which parts it is made."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from n3match.datasets.pairs.dump import count_dump
from n3match.datasets.scenes.formats import FoundScene, read_scene
from n3match.datasets.scenes.source import ReadOptions, ScenePair, SceneSource, View

# What parts easy from hard pairs: the common part of the views, or where only that is known the
# number of shared 3-D points; and the degrees between the views. All combinations that exist get
# an equal share, so that neighbouring frames don't crowd out the wide baselines.
_OVERLAP_BANDS = (0.1, 0.25, 0.5)
_SHARED_BANDS = (50, 100, 200, 400)
_VIEW_BANDS = (8, 20, 40)
PART_SIZE = 25


@dataclass(frozen=True, eq=False)
class PhotoPart:
    """Up to PART_SIZE pairs of one scene with the views that they need."""

    name: str
    scene: str
    views: dict[str, View]
    pairs: list[ScenePair]

    def __len__(self) -> int:
        return len(self.pairs)


@dataclass(frozen=True)
class DumpPart:
    """Some rows of a dump."""

    name: str
    scene: str
    path: Path
    rows: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class PlanOptions:
    """See `build_pairs`."""

    max_pairs: int | None
    fixed_direction: bool
    seed: int
    strict: bool = False


def plan_scene(
    found: FoundScene, reading: ReadOptions, options: PlanOptions
) -> tuple[list[PhotoPart] | list[DumpPart], list[str]]:
    """The parts of a scene, and what of it can't be used.

    Raises:
        OSError, ValueError: the scene can't be used at all, or, where strict, not all of it; see
            the readers.
    """
    # A scene's draws depend on its name, not on which other scenes there are.
    rng = np.random.default_rng([options.seed, zlib.crc32(found.name.encode())])
    if found.format == "dump":
        return _plan_dump(found, options, rng), []
    scene = read_scene(found, reading)
    problems = list(scene.problems)
    if problems and options.strict:
        raise ValueError(problems[0])
    if not scene.pairs:
        problems.append(f"{found.path}: {_no_pairs(scene)}")
    pairs = choose_pairs(scene.pairs, options.max_pairs, rng)
    if not options.fixed_direction:
        swap = rng.random(len(pairs)) < 0.5
        pairs = [pair.swapped() if s else pair for pair, s in zip(pairs, swap)]
    parts = []
    for name, some in _cut(found.name, pairs):
        names = sorted({view for pair in some for view in (pair.view0, pair.view1)})
        views = {view: scene.views[view] for view in names}
        parts.append(PhotoPart(name, found.name, views, some))
    return parts, problems


def plan_digest(parts: Sequence[PhotoPart | DumpPart]) -> str:
    """Text that differs where any part has other pairs."""
    rows = [
        (p.name, p.rows if isinstance(p, DumpPart) else [(q.view0, q.view1) for q in p.pairs])
        for p in parts
    ]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def choose_pairs(
    pairs: Sequence[ScenePair], count: int | None, rng: np.random.Generator
) -> list[ScenePair]:
    """Draw at most `count` pairs, as evenly over the bands as they allow; their order is kept.

    Bands are combinations of the common part of the views (below 10, 25, 50 %, above; where it is
    not known by shared 3-D points, below 50, 100, 200, 400, above) and of the change of view
    (below 8, 20, 40 degrees, above).
    """
    if count is None or len(pairs) <= count:
        return list(pairs)
    bands: dict[tuple, list[int]] = {}
    for i, pair in enumerate(pairs):
        bands.setdefault(_band(pair), []).append(i)
    # Smallest band first: what it can't give is shared among the others.
    chosen: list[int] = []
    ordered = sorted(bands.items(), key=lambda item: (len(item[1]), item[0]))
    for k, (_, band) in enumerate(ordered):
        share = (count - len(chosen)) // (len(ordered) - k)
        chosen.extend(rng.permutation(band)[:share].tolist())
    return [pairs[i] for i in sorted(chosen)]


def _band(pair: ScenePair) -> tuple[int, int]:
    if math.isfinite(pair.overlap):
        common = np.searchsorted(_OVERLAP_BANDS, pair.overlap, side="right")
    else:
        common = np.searchsorted(_SHARED_BANDS, pair.num_shared, side="right")
    return int(common), int(np.searchsorted(_VIEW_BANDS, pair.view_change, side="right"))


def _plan_dump(
    found: FoundScene, options: PlanOptions, rng: np.random.Generator
) -> list[DumpPart]:
    rows = np.arange(count_dump(found.path))
    if options.max_pairs is not None and len(rows) > options.max_pairs:
        rows = np.sort(rng.permutation(rows)[: options.max_pairs])
    return [
        DumpPart(name, found.name, found.path, tuple(some))
        for name, some in _cut(found.name, rows.tolist())
    ]


def _cut(scene: str, items: Sequence):
    """Pieces of PART_SIZE with the names of their files."""
    stem = scene
    if "/" in scene:  # told apart from a scene that is really called so
        stem = f"{scene.replace('/', '__')}-{zlib.crc32(scene.encode()):08x}"
    for i in range(0, len(items), PART_SIZE):
        yield f"{stem}-{i // PART_SIZE:03d}", items[i : i + PART_SIZE]


def _no_pairs(scene: SceneSource) -> str:
    return (
        f"none of its {len(scene.views)} images sees enough of another "
        "(covisibility below the least one wanted, or taken from one spot)"
    )
