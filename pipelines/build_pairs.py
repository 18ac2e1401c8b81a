"""Make a pair store from folders with photographs and a COLMAP model.

Each scene is `<scenes>/<name>/images/*` and `<scenes>/<name>/sparse/{cameras,images}.bin`.
"""

import argparse
import multiprocessing
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from n3match.datasets.colmap import (
    ColmapCamera,
    ColmapModel,
    covisible_pairs,
    read_colmap_model,
    relative_pose,
)
from n3match.datasets.images import read_image_gray
from n3match.datasets.pair_store import PairRecord, PairStoreWriter
from n3match.geometry import essential_from_pose, symmetric_epipolar_distance
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
        scenes: folder of scene folders.
        out: the store to write.
        max_keypoints: SIFT keypoints per image.
        max_pairs: at most so many pairs of one scene, an equal share from each band of
            covisibility; None for all.
        min_shared: pairs that see fewer common 3-D points are left out.
        exclude: names of scenes to leave out.
        fixed_direction: image 0 is the one whose name comes first; else it is drawn.
        seed: of the draws.
        processes: that detect keypoints.
        source, licence: kept in the store.

    Returns:
        `out`.

    Raises:
        ValueError: no scene found, a malformed model or image, an image whose size is not its
            camera's, or `out` exists and was made with other settings.
    """
    scenes = Path(scenes)
    found = sorted(
        p for p in scenes.iterdir() if (p / "sparse" / "images.bin").is_file()
    )
    missing = sorted(set(exclude) - {p.name for p in found})
    if missing:
        raise ValueError(f"exclude: found {missing}, wanted names of scenes in {scenes}")
    chosen = [p for p in found if p.name not in exclude]
    if not chosen:
        raise ValueError(f"{scenes}: no scene with sparse/images.bin below it")
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
        return writer.path
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


def _plan_scene(
    scene: Path, max_pairs: int | None, min_shared: int, fixed_direction: bool, seed: int
) -> list[_Part]:
    model = read_colmap_model(scene / "sparse")
    # A scene's draws depend on its name, not on which other scenes there are.
    rng = np.random.default_rng([seed, zlib.crc32(scene.name.encode())])
    pairs = choose_pairs(covisible_pairs(model, min_shared), max_pairs, rng)
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
    needed = {
        scene: sorted({i for part in group for a, b, _ in part.pairs for i in (a, b)})
        for scene, group in by_scene.items()
    }
    jobs = [
        (scene / "images" / group[0].model.images[i].name, group[0].model.camera_of(i))
        for scene, group in by_scene.items()
        for i in needed[scene]
    ]
    work = partial(_extract, max_keypoints=max_keypoints)
    # Spawned, not forked: a forked child of a process with torch threads may hang.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        results = pool.imap(work, jobs, chunksize=2)
        for scene, group in by_scene.items():
            features = dict(zip(needed[scene], islice(results, len(needed[scene]))))
            for part in group:
                yield part, features


def _extract(job: tuple[Path, ColmapCamera], max_keypoints: int) -> Features:
    cv2.setNumThreads(1)
    path, camera = job
    image = read_image_gray(path)
    if image.shape != (camera.height, camera.width):
        raise ValueError(
            f"{path}: {image.shape[1]} x {image.shape[0]} pixels, "
            f"its camera has {camera.width} x {camera.height}"
        )
    return extract_sift(image, max_keypoints)


def undistort_points(points, K, distortion):
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-12)
    if len(points) == 0:
        return np.zeros((0, 2))
    return cv2.undistortPoints(
        points.astype(np.float64)[:, None], K, distortion, criteria=criteria
    )[:, 0]


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
        shapes0=np.stack([features0.sizes, features0.angles], axis=1)[matches.index0],
        shapes1=np.stack([features1.sizes, features1.angles], axis=1)[matches.index1],
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


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m n3match.pipelines.build_pairs SCENES OUT`"""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    args = parser.parse_args(argv)
    build_pairs(**vars(args))


if __name__ == "__main__":
    main()
