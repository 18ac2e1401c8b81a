"""Read photographs."""

from pathlib import Path

import cv2
import numpy as np


def read_image_gray(path: str | Path) -> np.ndarray:
    """(H, W) uint8 grey image, as stored (EXIF orientation is not applied)."""
    data = np.fromfile(path, dtype=np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ValueError(f"{path}: not an image that OpenCV can read")
    return image
