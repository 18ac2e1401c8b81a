"""A COLMAP reconstruction with its photographs as a scene: see source.py."""

from pathlib import Path

import numpy as np

from n3match.datasets.scenes.source import (
    ReadOptions,
    ScenePair,
    SceneSource,
    View,
    median_parallax,
)
from n3match.files.given import inside
from n3match.plugins.colmap.model import (
    ColmapModel,
    covisible_pairs,
    has_colmap_model,
    read_colmap_model,
    read_colmap_points,
    relative_pose,
)

MIN_SHARED = 20
_POINTS_PER_PAIR = 200  # that the parallax is measured on


def is_colmap_scene(path: Path) -> bool:
    """Whether it is a folder with a model in `sparse/`, in `sparse/0/` or in itself."""
    return path.is_dir() and model_folder(path) is not None


def model_folder(scene: Path) -> Path | None:
    for folder in (scene / "sparse", scene / "sparse" / "0", scene):
        if has_colmap_model(folder):
            return folder
    return None


def given_model_folder(scene: Path) -> Path:
    """Raises FileNotFoundError where there is none."""
    folder = model_folder(scene)
    if folder is None:
        raise FileNotFoundError(f"{scene}: has no COLMAP model in sparse/, sparse/0/ or itself")
    return folder


def read_colmap_scene(path: Path, name: str, options: ReadOptions) -> SceneSource:
    """Views and covisible pairs of a model; photographs in `images/` or `options.image_root`.

    Pairs taken from one spot are left out: they have no direction of translation.

    Raises:
        FileNotFoundError, ValueError: see `n3match.plugins.colmap.model`.
    """
    folder = given_model_folder(path)
    model = read_colmap_model(folder)
    points = read_colmap_points(folder)
    root = path / "images" if options.image_root is None else options.image_root
    views = {}
    for image_id, image in model.images.items():
        if image.name in views:
            raise ValueError(f"{folder}: images: the name {image.name!r} stands twice")
        camera = model.camera_of(image_id)
        views[image.name] = View(
            name=image.name,
            path=inside(root, image.name, folder),
            K=camera.K,
            distortion=camera.distortion,
            lens=camera.lens,
            size=(camera.width, camera.height),
        )
    min_shared = MIN_SHARED if options.min_shared is None else options.min_shared
    pairs = []
    for id0, id1, shared in covisible_pairs(model, min_shared):
        pair = _pair(model, points, id0, id1, shared)
        if np.linalg.norm(pair.t) > 0 and not pair.overlap < (options.min_overlap or 0):
            pairs.append(pair)
    problems = [f"{image}: left out: {why}" for image, why in sorted(model.unsupported.items())]
    return SceneSource(name, views, pairs, problems)


def _pair(model: ColmapModel, points: dict, id0: int, id1: int, shared: int) -> ScenePair:
    image0, image1 = model.images[id0], model.images[id1]
    R, t = relative_pose(image0, image1)
    return ScenePair(
        image0.name,
        image1.name,
        R,
        t,
        num_shared=shared,
        overlap=shared / min(len(image0.point_ids), len(image1.point_ids)),
        parallax=_parallax(points, image0, image1) if points else np.nan,
    )


def _parallax(points: dict, image0, image1) -> float:
    common = np.intersect1d(image0.point_ids, image1.point_ids, assume_unique=True)
    common = common[:: max(1, len(common) // _POINTS_PER_PAIR)]
    known = [points[i] for i in common.tolist() if i in points]
    if not known:
        return np.nan
    return median_parallax(np.stack(known), -image0.R.T @ image0.t, -image1.R.T @ image1.t)
