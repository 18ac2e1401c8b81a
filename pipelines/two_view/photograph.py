"""A photograph with its camera, read from a file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from n3match.datasets.images import read_focal_px, read_image_gray
from n3match.geometry import guess_intrinsics

# Where a camera matrix is from.
GIVEN, EXIF, ASSUMED = "given", "exif", "assumed"


@dataclass(frozen=True, eq=False)
class Photograph:
    """Pixels to detect keypoints in, and the camera, both at the file's size times `scale`.

    Attributes:
        path: of the file.
        image: (H, W) uint8 grey, as stored (no EXIF orientation applied), reduced if it was large.
        K: (3, 3) float64 of `image`; integers are pixel centres.
        distortion: lens coefficients in OpenCV's order, or None.
        intrinsics: where K is from: "given", "exif" (focal length in the file) or "assumed"
            (1.2 × the longer side).
        size: (width, height) of the file's image.
        scale: of `image` against the file's, (x, y), at most 1.
        denoised: the weights that took noise out of `image`; "" where none did.
    """

    path: Path
    image: np.ndarray
    K: np.ndarray
    distortion: np.ndarray | None
    intrinsics: str
    size: tuple[int, int]
    scale: tuple[float, float]
    denoised: str = ""

    @property
    def file_K(self) -> np.ndarray:
        """(3, 3) camera matrix at the file's size."""
        return _scaled(self.K, (1 / self.scale[0], 1 / self.scale[1]))

    def to_file(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 2) of `image` in pixels of the file's image."""
        return (points + 0.5) / np.array(self.scale) - 0.5


def read_photograph(
    path: str | os.PathLike,
    *,
    K: np.ndarray | None = None,
    distortion: np.ndarray | None = None,
    max_size: int | None = None,
) -> Photograph:
    """Reads a photograph; its camera is the one given, else EXIF's, else an assumed one.

    Args:
        path: an image file.
        K: (3, 3) camera matrix at the file's size; integers are pixel centres.
        distortion: lens coefficients in OpenCV's order.
        max_size: a larger image is reduced so that its longer side has so many pixels.

    Raises:
        FileNotFoundError, ValueError: naming the file and what is wrong with it.
    """
    path = Path(path)
    if max_size is not None and max_size < 1:
        raise ValueError(f"max_size must be at least 1 pixel, got {max_size}")
    image = read_image_gray(path)
    height, width = image.shape
    if K is not None:
        intrinsics = GIVEN
    else:
        K, intrinsics = _intrinsics(path, width, height)
    scale = (1.0, 1.0)
    if max_size is not None and max(width, height) > max_size:
        ratio = max_size / max(width, height)
        new_size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
        image = cv2.resize(image, new_size, interpolation=cv2.INTER_AREA)
        # Sides are whole numbers of pixels, so the two axes differ a little.
        scale = (new_size[0] / width, new_size[1] / height)
    return Photograph(
        path, image, _scaled(K, scale), distortion, intrinsics, (width, height), scale
    )


def _intrinsics(path: Path, width: int, height: int) -> tuple[np.ndarray, str]:
    try:
        focal = read_focal_px(path, width, height)
    except ValueError:
        focal = None  # a format that OpenCV reads and the EXIF reader doesn't
    if focal is None:
        return guess_intrinsics((width, height)), ASSUMED
    return guess_intrinsics((width, height), focal), EXIF


def _scaled(K: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """K of the image resized by `scale`: edges, half a pixel outside the centres, stay edges."""
    if scale == (1.0, 1.0):
        return np.asarray(K, dtype=np.float64)
    sx, sy = scale
    resize = np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1.0]])
    return resize @ K
