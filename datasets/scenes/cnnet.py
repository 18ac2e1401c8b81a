"""Scene folders of Yi et al. (CVPR 2018, "CNNet") as scenes: see source.py.

`images.txt`, `calibration.txt` and `visibility.txt` hold a relative path a line, one line for each
image. A calibration file is HDF5 with K (3×3, principal point relative to the image's centre), R,
T (x_camera = R X + T) and, not always, imsize. Visibility file i is a column with a number for
each image: common points (internet photographs) or a share of the view (SUN3D).
"""

from itertools import combinations
from pathlib import Path

import h5py
import numpy as np

from n3match.datasets.images import ImageFile
from n3match.datasets.scenes.source import (
    ReadOptions,
    ScenePair,
    SceneSource,
    View,
    checked_intrinsics,
    checked_pose,
    read_lines,
    read_numbers,
    relative_pose_of,
)
from n3match.files.given import inside
from n3match.files.hdf5 import kind_of, member, open_hdf5, read_array

#: A pair was used in the paper where the number is above this.
MIN_SHARED, MIN_OVERLAP = 100, 0.3
_LISTS = ("images.txt", "calibration.txt", "visibility.txt")


def is_cnnet_scene(path: Path) -> bool:
    return all((path / name).is_file() for name in _LISTS)


def read_cnnet_scene(path: Path, name: str, options: ReadOptions) -> SceneSource:
    """Views and the pairs of which one sees enough of the other.

    An image that is missing or whose calibration can't be used is a problem of the scene, not its
    end.

    Raises:
        FileNotFoundError, ValueError: a list or a visibility file is missing, malformed, or of
            another length than the others.
    """
    images, calibrations, visibilities = (
        [line for line in read_lines(path / name) if line] for name in _LISTS
    )
    for list_name, lines in zip(_LISTS[1:], (calibrations, visibilities)):
        if len(lines) != len(images):
            found = f"found {len(lines)} lines, wanted {len(images)} as in images.txt"
            raise ValueError(f"{path / list_name}: {found}")
    if not images:
        raise ValueError(f"{path / 'images.txt'}: names no images")
    where = path / "visibility.txt"
    visible = np.stack(
        [read_numbers(inside(path, v, where), (len(images),)) for v in visibilities]
    )
    if not (np.isfinite(visible).all() and (visible >= 0).all()):
        raise ValueError(f"{path / 'visibility.txt'}: its files hold NaN or negative numbers")
    root = path if options.image_root is None else options.image_root
    views, poses, problems = {}, {}, []
    for i, (image, calibration) in enumerate(zip(images, calibrations)):
        try:
            view, poses[i] = _read_view(
                inside(root, image, path / "images.txt"), image,
                inside(path, calibration, path / "calibration.txt"),
            )
        except (OSError, ValueError) as error:
            problems.append(str(error))
            continue
        if image in views:
            raise ValueError(f"{path / 'images.txt'}: the name {image!r} stands twice")
        views[image] = view
    others = visible[~np.eye(len(images), dtype=bool)]
    pairs = _pairs(images, poses, visible, (others <= 1).all(), options)
    return SceneSource(name, views, pairs, problems)


def _read_view(image: Path, name: str, calibration: Path):
    width, height = ImageFile(image).size(stored=True)
    with open_hdf5(calibration, missing="no such calibration file") as file:
        K, R = (_field(file, key, 9).reshape(3, 3) for key in "KR")
        t = _field(file, "T", 3)
        size = _field(file, "imsize", 2) if member(file, "imsize") is not None else None
    # Published files have it as width, height and as height, width.
    if size is not None and sorted(size.tolist()) != sorted((width, height)):
        raise ValueError(
            f"{calibration}: imsize is {size.tolist()}, {image.name} has {width} x {height} pixels"
        )
    K = checked_intrinsics(K, f"{calibration}: K")
    K[:2, 2] += (width - 1) / 2, (height - 1) / 2
    pose = checked_pose(R, t, f"{calibration}: R, T")
    return View(name, image, K, size=(width, height)), pose


def _field(file: h5py.File, key: str, count: int) -> np.ndarray:
    dataset = member(file, key)
    if not isinstance(dataset, h5py.Dataset) or dataset.size != count:
        found = getattr(dataset, "shape", "nothing")
        raise ValueError(f"{file.filename}: {key}: found {found}, wanted {count} numbers")
    if kind_of(dataset) not in "fiu":
        raise ValueError(f"{file.filename}: {key}: found type {dataset.dtype}, wanted numbers")
    return read_array(dataset).astype(np.float64).ravel()


def _pairs(
    images: list[str], poses: dict, visible: np.ndarray, is_share: bool, options: ReadOptions
) -> list[ScenePair]:
    if is_share:
        above = MIN_OVERLAP if options.min_overlap is None else options.min_overlap
    else:
        above = MIN_SHARED if options.min_shared is None else options.min_shared - 0.5
    pairs = []
    for i, j in combinations(sorted(poses), 2):
        value = max(visible[i, j], visible[j, i])
        R, t = relative_pose_of(poses[i], poses[j])
        if value > above and np.linalg.norm(t) > 0:
            known = {"overlap": float(value)} if is_share else {"num_shared": int(value)}
            pairs.append(ScenePair(images[i], images[j], R, t, **known))
    return pairs
