"""The Darmstadt Noise Dataset (Plötz & Roth, CVPR 2017): noisy photographs, without clean ones.

    info.mat             boxes of the crops that count, noise levels, patterns of the cameras
    images_raw/0001.mat  `Inoisy` (H, W), linear, a mosaic; images_srgb/0001.mat `InoisySRGB`
    …

Files are MATLAB's v7.3, which is HDF5 with axes in reverse order; a struct array is a group of
datasets of references, one for each image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from n3match.files.hdf5 import check_plain, kind_of, member, open_hdf5, read_array

_MOST_VALUES = 1 << 28  # of one image
_MOST_IMAGES = 10_000
_MOST_CROPS = 99


@dataclass(frozen=True)
class DndImage:
    """What is known of an image, apart from its pixels.

    Attributes:
        number: from 1, as in the names of the files.
        boxes: (crops, 4) first row and column, last row and column; from 0, last ones excluded.
        a, b: noise variance a·x + b of raw intensities of 0 … 1.
        sigma: (crops,) mean noise of the sRGB crops, white at 1; None where it isn't told.
        pattern: (2, 2) which filter the mosaic has at even and odd rows and columns: 1 red,
            2 green, 3 blue; None where it isn't told.
    """

    number: int
    boxes: np.ndarray
    a: float
    b: float
    sigma: np.ndarray | None
    pattern: np.ndarray | None


def read_info(folder: str | Path) -> list[DndImage]:
    """What info.mat tells of each image.

    Args:
        folder: of the dataset, with info.mat in it.

    Raises:
        FileNotFoundError: no info.mat. ValueError: it is something else, naming the field.
    """
    path = Path(folder) / "info.mat"
    with open_hdf5(path, kind="a MATLAB file of version 7.3") as file:
        info = _group(file, "info", path)
        boxes = _references(info, "boundingboxes", path)
        return [_image(file, info, i, path) for i in range(len(boxes))]


def read_image(folder: str | Path, image: DndImage, *, srgb: bool) -> np.ndarray:
    """(H, W) float32 raw intensities of the mosaic, or (H, W, 3) sRGB, white at 1.

    Args:
        folder: of the dataset.
        image: which one, from `read_info`.
        srgb: the developed picture instead of the raw mosaic.

    Raises:
        FileNotFoundError: no such file. ValueError: not such an image, or one without room for
            its boxes.
    """
    kind, name = ("srgb", "InoisySRGB") if srgb else ("raw", "Inoisy")
    path = Path(folder) / f"images_{kind}" / f"{image.number:04d}.mat"
    with open_hdf5(path, kind="a MATLAB file of version 7.3") as file:
        found = member(file, name)
        shape = getattr(found, "shape", None)
        wanted = 3 if srgb else 2
        if (
            not isinstance(found, h5py.Dataset) or kind_of(found) not in "fu"
            or shape is None or len(shape) != wanted or (srgb and shape[0] != 3)
            or not 0 < math.prod(shape) <= _MOST_VALUES
        ):
            raise ValueError(
                f"{path}: {name} has shape {shape}, wanted numbers of "
                f"{'3 channels of ' if srgb else ''}an image"
            )
        pixels = np.ascontiguousarray(read_array(found).T, dtype=np.float32)
    if not np.isfinite(pixels).all():
        raise ValueError(f"{path}: {name} holds NaN or infinite numbers")
    height, width = pixels.shape[:2]
    if image.boxes[:, 2].max() > height or image.boxes[:, 3].max() > width:
        raise ValueError(
            f"{path}: {height} x {width} pixels, its boxes reach to "
            f"{image.boxes[:, 2].max()} x {image.boxes[:, 3].max()}"
        )
    return pixels


def mosaic_places(pattern: np.ndarray | None, row: int, column: int) -> list[tuple[int, int]]:
    """Where red, the green beside it, the other green and blue lie in a crop's 2×2 cells.

    Args:
        pattern: of the whole image; None: taken for red, green / green, blue.
        row, column: of the crop's first pixel.

    Raises:
        ValueError: a pattern with other filters than these.
    """
    pattern = np.array([[1, 2], [2, 3]]) if pattern is None else pattern
    here = np.roll(pattern, (-(row % 2), -(column % 2)), (0, 1))
    if sorted(here.ravel().tolist()) != [1, 2, 2, 3]:
        raise ValueError(f"pattern: found {pattern.tolist()}, wanted one red, two green, one blue")
    (y, x), (v, u) = (tuple(int(n[0]) for n in np.nonzero(here == c)) for c in (1, 3))
    if (v, u) != (1 - y, 1 - x):
        raise ValueError(f"pattern: found {pattern.tolist()}, wanted greens on a diagonal")
    return [(y, x), (y, 1 - x), (1 - y, x), (1 - y, 1 - x)]


def _image(file: h5py.File, info: h5py.Group, i: int, path: Path) -> DndImage:
    where = f"{path}: image {i + 1}"
    boxes = _numbers(_referred(file, info, "boundingboxes", i, path), f"{where}: boundingboxes").T
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not 0 < len(boxes) <= _MOST_CROPS:
        raise ValueError(f"{where}: boundingboxes of shape {boxes.shape}, wanted (crops, 4)")
    boxes = np.rint(boxes).astype(int)
    boxes[:, :2] -= 1
    if (boxes[:, :2] < 0).any() or (boxes[:, 2:] <= boxes[:, :2]).any():
        raise ValueError(f"{where}: boundingboxes hold one without pixels: {boxes.tolist()}")
    level = _referred(file, info, "nlf", i, path)
    a, b = (_number(level, name, f"{where}: nlf") for name in ("a", "b"))
    sigma = pattern = None
    if "sigma_srgb" in info:
        found = _referred(file, info, "sigma_srgb", i, path)
        sigma = _numbers(found, f"{where}: sigma_srgb").ravel()
        if len(sigma) != len(boxes):
            raise ValueError(f"{where}: sigma_srgb of {len(sigma)} crops, wanted {len(boxes)}")
    if "camera" in info:
        camera = _referred(file, info, "camera", i, path)
        told = member(camera, "pattern") if isinstance(camera, h5py.Group) else None
        if told is not None:
            # As it lies in the file: so others read it.
            pattern = _numbers(told, f"{where}: pattern").astype(int)
    return DndImage(i + 1, boxes, a, b, sigma, pattern)


def _group(file: h5py.File, name: str, path: Path) -> h5py.Group:
    found = member(file, name)
    if not isinstance(found, h5py.Group):
        raise ValueError(f"{path}: has no {name}, wanted that of the Darmstadt Noise Dataset")
    return found


def _references(group: h5py.Group, name: str, path: Path) -> list[h5py.Reference]:
    found = member(group, name)
    if (
        not isinstance(found, h5py.Dataset) or found.dtype != h5py.ref_dtype
        or not 0 < (found.size or 0) <= _MOST_IMAGES
    ):
        raise ValueError(f"{path}: has no {name} for each image")
    check_plain(found)
    return list(found[()].ravel())


def _referred(file: h5py.File, group: h5py.Group, name: str, i: int, path: Path) -> object:
    """What the reference of image i leads to."""
    references = _references(group, name, path)
    try:
        return file[references[i]]
    except (KeyError, ValueError, IndexError, RuntimeError, OSError, TypeError) as error:
        raise ValueError(f"{path}: {name} of image {i + 1} is damaged ({error})") from error


def _numbers(found: object, where: str) -> np.ndarray:
    if (
        not isinstance(found, h5py.Dataset) or kind_of(found) not in "fiu"
        or not 0 < (found.size or 0) <= 4 * _MOST_CROPS
    ):
        raise ValueError(f"{where}: wanted a few numbers")
    values = read_array(found).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{where}: found NaN or inf, wanted finite numbers")
    return values


def _number(group: object, name: str, where: str) -> float:
    held = member(group, name) if isinstance(group, h5py.Group) else None
    found = _numbers(held, f"{where}: {name}")
    if found.size != 1 or found.item() < 0:
        raise ValueError(f"{where}: {name} is {found.tolist()}, wanted one number, 0 or more")
    return found.item()
