"""Read photographs, and guess the camera that took them.

Everything is in the frame of the pixels as they are stored in the file: an EXIF orientation is not
applied. Cameras in COLMAP models and from calibration refer to that frame too; applying it here
would put K and the keypoints into different frames without a sign of it.
"""

import io
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import ExifTags, Image

# Diagonal of a 36 mm x 24 mm frame: CIPA DCG-001 defines the 35 mm equivalent by the diagonal.
_DIAGONAL_35MM = math.hypot(36.0, 24.0)
# EXIF FocalPlaneResolutionUnit -> millimetres
_UNIT_MM = {2: 25.4, 3: 10.0, 4: 1.0}


def read_image_gray(path: str | Path) -> np.ndarray:
    """(H, W) uint8 grey image, as stored (an EXIF orientation is not applied).

    Args:
        path: of the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a folder, an empty file, not an image, truncated beyond repair, or larger than
            OpenCV reads (2^30 pixels).
    """
    return decoded(path, read_bytes(path), cv2.IMREAD_GRAYSCALE)


def read_image_rgb(path: str | Path) -> np.ndarray:
    """(H, W, 3) uint8 red, green, blue; otherwise as `read_image_gray`.

    Args:
        path: of the file.
    """
    return cv2.cvtColor(decoded(path, read_bytes(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def read_image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) as stored, from the header of the file alone.

    Args:
        path: of the file.

    Raises:
        FileNotFoundError, ValueError: as `read_image_gray`, for what Pillow can't open.
    """
    data = io.BytesIO(read_bytes(path))
    try:
        with Image.open(data) as image:
            return image.size
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: not an image that Pillow can open") from error


def read_focal_px(path: str | Path, width: int, height: int) -> float | None:
    """Focal length in pixels from a file's EXIF data, or None where that does not tell.

    Uses the 35 mm equivalent (by the frame's diagonal), else the focal length with the focal
    plane's resolution. Right for a photograph that was resized, not for one that was cropped.

    Args:
        path: an image file.
        width, height: of the image that the keypoints are from, pixels.

    Raises:
        FileNotFoundError, ValueError: as `read_image_gray`, for what Pillow can't open.
    """
    if width < 1 or height < 1:
        raise ValueError(f"width, height: found {width} x {height}, wanted at least 1 x 1")
    data = io.BytesIO(read_bytes(path))
    try:
        with Image.open(data) as image:
            tags = image.getexif().get_ifd(ExifTags.IFD.Exif)
    except Image.DecompressionBombError:
        return None  # Pillow refuses images of this size, even for their tags alone
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path}: not an image that Pillow can open") from error
    equivalent = _positive(tags.get(ExifTags.Base.FocalLengthIn35mmFilm))
    if equivalent is not None:
        return equivalent / _DIAGONAL_35MM * math.hypot(width, height)
    focal = _positive(tags.get(ExifTags.Base.FocalLength))
    resolution = _positive(tags.get(ExifTags.Base.FocalPlaneXResolution))
    unit = _UNIT_MM.get(tags.get(ExifTags.Base.FocalPlaneResolutionUnit, 2))
    width_taken = _positive(tags.get(ExifTags.Base.ExifImageWidth))
    height_taken = _positive(tags.get(ExifTags.Base.ExifImageHeight))
    if focal is None or resolution is None or unit is None:
        return None
    if width_taken is None or height_taken is None:
        return None
    return focal * resolution / unit * max(width, height) / max(width_taken, height_taken)


def decoded(path: str | Path, data: bytes, mode: int) -> np.ndarray:
    """The pixels of an image file's content, as OpenCV has them in one of its modes.

    Raises:
        ValueError: OpenCV can't read it, naming the file.
    """
    try:
        image = cv2.imdecode(
            np.frombuffer(data, dtype=np.uint8), mode | cv2.IMREAD_IGNORE_ORIENTATION
        )
    except cv2.error as error:
        raise ValueError(f"{path}: OpenCV refuses this image ({error.err})") from error
    if image is None:
        raise ValueError(f"{path}: not an image that OpenCV can read")
    return image


def read_bytes(path: str | Path) -> bytes:
    """The content of an image file.

    Raises:
        FileNotFoundError: no such file. ValueError: a folder, or an empty file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such image")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder, wanted an image file")
    data = path.read_bytes()
    if not data:
        raise ValueError(f"{path}: is empty")
    return data


def _positive(value: Any) -> float | None:
    """A tag as a float; None where it is missing, malformed, zero or not finite."""
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) and number > 0 else None
