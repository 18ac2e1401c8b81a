"""Clean images to train denoising on: decoded once, kept in one file, crops drawn from it.

The cache is a plain array of all pixels that is mapped into memory, so that a set larger than the
memory works too.
"""

from __future__ import annotations

import json
import tokenize
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from n3match.datasets.denoising.image_files import images_in, read_image
from n3match.files.given import parse_json, read_text
from n3match.files.whole import whole_file, write_whole


def _checked_shapes(shapes: object, channels: int, path: Path) -> list[tuple[int, ...]]:
    """Shapes of images as a file has them."""
    wanted = 2 if channels == 1 else 3
    if not isinstance(shapes, list) or not all(
        isinstance(shape, (list, tuple)) and len(shape) == wanted
        and all(type(side) is int and 0 < side < 1 << 20 for side in shape)
        for shape in shapes
    ):
        raise ValueError(f"{path}: damaged, holds no shapes of images: remove it")
    return [tuple(shape) for shape in shapes]


def eight_bit(image: np.ndarray, channels: int) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8 of an image as `read_image` gives it; alpha is dropped."""
    if image.dtype == np.uint16:
        image = np.rint(image / 257.0).astype(np.uint8)
    elif image.dtype != np.uint8:
        image = np.clip(np.rint(image * 255.0), 0, 255).astype(np.uint8)
    if image.ndim == 3:
        image = np.ascontiguousarray(image[..., :3])
        return image if channels == 3 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return image if channels == 1 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)


class CleanImages:
    """All images of some folders as uint8, grey or colour.

    Args:
        folders: of images of any size.
        channels: 1 or 3; images are converted.
        cache: file (.npy) that the pixels are kept in; made anew where it isn't of these images.
        weights: how often each folder is drawn; (): by its pixels.

    Raises:
        ValueError, OSError: a folder without images, an image that can't be read.
    """

    def __init__(
        self, folders: Sequence[str | Path], channels: int, cache: str | Path,
        weights: Sequence[float] = (),
    ):
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {channels}")
        if not folders:
            raise ValueError("folders: none given, wanted folders of clean images")
        of_folders = [images_in(folder) for folder in folders]
        files = [path for paths in of_folders for path in paths]
        self._folders, self._weights = list(folders), list(weights)
        self._folder_of = np.repeat(np.arange(len(folders)), [len(paths) for paths in of_folders])
        cache = Path(cache)
        contents = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
        described = cache.with_suffix(".json")
        key = json.dumps({"channels": channels, "files": contents})
        found: dict[str, Any] = {}
        if described.is_file() and cache.is_file():
            found = parse_json(read_text(described), str(described))
        if found.get("key") != key:
            found = {"key": key, "shapes": _write(files, channels, cache)}
            write_whole(described, json.dumps(found))
        self.shapes = _checked_shapes(found.get("shapes"), channels, described)
        try:
            pixels = np.load(cache, mmap_mode="r", allow_pickle=False)
        except (
            ValueError, EOFError, OverflowError, TypeError, SyntaxError, tokenize.TokenError
        ) as error:
            raise ValueError(f"{cache}: damaged ({error}): remove it") from error
        sizes = [int(np.prod(shape)) for shape in self.shapes]
        if getattr(pixels, "dtype", None) != np.uint8 or pixels.shape != (sum(sizes),):
            raise ValueError(f"{cache}: not the pixels that {described.name} tells of: remove both")
        starts = np.cumsum([0, *sizes])
        self._images = [
            pixels[start : start + size].reshape(shape)
            for start, size, shape in zip(starts, sizes, self.shapes)
        ]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._images[index]

    def crops(self, rng: np.random.Generator, count: int, size: int) -> np.ndarray:
        """(count, C, size, size) float32 in 0 … 1: squares from anywhere, turned and mirrored.

        Images, of a folder that is drawn by its weight where there are weights, are drawn in
        proportion to their pixels; those smaller than a crop never.

        Raises:
            ValueError: no image, or none of a folder with a weight, is large enough.
        """
        areas = np.array([h * w if min(h, w) >= size else 0 for h, w, *_ in self.shapes], float)
        if not areas.any():
            raise ValueError(f"size: no image has {size}×{size} pixels")
        if self._weights:
            pixels = np.bincount(self._folder_of, areas, len(self._folders))
            if not pixels.all():
                folder = self._folders[int(np.argmin(pixels))]
                raise ValueError(f"size: no image of {folder} has {size}×{size} pixels")
            areas *= (np.array(self._weights) / pixels)[self._folder_of]
        chosen = rng.choice(len(areas), count, p=areas / areas.sum())
        return np.stack([self._crop(rng, int(index), size) for index in chosen])

    def _crop(self, rng: np.random.Generator, index: int, size: int) -> np.ndarray:
        image = self._images[index]
        top, left = (int(rng.integers(n - size + 1)) for n in image.shape[:2])
        crop = image[top : top + size, left : left + size]
        crop = np.rot90(crop, int(rng.integers(4)))
        if rng.integers(2):
            crop = crop[:, ::-1]
        planes = crop[None] if crop.ndim == 2 else np.moveaxis(crop, 2, 0)
        return planes.astype(np.float32) / np.float32(255)


def _write(files: Sequence[Path], channels: int, cache: Path) -> list[tuple[int, ...]]:
    """Fills the cache; the shapes of the images."""
    images = [eight_bit(read_image(path), channels) for path in files]
    pixels = np.concatenate([image.reshape(-1) for image in images])
    cache.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(cache) as temporary, temporary.open("wb") as file:
        np.save(file, pixels)
    return [image.shape for image in images]
