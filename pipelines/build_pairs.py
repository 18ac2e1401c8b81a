"""Make a pair store from photographs with COLMAP models: SIFT, putative matches, labels.

A scene is a folder with `images/` and a model (`cameras` and `images`, .bin or .txt) in `sparse/`
or `sparse/0/`.
"""

import argparse
import multiprocessing
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from n3match.datasets.colmap import (
    ColmapCamera,
    ColmapModel,
    covisible_pairs,
    has_colmap_model,
    read_colmap_model,
    relative_pose,
)
from n3match.datasets.images import read_image_gray
from n3match.datasets.pair_store import PairRecord
from n3match.datasets.pair_store_writer import PairStoreWriter
from n3match.geometry import essential_from_pose, symmetric_epipolar_distance, undistort_points
from n3match.matching import Features, extract_sift, putative_matches

# Numbers of shared 3-D points that part easy from hard pairs; all bands get an equal share.
_BANDS = (20, 50, 100, 200, 400)
_PART_SIZE = 50


@dataclass(frozen=True)
class _Part:
    """Up to _PART_SIZE pairs of one scene."""

    name: str
    scene: Path
    model: ColmapModel
    pairs: list[tuple[int, int, int]]


def build_pairs(
    scenes: str | Path,
    out: str | Path,
    *,
    max_keypoints: int = 2000,
    max_pairs: int | None = None,
    min_shared: int = 20,
    exclude: Sequence[str] = (),
    fixed_direction: bool = False,
    seed: int = 0,
    processes: int = 1,
    source: str = "",
    licence: str = "",
    progress: bool = True,
) -> Path:
    """Detect, match and label the pairs of all scenes below a folder.

    May be stopped at any moment and started again: finished parts are kept.

    Args:
        scenes: folder of scene folders, or one scene folder.
        out: the store to write.
        max_keypoints: SIFT keypoints per image.
        max_pairs: at most so many pairs of one scene, an equal share from each band of
            covisibility; None for all.
        min_shared: pairs that see fewer common 3-D points are left out.
        exclude: names of scenes to leave out.
        fixed_direction: image 0 is the one whose name comes first; else it is drawn.
        seed: of the draws.
        processes: that detect keypoints; with 1 all happens in this one.
        source, licence: kept in the store.
        progress: show a bar on standard error.

    Returns:
        `out`.

    Raises:
        FileNotFoundError: `scenes` or an image of a model does not exist.
        ValueError: no scene found, a malformed model or image, an image whose size is not its
            camera's, a count out of range, or `out` exists and was made with other settings.
    """
    for name, value in (
        ("max_keypoints", max_keypoints),
        ("max_pairs", max_pairs),
        ("min_shared", min_shared),
        ("processes", processes),
    ):
        if value is not None and value < 1:
            raise ValueError(f"{name}: found {value}, wanted at least 1")
    chosen = _find_scenes(Path(scenes), exclude)
    settings = {
        "scenes": [p.name for p in chosen],
        "feature": "opencv-sift-root",
        "max_keypoints": max_keypoints,
        "max_pairs": max_pairs,
        "min_shared": min_shared,
        "fixed_direction": fixed_direction,
        "seed": seed,
    }
    writer = PairStoreWriter(out, settings, source=source, licence=licence)
    if writer.finished:
        return writer.finish(())
    parts = [
        part
        for scene in chosen
        for part in _plan_scene(scene, max_pairs, min_shared, fixed_direction, seed)
    ]
    todo = [part for part in parts if not writer.has_part(part.name)]
    done = sum(len(p.pairs) for p in parts) - sum(len(p.pairs) for p in todo)
    with tqdm(
        total=done + sum(len(p.pairs) for p in todo),
        initial=done,
        unit="pair",
        disable=not progress,
    ) as bar:
        for part, features in _extract_all(todo, max_keypoints, processes):
            bar.set_description(part.name)
            records = []
            for pair in part.pairs:
                records.append(_make_record(part, pair, features))
                bar.update()
            writer.write_part(part.name, records)
    return writer.finish(part.name for part in parts)


def choose_pairs(
    pairs: Sequence[tuple[int, int, int]], count: int | None, rng: np.random.Generator
) -> list[tuple[int, int, int]]:
    """Draw at most `count` pairs (.., .., shared points), as evenly over the bands as they allow.

    Bands of covisibility are [20, 50), [50, 100), [100, 200), [200, 400) and the rest; fewer than
    20 shared points count to the first. The order of `pairs` is kept.
    """
    if count is None or len(pairs) <= count:
        return list(pairs)
    band_of = np.searchsorted(_BANDS[1:], [p[2] for p in pairs], side="right")
    bands = [rng.permutation(np.flatnonzero(band_of == b)) for b in range(len(_BANDS))]
    # Smallest band first: what it can't give is shared among the others.
    chosen: list[int] = []
    for i, band in enumerate(sorted(bands, key=len)):
        share = (count - len(chosen)) // (len(bands) - i)
        chosen.extend(band[:share].tolist())
    return [pairs[i] for i in sorted(chosen)]


def _find_scenes(scenes: Path, exclude: Sequence[str]) -> list[Path]:
    if not scenes.is_dir():
        raise FileNotFoundError(f"{scenes}: no such folder")
    candidates = [scenes] if _model_folder(scenes) else sorted(scenes.iterdir())
    found = [path for path in candidates if _model_folder(path)]
    missing = sorted(set(exclude) - {path.name for path in found})
    if missing:
        raise ValueError(f"exclude: found {missing}, wanted names of scenes in {scenes}")
    chosen = [path for path in found if path.name not in exclude]
    if not chosen:
        raise ValueError(f"{scenes}: no scene in it, wanted <scene>/images and <scene>/sparse")
    return chosen


