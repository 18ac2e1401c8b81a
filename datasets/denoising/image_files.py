"""Images of any depth, read and written as they are: 8 or 16 bit or float, grey, colour, alpha."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from n3match.datasets.images import HEIC_SUFFIXES, ImageFile

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".ppm", ".pgm")
_EIGHT_BIT = (".jpg", ".jpeg", ".bmp", ".webp")
_NO_ALPHA = (".jpg", ".jpeg", ".ppm", ".pgm")
_LARGEST = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383}  # pixels a side
_JPEG_QUALITY = 95


def read_image(path: str | Path | ImageFile, *, stored: bool = False) -> np.ndarray:
    """(H, W) grey, (H, W, 3) red, green, blue, or (H, W, 4) with alpha; uint8, uint16 or float32.

    Palettes become colours.

    Args:
        path: of the file, in any format that OpenCV reads, or HEIC; or the file itself.
        stored: pixels are not turned by an EXIF orientation.

    Raises:
        FileNotFoundError: no such file. ValueError: not an image, CMYK, or of another depth.
    """
    file = path if isinstance(path, ImageFile) else ImageFile(path)
    if file.mode == "CMYK":
        raise ValueError(f"{file.path}: is a CMYK image, wanted grey or RGB: convert it first")
    image = file.unchanged(stored=stored)
    if image.dtype not in (np.uint8, np.uint16, np.float32):
        raise ValueError(f"{file.path}: pixels of {image.dtype}, wanted 8 or 16 bit or float32")
    if image.ndim == 3 and image.shape[2] not in (3, 4):
        raise ValueError(f"{file.path}: {image.shape[2]} channels, wanted 1, 3 or 4")
    return image


def encoded(image: np.ndarray, path: str | Path) -> bytes:
    """The file's content for an image as `read_image` gives it, in the format of the name.

    Raises:
        ValueError: see `check_fits`.
    """
    suffix = check_fits(image, path)
    if image.ndim == 3:
        alpha = image.shape[2] == 4
        image = cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA if alpha else cv2.COLOR_RGB2BGR)
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if suffix in (".jpg", ".jpeg") else []
    done, data = cv2.imencode(suffix, image, options)
    if not done:
        raise ValueError(f"{path}: OpenCV can't write this image")
    return data.tobytes()


def check_fits(image: np.ndarray, path: str | os.PathLike) -> str:
    """The ending of the name, in small letters, of a file that can hold such pixels.

    Raises:
        ValueError: a format that isn't known, or can't hold them.
    """
    suffix = check_suffix(path)
    if suffix in _EIGHT_BIT and image.dtype != np.uint8:
        raise ValueError(f"{path}: {suffix} files hold 8 bits, got {image.dtype}: use .png or .tif")
    if image.dtype == np.float32 and suffix not in (".tif", ".tiff"):
        raise ValueError(f"{path}: {suffix} files hold no float32 pixels: use .tif")
    if suffix in _NO_ALPHA and image.ndim == 3 and image.shape[2] == 4:
        raise ValueError(f"{path}: {suffix} files hold no alpha channel: use .png")
    if suffix == ".pgm" and image.ndim == 3:
        raise ValueError(f"{path}: .pgm files hold no colours: use .ppm")
    if suffix == ".ppm" and image.ndim == 2:
        raise ValueError(f"{path}: .ppm files hold colours, the image is grey: use .pgm")
    largest = _LARGEST.get(suffix)
    if largest is not None and max(image.shape[:2]) > largest:
        raise ValueError(f"{path}: {suffix} files have at most {largest} pixels a side: use .png")
    return suffix


def check_suffix(path: str | os.PathLike) -> str:
    """The ending of an image's name, in small letters.

    Raises:
        ValueError: it is none that images are written with.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: wanted a name that ends in one of {', '.join(SUFFIXES)}")
    return suffix


def images_in(folder: str | Path) -> list[Path]:
    """The image files of a folder by their names, sorted.

    Args:
        folder: looked into, but not into folders in it.

    Raises:
        ValueError: it holds none. OSError: it can't be read.
    """
    suffixes = (*SUFFIXES, *HEIC_SUFFIXES)
    found = sorted(
        path for path in Path(folder).iterdir()
        if path.suffix.lower() in suffixes and path.is_file() and not path.name.startswith(".")
    )
    if not found:
        raise ValueError(f"{folder}: holds no images ({', '.join(suffixes)})")
    return found
