"""A photograph with its camera, read from a file or given as an array."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from n3match.arguments import whole
from n3match.datasets.images import ImageFile
from n3match.geometry import guess_intrinsics

# Where a camera matrix is from.
GIVEN, EXIF, ASSUMED = "given", "exif", "assumed"


@dataclass(frozen=True, eq=False)
class Photograph:
    """Pixels to detect keypoints in, and the camera, both at the file's size times `scale`.

    "The file" is the array where there is none. Its image is the one that `cv2.imread` gives:
    turned by an EXIF orientation, unless `stored`.

    Attributes:
        source: path of the file, or the array (H, W[, 3]) uint8 grey or RGB.
        image: (H, W) uint8 grey, reduced if it was large.
        K: (3, 3) float64 of `image`; integers are pixel centres.
        distortion: lens coefficients in OpenCV's order, or None.
        intrinsics: where K is from: "given", "exif" (focal length in the file) or "assumed"
            (1.2 × the longer side).
        size: (width, height) of the file's image.
        scale: of `image` against the file's, (x, y), at most 1.
        denoised: the weights that took noise out of `image`; "" where none did.
        orientation: EXIF's, 1 … 8; 1 where there is nothing to turn.
        stored: the image is the file's pixels as they are stored, not turned.
    """

    source: Path | np.ndarray
    image: np.ndarray
    K: np.ndarray
    distortion: np.ndarray | None
    intrinsics: str
    size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    denoised: str = ""
    orientation: int = 1
    stored: bool = False

    @property
    def turned(self) -> bool:
        """Whether the file's pixels were turned by its EXIF orientation."""
        return self.orientation != 1 and not self.stored

    @property
    def name(self) -> str:
        """The path of the file, or what it is."""
        return str(self.source) if isinstance(self.source, Path) else "an array"

    @property
    def file_K(self) -> np.ndarray:
        """(3, 3) camera matrix at the file's size."""
        if self.scale == (1.0, 1.0):
            return self.K
        return _scaled(self.K, (1 / self.scale[0], 1 / self.scale[1]))

    def to_file(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 2) of `image` in pixels of the file's image."""
        return (points + 0.5) / np.array(self.scale) - 0.5

    def rgb(self) -> np.ndarray:
        """(H, W, 3) uint8 red, green, blue of the file, at the size of `image`.

        Raises:
            OSError, ValueError: the file can't be read again.
        """
        rgb = self.source
        if isinstance(rgb, Path):
            rgb = ImageFile(rgb).rgb(stored=self.stored)
        if rgb.ndim == 2:
            rgb = np.repeat(rgb[..., None], 3, axis=2)
        return _resized(rgb, self.image.shape[::-1])


def read_photograph(
    path: str | os.PathLike | ImageFile,
    *,
    K: np.ndarray | None = None,
    distortion: np.ndarray | None = None,
    max_size: int | None = None,
    stored: bool = False,
) -> Photograph:
    """Reads a photograph; its camera is the one given, else EXIF's, else an assumed one.

    Args:
        path: an image file, or one that was read.
        K: (3, 3) camera matrix of the turned (or stored) image at the file's size; integers are
            pixel centres.
        distortion: lens coefficients in OpenCV's order.
        max_size: a larger image is reduced so that its longer side has so many pixels.
        stored: leave the pixels as they are stored; else they are turned by an EXIF orientation.

    Raises:
        FileNotFoundError, ValueError: naming the file and what is wrong with it.
    """
    file = path if isinstance(path, ImageFile) else ImageFile(path)
    image = file.gray(stored=stored)
    height, width = image.shape
    intrinsics = GIVEN
    if K is None:
        focal = file.focal_px(width, height)
        K, intrinsics = guess_intrinsics((width, height), focal), ASSUMED if focal is None else EXIF
    photo = Photograph(
        file.path, image, K, distortion, intrinsics, (width, height),
        orientation=file.orientation, stored=stored,
    )
    return _reduced(photo, max_size)


def photograph_of_array(
    image: np.ndarray,
    *,
    K: np.ndarray | None = None,
    distortion: np.ndarray | None = None,
    max_size: int | None = None,
    name: str = "image",
) -> Photograph:
    """A photograph that is in memory; its camera is the one given, else an assumed one.

    Args:
        image: (H, W) grey or (H, W, 3) red, green, blue, uint8.
        K, distortion, max_size: as of `read_photograph`.
        name: of the argument, for errors.

    Raises:
        TypeError: not uint8. ValueError: another shape.
    """
    if image.dtype != np.uint8:
        raise TypeError(f"{name}: found {image.dtype}, wanted uint8")
    if image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)) or 0 in image.shape:
        raise ValueError(
            f"{name}: found shape {image.shape}, wanted (H, W) or (H, W, 3) with H, W > 0"
        )
    height, width = image.shape[:2]
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    intrinsics = GIVEN
    if K is None:
        K, intrinsics = guess_intrinsics((width, height)), ASSUMED
    photo = Photograph(image, grey, K, distortion, intrinsics, (width, height))
    return _reduced(photo, max_size)


def _reduced(photo: Photograph, max_size: int | None) -> Photograph:
    width, height = photo.size
    if max_size is not None:
        max_size = whole("max_size", max_size, 1)
    K = np.asarray(photo.K, dtype=np.float64)
    if max_size is None or max(width, height) <= max_size:
        return replace(photo, K=K)
    ratio = max_size / max(width, height)
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    # Sides are whole numbers of pixels, so the two axes differ a little.
    scale = (size[0] / width, size[1] / height)
    return replace(photo, image=_resized(photo.image, size), K=_scaled(K, scale), scale=scale)


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if image.shape[1::-1] == tuple(size):
        return image
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _scaled(K: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """K of the image resized by `scale`: edges, half a pixel outside the centres, stay edges."""
    sx, sy = scale
    resize = np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1.0]])
    return resize @ K