def _model_folder(scene: Path) -> Path | None:
    for folder in (scene / "sparse", scene / "sparse" / "0"):
        if has_colmap_model(folder):
            return folder
    return None


def _plan_scene(
    scene: Path, max_pairs: int | None, min_shared: int, fixed_direction: bool, seed: int
) -> list[_Part]:
    model = read_colmap_model(_model_folder(scene))
    # A scene's draws depend on its name, not on which other scenes there are.
    rng = np.random.default_rng([seed, zlib.crc32(scene.name.encode())])
    pairs = [
        (a, b, shared)
        for a, b, shared in covisible_pairs(model, min_shared)
        # Two photographs from one spot have no direction of translation, so no label.
        if np.linalg.norm(relative_pose(model.images[a], model.images[b])[1]) > 0
    ]
    pairs = choose_pairs(pairs, max_pairs, rng)
    if not fixed_direction:
        swap = rng.random(len(pairs)) < 0.5
        pairs = [(b, a, n) if s else (a, b, n) for (a, b, n), s in zip(pairs, swap)]
    return [
        _Part(f"{scene.name}-{i // _PART_SIZE:03d}", scene, model, pairs[i : i + _PART_SIZE])
        for i in range(0, len(pairs), _PART_SIZE)
    ]


def _extract_all(
    parts: Sequence[_Part], max_keypoints: int, processes: int
) -> Iterator[tuple[_Part, dict[int, Features]]]:
    """Each part with the features of its scene's images, detected in other processes."""
    by_scene: dict[Path, list[_Part]] = {}
    for part in parts:
        by_scene.setdefault(part.scene, []).append(part)
    work = partial(_extract, max_keypoints=max_keypoints)
    if processes == 1:
        for group in by_scene.values():
            ids, jobs = _jobs(group)
            features = dict(zip(ids, map(work, jobs)))
            for part in group:
                yield part, features
        return
    # Spawned, not forked: a forked child of a process with torch threads may hang.
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        # One scene ahead: the pool works while this process matches, and memory stays bounded.
        waiting = deque(by_scene.values())
        running = deque()
        while waiting or running:
            while waiting and len(running) < 2:
                group = waiting.popleft()
                ids, jobs = _jobs(group)
                running.append((group, ids, pool.map_async(work, jobs, chunksize=1)))
            group, ids, result = running.popleft()
            features = dict(zip(ids, result.get()))
            for part in group:
                yield part, features


def _jobs(group: Sequence[_Part]) -> tuple[list[int], list[tuple[Path, ColmapCamera]]]:
    """Ids of the images that a scene's parts need, and where each is and by which camera."""
    ids = sorted({i for part in group for a, b, _ in part.pairs for i in (a, b)})
    scene, model = group[0].scene, group[0].model
    return ids, [(scene / "images" / model.images[i].name, model.camera_of(i)) for i in ids]


def _extract(job: tuple[Path, ColmapCamera], max_keypoints: int) -> Features:
    path, camera = job
    image = read_image_gray(path)
    if image.shape != (camera.height, camera.width):
        raise ValueError(
            f"{path}: {image.shape[1]} x {image.shape[0]} pixels, "
            f"its camera has {camera.width} x {camera.height}"
        )
    return extract_sift(image, max_keypoints)


def _make_record(
    part: _Part, pair: tuple[int, int, int], features: dict[int, Features]
) -> PairRecord:
    id0, id1, num_shared = pair
    image0, image1 = part.model.images[id0], part.model.images[id1]
    camera0, camera1 = part.model.camera_of(id0), part.model.camera_of(id1)
    features0, features1 = features[id0], features[id1]
    matches = putative_matches(
        features0.keypoints, features0.descriptors, features1.keypoints, features1.descriptors
    )
    x0 = undistort_points(matches.points0, camera0.K, camera0.distortion)
    x1 = undistort_points(matches.points1, camera1.K, camera1.distortion)
    R, t = relative_pose(image0, image1)
    t = t / np.linalg.norm(t)
    E = essential_from_pose(torch.from_numpy(R), torch.from_numpy(t))
    distance = symmetric_epipolar_distance(torch.from_numpy(x0), torch.from_numpy(x1), E)
    return PairRecord(
        scene=part.scene.name,
        name0=image0.name,
        name1=image1.name,
        num_shared=num_shared,
        points0=matches.points0,
        points1=matches.points1,
        xs=np.concatenate([x0, x1], axis=1),
        distances_squared=distance.numpy(),
        R=R,
        t=t,
        ratio=matches.ratio,
        mutual=matches.mutual,
        descriptor_distance=matches.distance,
        index0=matches.index0,
        index1=matches.index1,
        shapes0=features0.shapes[matches.index0],
        shapes1=features1.shapes[matches.index1],
        K0=camera0.K,
        K1=camera1.K,
        distortion0=camera0.distortion,
        distortion1=camera1.distortion,
        size0=features0.image_size,
        size1=features1.image_size,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command-line options of `main`."""
    parser.add_argument("scenes", type=Path, help="folder of scene folders (images/, sparse/)")
    parser.add_argument("out", type=Path, help="pair store to write (.h5)")
    parser.add_argument("--max-keypoints", type=int, default=2000)
    parser.add_argument("--max-pairs", type=int, help="per scene; all when left out")
    parser.add_argument("--min-shared", type=int, default=20, help="shared 3-D points of a pair")
    parser.add_argument("--exclude", nargs="*", default=(), help="scenes to leave out")
    parser.add_argument(
        "--fixed-direction", action="store_true", help="image 0 is first by name, not by chance"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--source", default="", help="text kept in the store")
    parser.add_argument("--licence", default="", help="text kept in the store")


def main(arguments: argparse.Namespace) -> int:
    print(build_pairs(**vars(arguments)))
    return 0
